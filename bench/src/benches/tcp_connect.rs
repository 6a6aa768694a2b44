//! What a TCP `connect()` costs, less what a server does with it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use splitter_tests::empty::EmptyProgram;
use splitter_tests::node::Node;
use splitter_tests::place::Place;
use splitter_user::tables::Sizes;

use super::Bench;
use super::requests::shop;
use crate::arm::{Arm, Network};
use crate::load::{Client, Command, Server, Work};
use crate::peers::{Iptables, Nftables, Peer, Serve, line_up};
use crate::policies::Shape;
use crate::rounds::interleave;
use crate::run::{Metric, Run};

/// A socket that no program sees.
pub(crate) const DIRECT: &str = "no program";
/// A socket that splitter remembers.
pub(crate) const STATEFUL: &str = "splitter, with socket state";
/// The median of a round.
pub(crate) const P50: Metric = Metric("p50", "ns");

pub(super) const BENCH: Bench = Bench {
    name: "tcp-connect",
    title: "TCP connect() alone",
    about: "`connect()` to a listener whose backlog takes it: the handshake in the kernel, and \
            nobody's work after it. Connections are reset at once, so that none stays behind in \
            TIME_WAIT. State is what a service keeps on each socket to answer `getpeername()` with \
            the frontend.",
    base: Some(DIRECT),
    sits_again: true,
    run,
};

const P99: Metric = Metric("p99", "ns");

/// Frontends without and with state, and a backend.
const PLAIN: &str = "127.10.0.1:80";
const KEPT: &str = "127.10.0.2:80";
const BACKEND: &str = "127.0.0.1:19001";

fn run(run: &mut Run) -> Result<()> {
    let network = Network::new()?;
    let (bare, empty) = (Place::new()?, Place::new()?);
    let _program = EmptyProgram::attach(empty.cgroup())?;
    let (plain, stateful) = (node(false)?, node(true)?);
    let backends = [19_001, 19_011, 19_002, 19_012];
    let backends = backends.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let _server = Server::start_drain(&network, &backends)?;
    let arms = [
        (DIRECT, &bare, BACKEND),
        ("empty program", &empty, BACKEND),
        ("splitter, missed", &plain.place, BACKEND),
        ("splitter, matched", &plain.place, PLAIN),
        (STATEFUL, &stateful.place, KEPT),
    ];
    let mut clients: Vec<(String, Client, SocketAddr)> = Vec::new();
    for (name, place, to) in arms {
        let client = Client::start(&Arm::new(name, &network, place.cgroup()))?;
        clients.push((name.to_owned(), client, to.parse::<SocketAddr>()?));
    }
    // Each has a network of its own, because their rules see everything in it.
    let tracked: [&dyn Peer; 2] = [&Nftables::IN_TURN, &Iptables];
    let services = shop()?;
    let sides = line_up(run, &tracked, &services, Serve::Connections)?;
    let mut peers = Vec::new();
    for side in sides {
        clients.push((side.peer.arm.name.clone(), side.client, side.peer.dial));
        peers.push(side.peer);
    }
    let connects = run.pace.pick(20, 1_000, 1_000);
    let rounds = run.rounds(2, 51, 504);
    let measured = interleave(&mut clients, rounds, |(name, client, to), round| {
        measure(run, name, client, &Command::new(Work::TcpConnect, *to, connects), round)
    });
    // Clients before the cgroups that they are in.
    drop(clients);
    drop(peers);
    measured
}

fn node(keeps_state: bool) -> Result<Node> {
    let mut node = Node::with_sizes(Sizes::for_services(4))?;
    let plain = Shape::new("plain", PLAIN);
    let kept = Shape::new("kept", KEPT);
    let kept = if keeps_state { kept.keeping_state() } else { kept };
    node.apply(&format!("{}{}", plain.to_yaml(), kept.to_yaml()))?;
    node.detach_unneeded()?;
    Ok(node)
}

fn measure(
    run: &mut Run,
    name: &str,
    client: &mut Client,
    command: &Command,
    round: u32,
) -> Result<()> {
    let outcome = client.run(command)?;
    // Now and then a reset overtakes a connection that has the same ports as the one before it.
    if outcome.failed() > 0 {
        run.note(format!("{name}, round {round}: failures {:?}", outcome.failures))?;
    }
    ensure!(outcome.done > 0, "{name}: nothing succeeded: {:?}", outcome.failures);
    for (metric, part) in [(P50, 0.5), (P99, 0.99)] {
        run.sample(("", name), metric, round, outcome.latency.nanoseconds(part))?;
    }
    Ok(())
}
