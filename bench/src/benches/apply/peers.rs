//! The same number of services in nftables and in HAProxy.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use splitter_tests::node::parse;
use splitter_user::policy::model::Service;

use super::{CHANGE, case};
use crate::arm::{Network, succeed};
use crate::peers::nftables::{self, Numgen};
use crate::peers::{Haproxy, Nftables, Peer, haproxy};
use crate::policies::{Shape, table};
use crate::run::{Metric, Run, micros, millis};

/// From the start of the program to the whole table in force.
const LOAD: Metric = Metric("load", "ms");

/// Loads and changes each peer that is installed.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let sizes: &[u32] = run.pace.pick(&[20], &[1_000], &[1_000, 10_000]);
    for count in sizes {
        // Ten thousand services take nftables a quarter of a minute.
        let rounds = if *count > 1_000 { 2 } else { run.pace.pick(1, 3, 11) };
        let services = parse(&table(*count, 2))?.services;
        if is_there(run, &Nftables::IN_TURN)? {
            nftables(run, &case(*count), &services, rounds)?;
        }
        if is_there(run, &Haproxy)? {
            haproxy(run, &case(*count), &services, rounds)?;
        }
    }
    Ok(())
}

/// Whether a peer can run; where not, the reader is told how to get it.
fn is_there(run: &mut Run, peer: &dyn Peer) -> Result<bool> {
    let Some(missing) = peer.missing() else { return Ok(true) };
    run.note(format!("{} is left out: {missing}", peer.name()))?;
    Ok(false)
}

fn nftables(run: &mut Run, case: &str, services: &[Service], rounds: u32) -> Result<()> {
    let arm = Nftables::IN_TURN.name();
    let rules = nftables::ruleset(services, Numgen::Inc)?;
    let changes = run.pace.pick(1, 5, 10);
    for round in 0..rounds {
        let network = Network::new()?;
        let start = Instant::now();
        nftables::load(&network, &rules)?;
        run.sample((case, arm), LOAD, round, millis(start.elapsed()))?;
        for number in 0..changes {
            let shape = Shape::of_table(number).weighing(70 - number, 20);
            let service = parse(&shape.to_yaml())?.services.remove(0);
            let rules = nftables::change(number as usize, &service, Numgen::Inc)?;
            let start = Instant::now();
            nftables::load(&network, &rules)?;
            let time = micros(start.elapsed());
            run.sample((case, arm), CHANGE, round * changes + number, time)?;
        }
    }
    Ok(())
}

/// What a reload does before the new process takes over. There is no lasting change of one service
/// but a reload, so that is what one costs.
fn haproxy(run: &mut Run, case: &str, services: &[Service], rounds: u32) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("splitter-bench-").tempdir();
    let directory = directory.context("make a directory for HAProxy's configuration")?;
    let path = directory.path().join("haproxy.cfg");
    let socket = directory.path().join("control");
    fs::write(&path, haproxy::config(services, &socket)?).context("write a configuration")?;
    for round in 0..rounds {
        let start = Instant::now();
        succeed(Command::new("haproxy").args(["-c", "-q", "-f"]).arg(&path))?;
        let time = start.elapsed();
        run.sample((case, Haproxy.name()), LOAD, round, millis(time))?;
        run.sample((case, Haproxy.name()), CHANGE, round, micros(time))?;
    }
    Ok(())
}
