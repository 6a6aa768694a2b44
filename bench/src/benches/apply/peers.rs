//! The same number of services in nftables and in HAProxy.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{CHANGE, case};
use crate::arm::{Network, succeed};
use crate::policies::frontend;
use crate::run::{Metric, Run, micros, millis};

/// From the start of the program to the whole table in force.
const LOAD: Metric = Metric("load", "ms");

/// Loads and changes each peer that is installed.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let sizes: &[u32] = run.pace.pick(&[20], &[1_000], &[1_000, 10_000]);
    for services in sizes {
        // Ten thousand services take nftables a quarter of a minute.
        let rounds = if *services > 1_000 { 2 } else { run.pace.pick(1, 3, 11) };
        nftables(run, *services, rounds)?;
        haproxy(run, *services, rounds)?;
    }
    Ok(())
}

/// Whether a program runs; where not, the reader is told how to get it.
fn is_there(run: &mut Run, arm: &str, program: &str, package: &str) -> Result<bool> {
    let is_there = Command::new(program).arg("-v").output().is_ok();
    if !is_there {
        run.note(format!("{arm} was left out: install it by `apt-get install {package}`"))?;
    }
    Ok(is_there)
}

fn nftables(run: &mut Run, services: u32, rounds: u32) -> Result<()> {
    const ARM: &str = "nftables";
    if !is_there(run, ARM, "nft", "nftables")? {
        return Ok(());
    }
    let directory = tempfile::tempdir().context("make a directory")?;
    let file = directory.path().join("rules");
    let path = file.to_str().context("a path of odd bytes")?;
    for round in 0..rounds {
        let network = Network::new()?;
        fs::write(&file, rules(services)).context("write rules")?;
        let time = time_command(network.command("nft").args(["-f", path]))?;
        run.sample((&case(services), ARM), LOAD, round, millis(time))?;
        for change in 0..run.pace.pick(1, 5, 10) {
            let number = change * 7 % services;
            let text = format!("flush chain ip bench s{number}\n{}", chain(number, 70 + change));
            fs::write(&file, text).context("write rules")?;
            let time = time_command(network.command("nft").args(["-f", path]))?;
            let round = round * 100 + change;
            run.sample((&case(services), ARM), CHANGE, round, micros(time))?;
        }
    }
    Ok(())
}

/// A verdict map to a chain per service, which draws one of two subsets of two backends.
fn rules(services: u32) -> String {
    let mut text = "table ip bench {}\n".to_owned();
    for number in 0..services {
        let _ = writeln!(text, "add chain ip bench s{number}");
        text.push_str(&chain(number, 81));
    }
    text.push_str("add map ip bench services { type ipv4_addr . inet_service : verdict; }\n");
    text.push_str("add element ip bench services {");
    for number in 0..services {
        let at = frontend(number);
        let _ = write!(text, " {} . {} : goto s{number},", at.ip(), at.port());
    }
    text.push_str(
        " }\nadd chain ip bench output { type nat hook output priority -100; }\n\
         add rule ip bench output ip daddr . tcp dport vmap @services\n",
    );
    text
}

/// The rule of one service.
fn chain(number: u32, first: u32) -> String {
    let (half, rest) = (first / 2, first + (100 - first) / 2);
    format!(
        "add rule ip bench s{number} dnat to numgen inc mod 100 map {{ \
         0-{a} : 127.0.0.1 . 19001, {half}-{b} : 127.0.0.1 . 19011, \
         {first}-{c} : 127.0.0.1 . 19002, {rest}-99 : 127.0.0.1 . 19012 }}\n",
        a = half - 1,
        b = first - 1,
        c = rest - 1,
    )
}

fn haproxy(run: &mut Run, services: u32, rounds: u32) -> Result<()> {
    const ARM: &str = "HAProxy";
    if !is_there(run, ARM, "haproxy", "haproxy")? {
        return Ok(());
    }
    let directory = tempfile::tempdir().context("make a directory")?;
    let file = directory.path().join("haproxy.cfg");
    fs::write(&file, configuration(services)).context("write a configuration")?;
    for round in 0..rounds {
        // What a reload does before the new process takes over; it has no change of one service
        // that would last, so this is what a change costs it as well.
        let time = time_command(Command::new("haproxy").args(["-c", "-q", "-f"]).arg(&file))?;
        run.sample((&case(services), ARM), LOAD, round, millis(time))?;
        run.sample((&case(services), ARM), CHANGE, round, micros(time))?;
    }
    Ok(())
}

/// A section for each service.
pub(in crate::benches) fn configuration(services: u32) -> String {
    let mut text = "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 1s\n  \
                    timeout client 1s\n  timeout server 1s\n"
        .to_owned();
    for number in 0..services {
        let _ = write!(text, "listen s{number}\n  bind {}\n", frontend(number));
        for (name, port, weight) in [("a", 19_001, 81), ("b", 19_011, 81)] {
            let _ = writeln!(text, "  server {name} 127.0.0.1:{port} weight {weight}");
        }
        for (name, port, weight) in [("c", 19_002, 19), ("d", 19_012, 19)] {
            let _ = writeln!(text, "  server {name} 127.0.0.1:{port} weight {weight}");
        }
    }
    text
}

fn time_command(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    succeed(command)?;
    Ok(start.elapsed())
}
