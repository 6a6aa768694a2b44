//! Backends that fail: how many connections find out, and what their share is afterwards.

use std::io;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use splitter_common::abi::{State, cell, outcome};
use splitter_tests::net::in_own_network;
use splitter_tests::node::Node;
use splitter_tests::peers::{PortServer, ask_port};
use splitter_tests::scale;
use splitter_tests::shared;

use super::{FRONTEND, backends, connect, policy, subset};

/// A policy of two backends, of which one may be ejected.
fn two_backends(eject: &str) -> String {
    let two = "['127.0.0.1:19001', '127.0.0.1:19002']";
    let keys = format!(", eject: {{{eject}, maxPercent: 50}}");
    policy(&keys).replace("['127.0.0.1:19001']", two)
}

#[test]
fn a_backend_that_fails_is_avoided_and_comes_back() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&two_backends("consecutiveFailures: 3, baseTime: 2s"))?;
        let _serving = PortServer::start("127.0.0.1:19001")?;
        let refused = |n: u32| (0..n).filter(|_| connect().is_err()).count();
        assert_eq!(refused(200), 3, "no more than the failures in a row that eject");
        assert_eq!(subset(&node)?.cells[cell::EJECTED], 1);
        let _other = PortServer::start("127.0.0.1:19002")?;
        thread::sleep(Duration::from_millis(2_100));
        let ports: Result<Vec<u16>> = (0..100).map(|_| Ok(ask_port(FRONTEND)?)).collect();
        let back = ports?.into_iter().filter(|port| *port == 19_002).count();
        assert_eq!(back, 50, "its share is exact again");
        assert_eq!(subset(&node)?.cells[cell::EJECTED], 0);
        Ok(())
    })
}

/// Threads that connect at the same time, each on a CPU of its own.
const THREADS: u64 = 2;
/// Failures in a row that eject.
const FAILURES: u64 = 5;
/// How long the first ejection takes; longer than a load.
const EJECTED: Duration = Duration::from_secs(5);
/// Port of the backend that fails.
const OTHER: u16 = 19_002;

/// What came of a number of connections from all threads.
#[derive(Default)]
struct Load {
    failed: AtomicU64,
    at_other: AtomicU64,
}

impl Load {
    /// Connects so often from each thread, some 2,500 times a second. While `gate` is written to,
    /// no connection is under way.
    fn run(n: u64, gate: &RwLock<()>, begun: impl FnOnce()) -> Result<Self> {
        let load = Self::default();
        thread::scope(|threads| {
            let each = |cpu| load.connect_from(cpu, n, gate);
            let both = (0..THREADS).map(|cpu| threads.spawn(move || each(cpu)));
            let both: Vec<_> = both.collect();
            begun();
            both.into_iter().try_for_each(|one| one.join().expect("it does not panic"))
        })?;
        Ok(load)
    }

    fn connect_from(&self, cpu: u64, n: u64, gate: &RwLock<()>) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(usize::try_from(cpu)?);
        sched_setaffinity(None, &cpus)?;
        for _ in 0..n {
            let under_way = gate.read().expect("nobody panics");
            match ask_port(FRONTEND) {
                Ok(OTHER) => self.at_other.fetch_add(1, Ordering::SeqCst),
                Ok(_) => 0,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.failed.fetch_add(1, Ordering::SeqCst)
                }
                Err(error) => return Err(error.into()),
            };
            drop(under_way);
            thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    }

    fn counts(&self) -> (u64, u64) {
        (self.failed.load(Ordering::SeqCst), self.at_other.load(Ordering::SeqCst))
    }
}

/// What failed of the connections to the backend that fails.
fn refused(node: &Node) -> Result<u64> {
    let refused = |state: &State| state.cells[cell::OUTCOMES + outcome::REFUSED];
    Ok(backends(node)?.iter().map(refused).sum())
}

/// After the failure that ejects, the only connections that still fail are those that were decided
/// before: one of each other thread at most.
#[test]
fn under_load_no_more_fail_than_eject_and_were_under_way() -> Result<()> {
    in_own_network(|| {
        let n = (2_000 / scale()).max(60);
        let mut node = shared::node()?;
        let eject = format!("consecutiveFailures: {FAILURES}, baseTime: {}s", EJECTED.as_secs());
        node.apply(&two_backends(&eject))?;
        let _serving = PortServer::start("127.0.0.1:19001")?;
        let gate = RwLock::new(());
        let mut failed_before = 0;
        for round in 1..=2 {
            if round > 1 {
                thread::sleep(EJECTED);
            }
            let other = PortServer::start("127.0.0.1:19002")?;
            assert_eq!(Load::run(n, &gate, || {})?.counts(), (0, n), "the share of round {round}");
            let load = Load::run(n, &gate, || {
                let quiet = gate.write().expect("nobody panics");
                drop(other);
                drop(quiet);
            })?;
            let (failed, _) = load.counts();
            let bound = FAILURES..FAILURES + THREADS;
            ensure!(bound.contains(&failed), "{failed} failed in round {round}");
            failed_before += failed;
            assert_eq!(refused(&node)?, failed_before, "as the kernel counts");
            assert_eq!(subset(&node)?.cells[cell::EJECTED], 1);
        }
        Ok(())
    })
}
