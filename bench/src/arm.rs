//! Where the clients of an arm are: a network namespace and a cgroup.
//!
//! Namespaces hold nothing but loopback, and their default route is a blackhole: a connection that
//! nobody rewrites ends there.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Names of all namespaces of benches begin so, followed by the process id.
const PREFIX: &str = "splitter-bench-";
/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One side of a comparison, as its clients see it.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What the records call it.
    pub name: String,
    /// The cgroup that its clients are in: what hooks see.
    pub cgroup: PathBuf,
    /// The network namespace that its clients are in.
    pub network: PathBuf,
}

impl Arm {
    /// Clients in a network and a cgroup.
    pub fn new(name: impl Into<String>, network: &Network, cgroup: &Path) -> Self {
        Self { name: name.into(), cgroup: cgroup.to_owned(), network: network.path() }
    }
}

/// A network namespace of the bench's own; it is gone when this is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
}

impl Network {
    /// Makes one, and removes those of benches that did not live to do so.
    pub fn new() -> Result<Self> {
        remove_leftovers();
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        let network = Self { name };
        ip(&["-n", &network.name, "link", "set", "lo", "up"])?;
        ip(&["-n", &network.name, "route", "add", "blackhole", "default"])?;
        // Short connections need more ports than the usual 28,000. These are the namespace's own.
        let widen = "echo 10000 65535 >/proc/sys/net/ipv4/ip_local_port_range";
        succeed(network.command("sh").args(["-c", widen]))?;
        Ok(network)
    }

    /// Name of the namespace, as `ip netns` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs in a thread that is in the namespace.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            let namespace = fs::File::open(self.path()).context("open a network namespace")?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter the network namespace {}", self.name))?;
            run()
        };
        thread::scope(|threads| threads.spawn(inside).join().expect("it does not panic"))
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("ip").args(arguments))
}

/// Runs a command to its end, which must be a success.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // Some name every line of a long file.
        let said: Vec<&str> = said.lines().take(4).collect();
        bail!("{command:?}: {}: {}", output.status, said.join("\n"));
    }
    Ok(())
}
