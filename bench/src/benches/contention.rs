//! Two CPUs that take tickets of one service, or of two.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Result, ensure};
use splitter_tests::node::Node;

use super::Bench;
use crate::arm::{Arm, Network};
use crate::load::{CLIENT_CPU, Client, Command, SERVER_CPU, Work};
use crate::policies::Shape;
use crate::rounds::interleave;
use crate::run::{Metric, Run};

/// Each CPU has a service of its own.
const APART: &str = "two services";

pub(super) const BENCH: Bench = Bench {
    name: "contention",
    title: "Two CPUs at once",
    about: "Two processes on two CPUs connect UDP sockets as fast as they can: to one service, \
            whose ticket they share, to one each, or past every service. A figure is the rate of \
            both together.",
    base: Some(APART),
    sits_again: true,
    run,
};

const RATE: Metric = Metric("connects", "1/s");

/// Services, and what belongs to none.
const ADDRESSES: [&str; 3] = ["127.10.0.1:80", "127.10.0.2:80", "127.0.0.1:19001"];

fn run(run: &mut Run) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    if cpus <= SERVER_CPU {
        return run.note("there is one CPU, so nothing was measured");
    }
    let (mut node, network) = (Node::new()?, Network::new()?);
    let service = |n: usize| Shape::new(format!("s{n}"), format!("{}/udp", ADDRESSES[n])).to_yaml();
    node.apply(&format!("{}{}", service(0), service(1)))?;
    let arm = Arm::new(APART, &network, node.place.cgroup());
    let mut clients = [CLIENT_CPU, SERVER_CPU]
        .into_iter()
        .map(|cpu| Client::start_on(&arm, cpu))
        .collect::<Result<Vec<_>>>()?;
    let [first, second, unknown] = ADDRESSES.map(str::parse::<SocketAddr>);
    let (first, second, unknown) = (first?, second?, unknown?);
    let mut arms = [
        ("one service", [first, first]),
        (APART, [first, second]),
        ("no service", [unknown, unknown]),
    ];
    let connects = run.pace.pick(100, 40_000, 40_000);
    let rounds = run.rounds(2, 30, 304);
    interleave(&mut arms, rounds, |(name, to), round| {
        let rate = rate_of_both(&mut clients, *to, connects)?;
        run.sample(("", name), RATE, round, rate)
    })
}

fn rate_of_both(clients: &mut [Client], to: [SocketAddr; 2], connects: u64) -> Result<f64> {
    let rates: Result<Vec<f64>> = thread::scope(|threads| {
        let running: Vec<_> = clients
            .iter_mut()
            .zip(to)
            .map(|(client, to)| threads.spawn(move || rate(client, to, connects)))
            .collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    Ok(rates?.iter().sum())
}

fn rate(client: &mut Client, to: SocketAddr, connects: u64) -> Result<f64> {
    let outcome = client.run(&Command::new(Work::UdpConnect, to, connects))?;
    ensure!(outcome.failed() == 0, "connects failed: {:?}", outcome.failures);
    Ok(outcome.rate())
}
