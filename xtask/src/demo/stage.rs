//! The servers, the daemon and the clients, and what they say they did.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::daemon::{Daemon, FRONTEND, Subject};
use super::place::{Place, Role};
use super::servers::{ADDRESSES, Served, Servers, VERSIONS};
use super::table::{Row, Table};
use super::wrk::Outcome;
use crate::{exec, workspace};

/// Everything that plays.
pub(super) struct Stage {
    pub(super) place: Place,
    pub(super) servers: Servers,
    pub(super) daemon: Daemon,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    served: Option<[Served; 2]>,
    decided: [u64; 2],
}

impl Stage {
    /// Starts the servers; the daemon is started by the first act.
    pub(super) fn new(place: &Place, subject: Subject, binary: PathBuf) -> Result<Self> {
        Ok(Self {
            place: place.clone(),
            servers: Servers::start(place)?,
            daemon: Daemon::new(place, subject, binary),
        })
    }

    /// Tells what is where, and what the shown commands begin with.
    pub(super) fn describe(&self) {
        super::heading("The stage");
        for (version, address) in VERSIONS.iter().zip(ADDRESSES) {
            println!("{version} of the service: an nginx at http://{address}/");
            println!("    configured by {}/{version}.conf", self.place.dir().display());
        }
        println!("Clients dial {FRONTEND}, where nobody listens.");
        println!("All of it is in a network namespace that has nothing but loopback.\n");
        println!("The commands below can be typed while the demo runs, after these lines:");
        println!("    cd {}", workspace::root().display());
        println!("    alias splitter={}", self.daemon.binary().display());
        println!("    export SPLITTER_SOCKET={}", self.daemon.socket().display());
        for role in [Role::Client, Role::Beside] {
            println!("    {}() ( {} )", role.name(), self.place.enter(role));
        }
        println!("`client` enters the cgroup that has the hooks; `beside` enters another one.");
    }

    /// The counts of servers and daemon.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot { served: Some(self.servers.counts()?), decided: self.daemon.counts()? })
    }

    /// The daemon's counts alone: under load they can be had at one moment, while a server answers
    /// after the other, and after the clients that wait for it.
    pub(super) fn snapshot_under_load(&self) -> Result<Snapshot> {
        Ok(Snapshot { served: None, decided: self.daemon.counts()? })
    }

    /// Runs a client, shows what it says, and answers that.
    pub(super) fn client(&self, words: &[&str]) -> Result<String> {
        let quote = |word: &&str| {
            if word.contains([' ', '$', ';']) { format!("'{word}'") } else { (*word).to_owned() }
        };
        let shown: Vec<String> = words.iter().map(quote).collect();
        println!("$ client {}", shown.join(" "));
        let said = exec::output(&mut self.place.command(Role::Client, words))?;
        print!("{said}");
        Ok(said)
    }
}

impl Snapshot {
    /// What happened since `earlier`, under these weights.
    pub(super) fn since(self, earlier: Self, weights: [u64; 2]) -> Table {
        let served = self.served.zip(earlier.served);
        let row = |i: usize| Row {
            weight: weights[i],
            served: served.map(|(now, then)| now[i].since(then[i])),
            decided: self.decided[i] - earlier.decided[i],
        };
        Table([row(0), row(1)])
    }
}

/// Tells how a load ended, and fails if a request of it failed.
pub(super) fn tell(outcome: &Outcome) -> Result<()> {
    println!("{} requests, {} in a second", outcome.requests, outcome.per_second);
    if !outcome.failures.is_empty() {
        bail!("requests failed: {}", outcome.failures.join("; "));
    }
    println!("0 requests failed");
    Ok(())
}

/// Fails unless an answer is from a version.
pub(super) fn expect_version(said: &str, version: &str) -> Result<()> {
    let expected = format!("\"version\": \"{version}\"");
    let answer = said.lines().next().context("no answer")?;
    if !answer.contains(&expected) {
        bail!("expected an answer of {version}, got {answer}");
    }
    Ok(())
}
