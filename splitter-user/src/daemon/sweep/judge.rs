//! Whether a connection is to be closed. Pure: the time is handed in.

use super::asked::Terms;
use crate::sockets::State;

/// What the kernel's times may be behind by: a tick of its slowest timer, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No data went either way for too long.
    Idle,
    /// It began too long ago.
    TooOld,
    /// Its backend takes no more, and its time to end by itself is over.
    Drained,
    /// Its backend is known not to serve.
    Down,
    /// Its subset has more than its share.
    Rebalanced,
}

/// What is known of a connection that was established, or of a UDP socket that is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Where in its life.
    pub(super) state: State,
    /// Milliseconds since data went either way, where that is known.
    pub(super) idle_ms: Option<u32>,
    /// Whether nothing waits to be read or acknowledged.
    pub(super) is_quiet: bool,
    /// When `connect()` was called, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) started_ns: u64,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be closed.
    Close(Reason),
    /// It stays, until it is looked at again, in nanoseconds of `CLOCK_MONOTONIC`; `u64::MAX` where
    /// it need not be.
    KeepUntil(u64),
}

/// Judges a connection at a time, in nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn judge(seen: &Seen, terms: &Terms, now_ns: u64) -> Verdict {
    if terms.until_ns.is_some_and(|until| until <= now_ns) {
        return Verdict::Close(Reason::Drained);
    }
    if terms.down_ns.is_some_and(|down| seen.started_ns < down) {
        return Verdict::Close(Reason::Down);
    }
    let old = terms.lifetime_ns().map(|lifetime| seen.started_ns.saturating_add(lifetime));
    if old.is_some_and(|old| old <= now_ns) {
        return Verdict::Close(Reason::TooOld);
    }
    // One side has ended already otherwise, and it is the other's turn.
    let idle = terms.idle_ns().filter(|_| seen.state == State::Established).zip(seen.idle_ms);
    let left = idle.map(|(idle, ms)| idle.saturating_sub(u64::from(ms) * 1_000_000));
    let idle = match (idle, left) {
        // Data are on their way that somebody does not take; nobody knows for how long.
        (Some((idle, _)), Some(0)) if !seen.is_quiet => Some(now_ns.saturating_add(idle)),
        (_, Some(0)) => return Verdict::Close(Reason::Idle),
        (_, left) => left.map(|left| now_ns.saturating_add(left + TICK_NS)),
    };
    let ends = old.into_iter().chain(idle).chain(terms.until_ns);
    Verdict::KeepUntil(ends.min().unwrap_or(u64::MAX))
}

