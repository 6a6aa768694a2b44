//! What the hook costs a `connect()`.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use splitter_tests::empty::EmptyProgram;
use splitter_tests::node::Node;
use splitter_tests::place::Place;
use splitter_user::tables::Sizes;

use super::Bench;
use crate::arm::{Arm, Network};
use crate::load::{Client, Command, Work};
use crate::policies::{Shape, table};
use crate::rounds::interleave;
use crate::run::{Metric, Run, count_of};

/// The arm that all others are divided by.
pub(crate) const EMPTY: &str = "empty program";
/// A connection that is split, among all services.
pub(crate) const MATCHED: &str = "matched";
/// What is measured.
pub(crate) const CONNECT: Metric = Metric("connect", "ns");

pub(super) const BENCH: Bench = Bench {
    name: "udp-connect",
    title: "One connect() at the hook",
    about: "UDP `connect()` of a socket that connects again and again: nothing but the system call \
            and the hook. Every arm is a process in a cgroup of its own; the base has a program \
            that returns at once, so the ratios are the cost of splitter's own logic. Matched \
            connections are split 81/19 between two subsets of two backends, among all services. \
            A figure is the median over batches of 64 connects.",
    base: Some(EMPTY),
    sits_again: true,
    run,
};

/// Connects of one arm in one round.
const CONNECTS: u64 = 4_096;

/// Nobody's address.
const UNKNOWN: &str = "127.0.0.1:19001";
/// A service among others.
const MATCHING: &str = "127.10.0.1:80";
/// A service whose sockets remember it.
const STATEFUL: &str = "127.10.0.2:80";

/// The arm of connections that no policy is about.
pub(crate) fn missed(services: u32) -> String {
    format!("missed, {}", count_of(services, "service"))
}

/// A client that dials one address.
struct Dialler {
    name: String,
    client: Client,
    to: SocketAddr,
}

/// The cgroups of the arms. Clients have to be gone before these are.
struct Stage {
    bare: Place,
    empty: (EmptyProgram, Place),
    /// With so many services each.
    nodes: Vec<(u32, Node)>,
    stateful: Node,
    network: Network,
}

impl Stage {
    fn new(sizes: &[u32]) -> Result<Self> {
        let network = Network::new()?;
        let (bare, empty) = (Place::new()?, Place::new()?);
        let program = EmptyProgram::attach(empty.cgroup())?;
        let nodes: Result<_> = sizes.iter().map(|size| Ok((*size, hooked(*size)?))).collect();
        let (nodes, stateful) = (nodes?, stateful()?);
        Ok(Self { bare, empty: (program, empty), nodes, stateful, network })
    }

    fn diallers(&self) -> Result<Vec<Dialler>> {
        let start = |place: &Place, name: &str, to: &str| {
            let client = Client::start(&Arm::new(name, &self.network, place.cgroup()))?;
            Ok::<_, anyhow::Error>(Dialler { name: name.to_owned(), client, to: to.parse()? })
        };
        let mut diallers =
            vec![start(&self.bare, "no program", UNKNOWN)?, start(&self.empty.1, EMPTY, UNKNOWN)?];
        for (services, node) in &self.nodes {
            diallers.push(start(&node.place, &missed(*services), UNKNOWN)?);
        }
        if let Some((_, most)) = self.nodes.last() {
            diallers.push(start(&most.place, MATCHED, MATCHING)?);
        }
        let beside = &self.stateful.place;
        diallers.push(start(beside, "missed, beside a service with socket state", UNKNOWN)?);
        diallers.push(start(beside, "matched, beside a service with socket state", MATCHING)?);
        diallers.push(start(beside, "matched, with socket state", STATEFUL)?);
        Ok(diallers)
    }
}

fn run(run: &mut Run) -> Result<()> {
    let sizes = run.pace.pick([1, 10, 100], [1, 1_000, 100_000], [1, 1_000, 100_000]);
    let stage = Stage::new(&sizes)?;
    let mut diallers = stage.diallers()?;
    let connects = run.pace.pick(64, CONNECTS, CONNECTS);
    let rounds = run.rounds(3, 102, 600);
    interleave(&mut diallers, rounds, |dialler, round| {
        let time = dialler.time_connect(connects)?;
        run.sample(("", &dialler.name), CONNECT, round, time)
    })
}

impl Dialler {
    /// Nanoseconds of one `connect()`.
    fn time_connect(&mut self, connects: u64) -> Result<f64> {
        let command = Command::new(Work::UdpConnect, self.to, connects);
        let outcome = self.client.run(&command)?;
        ensure!(outcome.failed() == 0, "{}: {:?}", self.name, outcome.failures);
        Ok(outcome.latency.nanoseconds(0.5))
    }
}

/// A node with a table of services and one more.
fn hooked(services: u32) -> Result<Node> {
    let mut node = Node::with_sizes(Sizes::for_services(services + 1))?;
    let matching = Shape::new("hit", format!("{MATCHING}/udp"));
    node.apply(&format!("{}{}", table(services, 2), matching.to_yaml()))?;
    node.detach_unneeded()?;
    Ok(node)
}

fn stateful() -> Result<Node> {
    let mut node = Node::with_sizes(Sizes::for_services(2))?;
    let plain = Shape::new("hit", format!("{MATCHING}/udp"));
    let stateful = Shape::new("state", format!("{STATEFUL}/udp")).keeping_state();
    node.apply(&format!("{}{}", plain.to_yaml(), stateful.to_yaml()))?;
    node.detach_unneeded()?;
    Ok(node)
}
