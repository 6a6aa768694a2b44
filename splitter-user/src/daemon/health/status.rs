//! What is known of checked backends, for people and programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::HealthBook;
use super::schedule::Entry;

/// Most subsets and addresses that are problems of their own.
const MOST_PROBLEMS: usize = 16;

/// The health of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthStatus {
    /// `healthy`, `unhealthy`, or `not probed` where a probe would reach another backend.
    pub(crate) state: String,
    /// How long it is that.
    pub(crate) seconds: u64,
    /// Probes since its check began.
    pub(crate) probes: u64,
    /// Probes that succeeded since the last that failed.
    pub(crate) successes: u32,
    /// Probes that failed since the last that succeeded.
    pub(crate) failures: u32,
    /// How long the last probe took.
    pub(crate) last_microseconds: Option<u64>,
    /// Why the last probe that failed did.
    pub(crate) last_error: Option<String>,
}

/// Checked backends by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthCounts {
    /// Those that are healthy.
    pub(crate) healthy: usize,
    /// Those that are unhealthy.
    pub(crate) unhealthy: usize,
    /// Those that are not probed, because a probe would reach another backend.
    pub(crate) not_probed: usize,
}

impl HealthCounts {
    /// All of them.
    pub(crate) fn total(&self) -> usize {
        self.healthy + self.unhealthy + self.not_probed
    }

    fn add(&mut self, entry: &Entry) {
        let count = match (entry.check.is_caught, entry.record.is_healthy) {
            (true, _) => &mut self.not_probed,
            (false, true) => &mut self.healthy,
            (false, false) => &mut self.unhealthy,
        };
        *count += 1;
    }
}

/// All checks in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthSummary {
    /// Checked backends.
    pub(crate) backends: HealthCounts,
    /// Probes that were made by the checks in force.
    pub(crate) probes: u64,
    /// What is wrong and what to do.
    #[serde(skip)]
    pub(crate) problems: Vec<String>,
}

/// Health by subset and address.
pub(crate) type ServiceHealth = BTreeMap<(String, SocketAddr), HealthStatus>;

impl HealthBook {
    /// The checked backends of a service.
    pub(crate) fn of(&self, service: &str) -> ServiceHealth {
        let services = self.open();
        let entries = services.get(service).into_iter().flatten();
        let describe = |(_, entry): (_, &Entry)| {
            let target = &entry.check.target;
            ((target.subset.to_string(), target.addr), describe(entry))
        };
        entries.map(describe).collect()
    }

    /// How many backends of a service are what.
    pub(crate) fn count(&self, service: &str) -> HealthCounts {
        let mut counts = HealthCounts::default();
        let services = self.open();
        services.get(service).into_iter().flat_map(BTreeMap::values).for_each(|it| counts.add(it));
        counts
    }

    /// All checks in short.
    pub(crate) fn summary(&self) -> HealthSummary {
        let services = self.open();
        let mut summary = HealthSummary::default();
        let mut subsets: BTreeMap<(&str, &str), HealthCounts> = BTreeMap::new();
        let mut caught = Vec::new();
        for entry in services.values().flat_map(BTreeMap::values) {
            let target = &entry.check.target;
            summary.backends.add(entry);
            summary.probes += entry.record.probes;
            subsets.entry((&target.service, &target.subset)).or_default().add(entry);
            caught.extend(entry.check.is_caught.then_some(entry));
        }
        let dead = subsets.into_iter().filter(|(_, counts)| counts.unhealthy == counts.total());
        let dead = dead.map(|((service, subset), counts)| dead_problem(service, subset, counts));
        let caught = caught.into_iter().map(caught_problem);
        summary.problems = dead.take(MOST_PROBLEMS).chain(caught.take(MOST_PROBLEMS)).collect();
        summary
    }
}

fn dead_problem(service: &str, subset: &str, counts: HealthCounts) -> String {
    let which = match counts.total() {
        1 => "the only checked backend".to_owned(),
        n => format!("each of the {n} checked backends"),
    };
    format!(
        "{which} of the subset {subset} of {service} is unhealthy: `splitter status {service}` \
         says why"
    )
}

fn caught_problem(entry: &Entry) -> String {
    let target = &entry.check.target;
    format!(
        "the backend {} of the subset {} of {} is not probed: {} is a frontend, and the daemon's \
         own connections to it are split; run the daemon in a cgroup outside of --cgroup",
        target.addr,
        target.subset,
        target.service,
        entry.check.addr()
    )
}

fn describe(Entry { check, record, .. }: &Entry) -> HealthStatus {
    let state = match (check.is_caught, record.is_healthy) {
        (true, _) => "not probed",
        (false, true) => "healthy",
        (false, false) => "unhealthy",
    };
    HealthStatus {
        state: state.to_owned(),
        seconds: Instant::now().duration_since(record.since).as_secs(),
        probes: record.probes,
        successes: record.successes,
        failures: record.failures,
        last_microseconds: record.took.and_then(|took| u64::try_from(took.as_micros()).ok()),
        last_error: record.last_error.clone(),
    }
}
