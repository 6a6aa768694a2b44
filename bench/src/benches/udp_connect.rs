//! What the hook costs a `connect()`.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::Result;
use splitter_tests::empty::EmptyProgram;
use splitter_tests::node::Node;
use splitter_tests::place::Place;
use splitter_user::kernel::Hook;
use splitter_user::tables::Sizes;

use super::Bench;
use crate::policies::{Shape, table};
use crate::rounds::interleave;
use crate::run::{Metric, Run, count_of};

/// The arm that all others are divided by.
pub(crate) const EMPTY: &str = "empty program";
/// A connection that is split, among all services.
pub(crate) const MATCHED: &str = "matched";

pub(super) const BENCH: Bench = Bench {
    name: "udp-connect",
    title: "One connect() at the hook",
    about: "UDP `connect()` of a socket that connects again and again: nothing but the system call \
            and the hook. Every arm is a socket of a cgroup of its own; the base has a program that \
            returns at once, so the ratios are the cost of splitter's own logic. Matched \
            connections are split 81/19 between two subsets of two backends, among all services.",
    base: Some(EMPTY),
    run,
};

const TIME: Metric = Metric("connect", "ns");

/// Connects of one arm in one round.
const CONNECTS: u32 = 4_000;

/// The arm of connections that no policy is about.
pub(crate) fn missed(services: u32) -> String {
    format!("missed, {}", count_of(services, "service"))
}

/// A socket that dials one address.
struct Arm {
    name: String,
    socket: UdpSocket,
    to: SocketAddr,
}

impl Arm {
    /// A socket of the cgroup that this process is in now.
    fn new(name: impl Into<String>, to: &str) -> Result<Self> {
        Ok(Self { name: name.into(), socket: UdpSocket::bind("127.0.0.1:0")?, to: to.parse()? })
    }
}

fn run(run: &mut Run) -> Result<()> {
    let mut arms = vec![Arm::new("no program", UNKNOWN)?];
    let place = Place::new()?;
    let _empty = EmptyProgram::attach(place.cgroup())?;
    arms.push(Arm::new(EMPTY, UNKNOWN)?);
    // Dropping a node leaves its cgroup, so they all live until the end.
    let mut nodes = Vec::new();
    let sizes = run.pace.pick([1, 10, 100], [1, 1_000, 100_000], [1, 1_000, 100_000]);
    for services in sizes {
        nodes.push(hooked(&table(services, 2), services)?);
        arms.push(Arm::new(missed(services), UNKNOWN)?);
    }
    arms.push(Arm::new(MATCHED, MATCHING)?);
    nodes.push(stateful()?);
    arms.push(Arm::new("missed, beside a service with socket state", UNKNOWN)?);
    arms.push(Arm::new("matched, beside a service with socket state", MATCHING)?);
    arms.push(Arm::new("matched, with socket state", STATEFUL)?);
    let connects = run.pace.pick(10, CONNECTS, CONNECTS);
    interleave(&mut arms, run.pace.pick(3, 101, 1_001), |arm, round| {
        run.sample(("", &arm.name), TIME, round, time_connects(arm, connects)?)
    })
}

/// Nobody's address.
const UNKNOWN: &str = "127.0.0.1:19001";
/// A service among others.
const MATCHING: &str = "127.10.0.1:80";
/// A service whose sockets remember it.
const STATEFUL: &str = "127.10.0.2:80";

/// A node with a table of services and one more, as the daemon attaches them: the hook for
/// `getpeername` is there for services that ask for it only.
fn hooked(table: &str, services: u32) -> Result<Node> {
    let mut node = Node::with_sizes(Sizes::for_services(services + 1))?;
    node.attachment.detach(&Hook::PEER_NAME)?;
    let matching = Shape::new("hit", format!("{MATCHING}/udp"));
    node.apply(&format!("{table}{}", matching.to_yaml()))?;
    Ok(node)
}

fn stateful() -> Result<Node> {
    let mut node = Node::with_sizes(Sizes::for_services(2))?;
    let plain = Shape::new("hit", format!("{MATCHING}/udp"));
    let stateful = Shape::new("state", format!("{STATEFUL}/udp")).keeping_state();
    node.apply(&format!("{}{}", plain.to_yaml(), stateful.to_yaml()))?;
    Ok(node)
}

/// Nanoseconds of one `connect()`.
#[expect(clippy::cast_precision_loss, reason = "a figure")]
fn time_connects(arm: &Arm, connects: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..connects {
        arm.socket.connect(arm.to)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(connects))
}
