//! Short connections: connect, a request, its answer, reset.

use anyhow::{Result, ensure};
use splitter_tests::node::parse;
use splitter_user::policy::model::Service;

use super::Bench;
use crate::load::{Command, Outcome, Work};
use crate::peers::shares::{frontend, shares};
use crate::peers::{self, Serve, Side, Splitter, line_up};
use crate::policies::Shape;
use crate::rounds::interleave;
use crate::run::{Metric, Run, count_of};

/// The bench.
pub(super) const BENCH: Bench = Bench {
    name: "requests",
    title: "Short connections",
    about: "A client makes a TCP connection, sends 64 bytes, reads 64 bytes of answer, and resets \
            the connection, again and again. The service splits 90/10 between two backends. Where \
            it is followed, every connection is kept up with to its end, as `outcomes: true` asks.",
    base: Some("direct"),
    sits_again: true,
    run,
};

/// Clients at a time.
const CLIENTS: [u32; 3] = [1, 2, 8];
/// Connections before the first round, which nobody counts.
const WARM_UP: u64 = 200;

fn run(run: &mut Run) -> Result<()> {
    let services = shop()?;
    let mut peers = peers::ALL.to_vec();
    // Beside the one that does not follow, which it is compared with.
    peers.insert(3, &Splitter::FOLLOWING);
    let mut sides = line_up(run, &peers, &services, Serve::Requests)?;
    sides.iter_mut().try_for_each(|side| warm_up(side, &services[0]))?;
    // Many short blocks: arms that are measured soon after each other have the same machine.
    let rounds = run.rounds(1, 15, 168);
    for clients in CLIENTS {
        let case = count_of(clients, "client");
        interleave(&mut sides, rounds, |side, round| measure(run, side, &case, clients, round))?;
    }
    Ok(())
}

/// A service that splits 90/10 between two backends.
pub(super) fn shop() -> Result<Vec<Service>> {
    let shape = Shape::new("shop", "127.10.0.1:8080").with_backends(1).weighing(90, 10);
    Ok(parse(&shape.to_yaml())?.services)
}

/// Nobody is measured who does not do what is asked: clients that dial the frontend reach all
/// backends, others one.
fn warm_up(side: &mut Side, service: &Service) -> Result<()> {
    let outcome = side.client.run(&Command::new(Work::Request, side.peer.dial, WARM_UP))?;
    let (reached, name) = (outcome.backends.len(), &side.peer.arm.name);
    let splits = side.peer.dial == frontend(service)?.into();
    let wanted = if splits { shares(service)?.len() } else { 1 };
    ensure!(reached == wanted, "{name} reached {reached} backends: {outcome:?}");
    Ok(())
}

fn measure(run: &mut Run, side: &mut Side, case: &str, clients: u32, round: u32) -> Result<()> {
    let most = run.pace.pick(20, 100_000, 100_000);
    let limit_ms = 50;
    let command = Command::new(Work::Request, side.peer.dial, most).by(clients);
    let outcome = side.client.run(&command.within_ms(limit_ms))?;
    let name = &side.peer.arm.name;
    if outcome.failed() > 0 {
        run.note(format!("{name}, {case}, round {round}: failures {:?}", outcome.failures))?;
    }
    record(run, (case, name), round, &outcome)
}

fn record(run: &mut Run, what: (&str, &str), round: u32, outcome: &Outcome) -> Result<()> {
    let micros = |part: f64| outcome.latency.nanoseconds(part) / 1e3;
    run.sample(what, Metric("rate", "1/s"), round, outcome.rate())?;
    run.sample(what, Metric("p50", "us"), round, micros(0.5))?;
    run.sample(what, Metric("p99", "us"), round, micros(0.99))
}
