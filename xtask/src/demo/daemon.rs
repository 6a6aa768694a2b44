//! The `splitter` binary: its daemon, and its verbs.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::place::{Place, Role};
use crate::{exec, workspace};

/// What clients dial.
pub(super) const FRONTEND: &str = "127.10.0.1:8080";
/// What a daemon is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    /// The policy that the daemon starts with.
    pub(super) policy: Option<&'static str>,
    /// The service whose connections are counted.
    pub(super) service: &'static str,
    /// Its subsets, in the order of the versions.
    pub(super) subsets: [&'static str; 2],
}

/// Where the daemon logs, below the demo's directory.
const LOG: &str = "daemon.log";
/// Tries, 50 ms apart, before a daemon that does not answer is given up.
const TRIES: u32 = 200;

/// The daemon of the demo, which runs, or did.
pub(super) struct Daemon {
    place: Place,
    subject: Subject,
    /// The program.
    binary: PathBuf,
    process: Option<Child>,
}

impl Daemon {
    /// A daemon that does not run yet.
    pub(super) fn new(place: &Place, subject: Subject, binary: PathBuf) -> Self {
        Self { place: place.clone(), subject, binary, process: None }
    }

    /// Counts the connections of another service from now on.
    pub(super) fn watch(&mut self, subject: Subject) {
        self.subject = subject;
    }

    /// The program.
    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where its control socket is.
    pub(super) fn socket(&self) -> PathBuf {
        self.place.dir().join("splitter.sock")
    }

    /// Starts it, or starts it again, and waits until it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.place.dir().join(LOG));
        let log = log.context("make the daemon's log")?;
        let options = self.options();
        println!("$ splitter {} &", options.join(" "));
        let mut command = self.splitter(&options);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().context("start the daemon")?);
        for _ in 0..TRIES {
            if exec::succeeds(&mut self.splitter(&["status"])) {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                bail!("the daemon ended: {status}; it said:\n{}", self.said());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon's `status` does not succeed; it said:\n{}", self.said())
    }

    fn options(&self) -> Vec<String> {
        let option = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let mut options = vec![
            "run".to_owned(),
            option("cgroup", self.place.cgroup(Role::Client)),
            option("pin-dir", self.place.pins().to_owned()),
            option("state-dir", self.place.dir().join("state")),
            option("socket", self.socket()),
        ];
        options.extend(self.subject.policy.map(|policy| format!("--policy={policy}")));
        options
    }

    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        match &mut self.process {
            Some(process) => process.try_wait().context("look after the daemon"),
            None => Ok(None),
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.place.dir().join(LOG)).unwrap_or_default()
    }

    /// Kills it with `SIGKILL`: it gets no chance to do anything.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        println!("$ kill -9 {}", process.id());
        process.kill().context("kill the daemon")?;
        process.wait().context("wait for the daemon's end").map(drop)
    }

    /// Waits for the end of a daemon that was told to end.
    pub(super) fn wait(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let status = process.wait().context("wait for the daemon's end")?;
        if !status.success() {
            bail!("the daemon ended: {status}; it said:\n{}", self.said());
        }
        Ok(())
    }

    /// Runs a verb and shows what it says.
    pub(super) fn verb(&self, words: &[&str]) -> Result<()> {
        println!("$ splitter {}", words.join(" "));
        let status = self.splitter(words).status().context("start splitter")?;
        if !status.success() {
            bail!("`splitter {}`: {status}", words.join(" "));
        }
        Ok(())
    }

    /// Runs a verb that is to fail and shows what it says.
    pub(super) fn failing_verb(&self, words: &[&str]) -> Result<()> {
        match self.verb(words) {
            Err(_) => Ok(()),
            Ok(()) => bail!("`splitter {}` succeeded", words.join(" ")),
        }
    }

    /// Runs a verb that ends as diff(1) does where something differs, and shows what it says.
    pub(super) fn finding_verb(&self, words: &[&str]) -> Result<()> {
        println!("$ splitter {}", words.join(" "));
        let status = self.splitter(words).status().context("start splitter")?;
        if status.code() != Some(1) {
            bail!("`splitter {}`: {status}", words.join(" "));
        }
        Ok(())
    }

    /// Connections of each version, as `status` counts them.
    pub(super) fn counts(&self) -> Result<[u64; 2]> {
        let Subject { service, subsets: names, .. } = self.subject;
        let text = exec::output(&mut self.splitter(&["status", service, "-o", "json"]))?;
        let status: Value = serde_json::from_str(&text).context("JSON of `splitter status`")?;
        let subsets = &status["services"][0]["subsets"];
        let count = |name: &str| {
            let mut subsets = subsets.as_array()?.iter();
            subsets.find(|subset| subset["name"] == name)?["connections"].as_u64()
        };
        match names.map(count) {
            [Some(first), Some(second)] => Ok([first, second]),
            _ => bail!("no connections of both versions in:\n{text}"),
        }
    }

    /// The verb is run where the repository is, so that the policies' paths are as shown.
    fn splitter(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo 0 >{}/cgroup.procs", self.place.cgroup(Role::Beside).display());
        command.args(["-c", &format!("{enter}; exec \"$@\""), "splitter"]);
        command.arg(&self.binary).args(words).current_dir(workspace::root());
        command.env("SPLITTER_SOCKET", self.socket());
        command
    }
}
