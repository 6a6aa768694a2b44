//! Health checks of a running daemon: what people and programs see of them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use splitter_tests::daemon::{Site, eventually};

/// A service whose backends are checked in one way.
fn checked(backends: &[&str], health: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['127.10.0.1:8080']
  subsets:
    v1: {{backends: {backends:?}, health: {health}}}
    v2: {{backends: []}}
  routes:
    - {{name: all, split: {{v1: 3, v2: 2}}}}
"
    )
}

const HASTY: &str = "{tcp: {}, interval: 10ms, healthyThreshold: 1, unhealthyThreshold: 2}";

/// The health of a backend of the first subset.
fn health(site: &Site, backend: usize) -> Result<Value> {
    let status = site.status()?;
    Ok(status["services"][0]["subsets"][0]["backends"][backend]["health"].clone())
}

fn becomes(site: &Site, backend: usize, state: &str) -> Result<()> {
    eventually(state, || Ok(health(site, backend)?["state"] == state))
}

#[test]
fn health_is_shown_and_outlives_other_changes() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let refused = TcpListener::bind("127.0.0.1:0")?;
    let (good, bad) = (listener.local_addr()?.to_string(), refused.local_addr()?.to_string());
    drop(refused);
    let policy = site.write("policy.yaml", checked(&[&good, &bad], HASTY))?;
    let daemon = site.run(&["--degrade", "--policy", &policy])?;
    becomes(&site, 0, "healthy")?;
    becomes(&site, 1, "unhealthy")?;
    ensure!(health(&site, 1)?["last_error"].as_str().is_some_and(|it| it.contains("refused")));
    let out = site.splitter(&["status"])?.success()?;
    ensure!(out.contains("health      1 healthy, 1 unhealthy"), "{out}");
    let out = site.splitter(&["get"])?.success()?;
    ensure!(out.contains("(1 of 2 checked backends healthy)"), "{out}");
    let services = site.json(&["get"])?;
    let counts = json!({"healthy": 1, "unhealthy": 1, "not_probed": 0});
    assert_eq!(services["services"][0]["health"], counts);
    // It stays unhealthy without another verdict.
    let before = health(&site, 1)?["probes"].as_u64();
    site.splitter(&["weight", "shop", "v1=1"])?.success()?;
    ensure!(health(&site, 1)?["probes"].as_u64() >= before, "its probes are counted on");
    assert_eq!(health(&site, 1)?["state"], "unhealthy");
    let _listener = TcpListener::bind(&bad)?;
    becomes(&site, 1, "healthy")?;
    let told = " healthy: 1 probe succeeded";
    eventually("the log tells of it", || Ok(daemon.log().contains(told)))?;
    let log = daemon.terminate()?;
    // Where the machine is slow, either backend may time out besides.
    let refused =
        format!("unhealthy: 2 probes in a row failed: connect to {bad}: Connection refused");
    assert_eq!(log.matches(&refused).count(), 1, "{log}");
    Ok(())
}

#[test]
fn commands_have_no_rights_and_end_with_the_daemon() -> Result<()> {
    let site = Site::new()?;
    let copy = site.path("status");
    let text = format!(
        "cat /proc/self/status > {0}.new; echo $$ >> {0}.new; mv {0}.new {0}; sleep 1000",
        copy.display()
    );
    let health =
        format!("{{command: {{exec: [/bin/sh, -c, \"{text}\"]}}, interval: 10ms, timeout: 1h}}");
    let policy = site.write("policy.yaml", checked(&["127.0.0.1:9001"], &health))?;
    let daemon = site.run(&["--degrade", "--policy", &policy])?;
    eventually("the command runs", || Ok(copy.exists()))?;
    let status = fs::read_to_string(copy)?;
    ensure!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    ensure!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
    ensure!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    let pid = status.lines().last().unwrap_or_default();
    ensure!(runs(pid), "it is under way");
    daemon.terminate()?;
    eventually("the command ends", || Ok(!runs(pid)))
}

/// Whether a process runs. One that only waits for its parent to look at it does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn backends_that_only_others_can_reach_are_not_probed() -> Result<()> {
    let site = Site::new()?;
    // A server's own address, of which the service keeps a part.
    let policy = site.write("policy.yaml", checked(&["127.10.0.1:8080"], HASTY))?;
    let daemon = site.run(&["--degrade", "--policy", &policy])?;
    becomes(&site, 0, "unhealthy")?;
    fs::write(site.place().cgroup().join("cgroup.procs"), daemon.pid().to_string())?;
    let slower = HASTY.replace("10ms", "11ms");
    site.replace("policy.yaml", checked(&["127.10.0.1:8080"], &slower))?;
    becomes(&site, 0, "not probed")?;
    let refusal = site.splitter(&["status"])?;
    assert_eq!(refusal.code, Some(1));
    ensure!(refusal.out.contains("127.10.0.1:8080 is a frontend"), "{}", refusal.out);
    site.place().put_outside(daemon.pid())?;
    site.replace("policy.yaml", checked(&["127.10.0.1:8080"], HASTY))?;
    becomes(&site, 0, "unhealthy")
}