/// When a connection has had no data for a time, at the soonest: now, where it has not.
///
/// One whose data are on their way is not idle, and neither is one that an end has closed.
pub(super) fn idle_from(seen: &Seen, idle_ms: u32, now_ns: u64) -> Option<u64> {
    let known_ms = seen.idle_ms.filter(|_| seen.state == State::Established)?;
    let left_ms = if seen.is_quiet { idle_ms.saturating_sub(known_ms) } else { idle_ms };
    let tick = if left_ms == 0 { 0 } else { TICK_NS };
    Some(now_ns.saturating_add(u64::from(left_ms) * 1_000_000 + tick))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const NOW: u64 = 10_000 * MS;

    const QUIET: Seen = Seen {
        state: State::Established,
        idle_ms: Some(300),
        is_quiet: true,
        started_ns: NOW - 4_000 * MS,
    };

    fn terms(idle_ms: Option<u32>, lifetime_ms: Option<u32>) -> Terms {
        Terms { idle_ms, lifetime_ms, ..Terms::default() }
    }

    #[test]
    fn idle_connections_are_closed_once_their_time_is_over() {
        let at = |idle_ms| {
            judge(&Seen { idle_ms: Some(idle_ms), ..QUIET }, &terms(Some(500), None), NOW)
        };
        assert_eq!(at(0), Verdict::KeepUntil(NOW + 500 * MS + TICK_NS));
        assert_eq!(at(499), Verdict::KeepUntil(NOW + MS + TICK_NS));
        assert_eq!(at(500), Verdict::Close(Reason::Idle));
        assert_eq!(at(u32::MAX), Verdict::Close(Reason::Idle));
    }

    #[test]
    fn data_on_their_way_keep_a_connection() {
        let seen = Seen { idle_ms: Some(900), is_quiet: false, ..QUIET };
        let kept = Verdict::KeepUntil(NOW + 500 * MS);
        assert_eq!(judge(&seen, &terms(Some(500), None), NOW), kept);
    }

    #[test]
    fn half_closed_connections_are_not_idle() {
        for state in [State::CloseWait, State::Closing] {
            let seen = Seen { state, idle_ms: Some(900), ..QUIET };
            assert_eq!(judge(&seen, &terms(Some(1), None), NOW), Verdict::KeepUntil(u64::MAX));
        }
    }

    #[test]
    fn age_counts_whatever_a_connection_does() {
        for state in [State::Established, State::CloseWait, State::Closing] {
            let seen = Seen { state, idle_ms: Some(0), is_quiet: false, ..QUIET };
            let at = |ms| judge(&seen, &terms(None, Some(ms)), NOW);
            assert_eq!(at(4_000), Verdict::Close(Reason::TooOld));
            assert_eq!(at(4_001), Verdict::KeepUntil(NOW + MS));
        }
    }

    #[test]
    fn the_first_of_both_times_counts() {
        let at = |idle, lifetime| judge(&QUIET, &terms(Some(idle), Some(lifetime)), NOW);
        assert_eq!(at(1_000, 4_100), Verdict::KeepUntil(NOW + 100 * MS));
        assert_eq!(at(350, 4_100), Verdict::KeepUntil(NOW + 50 * MS + TICK_NS));
        assert_eq!(at(300, 4_100), Verdict::Close(Reason::Idle));
        assert_eq!(at(300, 4_000), Verdict::Close(Reason::TooOld));
    }

    #[test]
    fn a_drain_ends_connections_at_its_deadline_whatever_they_do() {
        for state in [State::Established, State::CloseWait, State::Closing] {
            let seen = Seen { state, idle_ms: Some(0), is_quiet: false, ..QUIET };
            let at =
                |until| judge(&seen, &Terms { until_ns: Some(until), ..terms(None, None) }, NOW);
            assert_eq!(at(NOW), Verdict::Close(Reason::Drained));
            assert_eq!(at(0), Verdict::Close(Reason::Drained));
            assert_eq!(at(NOW + 1), Verdict::KeepUntil(NOW + 1));
        }
        let draining = Terms { until_ns: Some(NOW + 900 * MS), ..terms(Some(400), None) };
        let first = Verdict::KeepUntil(NOW + 100 * MS + TICK_NS);
        assert_eq!(judge(&QUIET, &draining, NOW), first, "other times hold meanwhile");
    }

    #[test]
    fn what_began_before_a_backend_was_down_is_closed_and_what_came_after_is_not() {
        let at = |down| judge(&QUIET, &Terms { down_ns: Some(down), ..terms(None, None) }, NOW);
        assert_eq!(at(QUIET.started_ns + 1), Verdict::Close(Reason::Down));
        assert_eq!(at(QUIET.started_ns), Verdict::KeepUntil(u64::MAX));
    }

    #[test]
    fn of_datagrams_nobody_knows_whether_they_are_idle() {
        let seen = Seen { idle_ms: None, ..QUIET };
        assert_eq!(judge(&seen, &terms(Some(1), None), NOW), Verdict::KeepUntil(u64::MAX));
        assert_eq!(judge(&seen, &terms(Some(1), Some(1)), NOW), Verdict::Close(Reason::TooOld));
        assert_eq!(idle_from(&seen, 1, NOW), None);
    }

    #[test]
    fn only_quiet_connections_become_idle() {
        let from = |seen: &Seen, idle_ms| idle_from(seen, idle_ms, NOW);
        assert_eq!(from(&QUIET, 300), Some(NOW));
        assert_eq!(from(&QUIET, 301), Some(NOW + MS + TICK_NS));
        assert_eq!(from(&Seen { is_quiet: false, ..QUIET }, 300), Some(NOW + 300 * MS + TICK_NS));
        assert_eq!(from(&Seen { state: State::CloseWait, ..QUIET }, 300), None);
    }

    #[test]
    fn who_asks_for_nothing_keeps_connections() {
        assert_eq!(judge(&QUIET, &Terms::default(), NOW), Verdict::KeepUntil(u64::MAX));
    }
}
