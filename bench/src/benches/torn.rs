//! Connections while policies are committed a thousand times a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use splitter_common::hash::mix;
use splitter_tests::node::Node;
use splitter_tests::peers::UdpClient;
use splitter_user::publish::Change;
use splitter_user::tables::Sizes;

use super::Bench;
use crate::policies::puts;
use crate::run::{Metric, Run};

/// Connections that no single policy explains.
pub(crate) const TORN: Metric = Metric("torn connections", "");
/// The only arm.
pub(crate) const ARM: &str = "splitter";

pub(super) const BENCH: Bench = Bench {
    name: "torn",
    title: "Policies never mixed",
    about: "Two services move together from one pair of backends to the next, about a thousand \
            times a second, while a client connects to either. Backends say in their address and \
            in their port which policy they are of. A connection is torn if the two disagree, or \
            if it is of an older policy than one that was seen before it at either service, or if \
            it was left alone.",
    base: None,
    sits_again: false,
    run,
};

const CONNECTS: Metric = Metric("connections", "");
const COMMITS: Metric = Metric("commits", "");
const RATE: Metric = Metric("commits per second", "1/s");

/// What clients dial.
const FRONTENDS: [&str; 2] = ["127.10.0.1:80", "127.10.0.2:80"];
/// Policies that differ. A policy is taken for newer than another if it is up to half of this
/// many ahead.
const POLICIES: u32 = 200;
/// Time from one commit to the next.
const PERIOD: Duration = Duration::from_millis(1);
/// Commits between two grace periods, whose records have to have room.
const UNSETTLED: u64 = 200;

fn run(run: &mut Run) -> Result<()> {
    let mut node = Node::with_sizes(Sizes::for_services(1_024))?;
    let policies: Vec<Vec<Change>> = (0..POLICIES).map(policy).collect::<Result<_>>()?;
    node.publisher.publish(policies[0].clone())?;
    let wanted = run.pace.pick(20_000, 1_000_000, 10_000_000);
    let (seen, ends) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let client = {
        let (seen, ends) = (Arc::clone(&seen), Arc::clone(&ends));
        thread::spawn(move || {
            let watched = watch(&seen, wanted);
            ends.store(true, Ordering::Release);
            watched
        })
    };
    let start = Instant::now();
    let committed = commit_until(&mut node, &policies, &ends);
    let seconds = start.elapsed().as_secs_f64();
    // Where a commit failed, the client is waited for, and its failure is the lesser one.
    let watched = client.join().expect("it does not panic");
    let commits = committed?;
    watched?;
    record(run, &seen, commits, seconds)
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn record(run: &mut Run, seen: &Seen, commits: u64, seconds: f64) -> Result<()> {
    let torn = seen.torn.load(Ordering::Acquire);
    let connects = seen.connects.load(Ordering::Acquire);
    run.sample(("", ARM), TORN, 0, torn as f64)?;
    run.sample(("", ARM), CONNECTS, 0, connects as f64)?;
    run.sample(("", ARM), COMMITS, 0, commits as f64)?;
    run.sample(("", ARM), RATE, 0, commits as f64 / seconds)
}

/// Both services at the backends of a policy.
fn policy(number: u32) -> Result<Vec<Change>> {
    let service = |n: usize| {
        let (frontend, address, port) = (FRONTENDS[n], number + 1, 20_000 + number);
        format!(
            "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: s{n}}}
spec:
  frontends: ['{frontend}/udp']
  subsets:
    v1: {{backends: ['127.20.0.{address}:{port}']}}
    v2: {{backends: ['127.20.1.{address}:{port}']}}
  routes:
    - split: {{v1: 50, v2: 50}}
"
        )
    };
    puts(&format!("{}{}", service(0), service(1)))
}

fn commit_until(node: &mut Node, policies: &[Vec<Change>], ends: &AtomicBool) -> Result<u64> {
    let mut commits = 0;
    let mut due = Instant::now();
    for policy in policies.iter().cycle().skip(1) {
        if ends.load(Ordering::Acquire) {
            break;
        }
        node.publisher.publish(policy.clone())?;
        commits += 1;
        if commits % UNSETTLED == 0 {
            node.publisher.settle()?;
        }
        due += PERIOD;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(commits)
}

/// How many times longer a run is made that sees no commit.
const PATIENCE: u64 = 1_000;

#[derive(Default)]
struct Seen {
    connects: AtomicU64,
    torn: AtomicU64,
}

/// Connects and judges. A short run may be over before the committing thread got a processor, and is
/// made longer until it did.
fn watch(seen: &Seen, wanted: u64) -> Result<()> {
    let clients = [UdpClient::new(FRONTENDS[0])?, UdpClient::new(FRONTENDS[1])?];
    let mut newest = 0;
    for number in 0..wanted * PATIENCE {
        if number >= wanted && newest > 0 {
            break;
        }
        let which = usize::from(mix(11, number) & 1 == 1);
        match policy_of(clients[which].connect()?) {
            Some(policy) if (policy + POLICIES - newest) % POLICIES <= POLICIES / 2 => {
                newest = policy;
            }
            _ => {
                seen.torn.fetch_add(1, Ordering::Release);
            }
        }
        seen.connects.fetch_add(1, Ordering::Release);
    }
    ensure!(newest > 0, "no commit was ever seen");
    Ok(())
}

/// Number of the policy that has a backend; none where address and port disagree, or where it is
/// no backend at all.
fn policy_of(backend: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(backend) = backend else { return None };
    let [127, 20, 0 | 1, address] = backend.ip().octets() else { return None };
    let policy = u32::from(address).checked_sub(1)?;
    (u32::from(backend.port()) == 20_000 + policy).then_some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_says_its_policy_twice() {
        let policy = |text: &str| policy_of(text.parse().unwrap());
        assert_eq!(policy("127.20.0.1:20000"), Some(0));
        assert_eq!(policy("127.20.1.200:20199"), Some(199));
        assert_eq!(policy("127.20.0.2:20000"), None);
        assert_eq!(policy("127.10.0.1:80"), None);
    }
}
