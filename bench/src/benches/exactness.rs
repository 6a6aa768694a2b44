//! How far from its weights a split is, in connections.

mod error;
mod models;
mod survival;

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use splitter_tests::node::Node;

use super::Bench;
use super::requests::shop;
use crate::arm::{Arm, Network};
use crate::load::{CLIENT_CPU, Client, Command, Outcome, SERVER_CPU, Work};
use crate::peers::counting;
use crate::run::{Metric, Pace, Run, thousands};
use error::{Prefixes, error_of_counts};

/// Connections that are decided by the kernel.
pub(crate) const SPLITTER: &str = "splitter";
/// The furthest that any prefix of the run was from what was asked for.
pub(crate) const LARGEST: Metric = Metric("largest error", "connections");
/// The same, where every slot of the wheel had its turn equally often.
pub(crate) const WHOLE: Metric = Metric("largest error at whole turns of the wheel", "connections");
/// Connections that two CPUs made at once.
pub(crate) const TWO_CPUS: &str = "splitter, on two CPUs";
/// Connections while other services change, and the daemon dies and comes back.
pub(crate) const SURVIVING: &str = "splitter, through commits, kill -9 and restarts";

pub(super) const BENCH: Bench = Bench {
    name: "exactness",
    title: "Exact splits",
    about: "The largest difference between the connections that a backend got and its exact share, \
            over all prefixes of a run of so many connections, and over all backends. Splitter's \
            are connections that the kernel decided. Random choice and round robin by weight in \
            blocks, which is how other connect-time splits choose, are computed, so that a million \
            connections are no matter of hours; those of peers are real where they are listed.",
    base: None,
    sits_again: false,
    run,
};

/// The weights that goals and peers are about.
pub(crate) const CANARY: &[u32] = &[90, 10];
/// Weights of a split each.
const WEIGHTS: [&[u32]; 4] = [CANARY, &[50, 50], &[70, 20, 10], &[5, 3, 2, 40, 50]];
/// What is dialled.
const FRONTEND: &str = "127.10.0.1:80";
/// Port of the first backend.
const FIRST_PORT: u16 = 19_001;

/// Lengths of runs.
pub(crate) fn lengths(pace: Pace) -> &'static [u32] {
    pace.pick(
        &[20, 100],
        &[20, 100, 1_000, 10_000, 100_000],
        &[20, 100, 1_000, 10_000, 100_000, 1_000_000],
    )
}

/// How a split and a length are called.
pub(crate) fn case(weights: &[u32], length: u32) -> String {
    let weights: Vec<String> = weights.iter().map(u32::to_string).collect();
    format!("{}, {} connections", weights.join("/"), thousands(length))
}

fn run(run: &mut Run) -> Result<()> {
    let network = Network::new()?;
    for weights in WEIGHTS {
        splitter(run, &network, weights)?;
    }
    for round in 0..run.pace.pick(1, 5, 31) {
        models::random(run, CANARY, round)?;
    }
    models::blocks(run, CANARY)?;
    survival::run(run)?;
    peers(run)
}

/// Real connections through everything else that splits.
fn peers(run: &mut Run) -> Result<()> {
    let lengths = run.pace.pick(&[20][..], &[20, 100, 1_000], &[20, 100, 1_000, 10_000]);
    let most = lengths.last().copied().context("there are lengths")?;
    let service = shop()?.remove(0);
    for counted in counting::count(run, &service, u64::from(most))? {
        // Splitter's own are counted above, without the cost of a request each.
        if counted.peer == SPLITTER {
            continue;
        }
        for length in lengths {
            let error = counted.prefix_error(*length as usize);
            run.sample((&case(CANARY, *length), &counted.peer), LARGEST, 0, error)?;
        }
    }
    Ok(())
}

/// A service with one backend in each subset.
fn policy(weights: &[u32]) -> String {
    let numbers = || 0_u16..;
    let subsets: Vec<String> = numbers()
        .zip(weights)
        .map(|(n, _)| format!("v{n}: {{backends: ['127.0.0.1:{}']}}", FIRST_PORT + n))
        .collect();
    let split: Vec<String> =
        numbers().zip(weights).map(|(n, weight)| format!("v{n}: {weight}")).collect();
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{FRONTEND}/udp']
  subsets: {{{}}}
  routes:
    - split: {{{}}}
",
        subsets.join(", "),
        split.join(", ")
    )
}

fn splitter(run: &mut Run, network: &Network, weights: &[u32]) -> Result<()> {
    let mut node = Node::new()?;
    node.apply(&policy(weights))?;
    let lengths = lengths(run.pace);
    let most = *lengths.last().context("there are lengths")?;
    let arm = Arm::new(SPLITTER, network, node.place.cgroup());
    let outcome = connect(&mut Client::start(&arm)?, most)?;
    let mut prefixes = Prefixes::new(weights);
    for (number, backend) in (1..).zip(backends_in_order(&outcome)?) {
        prefixes.add(backend)?;
        if lengths.contains(&number) {
            let at = (case(weights, number), SPLITTER);
            run.sample((&at.0, at.1), LARGEST, 0, prefixes.largest())?;
            run.sample((&at.0, at.1), WHOLE, 0, prefixes.largest_whole())?;
        }
    }
    two_cpus(run, network, weights, most)
}

fn connect(client: &mut Client, times: u32) -> Result<Outcome> {
    let command = Command::new(Work::UdpConnect, FRONTEND.parse()?, u64::from(times)).in_order();
    let outcome = client.run(&command)?;
    ensure!(outcome.failed() == 0, "connects failed: {:?}", outcome.failures);
    Ok(outcome)
}

/// Who answered, in order, as indices of weights.
fn backends_in_order(outcome: &Outcome) -> Result<Vec<usize>> {
    let known: Result<Vec<usize>> = outcome.backends.keys().map(|name| index_of(name)).collect();
    let known = known?;
    let indices = outcome.order.iter().map(|ordinal| known.get(usize::from(*ordinal)).copied());
    indices.collect::<Option<_>>().context("an answer by nobody")
}

/// Index of the weight of a backend.
fn index_of(backend: &str) -> Result<usize> {
    let addr: SocketAddr = backend.parse().with_context(|| format!("the backend {backend:?}"))?;
    let index = addr.port().checked_sub(FIRST_PORT).map(usize::from);
    index.with_context(|| format!("a connection to {backend}"))
}

/// Both CPUs at once have no common order, so what counts is the sum at the end.
fn two_cpus(run: &mut Run, network: &Network, weights: &[u32], most: u32) -> Result<()> {
    if thread::available_parallelism()?.get() <= SERVER_CPU {
        return run.note("there is one CPU, so two at once were not measured");
    }
    let mut node = Node::new()?;
    node.apply(&policy(weights))?;
    let arm = Arm::new(TWO_CPUS, network, node.place.cgroup());
    let mut clients = [Client::start_on(&arm, CLIENT_CPU)?, Client::start_on(&arm, SERVER_CPU)?];
    let outcomes: Result<Vec<Outcome>> = thread::scope(|threads| {
        let half = |client| threads.spawn(move || connect(client, most / 2));
        let running: Vec<_> = clients.iter_mut().map(half).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let mut counts = vec![0; weights.len()];
    for outcome in outcomes? {
        for (backend, count) in &outcome.backends {
            *counts.get_mut(index_of(backend)?).context("an unknown backend")? += count;
        }
    }
    let error = error_of_counts(weights, &counts);
    run.sample((&case(weights, most), TWO_CPUS), LARGEST, 0, error)
}
