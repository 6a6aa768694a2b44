//! Prints the figures of `docs/benchmarks.md`: the cost of the hook, of a publish, of a service.
//!
//! Every arm is a socket of its own cgroup, and rounds are interleaved, so that the machine's
//! moods hit all arms alike. Ratios are medians over rounds of paired quotients.
#![expect(clippy::print_stdout, reason = "it prints a report")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use splitter_tests::empty::EmptyProgram;
use splitter_tests::node::{Node, compile, parse};
use splitter_tests::place::Place;
use splitter_user::publish::{Change, Published};
use splitter_user::tables::Sizes;

/// Rounds of the connect benchmark.
const ROUNDS: usize = 101;
/// Connects of one arm in one round.
const CONNECTS: u32 = 4_000;

fn main() -> Result<()> {
    println!("kernel {}\n", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    let only = std::env::args().nth(1);
    if only.as_deref().is_none_or(|only| only == "connect") {
        connect_cost()?;
    }
    if only.as_deref().is_none_or(|only| only == "publish") {
        publish_cost(10_000)?;
        publish_cost(100_000)?;
    }
    Ok(())
}

/// Nanoseconds of one UDP `connect()`.
fn time_connects(socket: &UdpSocket, to: SocketAddr) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..CONNECTS {
        socket.connect(to)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CONNECTS))
}

fn connect_cost() -> Result<()> {
    let bare = UdpSocket::bind("127.0.0.1:0")?;
    let empty_place = Place::new()?;
    let _empty = EmptyProgram::attach(empty_place.cgroup())?;
    let empty = UdpSocket::bind("127.0.0.1:0")?;
    let mut node = Node::with_sizes(Sizes::for_services(100_000))?;
    node.attachment.detach(&splitter_user::kernel::Hook::PEER_NAME)?;
    let hooked = UdpSocket::bind("127.0.0.1:0")?;
    let direct: SocketAddr = "127.0.0.1:19001".parse()?;
    let hit: SocketAddr = "127.10.0.1:80".parse()?;
    let mut policy = services(100_000);
    policy.push_str(&one_service("hit", "127.10.0.1:80/udp", 80, 20));
    node.apply(&policy)?;
    compare(&[
        ("no program", &bare, direct),
        ("empty program", &empty, direct),
        ("miss, 100,000 services", &hooked, direct),
        ("matched", &hooked, hit),
    ])?;
    let stateful = one_service("state", "127.10.0.2:80/udp", 80, 20)
        .replace("spec:", "spec:\n  getpeername: frontend");
    node.apply(&format!("{policy}{stateful}"))?;
    println!("\nThe same while some service keeps per-socket state:\n");
    compare(&[
        ("no program", &bare, direct),
        ("empty program", &empty, direct),
        ("miss, 100,001 services", &hooked, direct),
        ("matched, no state", &hooked, hit),
        ("matched, socket state", &hooked, "127.10.0.2:80".parse()?),
    ])?;
    compare_cycles(&node)?;
    for size in node.loaded.program_sizes()? {
        println!("\n{size:?}");
    }
    println!();
    Ok(())
}

