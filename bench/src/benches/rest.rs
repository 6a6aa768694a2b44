//! The daemon at rest, and after many applies.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::param::clock_ticks_per_second;
use serde_json::json;
use splitter_tests::daemon::Site;

use super::Bench;
use crate::machine::{own_bytes, resident_bytes};
use crate::policies::table;
use crate::run::{Metric, Run, micros};

/// The daemon before it did anything.
pub(crate) const RESTING: &str = "at rest";
/// Resident memory of the daemon.
pub(crate) const MEMORY: Metric = Metric("resident memory", "B");
/// Part of one CPU's time.
pub(crate) const CPU: Metric = Metric("CPU time", "%");

pub(super) const BENCH: Bench = Bench {
    name: "rest",
    title: "The daemon at rest",
    about: "A daemon with one service is left alone and watched; then weights change many times, \
            by requests to its socket, and it is watched again: what grows would be a leak. CPU \
            time is in percent of one CPU, and its finest step is one clock tick in the time \
            watched. Part of the resident memory is the program file and the kernel's maps, into \
            which the daemon looks; the rest is its own.",
    base: None,
    sits_again: false,
    run,
};

/// What is not its program file, a library or a map of the kernel.
const OWN: Metric = Metric("memory of its own", "B");
const FILES: Metric = Metric("open files", "");
const THREADS: Metric = Metric("threads", "");
const REQUEST: Metric = Metric("time of a request", "us");

fn run(run: &mut Run) -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", table(1, 2))?;
    let daemon = site.run(&["--policy", &policy])?;
    let longest = Duration::from_millis(run.pace.pick(100, 10_000, 30_000));
    // The work of a start is over, and threads that it took end.
    thread::sleep(Duration::from_millis(run.pace.pick(0, 2_000, 5_000)));
    watch(run, RESTING, daemon.pid(), longest)?;
    let applies = run.pace.pick(20, 5_000, 100_000);
    for number in 0..applies {
        let weights = json!([["v1", 80 - number % 50], ["v2", 20]]);
        let start = Instant::now();
        let answer = site.ask(&json!({"verb": "weight", "target": "s0", "weights": weights}))?;
        if number % 100 == 0 {
            run.sample(("", "weight"), REQUEST, number, micros(start.elapsed()))?;
        }
        ensure!(answer["answer"] == "weighted", "a weight was refused: {answer}");
    }
    // Files are written a while after the last change.
    thread::sleep(Duration::from_millis(run.pace.pick(0, 1_000, 5_000)));
    watch(run, &format!("after {applies} changes"), daemon.pid(), longest)?;
    daemon.terminate().map(drop)
}

fn watch(run: &mut Run, arm: &str, pid: u32, time: Duration) -> Result<()> {
    let before = cpu_seconds(pid)?;
    let start = Instant::now();
    thread::sleep(time);
    let used = cpu_seconds(pid)? - before;
    run.sample(("", arm), CPU, 0, used * 100.0 / start.elapsed().as_secs_f64())?;
    run.sample(("", arm), MEMORY, 0, resident_bytes(pid)?)?;
    run.sample(("", arm), OWN, 0, own_bytes(pid)?)?;
    run.sample(("", arm), FILES, 0, entries(&format!("/proc/{pid}/fd"))?)?;
    run.sample(("", arm), THREADS, 0, entries(&format!("/proc/{pid}/task"))?)
}

/// CPU time of a process so far.
#[expect(clippy::cast_precision_loss, reason = "a hundred per second")]
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("look at the daemon")?;
    // The name, in parentheses, may hold spaces. utime and stime are fields 14 and 15.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    ensure!(ticks.len() == 2, "no CPU times in {text}");
    Ok(ticks.iter().sum::<u64>() as f64 / clock_ticks_per_second() as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn entries(directory: &str) -> Result<f64> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {directory}"))?;
    Ok(entries.count() as f64)
}
