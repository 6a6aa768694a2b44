//! What the probes of one backend came to. Pure: the time is handed in.

use std::time::Duration;

use tokio::time::Instant;

use super::probe::Outcome;
use crate::policy::model::HealthCheck;

/// What is known of one backend.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// What it counts as.
    pub(super) is_healthy: bool,
    /// Since when it does.
    pub(super) since: Instant,
    /// Probes that succeeded since the last that failed.
    pub(super) successes: u32,
    /// Probes that failed since the last that succeeded.
    pub(super) failures: u32,
    /// Probes in all.
    pub(super) probes: u64,
    /// How long the last probe took.
    pub(super) took: Option<Duration>,
    /// Why the last probe that failed did.
    pub(super) last_error: Option<String>,
}

impl Record {
    /// Nothing is known yet.
    pub(super) fn new(check: &HealthCheck, now: Instant) -> Self {
        Self {
            is_healthy: !check.starts_unhealthy,
            since: now,
            successes: 0,
            failures: 0,
            probes: 0,
            took: None,
            last_error: None,
        }
    }

    /// Takes a probe in. Answers why the backend is something else now, where it is.
    pub(super) fn observe(
        &mut self,
        outcome: Outcome,
        check: &HealthCheck,
        now: Instant,
    ) -> Option<String> {
        self.probes += 1;
        self.took = Some(outcome.took);
        let (streak, threshold, what) = if let Some(error) = outcome.failure {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            let what = format!("failed: {error}");
            self.last_error = Some(error);
            (self.failures, check.unhealthy_threshold, what)
        } else {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes, check.healthy_threshold, "succeeded".to_owned())
        };
        let is_healthy = self.failures == 0;
        if self.is_healthy == is_healthy || streak < threshold {
            return None;
        }
        (self.is_healthy, self.since) = (is_healthy, now);
        let row =
            if streak == 1 { "1 probe".to_owned() } else { format!("{streak} probes in a row") };
        Some(format!("{row} {what}"))
    }
}
