//! What the hooks cost datagrams of sockets that never connect, and the answers to them.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use splitter_tests::empty::EmptyProgram;
use splitter_tests::node::Node;
use splitter_tests::place::Place;
use splitter_user::tables::Sizes;

use super::Bench;
use super::udp_connect::{MATCHED, missed};
use crate::arm::{Arm, Network};
use crate::load::{Client, Command, Server, Work};
use crate::policies::{Shape, table};
use crate::rounds::interleave;
use crate::run::{Metric, Run};

/// The arm that all others are divided by.
const DIRECT: &str = "no program";

pub(super) const BENCH: Bench = Bench {
    name: "udp-send",
    title: "Datagrams of sockets that never connect",
    about: "`sendto()` that names where a datagram goes, and `recvfrom()` of the answer, which \
            bears the address that was sent to. Every arm is a process in a cgroup of its own; \
            the base has no program, and one arm has programs that return at once at both hooks. \
            Matched datagrams are split by socket, 81/19 between two subsets of two backends, \
            among all services: one socket is decided once for all, a socket for each question \
            each time. What is only sent goes where nobody reads, and is dropped on arrival once \
            there is no more room; such a figure is the median over batches of 64. Answers come \
            from a process on the other CPU, and most of a question and its answer is the time \
            until it and the client wake; with a socket for each, it is from making the socket to \
            closing it.",
    base: Some(DIRECT),
    sits_again: true,
    run,
};

/// Backends of the service, the first of which is dialled where nothing is split.
const PORTS: [u16; 4] = [19_001, 19_011, 19_002, 19_012];
/// A service among others.
const FRONTEND: &str = "127.10.0.1:80";

/// What is measured of an arm in each round: the case, the metric and what is done.
const MEASURES: [(&str, Metric, Work); 3] = [
    ("one socket", Metric("sendto", "ns"), Work::UdpSend),
    ("one socket", EXCHANGE, Work::UdpAsk),
    // What resolvers do.
    ("a socket for each", EXCHANGE, Work::UdpAskAnew),
];
const EXCHANGE: Metric = Metric("question and answer", "ns");

/// Two networks with the same addresses: nobody reads what is sent in one, and in the other it is
/// answered.
struct Networks {
    silent: Network,
    answering: Network,
    _sinks: Vec<UdpSocket>,
    _server: Server,
}

impl Networks {
    fn new() -> Result<Self> {
        let (silent, answering) = (Network::new()?, Network::new()?);
        let addrs = PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let sink = |addr| UdpSocket::bind(addr).with_context(|| format!("bind {addr}"));
        let sinks = silent.within(|| addrs.iter().map(sink).collect())?;
        let server = Server::start_datagrams(&answering, &addrs)?;
        Ok(Self { silent, answering, _sinks: sinks, _server: server })
    }
}

/// An arm: its clients in both networks, and what they dial.
struct Sender {
    name: String,
    clients: [Client; 2],
    to: SocketAddr,
}

impl Sender {
    fn start(name: &str, networks: &Networks, place: &Place, to: SocketAddr) -> Result<Self> {
        let start = |network| Client::start(&Arm::new(name, network, place.cgroup()));
        let clients = [start(&networks.silent)?, start(&networks.answering)?];
        Ok(Self { name: name.to_owned(), clients, to })
    }

    /// The median of some work, in nanoseconds.
    fn time(&mut self, work: Work, count: u64) -> Result<f64> {
        let [to_silence, asking] = &mut self.clients;
        let client = if work == Work::UdpSend { to_silence } else { asking };
        let outcome = client.run(&Command::new(work, self.to, count))?;
        ensure!(outcome.failed() == 0, "{}, {work:?}: {:?}", self.name, outcome.failures);
        Ok(outcome.latency.nanoseconds(0.5))
    }
}

/// The cgroups of the arms. Clients have to be gone before these are.
struct Stage {
    bare: Place,
    empty: ([EmptyProgram; 2], Place),
    /// With so many services each.
    nodes: Vec<(u32, Node)>,
}

impl Stage {
    fn new(sizes: &[u32]) -> Result<Self> {
        let (bare, empty) = (Place::new()?, Place::new()?);
        let programs = EmptyProgram::attach_to_datagrams(empty.cgroup())?;
        let nodes = sizes.iter().map(|size| Ok((*size, hooked(*size)?))).collect::<Result<_>>()?;
        Ok(Self { bare, empty: (programs, empty), nodes })
    }

    fn senders(&self, networks: &Networks) -> Result<Vec<Sender>> {
        let backend = SocketAddr::from(([127, 0, 0, 1], PORTS[0]));
        let start = |name: &str, place, to| Sender::start(name, networks, place, to);
        let mut senders = vec![
            start(DIRECT, &self.bare, backend)?,
            start("empty programs", &self.empty.1, backend)?,
        ];
        for (services, node) in &self.nodes {
            senders.push(start(&missed(*services), &node.place, backend)?);
        }
        if let Some((_, most)) = self.nodes.last() {
            senders.push(start(MATCHED, &most.place, FRONTEND.parse()?)?);
        }
        Ok(senders)
    }
}

fn run(run: &mut Run) -> Result<()> {
    let sizes = run.pace.pick([1, 100], [1, 100_000], [1, 100_000]);
    let (stage, networks) = (Stage::new(&sizes)?, Networks::new()?);
    let mut senders = stage.senders(&networks)?;
    let rounds = run.rounds(3, 51, 400);
    interleave(&mut senders, rounds, |sender, round| {
        for (case, metric, work) in MEASURES {
            let many = if work == Work::UdpSend { 4_096 } else { 256 };
            let time = sender.time(work, run.pace.pick(20, many, many))?;
            run.sample((case, &sender.name), metric, round, time)?;
        }
        Ok(())
    })
}

/// A node with a table of services and one more, whose datagrams are split.
fn hooked(services: u32) -> Result<Node> {
    let mut node = Node::whole_with_sizes(Sizes::for_services(services + 1))?;
    let split = Shape::new("hit", format!("{FRONTEND}/udp")).splitting_datagrams();
    node.apply(&format!("{}{}", table(services, 2), split.to_yaml()))?;
    node.detach_unneeded()?;
    Ok(node)
}
