//! The same move of all weight in nftables and in HAProxy.
//!
//! Both are asked in the quickest way that they have: one transaction of `nft`, which is a process
//! as the command `splitter weight` is one, and HAProxy's control socket.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use splitter_tests::node::parse;

use super::{RETURN, STALE, case};
use crate::load::{Command, Work};
use crate::peers::nftables::{self, Numgen};
use crate::peers::{Haproxy, Nftables, Running, Serve, Side, haproxy, line_up};
use crate::policies::{Shape, table};
use crate::run::{Run, micros};

/// What is dialled.
const FRONTEND: &str = "127.10.0.1:80";
/// Connections after each move.
const CONNECTIONS: u64 = 50;

/// Moves the weights of each peer that is installed.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let count = run.pace.pick(20, 1_000, 1_000);
    let moving = Shape::new("moving", FRONTEND).with_backends(1).weighing(1, 1).to_yaml();
    let services = parse(&format!("{moving}{}", table(count, 1)))?.services;
    let first = services.first().context("a policy of some services")?;
    ensure!(first.name == "moving", "the first service is {}", first.name);
    let peers = [&Nftables::IN_TURN as _, &Haproxy as _];
    for mut side in line_up(run, &peers, &services, Serve::Requests)? {
        moves(run, &mut side, &case(count))?;
    }
    Ok(())
}

/// Moves all weight from one backend to the other and back. A connection that begins after the
/// return and goes to the old one is stale.
fn moves(run: &mut Run, side: &mut Side, case: &str) -> Result<()> {
    let name = side.peer.arm.name.clone();
    let mut stale = 0.0;
    for round in 0..run.rounds(2, 10, 50) {
        let (weights, backend) =
            if round % 2 == 0 { ([0, 1], "127.0.0.1:19002") } else { ([1, 0], "127.0.0.1:19001") };
        let start = Instant::now();
        weigh(&side.peer, weights)?;
        run.sample((case, &name), RETURN, round, micros(start.elapsed()))?;
        let command = Command::new(Work::Request, side.peer.dial, CONNECTIONS);
        let outcome = side.client.run(&command)?;
        ensure!(outcome.failed() == 0, "{name}: {:?}", outcome.failures);
        let others = outcome.backends.iter().filter(|(name, _)| *name != backend);
        stale += others.map(|(_, count)| *count).map(precise).sum::<f64>();
    }
    run.sample((case, &name), STALE, 0, stale)
}

#[expect(clippy::cast_precision_loss, reason = "a number of connections")]
fn precise(count: u64) -> f64 {
    count as f64
}

/// Moves the weights of the first service. Answers when the peer says that it is done.
fn weigh(peer: &Running, [v1, v2]: [u32; 2]) -> Result<()> {
    if let Some(socket) = &peer.control {
        let weights = [haproxy::set_weight(0, 0, v1), haproxy::set_weight(0, 1, v2)];
        let said = haproxy::tell(socket, &weights.join("; "))?;
        ensure!(said.trim().is_empty(), "HAProxy said: {}", said.trim());
        return Ok(());
    }
    let shape = Shape::new("moving", FRONTEND).with_backends(1).weighing(v1, v2);
    let service = parse(&shape.to_yaml())?.services.remove(0);
    nftables::load(peer.network(), &nftables::change(0, &service, Numgen::Inc)?)
}
