//! The life of a connection: whether a backend may be chosen, whether a subset takes one more, and
//! what an outcome means for the next connection.
//!
//! Pure but for the [`Cells`] that it is given, which are the kernel's maps or memory. Nothing here
//! can panic or loop without bound, because one of its callers is the kernel.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use crate::abi::{Conduct, cell, outcome, standing};
use crate::hash::{mix, scale};

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;
/// Parts of a whole.
const MILLION: u64 = 1_000_000;
/// How often a count is tried to be raised while others change it. Two CPUs meet once in a while,
/// many seldom twice.
const TRIES: u32 = 16;

/// One [`crate::abi::State`], looked up once. Its cells are changed by several CPUs.
pub trait Cells {
    /// The value of a cell.
    fn load(&self, cell: usize) -> u64;
    /// Adds to a cell, around zero, and answers its value before.
    fn add(&self, cell: usize, n: u64) -> u64;
    /// Replaces a cell's value if it is `old`; whether it was.
    fn replace(&self, cell: usize, old: u64, new: u64) -> bool;
    /// Advances a ticket and answers its value before.
    fn take_ticket(&self, cell: usize) -> u64;
}

/// Adds to a cell as long as it stays within a limit; whether it did. Never beyond the limit, not
/// even for a moment: what was refused must not make others be refused.
#[inline(always)]
pub fn reserve(cells: &impl Cells, at: usize, limit: u32) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        let held = cells.load(at);
        if held >= u64::from(limit) {
            return false;
        }
        if cells.replace(at, held, held.wrapping_add(1)) {
            return true;
        }
        tries = tries.wrapping_add(1);
    }
    false
}

/// Which of its owners a state has.
#[inline(always)]
pub fn epoch(cells: &impl Cells) -> u32 {
    (cells.load(cell::STANDING) >> 32) as u32
}

/// Takes one from a cell that one was added to.
#[inline(always)]
pub fn give_back(cells: &impl Cells, at: usize) {
    cells.add(at, u64::MAX);
}

/// Whether a backend may be chosen. The first to ask after the end of an ejection ends it.
///
/// In a panic, ejection is ignored. `now_ns` is asked only where a backend is ejected.
#[inline(always)]
pub fn is_usable<C: Cells>(
    backend: &C,
    subset: &C,
    is_panic: bool,
    now_ns: impl FnOnce() -> u64,
) -> bool {
    if backend.load(cell::STANDING) & standing::AVOIDED != 0 {
        return false;
    }
    let until = backend.load(cell::EJECTED_UNTIL);
    if until == 0 {
        return true;
    }
    if now_ns() < until {
        return is_panic;
    }
    end_ejection(backend, subset, until);
    true
}

/// Whether it is known that a backend does not serve: its health checks say so, or it is ejected.
/// Changes nothing.
#[inline(always)]
pub fn is_down(backend: &impl Cells, is_panic: bool, now_ns: u64) -> bool {
    let is_ejected = !is_panic && now_ns < backend.load(cell::EJECTED_UNTIL);
    is_ejected || backend.load(cell::STANDING) & standing::DOWN != 0
}

/// Ends an ejection that was to last `until`, unless another did.
#[inline(always)]
pub fn end_ejection<C: Cells>(backend: &C, subset: &C, until: u64) {
    if backend.replace(cell::EJECTED_UNTIL, until, 0) {
        set(backend, cell::FAILURES, 0);
        set(backend, cell::RETURNED, until);
        give_back(subset, cell::EJECTED);
    }
}

/// Whether so few backends are not ejected that ejection is ignored (Envoy's panic threshold).
#[inline(always)]
pub fn is_panic(conduct: &Conduct, n_backends: u32, subset: &impl Cells) -> bool {
    let healthy = u64::from(n_backends).saturating_sub(subset.load(cell::EJECTED));
    healthy < u64::from(conduct.min_healthy)
}

/// A connection to a backend was established.
#[inline(always)]
pub fn succeed(backend: &impl Cells) {
    set(backend, cell::FAILURES, 0);
}

