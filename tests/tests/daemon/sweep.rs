//! Connections that a running daemon closes: idle ones and old ones, in every network namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use splitter_tests::daemon::{Daemon, Site, eventually};
use splitter_tests::net::{Inhabitant, in_own_network};

const FRONTEND: &str = "127.10.0.1:8080";
const BACKEND: &str = "127.0.0.1:19001";

/// A service that asks for something of its connections.
fn policy(asked: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{FRONTEND}']
  subsets:
    v1: {{backends: ['{BACKEND}'], {asked}}}
  routes:
    - {{name: all, split: {{v1: 1}}}}
"
    )
}

/// Both ends of a connection; the client's is first.
pub(crate) struct Pair(pub(crate) TcpStream, pub(crate) TcpStream);

impl Pair {
    pub(crate) fn new(listener: &TcpListener, addr: &str) -> Result<Self> {
        let client = TcpStream::connect(addr).with_context(|| format!("connect to {addr}"))?;
        let server = listener.accept()?.0;
        client.set_nonblocking(true)?;
        Ok(Self(client, server))
    }

    /// Sends a byte.
    pub(crate) fn talk(&mut self) -> Result<()> {
        self.1.write_all(b"x")?;
        self.0.set_nonblocking(false)?;
        self.0.read_exact(&mut [0])?;
        Ok(self.0.set_nonblocking(true)?)
    }

    /// Whether the client is told that the connection was aborted.
    pub(crate) fn is_aborted(&mut self) -> Result<bool> {
        match self.0.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(true),
            other => anyhow::bail!("the client got {other:?}"),
        }
    }
}

fn run(site: &Site, asked: &str) -> Result<Daemon> {
    let policy = site.write("policy.yaml", policy(asked))?;
    site.run(&["--policy", &policy])
}

/// Connections that were closed for a reason, as `status` has it.
pub(crate) fn closed(site: &Site, reason: &str) -> Result<u64> {
    site.status()?["sweep"][reason].as_u64().with_context(|| format!("{reason} in the status"))
}

#[test]
fn idle_connections_end_and_others_stay() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let daemon = run(&site, "idleTimeout: 1s")?;
    let mut idle = Pair::new(&listener, FRONTEND)?;
    let mut talking = Pair::new(&listener, FRONTEND)?;
    let mut direct = Pair::new(&listener, BACKEND)?;
    eventually("the idle one ends", || {
        talking.talk()?;
        idle.is_aborted()
    })?;
    let told = idle.1.read(&mut [0]).err().map(|error| error.kind());
    assert_eq!(told, Some(io::ErrorKind::ConnectionReset), "the server is told");
    talking.talk()?;
    eventually("the other one ends when it is idle", || talking.is_aborted())?;
    direct.talk().context("a connection that was not split lives")?;
    eventually("both are counted", || Ok(closed(&site, "closed_idle")? == 2))?;
    assert_eq!(closed(&site, "closed_too_old")?, 0);
    let out = site.splitter(&["status"])?.success()?;
    ensure!(out.contains("closed      2 idle, 0 too old"), "{out}");
    let log = daemon.terminate()?;
    ensure!(log.contains("connections closed") && log.contains("services=shop"), "{log}");
    Ok(())
}

#[test]
fn old_connections_end_whatever_they_do() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let _daemon = run(&site, "maxLifetime: 1s")?;
    let mut old = Pair::new(&listener, FRONTEND)?;
    let mut direct = Pair::new(&listener, BACKEND)?;
    eventually("it ends", || {
        // Fails once it has ended.
        let _gone = old.1.write_all(b"x");
        match old.0.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(true),
            _ => Ok(false),
        }
    })?;
    direct.talk()?;
    eventually("it is counted", || Ok(closed(&site, "closed_too_old")? == 1))
}

#[test]
fn a_stalled_connection_ends_when_it_is_old() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let stalling = policy("maxLifetime: 1s")
        .replace("split: {v1: 1}", "split: {v1: 1}, fault: {stall: {percent: 100, after: 0}}");
    let stalling = site.write("policy.yaml", stalling)?;
    let _daemon = site.run(&["--policy", &stalling])?;
    let mut stalled = Pair::new(&listener, FRONTEND)?;
    stalled.0.write_all(b"x")?;
    eventually("it ends", || stalled.is_aborted())?;
    let told = stalled.1.read(&mut [0]).err().map(|error| error.kind());
    assert_eq!(told, Some(io::ErrorKind::ConnectionReset), "the server is told");
    let live = &site.status()?["services"][0]["subsets"][0]["backends"][0]["outcomes"]["live"];
    assert_eq!(*live, 0);
    Ok(())
}

#[test]
fn times_are_taken_up_and_given_up_with_the_policy() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let daemon = run(&site, "idleTimeout: 1h")?;
    let mut pair = Pair::new(&listener, FRONTEND)?;
    eventually("a round passes", || Ok(site.status()?["sweep"]["rounds"] == 1))?;
    site.replace("policy.yaml", policy("maxConnections: 9"))?;
    eventually("nobody asks", || Ok(site.status()?["sweep"]["services"] == 0))?;
    ensure!(!pair.is_aborted()?, "it lives");
    site.replace("policy.yaml", policy("idleTimeout: 1ms"))?;
    eventually("it ends", || pair.is_aborted())?;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn a_daemon_closes_connections_of_the_one_before() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let daemon = run(&site, "idleTimeout: 1s")?;
    let mut pair = Pair::new(&listener, FRONTEND)?;
    daemon.kill()?;
    let _daemon = run(&site, "idleTimeout: 1s")?;
    eventually("it ends", || pair.is_aborted())
}

#[test]
fn without_its_opener_the_daemon_says_so_and_goes_on() -> Result<()> {
    let site = Site::new()?;
    let listener = TcpListener::bind(BACKEND)?;
    let daemon = run(&site, "idleTimeout: 1s")?;
    let opener = site.status()?["sweep"]["opener"].as_u64().context("an opener")?;
    let opener = Pid::from_raw(i32::try_from(opener)?).context("a process")?;
    kill_process(opener, Signal::KILL)?;
    let _idle = Pair::new(&listener, FRONTEND)?;
    eventually("it is a problem", || {
        Ok(site.problems()?.iter().any(|it| it.to_string().contains("enters network namespaces")))
    })?;
    let mut pair = Pair::new(&listener, FRONTEND)?;
    eventually("one in the own namespace ends", || pair.is_aborted())?;
    let log = daemon.terminate()?;
    assert_eq!(log.matches("restart the daemon for a new one").count(), 1, "{log}");
    Ok(())
}

#[test]
fn connections_in_other_network_namespaces_end() -> Result<()> {
    let site = Site::new()?;
    let _daemon = run(&site, "idleTimeout: 1s")?;
    let (mut pair, _listener, _inhabitant) = in_own_network(|| {
        let listener = TcpListener::bind(BACKEND)?;
        Ok((Pair::new(&listener, FRONTEND)?, listener, Inhabitant::new()?))
    })?;
    eventually("it ends", || pair.is_aborted())?;
    ensure!(site.status()?["sweep"]["opener"].is_u64(), "a process enters namespaces");
    Ok(())
}
