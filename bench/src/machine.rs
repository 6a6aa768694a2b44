//! The machine that figures were taken on.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Load average that is quiet enough.
const QUIET: f64 = 0.5;

/// What a figure depends on besides the code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub processor: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether it is a virtual machine, as far as the processor says.
    pub is_virtual: bool,
    /// What the processor's weaknesses are, and what the kernel does about them.
    pub mitigations: Vec<String>,
    /// Whether the kernel accounts the run time of programs, which costs each run a clock reading.
    pub bpf_stats: bool,
    /// Version of splitter.
    pub version: String,
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.trim().to_owned())
        };
        Ok(Self {
            processor: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: thread::available_parallelism().context("count CPUs")?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?,
            is_virtual: field("flags").is_some_and(|flags| flags.contains(" hypervisor")),
            mitigations: mitigations(),
            bpf_stats: read("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|on| on != "0"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

fn mitigations() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut found: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            let state = state.trim();
            (state != "Not affected")
                .then(|| format!("{}: {state}", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    found
}

/// What all CPUs together did since the machine started, in clock ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    total: f64,
    stolen: f64,
}

impl Ticks {
    /// Reads the kernel's account.
    pub fn read() -> Result<Self> {
        let text = read("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests' are in user and nice.
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let stolen = ticks.get(7).copied().context("no stolen time in /proc/stat")?;
        Ok(Self { total: ticks.iter().sum(), stolen })
    }

    /// Part of the time that the hypervisor gave to others since an earlier reading.
    pub fn stolen_percent_since(&self, earlier: &Self) -> f64 {
        (self.stolen - earlier.stolen) * 100.0 / (self.total - earlier.total).max(1.0)
    }
}

/// Load average over the last minute.
pub fn load_average() -> Result<f64> {
    let text = read("/proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("a load average in {text:?}"))
}

/// Waits until the machine is quiet, up to a bound. Answers the load at the end.
pub fn wait_for_quiet(longest: Duration) -> Result<f64> {
    let start = Instant::now();
    loop {
        let load = load_average()?;
        if load <= QUIET || start.elapsed() >= longest {
            return Ok(load);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Whether a load is so high that figures suffer.
pub fn is_busy(load: f64) -> bool {
    load > QUIET
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Result<f64> {
    status_bytes(pid, "VmRSS:")
}

/// The part of it that no file and no map of the kernel is behind.
pub fn own_bytes(pid: u32) -> Result<f64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, field: &str) -> Result<f64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes = kilobytes.with_context(|| format!("no {field} of process {pid}"))?;
    Ok(kilobytes.trim().parse::<f64>()? * 1024.0)
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}
