//! What goes on at a followed route or backend and what came of its connections, as `status` tells
//! it.

use std::iter::Sum;
use std::ops::Add;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use splitter_common::abi::{State, cell, outcome, standing};

/// Numbers of connections and what the kernel knows of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    /// Connections from `connect()` to their end, now.
    pub(crate) live: u64,
    /// Those of them that are not established yet.
    pub(crate) pending: u64,
    /// Handshakes that were completed.
    pub(crate) established: u64,
    /// Refused by the backend.
    pub(crate) refused: u64,
    /// Not answered in time.
    pub(crate) timed_out: u64,
    /// Not established for another reason, such as no route.
    pub(crate) unreachable: u64,
    /// Given up by the client before they were established.
    pub(crate) abandoned: u64,
    /// Ended in order, or by the client.
    pub(crate) closed: u64,
    /// Reset by the backend.
    pub(crate) reset: u64,
    /// Not answered any more after they were established.
    pub(crate) lost: u64,
    /// Segments that were sent again, of connections that ended.
    pub(crate) retransmits: u64,
    /// Bytes that the backend acknowledged, of connections that ended.
    pub(crate) bytes_sent: u64,
    /// Bytes from the backend, of connections that ended.
    pub(crate) bytes_received: u64,
    /// Sum of the smoothed round-trip times of connections when they ended, in microseconds.
    pub(crate) rtt_sum_us: u64,
    /// Handshakes by the time that they took: number `i` holds those of less than 2^(4 + i)
    /// microseconds that no bucket before it holds, and the last all others.
    pub(crate) latency: [u64; outcome::BUCKETS],
}

impl Outcomes {
    /// What a state says.
    pub(crate) fn of(state: &State) -> Self {
        let count = |at: usize| state.cells[cell::OUTCOMES + at];
        Self {
            live: state.cells[cell::LIVE],
            pending: state.cells[cell::PENDING],
            established: count(outcome::ESTABLISHED),
            refused: count(outcome::REFUSED),
            timed_out: count(outcome::TIMED_OUT),
            unreachable: count(outcome::UNREACHABLE),
            abandoned: count(outcome::ABANDONED),
            closed: count(outcome::CLOSED),
            reset: count(outcome::RESET),
            lost: count(outcome::LOST),
            retransmits: count(outcome::RETRANSMITS),
            bytes_sent: count(outcome::BYTES_SENT),
            bytes_received: count(outcome::BYTES_RECEIVED),
            rtt_sum_us: count(outcome::RTT_US),
            latency: std::array::from_fn(|bucket| count(outcome::LATENCY + bucket)),
        }
    }

    /// The end in microseconds of the bucket that a part of all handshakes, in percent, stayed in;
    /// `None` where there are none, or where it took longer than all buckets tell.
    pub(crate) fn latency_us(&self, percent: u64) -> Option<u64> {
        let total: u64 = self.latency.iter().sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut below = 0;
        let bucket = self.latency.iter().position(|n| {
            below += n;
            below >= rank
        })?;
        let exponent = u32::try_from(bucket).ok()? + outcome::FIRST_BUCKET;
        (total > 0 && bucket + 1 < outcome::BUCKETS).then(|| 1 << exponent)
    }

    /// Mean of the round-trip times of connections that ended, in microseconds.
    pub(crate) fn rtt_us(&self) -> Option<u64> {
        self.rtt_sum_us.checked_div(self.closed + self.reset + self.lost)
    }
}

impl Add for Outcomes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            live: self.live + other.live,
            pending: self.pending + other.pending,
            established: self.established + other.established,
            refused: self.refused + other.refused,
            timed_out: self.timed_out + other.timed_out,
            unreachable: self.unreachable + other.unreachable,
            abandoned: self.abandoned + other.abandoned,
            closed: self.closed + other.closed,
            reset: self.reset + other.reset,
            lost: self.lost + other.lost,
            retransmits: self.retransmits + other.retransmits,
            bytes_sent: self.bytes_sent + other.bytes_sent,
            bytes_received: self.bytes_received + other.bytes_received,
            rtt_sum_us: self.rtt_sum_us + other.rtt_sum_us,
            latency: std::array::from_fn(|i| self.latency[i] + other.latency[i]),
        }
    }
}

impl Sum for Outcomes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// The time of the kernel's programs, in nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// Why a backend gets no connections, if it gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "because")]
pub(crate) enum OutOfUse {
    /// Health checks failed.
    Down,
    /// It is drained by command.
    Draining,
    /// Too many connections to it failed in a row.
    Ejected {
        /// Until it is tried again, in milliseconds.
        for_ms: u64,
    },
}

impl OutOfUse {
    /// What a backend's state says at a time, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn of(state: &State, now_ns: u64) -> Option<Self> {
        let until = state.cells[cell::EJECTED_UNTIL];
        match state.cells[cell::STANDING] {
            bits if bits & standing::DOWN != 0 => Some(Self::Down),
            bits if bits & standing::DRAINING != 0 => Some(Self::Draining),
            _ if until > now_ns => Some(Self::Ejected { for_ms: (until - now_ns) / 1_000_000 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use splitter_common::abi::STATE_CELLS;

    use super::*;

    fn state(cells: &[(usize, u64)]) -> State {
        let mut state = State { cells: [0; STATE_CELLS] };
        for (at, value) in cells {
            state.cells[*at] = *value;
        }
        state
    }

    #[test]
    fn latencies_are_ends_of_buckets() {
        let first = cell::OUTCOMES + outcome::LATENCY;
        let outcomes = Outcomes::of(&state(&[(first, 90), (first + 2, 9), (first + 19, 1)]));
        let at = |percent| outcomes.latency_us(percent);
        assert_eq!([at(50), at(90), at(99), at(100)], [Some(16), Some(16), Some(64), None]);
        assert_eq!(Outcomes::default().latency_us(50), None);
    }

    #[test]
    fn a_backend_is_out_of_use_for_the_first_reason_that_holds() {
        let ejected = (cell::EJECTED_UNTIL, 5_000_000);
        let of = |cells: &[_]| OutOfUse::of(&state(cells), 3_000_000);
        assert_eq!(of(&[ejected]), Some(OutOfUse::Ejected { for_ms: 2 }));
        assert_eq!(of(&[ejected, (cell::STANDING, 9 << 32 | 3)]), Some(OutOfUse::Down));
        assert_eq!(of(&[ejected, (cell::STANDING, 9 << 32 | 2)]), Some(OutOfUse::Draining));
        assert_eq!(of(&[(cell::EJECTED_UNTIL, 3_000_000), (cell::STANDING, 9 << 32)]), None);
    }

    #[test]
    fn sums_are_of_every_number() {
        let one = Outcomes::of(&State { cells: [1; STATE_CELLS] });
        let three: Outcomes = [one; 3].into_iter().sum();
        assert_eq!(three, Outcomes::of(&State { cells: [3; STATE_CELLS] }));
    }
}
