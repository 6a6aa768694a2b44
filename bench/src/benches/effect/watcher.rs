//! A client that connects all the time and notes when its backend changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use splitter_tests::peers::UdpClient;

use crate::load::{CLIENT_CPU, pin};

/// How long new weights may take before they are given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the watching thread and the one that moves weights have in common.
///
/// `settled` is 0 while weights move. Else its lowest bit is the only subset that connections may
/// go to, and the rest numbers the move, so that no two values are the same.
pub(super) struct Watcher {
    client: UdpClient,
    ports: [u16; 2],
    began: Instant,
    settled: AtomicU64,
    moves: AtomicU64,
    arm: AtomicU64,
    /// End of the last connection that went elsewhere than the one before it, in nanoseconds since
    /// the beginning, with the subset as its lowest bit.
    turned: AtomicU64,
    stale: [AtomicU64; 2],
    ends: AtomicBool,
}

impl Watcher {
    /// A client of a frontend whose subsets have one backend each, at these ports. The process has
    /// to be in the cgroup that connections are split of.
    pub(super) fn new(frontend: &str, ports: [u16; 2]) -> Result<Self> {
        Ok(Self {
            client: UdpClient::new(frontend)?,
            ports,
            began: Instant::now(),
            settled: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            arm: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            stale: [AtomicU64::new(0), AtomicU64::new(0)],
            ends: AtomicBool::new(false),
        })
    }

    /// Connects until it is told to end. Answers how often.
    pub(super) fn watch(&self) -> Result<f64> {
        pin(CLIENT_CPU)?;
        let (mut connects, mut last) = (0.0, None);
        while !self.ends.load(Ordering::Acquire) {
            let settled = self.settled.load(Ordering::SeqCst);
            let port = self.client.connect_port().context("connect")?;
            let end = self.began.elapsed();
            let subset = self.ports.iter().position(|known| *known == port);
            let subset = subset.with_context(|| format!("connected to port {port}"))?;
            if last != Some(subset) {
                self.turned.store(mark(end, subset), Ordering::SeqCst);
                last = Some(subset);
            }
            // A connection that overlaps the next move may be of either policy.
            let is_settled = settled != 0 && self.settled.load(Ordering::SeqCst) == settled;
            if is_settled && settled & 1 != subset as u64 {
                let arm = usize::try_from(self.arm.load(Ordering::SeqCst)).unwrap_or(0);
                self.stale[arm].fetch_add(1, Ordering::SeqCst);
            }
            connects += 1.0;
        }
        Ok(connects)
    }

    /// Weights are about to move, by one of two ways.
    pub(super) fn begin(&self, arm: usize) {
        self.settled.store(0, Ordering::SeqCst);
        self.arm.store(arm as u64, Ordering::SeqCst);
    }

    /// Weights moved: connections that begin from now on go to this subset.
    pub(super) fn settle(&self, subset: usize) {
        let number = self.moves.fetch_add(1, Ordering::SeqCst) + 1;
        self.settled.store(number << 1 | subset as u64, Ordering::SeqCst);
    }

    /// Time from a start to the end of the first connection to a subset, which is waited for.
    pub(super) fn first_at(&self, subset: usize, start: Instant) -> Option<Duration> {
        let since = start.duration_since(self.began);
        loop {
            let turned = self.turned.load(Ordering::SeqCst);
            let end = Duration::from_nanos(turned >> 1);
            if turned & 1 == subset as u64
                && let Some(time) = end.checked_sub(since)
            {
                return Some(time);
            }
            if start.elapsed() > PATIENCE {
                return None;
            }
            thread::yield_now();
        }
    }

    /// Stale connections of both ways.
    #[expect(clippy::cast_precision_loss, reason = "figures")]
    pub(super) fn stale(&self) -> [f64; 2] {
        self.stale.each_ref().map(|stale| stale.load(Ordering::SeqCst) as f64)
    }

    /// Ends the watch.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Release);
    }
}

fn mark(time: Duration, subset: usize) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(0) << 1 | subset as u64
}
