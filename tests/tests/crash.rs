//! A publisher is killed between any two of its writes.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use splitter_tests::node::{compile, parse};
use splitter_tests::peers::UdpClient;
use splitter_tests::place::Place;
use splitter_tests::scale;
use splitter_user::kernel::{Attachment, Hook, KernelMaps, LogLevel, PinDir, load};
use splitter_user::publish::{Change, FaultyMaps, Publisher};
use splitter_user::tables::{Maps, Sizes};

/// Tells this binary, started by itself, where the pins are and after how many writes to die.
const PINS: &str = "SPLITTER_TEST_CRASH_PINS";
const WRITES: &str = "SPLITTER_TEST_CRASH_WRITES";

const SIZES: Sizes = Sizes::for_services(8);

/// Three services; one stays, one changes everything, one comes or goes.
fn policy(new: bool) -> String {
    let (port, weights) = if new { (200, "v1: 1, v2: 4") } else { (100, "v1: 4, v2: 1") };
    let service = |name: &str, addr: &str, port: u16, weights: &str| {
        format!(
            "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{addr}:1/udp']
  datagrams: connected
  subsets:
    v1: {{backends: ['127.0.0.1:{}', '127.0.0.1:{}']}}
    v2: {{backends: ['127.0.0.1:{}']}}
  routes:
    - {{match: {{uid: 4242}}, split: {{v2: 1}}}}
    - split: {{{weights}}}
",
            20_000 + port,
            20_001 + port,
            20_002 + port
        )
    };
    let third = if new { ("new", "127.10.0.3") } else { ("old", "127.10.0.4") };
    service("stays", "127.10.0.1", 0, "v1: 1, v2: 1")
        + &service("changes", "127.10.0.2", port, weights)
        + &service(third.0, third.1, port, "v1: 1")
}

fn changes<M: Maps>(publisher: &Publisher<M>, text: &str) -> Result<Vec<Change>> {
    let images = compile(&parse(text)?)?;
    let gone: Vec<Change> = publisher
        .services()
        .filter(|id| images.iter().all(|image| image.id != *id))
        .map(Change::Remove)
        .collect();
    let puts = images.into_iter().map(|image| Change::Put(Arc::new(image)));
    Ok(gone.into_iter().chain(puts).collect())
}

/// One life of a daemon: take over, publish, die with its pins in place.
fn live(pins: &Path, cgroup: &Path, new: bool) -> Result<()> {
    let pins = PinDir::open(pins)?;
    let mut loaded = load(&pins, SIZES, &Hook::CONNECT, LogLevel::Off)?;
    let mut publisher: Publisher<KernelMaps> = Publisher::adopt(loaded.maps()?)?;
    let changes = changes(&publisher, &policy(new))?;
    publisher.publish(changes)?;
    Attachment::new(&pins, cgroup)?.attach(&mut loaded, &Hook::CONNECT)?;
    Ok(())
}

/// The other process: kills itself in the middle of adoption or publish.
fn die_after(pins: &Path, writes: u64) -> Result<()> {
    let kill = || -> std::io::Result<()> {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        unreachable!("nobody survives SIGKILL")
    };
    let pins = PinDir::open(pins)?;
    let loaded = load(&pins, SIZES, &Hook::CONNECT, LogLevel::Off)?;
    let mut publisher = Publisher::adopt(FaultyMaps::new(loaded.maps()?, writes, kill))?;
    let changes = changes(&publisher, &policy(true))?;
    publisher.publish(changes)?;
    Ok(())
}

fn run_dying(pins: &Path, writes: u64) -> Result<ExitStatus> {
    let binary = env::current_exe()?;
    let mut command = Command::new(binary);
    command.args(["--exact", "a_publish_killed_at_any_write_leaves_one_whole_policy"]);
    command.env(PINS, pins).env(WRITES, writes.to_string());
    Ok(command.output().context("run this binary again")?.status)
}

/// What clients see: whether the policy is the new one. Any mix is an error.
fn seen() -> Result<bool> {
    let port = |addr: &str| -> Result<u16> { Ok(UdpClient::new(addr)?.connect_port()?) };
    let mut new = Vec::new();
    for _ in 0..10 {
        ensure!((20_000..20_003).contains(&port("127.10.0.1:1")?), "the service that stays");
        new.push(port("127.10.0.2:1")? >= 20_200);
        new.push(port("127.10.0.3:1")? >= 20_200);
        new.push(port("127.10.0.4:1")? == 1);
    }
    ensure!(new.iter().all(|n| *n == new[0]), "a mix of policies: {new:?}");
    Ok(new[0])
}

#[test]
fn a_publish_killed_at_any_write_leaves_one_whole_policy() -> Result<()> {
    if let (Some(pins), Ok(writes)) = (env::var_os(PINS).map(PathBuf::from), env::var(WRITES)) {
        return die_after(&pins, writes.parse()?);
    }
    let place = Place::new()?;
    let (mut writes, mut committed) = (0, 0);
    loop {
        live(place.pins(), place.cgroup(), false)?;
        ensure!(!seen()?, "the old policy is in force");
        let status = run_dying(place.pins(), writes)?;
        let new = seen().with_context(|| format!("killed after {writes} writes"))?;
        committed += u32::from(new);
        if status.success() {
            ensure!(new, "a publish that ended is in force");
            break;
        }
        ensure!(status.signal() == Some(libc::SIGKILL), "{status} after {writes} writes");
        ensure!(new || committed == 0, "what was committed stays so");
        live(place.pins(), place.cgroup(), true)?;
        ensure!(seen()?, "the next daemon converges");
        writes += scale();
    }
    ensure!(writes > 20 && committed > 0, "{writes} writes, {committed} after the commit");
    Ok(())
}
