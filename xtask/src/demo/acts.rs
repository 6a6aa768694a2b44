//! The acts of the demo, each with what must hold after it.

use std::thread;

use anyhow::{Result, bail};

use super::daemon::{FRONTEND, Subject};
use super::place::Role;
use super::stage::{Stage, expect_version, tell};
use super::table::Table;
use super::wrk::Load;
use super::{Pace, heading};

/// The service of the native policies.
pub(super) const NATIVE: Subject =
    Subject { policy: Some(FIRST_POLICY), service: "purchase-history", subsets: ["v1", "v2"] };
const FIRST_POLICY: &str = "policies/purchase-history-dark.yaml";
/// The client that `purchase-history-dark.yaml` chooses.
const TESTER: &str = "4242";
/// Connections that curl makes in the canary.
const CURLS: usize = 20;
/// Connections at a time of short connections.
const SHORT: u32 = 8;
/// Connections that may be made while the counters of all CPUs are read, one after the other.
const IN_FLIGHT: u64 = 20;
/// Connections of a load that keeps them.
const KEPT: u32 = 10;

/// Everybody gets v1; one chosen client gets v2.
pub(super) fn dark_launch(stage: &mut Stage) -> Result<()> {
    heading("1. Dark launch: everybody gets v1, one chosen client gets v2");
    println!("Until the daemon runs, nothing answers at {FRONTEND}:");
    let url = format!("http://{FRONTEND}/");
    if stage.client(&["curl", "--silent", "--show-error", &url]).is_ok() {
        bail!("something answers at {FRONTEND}");
    }
    println!("curl fails: connection refused\n");
    stage.daemon.start()?;
    let before = stage.snapshot()?;
    let said = stage.client(&["curl", "--silent", &url])?;
    expect_version(&said, "v1")?;
    let tester = format!("--reuid={TESTER}");
    let said = stage.client(&["setpriv", &tester, "--clear-groups", "curl", "--silent", &url])?;
    expect_version(&said, "v2")?;
    println!();
    explain(stage, &[])?;
    explain(stage, &["--uid", TESTER])?;
    println!("One client of each kind, so one connection of each kind:");
    show(&stage.snapshot()?.since(before, [1, 1])).check_exactly([1, 1])
}

/// Why a client gets what it gets, from the policy's text alone.
fn explain(stage: &Stage, client: &[&str]) -> Result<()> {
    let words = ["explain", FIRST_POLICY, "--to", FRONTEND];
    stage.daemon.verb(&[&words, client].concat())
}

/// 80/20, exactly, with connections that carry one request and with connections that are kept.
pub(super) fn canary(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("2. Canary: 80 % v1, 20 % v2");
    stage.daemon.verb(&["apply", "policies/purchase-history-80-20.yaml"])?;

    println!("\n{CURLS} connections, one after the other:");
    let before = stage.snapshot()?;
    curls(stage)?;
    show(&stage.snapshot()?.since(before, [80, 20])).check_exactly([16, 4])?;

    println!("\nShort connections, one request each:");
    let before = stage.snapshot()?;
    run(stage, &short(pace.load))?;
    show(&stage.snapshot()?.since(before, [80, 20])).check(2)?;

    println!("\nKept connections:");
    let before = stage.snapshot()?;
    run(stage, &Load { connections: KEPT, short: false, ..short(pace.load) })?;
    show(&stage.snapshot()?.since(before, [80, 20])).check(2)?;
    println!("A split is per connection, not per request: a kept connection stays where it is,");
    println!("so requests follow the few connections. (wrk opens one more, to see who is there.)");
    Ok(())
}

/// Connections one after the other.
pub(super) fn curls(stage: &Stage) -> Result<()> {
    let each = format!("for i in $(seq {CURLS}); do curl --silent http://{FRONTEND}/; done");
    stage.client(&["sh", "-c", &each]).map(drop)
}

/// Weights shift under load.
pub(super) fn half_way(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("3. Half way: the weights shift under load");
    let start = stage.snapshot()?;
    let load = short(pace.eventful);
    println!("$ {} &", load.show());
    let running = load.start(&stage.place)?;
    thread::sleep(pace.half());
    let old = stage.snapshot_under_load()?;
    stage.daemon.verb(&["weight", NATIVE.service, "v1=50", "v2=50"])?;
    let new = stage.snapshot_under_load()?;
    tell(&running.finish()?)?;
    let end = stage.snapshot()?;
    println!("\nBefore the command, as status counted then:");
    show(&old.since(start, [80, 20])).check(IN_FLIGHT)?;
    println!("After the command:");
    show(&end.since(new, [50, 50])).check(IN_FLIGHT)?;
    let whole = end.since(start, [0, 0]);
    let [first, second] = whole.connections();
    println!("All in all v1 served {first} connections and v2 {second}, as status says, too.");
    whole.check_agreement()
}

/// All to v2.
pub(super) fn finished(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("4. Finished: all to v2");
    stage.daemon.verb(&["apply", "policies/purchase-history-v2.yaml"])?;
    let before = stage.snapshot()?;
    run(stage, &short(pace.load))?;
    show(&stage.snapshot()?.since(before, [0, 100])).check(1)
}

/// The daemon dies under load, and comes back.
pub(super) fn daemon_dies(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("5. The daemon dies under load");
    let before = stage.snapshot()?;
    let load = short(pace.eventful);
    println!("$ {} &", load.show());
    let running = load.start(&stage.place)?;
    thread::sleep(pace.half() / 2);
    stage.daemon.kill()?;
    stage.daemon.failing_verb(&["status"])?;
    println!("The hooks and their maps are pinned: connections are split without the daemon.");
    thread::sleep(pace.half() / 2);
    stage.daemon.start()?;
    println!("It found the policy that was in force, counts and tickets included.");
    tell(&running.finish()?)?;
    show(&stage.snapshot()?.since(before, [0, 100])).check(1)?;
    println!();
    stage.daemon.verb(&["status"])
}

/// Removes hooks and maps.
pub(super) fn detach(stage: &mut Stage) -> Result<()> {
    heading("7. The end");
    stage.daemon.verb(&["detach"])?;
    stage.daemon.wait()
}

/// Short connections by clients.
pub(super) fn short(seconds: u64) -> Load<'static> {
    Load { role: Role::Client, address: FRONTEND, connections: SHORT, short: true, seconds }
}

/// Runs a load and tells what became of it.
pub(super) fn run(stage: &Stage, load: &Load<'_>) -> Result<()> {
    println!("$ {}", load.show());
    tell(&load.run(&stage.place)?)
}

/// Prints a table.
pub(super) fn show(table: &Table) -> &Table {
    table.print();
    table
}
