//! From a command to the first connection on new weights.

mod peers;
mod watcher;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use splitter_tests::daemon::Site;

use super::Bench;
use crate::policies::{Shape, table};
use crate::run::{Metric, Run, count_of, micros};
use watcher::Watcher;

/// Weights that a request to the daemon's socket moves.
pub(crate) const REQUEST: &str = "request to the daemon";
/// Weights that the command moves, start of its process included.
pub(crate) const COMMAND: &str = "splitter weight";
/// From the start of the request to the first connection that is split anew.
pub(crate) const EFFECT: Metric = Metric("to the first new connection", "us");
/// Connections on old weights that began after the request was answered.
pub(crate) const STALE: Metric = Metric("stale connections after return", "");

pub(super) const BENCH: Bench = Bench {
    name: "effect",
    title: "From command to effect",
    about: "A client connects as fast as one CPU can while all weight moves from one subset to the \
            other and back. Measured from the start of the request, or of the command's process, \
            to the end of the first connection that went to the other subset, and to the return. A \
            connection that begins after the return and goes to the old subset is stale. nftables \
            (a transaction of `nft`) and HAProxy (a command on its control socket) are told the \
            same, and connected to after the return.",
    base: None,
    sits_again: true,
    run,
};

const RETURN: Metric = Metric("to return", "us");
const CONNECTS: Metric = Metric("connections", "");

/// What is dialled.
const FRONTEND: &str = "127.10.0.1:80";
/// One backend per subset.
const PORTS: [u16; 2] = [19_001, 19_002];

/// How the tables beside are called.
pub(crate) fn case(services: u32) -> String {
    format!("among {}", count_of(services, "service"))
}

fn run(run: &mut Run) -> Result<()> {
    let sizes = run.pace.pick([1, 20], [1, 1_000], [1_000, 100_000]);
    sizes.into_iter().try_for_each(|services| among(run, services))?;
    peers::run(run)
}

fn among(run: &mut Run, services: u32) -> Result<()> {
    let site = Site::new()?;
    let shape = Shape::new("moving", format!("{FRONTEND}/udp")).with_backends(1);
    let text = format!("{}{}", shape.weighing(1, 0).to_yaml(), table(services, 2));
    let policy = site.write("policy.yaml", text)?;
    let room = (services + 1_000).to_string();
    let daemon = site.run(&["--policy", &policy, "--max-services", &room])?;
    let watcher = Arc::new(Watcher::new(FRONTEND, PORTS)?);
    let client = thread::spawn({
        let watcher = Arc::clone(&watcher);
        move || watcher.watch()
    });
    let moved = moves(run, &site, &watcher, services);
    watcher.end();
    let connects = client.join().expect("it does not panic");
    moved?;
    let connects = connects?;
    for (arm, stale) in [REQUEST, COMMAND].into_iter().zip(watcher.stale()) {
        run.sample((&case(services), arm), STALE, 0, stale)?;
    }
    run.sample((&case(services), "client"), CONNECTS, 0, connects)?;
    daemon.terminate().map(drop)
}

fn moves(run: &mut Run, site: &Site, watcher: &Watcher, services: u32) -> Result<()> {
    let case = case(services);
    let times = [run.rounds(4, 200, 1_000), run.rounds(2, 40, 200)];
    let mut subset = 0;
    for (arm, times) in times.into_iter().enumerate() {
        for round in 0..times {
            subset = 1 - subset;
            watcher.begin(arm);
            let start = Instant::now();
            let name = [REQUEST, COMMAND][arm];
            ask(site, name, subset)?;
            let returned = start.elapsed();
            watcher.settle(subset);
            let effect =
                watcher.first_at(subset, start).context("the new weights had no effect")?;
            run.sample((&case, name), EFFECT, round, micros(effect))?;
            run.sample((&case, name), RETURN, round, micros(returned))?;
            // Time in which a stale connection would be seen.
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Moves all weight to one subset.
fn ask(site: &Site, arm: &str, subset: usize) -> Result<()> {
    let [v1, v2] = if subset == 0 { [1, 0] } else { [0, 1] };
    if arm == COMMAND {
        let words = ["weight", "moving", &format!("v1={v1}"), &format!("v2={v2}")];
        return site.splitter(&words)?.success().map(drop);
    }
    let weights = json!([["v1", v1], ["v2", v2]]);
    let answer = site.ask(&json!({"verb": "weight", "target": "moving", "weights": weights}))?;
    ensure!(answer["answer"] == "weighted", "weights were refused: {answer}");
    Ok(())
}