/// A connection to a backend that began at `started_ns` failed. Ejects it where that was one too
/// many. One that began before the last ejection was over says nothing of the time since.
#[inline(always)]
pub fn fail<C: Cells>(
    conduct: &Conduct,
    backend: &C,
    subset: &C,
    (started_ns, now_ns): (u64, u64),
) {
    if started_ns < backend.load(cell::RETURNED) {
        return;
    }
    let failures = backend.add(cell::FAILURES, 1).wrapping_add(1);
    let is_enough = conduct.failures != 0 && failures >= u64::from(conduct.failures);
    if !is_enough || backend.load(cell::EJECTED_UNTIL) != 0 {
        return;
    }
    if !reserve(subset, cell::EJECTED, u32::from(conduct.max_ejected)) {
        return;
    }
    let ejections = lived_down(conduct, backend, now_ns).wrapping_add(1);
    let time = u64::from(conduct.ejection_ms).wrapping_mul(MS).wrapping_mul(ejections);
    if backend.replace(cell::EJECTED_UNTIL, 0, now_ns.wrapping_add(time)) {
        set(backend, cell::EJECTIONS, ejections);
    } else {
        give_back(subset, cell::EJECTED);
    }
}

/// How many earlier ejections still count: one less for each interval without another.
#[inline(always)]
fn lived_down(conduct: &Conduct, backend: &impl Cells, now_ns: u64) -> u64 {
    let time = now_ns.saturating_sub(backend.load(cell::RETURNED));
    let interval = u64::from(conduct.interval_ms).wrapping_mul(MS);
    let intervals = time.checked_div(interval).unwrap_or(0);
    backend.load(cell::EJECTIONS).saturating_sub(intervals)
}

/// Stores a value that nobody else is about to.
#[inline(always)]
fn set(cells: &impl Cells, at: usize, value: u64) {
    let old = cells.load(at);
    if old != value {
        // Lost to another CPU, the value is as new as this one.
        cells.replace(at, old, value);
    }
}

/// Index of the state of a backend with this ordinal, from the cell that holds two.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "half of a word")]
pub const fn one_of_two(cell: u64, ordinal: u32) -> u32 {
    (if ordinal & 1 == 0 { cell } else { cell >> 32 }) as u32
}

/// Whether a route's next connection is of the share that one kind of fault hits. Each kind has a
/// ticket of its own, and a seed of its own, so that they are independent.
#[inline(always)]
pub fn is_hit(route: &impl Cells, seed: u64, ppm: u32, ticket: usize) -> bool {
    ppm != 0 && is_of_share(ppm, seed.wrapping_add(ticket as u64), route.take_ticket(ticket))
}

/// Whether the connection with this ticket is of a share in parts per million.
///
/// Connections fall into strata, as many as the share has connections in a million, as even in
/// length as can be. Of each stratum one connection is of the share: which, follows from the seed.
/// So every prefix has its share to within one, and no other choice by tickets is in step with it.
#[inline(never)]
#[must_use]
pub fn is_of_share(ppm: u32, seed: u64, ticket: u64) -> bool {
    let share = u64::from(ppm);
    if share >= MILLION {
        return true;
    }
    // What is rarer has strata of at least two connections.
    let is_rare = share.wrapping_mul(2) <= MILLION;
    let share = if is_rare { share } else { MILLION.wrapping_sub(share) };
    if share == 0 {
        return !is_rare;
    }
    let (turn, at) = (ticket / MILLION, ticket % MILLION);
    let stratum = at.wrapping_mul(share) / MILLION;
    let first = first_of(stratum, share);
    let length = first_of(stratum.wrapping_add(1), share).wrapping_sub(first);
    let random = mix(seed, turn.wrapping_mul(share).wrapping_add(stratum)) >> 32;
    #[expect(clippy::cast_possible_truncation, reason = "32 bits, and at most a million")]
    let chosen = first.wrapping_add(u64::from(scale(random as u32, length as u32)));
    (at == chosen) == is_rare
}

/// The first connection of a stratum.
#[inline(always)]
fn first_of(stratum: u64, share: u64) -> u64 {
    stratum.wrapping_mul(MILLION).div_ceil(share)
}

