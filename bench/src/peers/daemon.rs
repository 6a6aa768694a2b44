//! Processes of peers.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::arm::Network;

/// Nobody needs so long to start.
const LONGEST_START: Duration = Duration::from_mins(1);
/// `TCP_LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A directory for a peer's configuration, and its process; both are gone when this is dropped.
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
    _directory: TempDir,
}

impl Daemon {
    /// Starts a program in a network and waits until it listens everywhere. It must be one process
    /// that stays in the foreground: it is killed when this is dropped, or when the bench ends.
    pub(super) fn start(
        network: &Network,
        directory: TempDir,
        program: &Path,
        arguments: &[&str],
        listens: &[SocketAddrV4],
    ) -> Result<Self> {
        let log = directory.path().join("log");
        let mut command = network.command("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let output = File::create(&log).context("make a log")?;
        command.stdout(output.try_clone().context("share a log")?).stderr(output);
        let child = command.spawn().with_context(|| format!("run {command:?}"))?;
        let mut daemon = Self { child, log, _directory: directory };
        daemon.wait_for(listens).with_context(|| daemon.said(&command))?;
        Ok(daemon)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks without connecting, because a connection would be counted as a pick.
    fn wait_for(&mut self, listens: &[SocketAddrV4]) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("look after a peer")? {
                bail!("it ended with {status}");
            }
            if is_listening(self.pid(), listens) {
                return Ok(());
            }
            if start.elapsed() > LONGEST_START {
                bail!("it does not listen after {LONGEST_START:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn said(&self, command: &Command) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(2_000);
        let end = log.get(from..).unwrap_or(&log).trim();
        format!("{command:?} said: {end}")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens at all addresses in the network of a process.
fn is_listening(pid: u32, addrs: &[SocketAddrV4]) -> bool {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/tcp")) else { return false };
    let listening: HashSet<&str> = table.lines().filter_map(listener).collect();
    addrs.iter().all(|addr| listening.contains(in_table(*addr).as_str()))
}

/// The local address of a line that is a listener's.
fn listener(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next()?;
    (words.nth(1)? == LISTEN).then_some(local)
}

/// An address as `/proc/net/tcp` has it: the bytes as a number of this machine's order.
fn in_table(addr: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn listeners_are_found_without_connecting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(addr) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let own = std::process::id();
        assert!(is_listening(own, &[addr]));
        drop(listener);
        assert!(!is_listening(own, &[addr]));
    }
}
