//! Clients and servers that make the load, as processes that are told what to do.
//!
//! Both are the binary `splitter-load`: [`Client`] and [`Server`] are its handles, [`work`] and
//! [`serve`] what it does. A process of its own can be put into the cgroup and the network
//! namespace of an [`Arm`](crate::arm::Arm), and onto a CPU. It ends when its standard input does,
//! so none outlives the bench, however that ends.

pub mod histogram;
mod process;
pub mod protocol;
pub mod serve;
pub mod work;

pub use process::{Client, Server, client_command};
pub use protocol::{Command, Outcome, Work};

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where clients run, and what stands for the client's host.
pub const CLIENT_CPU: usize = 0;
/// Where servers run, where there are two CPUs.
pub const SERVER_CPU: usize = 1;

/// Binds this thread, and those that it starts, to a CPU. Where there is no such CPU, nothing is
/// done: a machine of one CPU has no choice.
pub fn pin(cpu: usize) -> Result<()> {
    bind_to(None, cpu)
}

/// The same for the first thread of another process.
pub fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    bind_to(Some(pid), cpu)
}

fn bind_to(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let cpus = sched_getaffinity(thread).context("look which CPUs there are")?;
    if !cpus.is_set(cpu) {
        return Ok(());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(thread, &set).with_context(|| format!("run on CPU {cpu}"))
}