/// The bucket of a handshake's time.
#[inline(always)]
#[must_use]
pub fn latency_bucket(ns: u64) -> usize {
    let us = ns / 1_000;
    let bits = u64::BITS.wrapping_sub(us.leading_zeros());
    let bucket = bits.saturating_sub(outcome::FIRST_BUCKET) as usize;
    if bucket < outcome::BUCKETS { bucket } else { outcome::BUCKETS.wrapping_sub(1) }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::abi::STATE_CELLS;

    struct Memory([Cell<u64>; STATE_CELLS]);

    impl Memory {
        fn new() -> Self {
            Self([const { Cell::new(0) }; STATE_CELLS])
        }
    }

    impl Cells for Memory {
        fn load(&self, cell: usize) -> u64 {
            self.0[cell].get()
        }

        fn add(&self, cell: usize, n: u64) -> u64 {
            self.0[cell].replace(self.load(cell).wrapping_add(n))
        }

        fn take_ticket(&self, cell: usize) -> u64 {
            self.add(cell, 1)
        }

        fn replace(&self, cell: usize, old: u64, new: u64) -> bool {
            let is_old = self.load(cell) == old;
            if is_old {
                self.0[cell].set(new);
            }
            is_old
        }
    }

    fn ejecting() -> Conduct {
        let (failures, ejection_ms, interval_ms) = (3, 100, 1_000);
        Conduct { failures, ejection_ms, interval_ms, max_ejected: 1, ..Conduct::default() }
    }

    /// A connection that takes no time.
    fn at(ms: u64) -> (u64, u64) {
        (ms.saturating_mul(MS), ms.saturating_mul(MS))
    }

    #[test]
    fn a_limit_is_reached_and_never_passed() {
        let subset = Memory::new();
        let taken = (0..9).filter(|_| reserve(&subset, cell::LIVE, 5)).count();
        assert_eq!((taken, subset.load(cell::LIVE)), (5, 5));
        give_back(&subset, cell::LIVE);
        assert!(reserve(&subset, cell::LIVE, 5) && !reserve(&subset, cell::LIVE, 5));
    }

    #[test]
    fn failures_in_a_row_eject_and_time_returns() {
        let (backend, subset) = (Memory::new(), Memory::new());
        let conduct = ejecting();
        for now in [10, 20] {
            fail(&conduct, &backend, &subset, at(now));
        }
        succeed(&backend);
        for now in [30, 40, 50] {
            assert!(is_usable(&backend, &subset, false, || now * MS));
            fail(&conduct, &backend, &subset, at(now));
        }
        assert!(!is_usable(&backend, &subset, false, || 149 * MS));
        assert_eq!(subset.load(cell::EJECTED), 1);
        assert!(is_usable(&backend, &subset, false, || 150 * MS));
        assert_eq!((subset.load(cell::EJECTED), backend.load(cell::FAILURES)), (0, 0));
    }

    #[test]
    fn what_began_before_an_ejection_is_not_held_against_the_time_after() {
        let (backend, subset) = (Memory::new(), Memory::new());
        (0..3).for_each(|_| fail(&ejecting(), &backend, &subset, at(50)));
        assert!(is_usable(&backend, &subset, false, || 150 * MS), "its time is over");
        (0..9).for_each(|_| fail(&ejecting(), &backend, &subset, (40 * MS, 200 * MS)));
        assert!(is_usable(&backend, &subset, false, || 200 * MS));
        (0..3).for_each(|_| fail(&ejecting(), &backend, &subset, (150 * MS, 200 * MS)));
        assert!(!is_usable(&backend, &subset, false, || 200 * MS));
    }

    #[test]
    fn an_ejection_is_as_long_as_those_before_it_count() {
        let (backend, subset) = (Memory::new(), Memory::new());
        let mut ends = [0_u64; 3];
        for (round, now) in [0_u64, 200, 5_000].into_iter().enumerate() {
            (0..3).for_each(|_| fail(&ejecting(), &backend, &subset, at(now)));
            ends[round] = backend.load(cell::EJECTED_UNTIL) / MS - now;
            end_ejection(&backend, &subset, backend.load(cell::EJECTED_UNTIL));
        }
        // The second comes soon after the first, the third when both are lived down.
        assert_eq!(ends, [100, 200, 100]);
    }

    #[test]
    fn no_more_than_the_most_are_ejected() {
        let (first, second, subset) = (Memory::new(), Memory::new(), Memory::new());
        for backend in [&first, &second] {
            (0..9).for_each(|_| fail(&ejecting(), backend, &subset, at(1)));
        }
        assert!(
            !is_usable(&first, &subset, false, || MS) && is_usable(&second, &subset, false, || MS)
        );
        assert!(!is_panic(&Conduct { min_healthy: 1, ..ejecting() }, 2, &subset));
        assert!(is_panic(&Conduct { min_healthy: 2, ..ejecting() }, 2, &subset));
    }

    #[test]
    fn what_user_space_says_stands_above_all() {
        let (backend, subset) = (Memory::new(), Memory::new());
        for bits in [standing::DOWN, standing::DRAINING, standing::DOWN | standing::DRAINING] {
            backend.0[cell::STANDING].set(7 << 32 | bits);
            assert!(!is_usable(&backend, &subset, false, || 0));
            assert!(!is_usable(&backend, &subset, true, || 0), "a panic is about ejection");
        }
        backend.0[cell::STANDING].set(7 << 32);
        assert!(is_usable(&backend, &subset, false, || 0));
    }

    #[test]
    fn what_is_about_datagrams_is_not_about_connections() {
        let (backend, subset) = (Memory::new(), Memory::new());
        backend.0[cell::STANDING].set(7 << 32 | standing::LEAVING);
        assert!(is_usable(&backend, &subset, false, || 0));
        assert_ne!(standing::LEAVING & standing::LEFT, 0);
    }

    #[test]
    fn a_backend_is_down_while_it_is_ejected_or_unhealthy_and_not_when_it_is_drained() {
        let backend = Memory::new();
        backend.0[cell::EJECTED_UNTIL].set(50);
        assert!(is_down(&backend, false, 49) && !is_down(&backend, false, 50));
        assert!(!is_down(&backend, true, 49), "in a panic, it is used");
        assert_eq!(backend.load(cell::EJECTED_UNTIL), 50, "nothing changes");
        for (bit, is) in [(standing::DOWN, true), (standing::DRAINING, false)] {
            backend.0[cell::STANDING].set(7 << 32 | bit);
            assert_eq!((is_down(&backend, true, 0), is_down(&backend, false, 60)), (is, is));
        }
    }

    #[test]
    fn a_share_is_exact_to_within_one_at_every_prefix() {
        for ppm in [0, 1, 7, 1_000, 333_333, 500_000, 500_001, 900_000, 999_999, 1_000_000_u32] {
            let mut count = 0_u64;
            for ticket in 0..2_000_000_u64 {
                count += u64::from(is_of_share(ppm, 42, ticket));
                let ideal = (ticket + 1) * u64::from(ppm);
                assert!((count * MILLION).abs_diff(ideal) <= MILLION, "{ppm} at {ticket}");
            }
            assert_eq!(count, 2 * u64::from(ppm));
        }
    }

    #[test]
    fn a_share_is_not_in_step_with_turns() {
        let even = (0..20_000).step_by(2).filter(|t| is_of_share(500_000, 1, *t)).count();
        assert!((4_500..5_500).contains(&even), "{even}");
        let first: [bool; 64] = core::array::from_fn(|t| is_of_share(250_000, 1, t as u64));
        let other: [bool; 64] = core::array::from_fn(|t| is_of_share(250_000, 2, t as u64));
        assert_ne!(first, other);
    }

    #[test]
    fn buckets_double() {
        let buckets = [0, 15_999, 16_000, 31_999, 32_000, u64::MAX].map(latency_bucket);
        assert_eq!(buckets, [0, 0, 1, 1, 2, 19]);
    }
}
