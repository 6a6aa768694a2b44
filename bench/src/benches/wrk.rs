//! HTTP by `wrk` on nginx: kept connections, and one connection per request.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

use super::Bench;
use super::requests::shop;
use crate::load::client_command;
use crate::peers::{self, Running, Serve, Side, line_up};
use crate::rounds::interleave;
use crate::run::{Metric, Run, count_of};

/// The bench.
pub(super) const BENCH: Bench = Bench {
    name: "wrk",
    title: "HTTP with wrk",
    about: "`wrk` with one thread asks nginx for 64 bytes, for a quarter of a second at a time: over \
            connections that are kept, which the hook has no part in once they stand, and over one \
            connection per request. The service splits 90/10 between two ports of one nginx.",
    base: Some("direct"),
    sits_again: true,
    run,
};

/// How requests use connections: name, and the header that asks for it.
const MODES: [(&str, &str); 2] =
    [("kept", "Connection: keep-alive"), ("closed", "Connection: close")];
/// Connections at a time.
const CONNECTIONS: [u32; 3] = [1, 16, 128];
/// The case that goals are about.
pub(crate) const ALONE: &str = "kept, 16 connections, these two alone";
/// Those that a quick run measures.
const FEW_CONNECTIONS: [u32; 1] = [16];

/// Has wrk end by writing its figures as JSON, where its own output rounds them.
const SCRIPT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What the script writes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    requests: f64,
    duration_us: f64,
    p50_us: f64,
    p99_us: f64,
    errors: f64,
}

/// One kind of load.
struct Case {
    name: String,
    connections: u32,
    header: &'static str,
}

fn run(run: &mut Run) -> Result<()> {
    if let Some(missing) = peers::nginx::missing().or_else(peers::missing_wrk) {
        return run.note(format!("nothing is measured: {missing}"));
    }
    let services = shop()?;
    let mut sides = line_up(run, &peers::ALL, &services, Serve::Http)?;
    let script = script()?;
    for case in cases(run.pace.pick(&FEW_CONNECTIONS[..], &FEW_CONNECTIONS, &CONNECTIONS)) {
        let rounds = run.rounds(1, 3, 24);
        interleave(&mut sides, rounds, |side, round| measure(run, side, &script, &case, round))?;
    }
    goals(run, &mut sides, &script)
}

/// A hundredth is told from nothing by many rounds of the two arms alone, right after each other.
fn goals(run: &mut Run, sides: &mut [Side], script: &TempDir) -> Result<()> {
    let mut two: Vec<&mut Side> = sides
        .iter_mut()
        .filter(|side| ["direct", "splitter"].contains(&&*side.peer.arm.name))
        .collect();
    let (_, header) = MODES[0];
    let case = Case { name: ALONE.to_owned(), connections: 16, header };
    let rounds = run.rounds(1, 6, 304);
    interleave(&mut two, rounds, |side, round| measure(run, side, script, &case, round))
}

fn cases(connections: &[u32]) -> Vec<Case> {
    let of_mode = |(mode, header): (&str, &'static str)| -> Vec<Case> {
        let case = |connections: &u32| Case {
            name: format!("{mode}, {}", count_of(*connections, "connection")),
            connections: *connections,
            header,
        };
        connections.iter().map(case).collect()
    };
    MODES.into_iter().flat_map(of_mode).collect()
}

fn script() -> Result<TempDir> {
    let directory = peers::directory()?;
    fs::write(directory.path().join("figures.lua"), SCRIPT).context("write wrk's script")?;
    Ok(directory)
}

fn measure(run: &mut Run, side: &Side, script: &TempDir, case: &Case, round: u32) -> Result<()> {
    let seconds = run.pace.pick("0.1", "0.25", "0.25");
    let figures = wrk(&side.peer, script, case, seconds)?;
    let what = (case.name.as_str(), side.peer.arm.name.as_str());
    if figures.errors > 0.0 {
        run.note(format!("{}, {}, round {round}: {} errors", what.1, what.0, figures.errors))?;
    }
    let rate = figures.requests * 1e6 / figures.duration_us.max(1.0);
    run.sample(what, Metric("rate", "1/s"), round, rate)?;
    run.sample(what, Metric("p50", "us"), round, figures.p50_us)?;
    run.sample(what, Metric("p99", "us"), round, figures.p99_us)
}

fn wrk(peer: &Running, script: &TempDir, case: &Case, seconds: &str) -> Result<Figures> {
    let mut command = client_command(&peer.arm, "timeout");
    // wrk counts whole seconds, but ends in order when it is interrupted.
    command.args(["--foreground", "--preserve-status", "--signal", "INT", seconds]);
    command.args(["wrk", "-t1", "-d1m"]).arg(format!("-c{}", case.connections));
    command
        .args(["-H", case.header, "-s"])
        .arg(script.path().join("figures.lua"))
        .arg(format!("http://{}/", peer.dial));
    let output = command.output().context("run wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("wrk on {} ended with {}: {}", peer.arm.name, output.status, why.trim());
    }
    read_figures(&said).with_context(|| format!("wrk on {} said: {said}", peer.arm.name))
}

fn read_figures(said: &str) -> Result<Figures> {
    let line = said.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.context("it wrote no figures")?).context("read wrk's figures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_what_wrk_says() {
        let said = "Running 1s test @ http://127.0.0.1:1/
  1 threads and 16 connections

{\"requests\":100,\"duration_us\":1000000,\"p50_us\":150,\"p99_us\":300,\"errors\":0}
";
        let figures = read_figures(said).unwrap();
        let (requests, p99_us) = (100.0, 300.0);
        assert_eq!(
            figures,
            Figures { requests, duration_us: 1e6, p50_us: 150.0, p99_us, errors: 0.0 }
        );
        assert!(read_figures("unable to connect").is_err());
    }

    #[test]
    fn every_mode_has_every_number_of_connections() {
        let names: Vec<String> = cases(&[1, 16]).into_iter().map(|case| case.name).collect();
        let wanted = [
            "kept, 1 connection",
            "kept, 16 connections",
            "closed, 1 connection",
            "closed, 16 connections",
        ];
        assert_eq!(names, wanted);
    }
}
