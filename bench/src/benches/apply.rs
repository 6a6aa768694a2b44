//! What a policy costs to load, and what one change costs.

mod peers;

use std::time::Instant;

use anyhow::{Result, ensure};
use splitter_tests::node::{Node, parse};
use splitter_user::tables::Sizes;

use super::Bench;
use crate::policies::{Shape, compile, puts, table};
use crate::run::{Metric, Run, count_of, micros, millis};

/// The arm of the publisher itself.
pub(crate) const SPLITTER: &str = "splitter";
/// Compile and publish together.
pub(crate) const SYNC: Metric = Metric("compile and publish", "ms");
/// One weight, compiled and published.
pub(crate) const CHANGE: Metric = Metric("one change", "us");

pub(super) const BENCH: Bench = Bench {
    name: "apply",
    title: "A policy, and one change of it",
    about: "A whole policy is read, compiled and published into empty tables of the kernel; then \
            one weight of one service changes, a thousand times, each compiled and published by \
            itself. The peers load the same number of services and change one of them by the \
            means that they have for it; their times hold the start of a process, because there \
            is no other way to them.",
    base: None,
    sits_again: true,
    run,
};

const PARSE: Metric = Metric("parse", "ms");
const COMPILE: Metric = Metric("compile", "ms");
const PUBLISH: Metric = Metric("publish", "ms");

/// How a table is called that goals are about: two subsets of two backends.
pub(crate) fn case(services: u32) -> String {
    case_with(services, 4)
}

fn case_with(services: u32, backends: u32) -> String {
    format!("{}, {backends} backends", count_of(services, "service"))
}

fn run(run: &mut Run) -> Result<()> {
    let sizes: &[u32] =
        run.pace.pick(&[1, 20], &[1, 1_000, 10_000, 100_000], &[1, 1_000, 10_000, 100_000]);
    for services in sizes {
        // A big table takes seconds to parse.
        let big = run.rounds(1, 3, 16);
        let rounds = if *services > 10_000 { big } else { run.rounds(2, 6, 32) };
        whole(run, *services, 2, rounds)?;
        one_change(run, *services)?;
    }
    let many = run.pace.pick(20, 10_000, 10_000);
    whole(run, many, 5, run.rounds(1, 3, 16))?;
    // Ten thousand services take nftables a quarter of a minute.
    if run.is_first_sitting() { peers::run(run) } else { Ok(()) }
}

/// Loads a table into empty maps, again and again.
fn whole(run: &mut Run, services: u32, per_subset: u32, rounds: u32) -> Result<()> {
    let case = case_with(services, 2 * per_subset);
    let text = table(services, per_subset);
    for round in 0..rounds {
        let mut node = Node::with_sizes(Sizes::for_services(services * per_subset.div_ceil(2)))?;
        let start = Instant::now();
        let policy = parse(&text)?;
        let parsed = start.elapsed();
        let start = Instant::now();
        let changes = compile(&policy);
        let compiled = start.elapsed();
        let start = Instant::now();
        node.publisher.publish(changes)?;
        let published = start.elapsed();
        for (metric, time) in [
            (PARSE, parsed),
            (COMPILE, compiled),
            (PUBLISH, published),
            (SYNC, compiled + published),
        ] {
            run.sample((&case, SPLITTER), metric, round, millis(time))?;
        }
    }
    Ok(())
}

/// A weight of one service moves, again and again, each time another's.
fn one_change(run: &mut Run, services: u32) -> Result<()> {
    let case = case(services);
    // Room for what is retired between two grace periods, also beside a table of one service.
    let mut node = Node::with_sizes(Sizes::for_services(services.max(1_000)))?;
    node.publisher.publish(puts(&table(services, 2))?)?;
    for round in 0..run.rounds(5, 1_000, 1_000) {
        let service = Shape::of_table(round * 7 % services);
        let policy = parse(&service.weighing(80 - round % 50, 21).to_yaml())?;
        let start = Instant::now();
        let published = node.publisher.publish(compile(&policy))?;
        run.sample((&case, SPLITTER), CHANGE, round, micros(start.elapsed()))?;
        ensure!(published.changed == 1, "round {round} changed {} services", published.changed);
        if round % 100 == 99 {
            node.publisher.settle()?;
        }
    }
    Ok(())
}
