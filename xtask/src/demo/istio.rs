//! The demo's other play: the same rollout with the files of Istio and of the Gateway API.

use std::thread;

use anyhow::{Result, bail};

use super::acts::{curls, run, short, show};
use super::daemon::{FRONTEND, Subject};
use super::stage::{Stage, expect_version, tell};
use super::{Pace, heading};

/// The service that Istio's files come to.
pub(super) const ISTIO: Subject =
    Subject { policy: None, service: "purchase-history", subsets: ["v1", "v2"] };
/// The service that the Gateway API's files come to.
const GATEWAY: Subject = Subject {
    policy: None,
    service: "shop/purchase-history.8080",
    subsets: ["purchase-history-v1", "purchase-history-v2"],
};
const REGISTRY: &str = "policies/istio/registry";
/// Connections that may be made while the counters of all CPUs are read.
const IN_FLIGHT: u64 = 20;

/// A step of the rollout.
fn step(name: &str) -> String {
    format!("policies/istio/rollout/{name}.yaml")
}

/// The whole play.
pub(super) fn play(stage: &mut Stage, pace: Pace) -> Result<()> {
    registry(stage)?;
    all_to_v1(stage)?;
    twenty_percent(stage, pace)?;
    half(stage, pace)?;
    all_to_v2(stage, pace)?;
    resiliency(stage)?;
    outbound(stage)?;
    gateway_api(stage, pace)?;
    heading("9. The end");
    stage.daemon.verb(&["detach"])?;
    stage.daemon.wait()
}

fn registry(stage: &mut Stage) -> Result<()> {
    heading("1. The registry: a ServiceEntry and a DestinationRule, without a cluster");
    stage.daemon.start()?;
    stage.daemon.verb(&["check", REGISTRY])?;
    stage.daemon.verb(&["apply", REGISTRY])?;
    stage.daemon.verb(&["hosts"])
}

fn all_to_v1(stage: &mut Stage) -> Result<()> {
    heading("2. Dark launch: everything to v1, v2 is there and gets nothing");
    stage.daemon.verb(&["apply", &step("03-all-to-v1")])?;
    let before = stage.snapshot()?;
    for _ in 0..3 {
        let said = stage.client(&["curl", "--silent", &format!("http://{FRONTEND}/")])?;
        expect_version(&said, "v1")?;
    }
    show(&stage.snapshot()?.since(before, [100, 0])).check_exactly([3, 0])
}

fn twenty_percent(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("3. Canary: a VirtualService with 80 and 20");
    let next = step("04-v2-20-percent");
    stage.daemon.finding_verb(&["diff", &next])?;
    stage.daemon.verb(&["apply", &next])?;
    println!("\n20 connections, one after the other:");
    let before = stage.snapshot()?;
    curls(stage)?;
    show(&stage.snapshot()?.since(before, [80, 20])).check_exactly([16, 4])?;
    println!("\nShort connections, one request each:");
    let before = stage.snapshot()?;
    run(stage, &short(pace.load))?;
    show(&stage.snapshot()?.since(before, [80, 20])).check(2)
}

fn half(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("4. Half way, under load: apply the next VirtualService");
    let start = stage.snapshot()?;
    let load = short(pace.eventful);
    println!("$ {} &", load.show());
    let running = load.start(&stage.place)?;
    thread::sleep(pace.half());
    let old = stage.snapshot_under_load()?;
    stage.daemon.verb(&["apply", &step("05-half")])?;
    let new = stage.snapshot_under_load()?;
    tell(&running.finish()?)?;
    let end = stage.snapshot()?;
    println!("\nBefore the command, as status counted then:");
    show(&old.since(start, [80, 20])).check(IN_FLIGHT)?;
    println!("After the command:");
    show(&end.since(new, [50, 50])).check(IN_FLIGHT)
}

fn all_to_v2(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("5. Finished: all to v2");
    stage.daemon.verb(&["apply", &step("06-all-to-v2")])?;
    let before = stage.snapshot()?;
    run(stage, &short(pace.load))?;
    show(&stage.snapshot()?.since(before, [0, 100])).check(1)?;
    println!("\nThe native policy that means the same:");
    stage.daemon.verb(&["get", "--as", "native"])
}

/// What has no meaning for a connection, or is not enforced yet, is refused unless degraded.
fn resiliency(stage: &Stage) -> Result<()> {
    heading("6. Retries, timeouts, circuit breaking, faults");
    println!("What a connection cannot have is refused, and told; `--degrade` loads the rest.\n");
    stage.daemon.failing_verb(&["apply", "policies/istio/resiliency/retries.yaml"])?;
    for name in ["retries", "timeout", "circuit-breaker", "fault-injection"] {
        let file = format!("policies/istio/resiliency/{name}.yaml");
        stage.daemon.verb(&["apply", "--degrade", &file])?;
    }
    Ok(())
}

fn outbound(stage: &Stage) -> Result<()> {
    heading("7. REGISTRY_ONLY and the one host that stays reachable");
    stage.daemon.verb(&["check", "policies/istio/outbound"])
}

/// Another form of the same rollout takes over the address.
fn gateway_api(stage: &mut Stage, pace: Pace) -> Result<()> {
    heading("8. The same with the Gateway API");
    let mut remove = vec!["apply"];
    for document in [
        "--remove=VirtualService/shop/purchase-history",
        "--remove=DestinationRule/shop/purchase-history",
        "--remove=ServiceEntry/shop/purchase-history",
    ] {
        remove.push(document);
    }
    stage.daemon.verb(&remove)?;
    if stage.client(&["curl", "--silent", &format!("http://{FRONTEND}/")]).is_ok() {
        bail!("something answers at {FRONTEND}");
    }
    println!("curl fails: nothing is split at {FRONTEND} any more\n");
    let files = ["policies/gateway-api/registry.yaml", "policies/gateway-api/tcproute-80-20.yaml"];
    stage.daemon.verb(&[&["apply"], &files[..]].concat())?;
    stage.daemon.watch(GATEWAY);
    let before = stage.snapshot()?;
    curls(stage)?;
    show(&stage.snapshot()?.since(before, [80, 20])).check_exactly([16, 4])?;
    let before = stage.snapshot()?;
    run(stage, &short(pace.load))?;
    show(&stage.snapshot()?.since(before, [80, 20])).check(2)
}
