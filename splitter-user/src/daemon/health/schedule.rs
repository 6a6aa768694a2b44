//! When which backend is probed.
//!
//! Each check has a time at which it is due next. The first is somewhere in its first interval, by
//! a hash of what is checked, so that many checks that begin at once are spread evenly, and the
//! same on every run. A check that is under way is not due.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use splitter_common::hash::{bucket, scale};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::probe::{Outcome, Prober};
use super::record::Record;
use super::{Check, HealthBook, Order, Target, Verdict};
use crate::policy::model::HealthCheck;

/// A check and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) check: Check,
    pub(super) record: Record,
    /// Tells it from others of the same backend, before and after it.
    serial: u64,
    /// When it is due next, or was for the probe that is under way.
    due: Instant,
    probe: Option<AbortHandle>,
}

/// Probes what is due, and takes in what comes of it.
pub(super) struct Scheduler<P> {
    prober: P,
    book: HealthBook,
    verdicts: UnboundedSender<Verdict>,
    /// What is due, by time and serial.
    queue: BTreeMap<(Instant, u64), Target>,
    probes: JoinSet<Outcome>,
    /// What the running probes are about.
    running: HashMap<Id, (u64, Target)>,
    next_serial: u64,
}

impl<P: Prober> Scheduler<P> {
    /// A scheduler of no checks.
    pub(super) fn new(prober: P, book: HealthBook, verdicts: UnboundedSender<Verdict>) -> Self {
        Self {
            prober,
            book,
            verdicts,
            queue: BTreeMap::new(),
            probes: JoinSet::new(),
            running: HashMap::new(),
            next_serial: 0,
        }
    }

    /// Probes until nobody gives orders any more.
    pub(super) async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            let due = self.queue.first_key_value().map(|((due, _), _)| *due);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.follow(order),
                    None => return,
                },
                Some(ended) = self.probes.join_next_with_id() => self.finish(ended),
                () = until(due) => self.start_due(),
            }
        }
    }

    /// Makes these the checks of a service, and keeps what is known of those that stay.
    fn follow(&mut self, Order { service, checks }: Order) {
        let book = self.book.clone();
        let mut services = book.open();
        let mut old = services.remove(&service).unwrap_or_default();
        let mut entries = BTreeMap::new();
        for check in checks {
            let entry = match old.remove(&check.target) {
                Some(entry) if entry.check == check => entry,
                before => self.begin(check, before.as_ref()),
            };
            entries.insert(entry.check.target.clone(), entry);
        }
        for entry in old.into_values() {
            self.end(&entry);
            self.tell(
                &entry.check.target,
                entry.record.is_healthy,
                true,
                "it is not checked any more",
            );
        }
        if !entries.is_empty() {
            services.insert(service, entries);
        }
    }

    /// A new check of a backend, which had another one before or none.
    fn begin(&mut self, check: Check, before: Option<&Entry>) -> Entry {
        let was_healthy = before.is_none_or(|entry| entry.record.is_healthy);
        if let Some(entry) = before {
            self.end(entry);
        }
        let now = Instant::now();
        let record = Record::new(&check.how, now);
        self.tell(&check.target, was_healthy, record.is_healthy, "its check is new");
        self.next_serial += 1;
        let due = now + first_wait(&check);
        let entry = Entry { record, serial: self.next_serial, due, probe: None, check };
        self.enqueue(&entry);
        entry
    }

    fn end(&mut self, entry: &Entry) {
        self.queue.remove(&(entry.due, entry.serial));
        if let Some(probe) = &entry.probe {
            probe.abort();
        }
    }

    fn enqueue(&mut self, entry: &Entry) {
        if !entry.check.is_caught {
            self.queue.insert((entry.due, entry.serial), entry.check.target.clone());
        }
    }

    /// Tells of a change, where there is one.
    fn tell(&self, target: &Target, was_healthy: bool, is_healthy: bool, why: &str) {
        if was_healthy != is_healthy {
            let verdict = Verdict { target: target.clone(), is_healthy, why: why.to_owned() };
            // The daemon is ending if nobody takes it.
            let _gone = self.verdicts.send(verdict);
        }
    }

    fn start_due(&mut self) {
        let (book, now) = (self.book.clone(), Instant::now());
        let mut services = book.open();
        while let Some(first) = self.queue.first_entry()
            && first.key().0 <= now
        {
            let ((_, serial), target) = first.remove_entry();
            let entry = services.get_mut(&target.service).and_then(|all| all.get_mut(&target));
            let Some(entry) = entry.filter(|entry| entry.serial == serial) else { continue };
            let probe = self.probes.spawn(self.prober.probe(&entry.check));
            self.running.insert(probe.id(), (serial, target));
            entry.probe = Some(probe);
        }
    }

    /// Takes a probe in that came to its end.
    fn finish(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some((serial, target)) = self.running.remove(&id) else { return };
        let outcome = match ended {
            Ok((_, outcome)) => outcome,
            // Its check is gone.
            Err(ended) if ended.is_cancelled() => return,
            Err(fault) => {
                error!(service = %target.service, addr = %target.addr, "a probe died: {fault}");
                Outcome { failure: Some(format!("the probe died: {fault}")), took: Duration::ZERO }
            }
        };
        let book = self.book.clone();
        let mut services = book.open();
        let entry = services.get_mut(&target.service).and_then(|all| all.get_mut(&target));
        let Some(entry) = entry.filter(|entry| entry.serial == serial) else { return };
        let now = Instant::now();
        let changed = entry.record.observe(outcome, &entry.check.how, now);
        entry.probe = None;
        entry.due = now.max(entry.due + wait(&entry.check, entry.record.probes));
        self.enqueue(entry);
        if let Some(why) = changed {
            let is_healthy = entry.record.is_healthy;
            self.tell(&target, !is_healthy, is_healthy, &why);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn hash_target(target: &Target) -> u64 {
    let mut hasher = DefaultHasher::new();
    target.hash(&mut hasher);
    hasher.finish()
}

/// From the begin of a check to its first probe: less than an interval.
fn first_wait(Check { target, how, .. }: &Check) -> Duration {
    let ms = scale(bucket(0, hash_target(target)), how.interval_ms);
    Duration::from_millis(ms.into())
}

/// From the begin of a probe, of which `probes` were made so far, to that of the next.
fn wait(Check { target, how, .. }: &Check, probes: u64) -> Duration {
    let jitter = scale(bucket(probes, hash_target(target)), most_jitter_ms(how) + 1);
    Duration::from_millis(how.interval_ms.into()) + Duration::from_millis(jitter.into())
}

/// The longest jitter, less than `u32::MAX`.
fn most_jitter_ms(how: &HealthCheck) -> u32 {
    let ms = u64::from(how.interval_ms) * u64::from(how.jitter_percent) / 100;
    u32::try_from(ms).unwrap_or(u32::MAX).min(u32::MAX - 1)
}
