//! What a service and a backend cost in memory.

use std::fs;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use splitter_tests::daemon::Site;
use splitter_tests::node::{Node, parse};
use splitter_tests::place::Place;
use splitter_user::tables::Sizes;

use super::Bench;
use crate::machine::resident_bytes;
use crate::peers::{Envoy, Ground, Haproxy, Peer, Serve};
use crate::policies::{puts, table};
use crate::run::{Metric, Run, count_of};

/// The arm of the kernel's tables.
pub(crate) const TABLES: &str = "splitter, in the kernel";
/// Bytes of one more service.
pub(crate) const SERVICE: Metric = Metric("memory of a service", "B");

pub(super) const BENCH: Bench = Bench {
    name: "memory",
    title: "Memory of a service and of a backend",
    about: "In the kernel: each map's memory as the kernel accounts for it, by the part of its \
            entries that is in use, for services of two subsets of two backends and a wheel of 100 \
            slots. A backend's is the difference to services of two subsets of five. Of the \
            daemon, and of proxies with the same services: how much the resident memory grows by \
            each.",
    base: None,
    sits_again: false,
    run,
};

const BACKEND: Metric = Metric("memory of a backend", "B");

/// How the goal's case is called.
pub(crate) fn case(services: u32) -> String {
    count_of(services, "service")
}

fn run(run: &mut Run) -> Result<()> {
    let sizes: &[u32] = run.pace.pick(&[20], &[1_000, 10_000], &[1_000, 10_000, 100_000]);
    for services in sizes {
        let four = used_bytes(*services, 2)? / f64::from(*services);
        let ten = used_bytes(*services, 5)? / f64::from(*services);
        run.sample((&case(*services), TABLES), SERVICE, 0, four)?;
        run.sample((&case(*services), TABLES), BACKEND, 0, (ten - four) / 6.0)?;
    }
    daemon(run)?;
    proxy(run, &Haproxy)?;
    proxy(run, &Envoy)
}

/// Bytes behind the records in use.
fn used_bytes(services: u32, per_subset: u32) -> Result<f64> {
    let mut node = Node::with_sizes(Sizes::for_services(services * per_subset.div_ceil(2)))?;
    node.publisher.publish(puts(&table(services, per_subset))?)?;
    let mut total = 0.0;
    for (map, used, size) in node.publisher.usage() {
        let part = f64::from(used) / f64::from(size);
        total += map_bytes(&node.place, map)? * part;
        // A pair of plans for each frontend, of which the publisher does not keep count.
        if map == "FRONTENDS" {
            total += map_bytes(&node.place, "PLAN_PAIRS")? * part;
        }
    }
    Ok(total)
}

/// Bytes of a pinned map.
fn map_bytes(place: &Place, map: &str) -> Result<f64> {
    let maps = fs::read_dir(place.pins())?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .context("no maps are pinned")?;
    let output = Command::new("bpftool")
        .args(["-j", "map", "show", "pinned"])
        .arg(maps.path().join(map))
        .output()
        .context("run bpftool (apt-get install bpftool)")?;
    let shown: Value = serde_json::from_slice(&output.stdout).context("what bpftool says")?;
    shown["bytes_memlock"].as_f64().with_context(|| format!("no memory of {map} in {shown}"))
}

/// How the daemon grows with its services.
fn daemon(run: &mut Run) -> Result<()> {
    let (few, many) = run.pace.pick((1, 50), (1_000, 10_000), (1_000, 100_000));
    let mut sizes = Vec::new();
    for services in [few, many] {
        let site = Site::new()?;
        let policy = site.write("policy.yaml", table(services, 2))?;
        let room = many.to_string();
        let daemon = site.run(&["--policy", &policy, "--max-services", &room])?;
        sizes.push(resident_bytes(daemon.pid())?);
        daemon.terminate()?;
    }
    slope(run, "splitter, the daemon", (few, many), &sizes)
}

fn slope(run: &mut Run, arm: &str, (few, many): (u32, u32), sizes: &[f64]) -> Result<()> {
    let [small, big] = sizes else { bail!("two sizes make a slope") };
    let bytes = (big - small) / f64::from(many - few);
    run.sample((&case(many), arm), SERVICE, 0, bytes)
}

/// How a proxy grows with its services.
fn proxy(run: &mut Run, peer: &dyn Peer) -> Result<()> {
    if let Some(missing) = peer.missing() {
        return run.note(format!("{} is left out: {missing}", peer.name()));
    }
    let (few, many) = run.pace.pick((1, 20), (100, 1_000), (100, 1_000));
    let mut sizes = Vec::new();
    for count in [few, many] {
        let services = parse(&table(count, 2))?.services;
        let ground = Rc::new(Ground::new(&services, Serve::Connections)?);
        let running = peer.start(&ground, &services)?;
        let pid = running.pid.with_context(|| format!("{} is a process", peer.name()))?;
        sizes.push(resident_bytes(pid)?);
    }
    slope(run, peer.name(), (few, many), &sizes)
}
