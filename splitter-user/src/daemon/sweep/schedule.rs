//! When the next round is. Pure: the time is handed in, in nanoseconds of `CLOCK_MONOTONIC`.
//!
//! There is no fixed period: a round is due when the first connection may have to be closed, be it
//! one that was seen or one that began right after.

use std::time::Duration;

/// Shortest time from the end of a round to the next: what closing may be late by.
const REST_NS: u64 = 1_000_000_000;
/// Rounds that take long leave this many times as long to others.
const REST_FACTOR: u64 = 10;

/// When the next round is.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// `None` while nobody asks.
    due_ns: Option<u64>,
    rest_until_ns: u64,
}

impl Schedule {
    /// Something else is asked: connections that stand may have to be closed at once.
    pub(super) fn asked(&mut self, now_ns: u64, anything: bool) {
        self.due_ns = anything.then_some(now_ns);
    }

    /// A round is over. `soonest_ns` is when the next connection may have to be closed.
    pub(super) fn done(&mut self, began_ns: u64, ended_ns: u64, soonest_ns: u64) {
        let took = ended_ns.saturating_sub(began_ns);
        let rest = took.saturating_mul(REST_FACTOR).max(REST_NS);
        self.rest_until_ns = ended_ns.saturating_add(rest);
        self.due_ns = Some(soonest_ns);
    }

    /// How long it is until the next round; `None` where there will be none.
    pub(super) fn wait(&self, now_ns: u64) -> Option<Duration> {
        let due = self.due_ns?.max(self.rest_until_ns);
        Some(Duration::from_nanos(due.saturating_sub(now_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[expect(clippy::unnecessary_wraps, reason = "what it is compared with may be none")]
    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn there_are_no_rounds_while_nobody_asks() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.wait(5), None);
        schedule.asked(5, true);
        assert_eq!(schedule.wait(5), seconds(0));
        schedule.asked(6, false);
        assert_eq!(schedule.wait(6), None);
    }

    #[test]
    fn the_next_round_is_when_something_may_end_but_not_at_once() {
        let mut schedule = Schedule::default();
        schedule.done(5 * SECOND, 5 * SECOND, 65 * SECOND);
        assert_eq!(schedule.wait(5 * SECOND), seconds(60));
        assert_eq!(schedule.wait(66 * SECOND), seconds(0));
        schedule.done(66 * SECOND, 66 * SECOND, 66 * SECOND + 1);
        assert_eq!(schedule.wait(66 * SECOND), seconds(1));
    }

    #[test]
    fn neither_changes_nor_long_rounds_keep_the_thread_busy() {
        let mut schedule = Schedule::default();
        schedule.done(5 * SECOND, 8 * SECOND, 9 * SECOND);
        assert_eq!(schedule.wait(8 * SECOND), seconds(30));
        schedule.asked(9 * SECOND, true);
        assert_eq!(schedule.wait(9 * SECOND), seconds(29));
    }
}