/// Prints the arms side by side; the second is what the others are compared with.
fn compare(arms: &[(&str, &UdpSocket, SocketAddr)]) -> Result<()> {
    let mut times = vec![Vec::new(); arms.len()];
    for round in 0..ROUNDS {
        // Forth and back, so that a drift within a round favours nobody.
        let mut order: Vec<usize> = (0..arms.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for arm in order {
            let (_, socket, to) = arms[arm];
            times[arm].push(time_connects(socket, to)?);
        }
    }
    println!("| UDP connect() | median ns | ratio to the empty program (95 % interval) |");
    println!("|---|---|---|");
    for ((name, ..), arm) in arms.iter().zip(&times) {
        let ratios: Vec<f64> = arm.iter().zip(&times[1]).map(|(a, empty)| a / empty).collect();
        let (low, middle, high) = interval(&ratios);
        println!("| {name} | {:.0} | {middle:.3} ({low:.3} to {high:.3}) |", median(arm));
    }
    Ok(())
}

/// A socket's whole life: state is made once per socket, so re-connecting hides its cost.
fn compare_cycles(node: &Node) -> Result<()> {
    let arms = [
        ("missed", "127.0.0.1:19001"),
        ("matched, no state", "127.10.0.1:80"),
        ("matched, socket state", "127.10.0.2:80"),
    ];
    let mut times = vec![Vec::new(); arms.len() + 1];
    for _ in 0..ROUNDS {
        times[0].push(node.place.outside(|| time_cycles("127.0.0.1:19001"))??);
        for (arm, (_, to)) in arms.iter().enumerate() {
            times[arm + 1].push(time_cycles(to)?);
        }
    }
    println!(
        "\n| UDP socket(), connect(), close() | median ns | ratio to no program (95 % interval) |"
    );
    println!("|---|---|---|");
    let names = ["no program"].into_iter().chain(arms.map(|(name, _)| name));
    for (name, arm) in names.zip(&times) {
        let ratios: Vec<f64> = arm.iter().zip(&times[0]).map(|(a, bare)| a / bare).collect();
        let (low, middle, high) = interval(&ratios);
        println!("| {name} | {:.0} | {middle:.3} ({low:.3} to {high:.3}) |", median(arm));
    }
    Ok(())
}

/// Nanoseconds of one socket's life.
fn time_cycles(to: &str) -> Result<f64> {
    let to: SocketAddr = to.parse()?;
    let start = Instant::now();
    for _ in 0..CONNECTS / 4 {
        UdpSocket::bind("127.0.0.1:0")?.connect(to)?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CONNECTS / 4))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Median with its 95 % interval by resampling 2,000 times.
fn interval(values: &[f64]) -> (f64, f64, f64) {
    let mut state = 1_u64;
    let mut medians: Vec<f64> = (0..2_000)
        .map(|_| {
            let sample: Vec<f64> = (0..values.len())
                .map(|_| {
                    state = splitter_common::hash::mix(7, state);
                    values[(state >> 32) as usize % values.len()]
                })
                .collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[50], median(values), medians[1_949])
}

/// A service with two subsets of two backends each and a wheel of 100 slots at 81/19.
fn one_service(name: &str, frontend: &str, v1: u32, v2: u32) -> String {
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{frontend}']
  subsets:
    v1: {{backends: ['127.0.0.1:19001', '127.0.0.1:19011']}}
    v2: {{backends: ['127.0.0.1:19002', '127.0.0.1:19012']}}
  routes:
    - split: {{v1: {v1}, v2: {v2}}}
"
    )
}

fn services(n: u32) -> String {
    let mut text = String::new();
    for i in 0..n {
        let frontend = format!("127.{}.{}.{}:80", 64 + i / 65_536, i / 256 % 256, i % 256);
        let _ = write!(text, "{}", one_service(&format!("s{i}"), &frontend, 81, 19));
    }
    text
}

fn publish_cost(n: u32) -> Result<()> {
    let mut node = Node::with_sizes(Sizes::for_services(n))?;
    let start = Instant::now();
    let policy = parse(&services(n))?;
    let parsed = start.elapsed();
    let start = Instant::now();
    let images = compile(&policy)?;
    let compiled = start.elapsed();
    let changes = images.into_iter().map(|image| Change::Put(Arc::new(image))).collect();
    let start = Instant::now();
    node.publisher.publish(changes)?;
    let published = start.elapsed();
    println!("{n} services: parse {parsed:.1?}, compile {compiled:.1?}, publish {published:.1?}");
    one_change(&mut node, n)?;
    println!(
        "kernel memory: {:.0} bytes for each of {n} services\n",
        used_bytes(&node)? / f64::from(n)
    );
    Ok(())
}

/// A weight of one service moves, a thousand times.
fn one_change(node: &mut Node, n: u32) -> Result<()> {
    let mut times = Vec::new();
    for i in 0..1_000_u32 {
        let name = format!("s{}", i * 7 % n);
        let policy = parse(&one_service(&name, &frontend_of(i * 7 % n), 80 - i % 50, 21))?;
        let start = Instant::now();
        let images = compile(&policy)?;
        let changes = images.into_iter().map(|image| Change::Put(Arc::new(image))).collect();
        let Published { changed, .. } = node.publisher.publish(changes)?;
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
        anyhow::ensure!(changed == 1, "{name} did not change");
        if i % 100 == 99 {
            node.publisher.settle()?;
        }
    }
    times.sort_by(f64::total_cmp);
    println!("one weight among {n}: median {:.1} us, p99 {:.1} us", times[500], times[990]);
    Ok(())
}

fn frontend_of(i: u32) -> String {
    format!("127.{}.{}.{}:80", 64 + i / 65_536, i / 256 % 256, i % 256)
}

/// Kernel memory behind the records in use: each map's memory, as its `fdinfo` has it, by the part
/// of its entries that is used.
fn used_bytes(node: &Node) -> Result<f64> {
    let mut total = 0.0;
    for (map, used, size) in node.publisher.usage() {
        let bytes = memlock(&node.place, map)?;
        total += bytes * f64::from(used) / f64::from(size);
        if map == "FRONTENDS" {
            total += memlock(&node.place, "PLAN_PAIRS")? * f64::from(used) / f64::from(size);
        }
    }
    Ok(total)
}

/// Bytes of memory of a pinned map.
fn memlock(place: &Place, map: &str) -> Result<f64> {
    let maps = fs::read_dir(place.pins())?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .context("no maps are pinned")?;
    let output = std::process::Command::new("bpftool")
        .args(["-j", "map", "show", "pinned"])
        .arg(maps.path().join(map))
        .output()
        .context("run bpftool (apt-get install bpftool)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let bytes = text.split("\"bytes_memlock\":").nth(1).context("no bytes_memlock")?;
    let digits: String = bytes.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().context("bytes_memlock is a number")
}
