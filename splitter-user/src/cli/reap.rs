//! What removes the cgroup of a command after its end. Not for people.
//!
//! It is a process of its own, because `exec` becomes the command, and no child of it, because a
//! command may wait for all children that it has.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::setsid;

use super::Exit;

/// Option of the process that waits; the one that starts it has none.
const WAIT: &str = "--wait";
/// How often a cgroup is asked for that is not yet empty although no process is in it.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Options of `reap`.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory of the cgroup.
    path: PathBuf,
    /// Wait for the end, and do not have another process do it.
    #[arg(long)]
    wait: bool,
}

/// Has the cgroup that this process is in removed when it is empty.
pub(super) fn start(path: &Path) -> anyhow::Result<()> {
    let status = reaper(path)?.status()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn reaper(path: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("reap").arg(path).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Starts the process that waits, outside the cgroup and the session, or is that process.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let path = &options.path;
    if options.wait {
        wait(path).with_context(|| format!("wait for the end of {}", path.display()))?;
        return Ok(Exit::Success);
    }
    let above = path.parent().context("a cgroup without one above it")?;
    fs::write(above.join("cgroup.procs"), "0")
        .with_context(|| format!("leave the cgroup for {}", above.display()))?;
    setsid().context("leave the session")?;
    reaper(path)?.arg(WAIT).spawn().context("start the process that waits")?;
    Ok(Exit::Success)
}

fn wait(path: &Path) -> io::Result<()> {
    let mut events = File::open(path.join("cgroup.events"))?;
    let mut text = String::new();
    loop {
        text.clear();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "populated 0") {
            break;
        }
        // The kernel reports a change of the file as POLLPRI.
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], None)?;
    }
    remove(path)
}

/// Tries for a while: the kernel may take a moment to let an empty cgroup go.
fn remove(path: &Path) -> io::Result<()> {
    let mut result = remove_tree(path);
    for _ in 0..ATTEMPTS {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(PAUSE),
            _ => break,
        }
        result = remove_tree(path);
    }
    result
}

/// Removes a cgroup with those that its processes made inside. None that has a process goes.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Files of a cgroup go with it.
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path()).or_else(ignore_missing)?;
        }
    }
    fs::remove_dir(path)
}

/// A command that ran inside has a process of its own for its cgroup.
fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
