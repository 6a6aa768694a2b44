//! The process that sets the stage and clears it, however the demo ends.
//!
//! It is this program once more, in a process group of its own, with a pipe from the demo as its
//! standard input. The pipe ends when the demo does: at its end, on an error, on Ctrl-C, by
//! `kill -9`. So there is one way of cleaning up and no signal to handle.

use std::env;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::place::Place;

/// What the janitor says once the stage is set.
const READY: &str = "ready";
/// Held by the janitor while it lives.
const LOCK: &str = "/run/splitter-demo.lock";
/// How long an earlier demo may take to clear its stage.
const PATIENCE: Duration = Duration::from_secs(15);

/// A stage that is set, and the process that will clear it.
pub(super) struct Janitor {
    place: Place,
    process: Child,
}

impl Janitor {
    /// Clears what an earlier demo left and sets the stage.
    pub(super) fn start() -> Result<Self> {
        let place = Place::find()?;
        let program = env::current_exe().context("find this program")?;
        let mut process = Command::new(program)
            .args(["demo", "--janitor"])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the demo's janitor")?;
        let stdout = process.stdout.take().expect("stdout was just piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("hear from the demo's janitor")?;
        if line.trim_end() != READY {
            bail!("the demo's janitor could not make its place: {}", process.wait()?);
        }
        Ok(Self { place, process })
    }

    /// The stage.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Clears the stage.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait().context("wait for the demo's janitor")?;
        if !status.success() {
            bail!("the demo's janitor could not remove everything: {status}");
        }
        Ok(())
    }
}

/// What the janitor does.
pub(super) fn serve() -> Result<()> {
    let place = Place::find()?;
    let lock = lock()?;
    place.remove().context("remove what an earlier demo left")?;
    let made = place.make();
    if made.is_ok() {
        let mut out = io::stdout().lock();
        // A demo that is gone already is noticed at once by the end of its pipe.
        let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
        io::copy(&mut io::stdin().lock(), &mut io::sink()).context("wait for the demo's end")?;
    }
    let removed = place.remove().context("remove what the demo made");
    let unlocked = fs::remove_file(LOCK).with_context(|| format!("remove {LOCK}"));
    drop(lock);
    made.and(removed).and(unlocked)
}

fn lock() -> Result<File> {
    let start = Instant::now();
    loop {
        let file = File::create(LOCK).with_context(|| format!("make {LOCK}"))?;
        match file.try_lock() {
            Ok(()) if is_in_place(&file) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {LOCK}"));
            }
            _ if start.elapsed() > PATIENCE => bail!("another demo is running; wait for its end"),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Whether a file that is locked now is the one that others will try to lock: the janitor that
/// held the lock before removed its file.
fn is_in_place(file: &File) -> bool {
    let inode = |metadata: io::Result<Metadata>| metadata.map(|metadata| metadata.ino()).ok();
    inode(file.metadata()) == inode(fs::metadata(LOCK))
}
