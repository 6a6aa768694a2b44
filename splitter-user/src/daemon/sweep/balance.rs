//! How many connections are closed so that the live split comes to what the weights ask for. Pure.
//!
//! Connections are never moved: one that is closed comes again or does not, and where it comes again
//! the split of new connections, which is exact, gives it its place.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use splitter_common::abi::StateRef;

use super::asked::{Key, Share, key};

/// How the live split of a service comes to what its weights ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Most connections that are closed in a second.
    pub(crate) per_second: u32,
    /// Time without data after which a connection is idle.
    pub(crate) idle_ms: u32,
    /// Its routes.
    pub(crate) routes: Vec<Shares>,
}

/// What the weights of one route ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// The route's state.
    pub(crate) route: StateRef,
    /// State of each subset, and its weight.
    pub(crate) weights: Vec<(StateRef, u32)>,
    /// Whether every subset with a weight takes connections. Where one does not, closing others'
    /// would not bring it any.
    pub(crate) is_able: bool,
}

/// Established connections of one route and subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many.
    pub(super) live: u64,
    /// How many of them are idle.
    pub(super) idle: u64,
    /// When the next of them may be idle, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) soonest_ns: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { live: 0, idle: 0, soonest_ns: u64::MAX }
    }
}

/// Established connections of one route, by their subsets' states.
pub(super) type Live = BTreeMap<Key, Seen>;

/// What a subset has beyond its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// Connections beyond it.
    connections: u64,
    seen: Seen,
}

/// What is to be closed.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// How many connections, by the states of their route and subset.
    pub(super) quotas: HashMap<Share, u64>,
    /// Whose they are.
    pub(super) services: HashMap<Share, Arc<str>>,
    /// When there may be more to close, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) soonest_ns: Option<u64>,
}

/// Subsets that have at least one whole connection more than their share, rounded up: so none is
/// ever brought below it. Connections of subsets without weight, or of none of the route, have no
/// share.
pub(super) fn find_excess(weights: &[(StateRef, u32)], live: &Live) -> BTreeMap<Key, Excess> {
    let total: u128 = live.values().map(|seen| u128::from(seen.live)).sum();
    let whole: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
    if whole == 0 {
        return BTreeMap::new();
    }
    let weight = |subset: Key| weights.iter().find(|(state, _)| key(*state) == subset);
    let share = |subset| {
        let weight = weight(subset).map_or(0, |(_, weight)| u128::from(*weight));
        u64::try_from((total * weight).div_ceil(whole)).unwrap_or(u64::MAX)
    };
    let excess = live.iter().map(|(subset, seen)| {
        let connections = seen.live.saturating_sub(share(*subset));
        (*subset, Excess { connections, seen: *seen })
    });
    excess.filter(|(_, excess)| excess.connections > 0).collect()
}

/// Shares out what one service closes in a round, at most `most` connections: where there are most
/// beyond their share, there first.
pub(super) fn share_out(
    closing: &mut Closing,
    service: &Arc<str>,
    mut excess: Vec<(Share, Excess)>,
    most: u32,
) {
    excess.sort_by_key(|(at, excess)| (Reverse(excess.connections), *at));
    let mut left = u64::from(most);
    for (at, Excess { connections, seen }) in excess {
        let quota = connections.min(seen.idle).min(left);
        left -= quota;
        // Where some are closed, or could be, what that comes to is looked at in the next round.
        let soonest_ns = if seen.idle > 0 { 0 } else { seen.soonest_ns };
        closing.soonest_ns = closing.soonest_ns.into_iter().chain([soonest_ns]).min();
        if quota > 0 {
            closing.quotas.insert(at, quota);
            closing.services.insert(at, Arc::clone(service));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(weights: &[u32]) -> Vec<(StateRef, u32)> {
        (1..).zip(weights).map(|(index, weight)| (StateRef { index, epoch: 1 }, *weight)).collect()
    }

    /// All of them idle.
    fn live(counts: &[u64]) -> Live {
        let seen = |live: u64| Seen { live, idle: live, soonest_ns: u64::MAX };
        (1..).zip(counts).map(|(index, n)| ((index, 1), seen(*n))).collect()
    }

    fn excess(of: &[u32], counts: &[u64]) -> Vec<u64> {
        let found = find_excess(&weights(of), &live(counts));
        let at = |index| found.get(&(index, 1)).map_or(0, |excess| excess.connections);
        (1..).zip(counts).map(|(index, _)| at(index)).collect()
    }

    #[test]
    fn only_whole_connections_beyond_a_share_are_too_many() {
        assert_eq!(excess(&[50, 50], &[80, 20]), [30, 0]);
        assert_eq!(excess(&[50, 50], &[50, 50]), [0, 0]);
        assert_eq!(excess(&[1, 1], &[21, 20]), [0, 0], "half a connection");
        assert_eq!(excess(&[1, 1], &[22, 20]), [1, 0]);
        assert_eq!(excess(&[1, 1, 1], &[1, 1, 0]), [0, 0, 0]);
        assert_eq!(excess(&[0, 7], &[3, 0]), [3, 0]);
        assert_eq!(excess(&[u32::MAX, 1], &[5, 5]), [0, 4]);
        assert_eq!(excess(&[1], &[4, 2]), [0, 2], "a subset that the route does not have");
    }

    #[test]
    fn whatever_is_closed_leaves_every_share() {
        // Nobody comes again: the shares of those that stay are the smaller ones.
        for counts in [[80, 20, 0], [7, 0, 0], [33, 33, 40], [1, 2, 3]] {
            let (of, mut counts) = ([5, 3, 2], counts);
            loop {
                let beyond = excess(&of, &counts);
                let Some(at) = beyond.iter().position(|n| *n > 0) else { break };
                counts[at] -= 1;
                let total: u64 = counts.iter().sum();
                assert!(counts[at] * 10 >= total * u64::from(of[at]), "{counts:?}");
            }
        }
    }

    #[test]
    fn clients_that_come_again_bring_the_exact_split_with_no_closing_too_many() {
        let (mut counts, mut closed, mut ticket) = ([80_u64, 20], 0, 0_usize);
        while excess(&[1, 1], &counts) != [0, 0] {
            let quota = excess(&[1, 1], &counts)[0].min(7);
            counts[0] -= quota;
            closed += quota;
            for _ in 0..quota {
                counts[ticket % 2] += 1;
                ticket += 1;
            }
        }
        assert_eq!(counts, [50, 50]);
        assert!((59..=61).contains(&closed), "every second one goes over: {closed}");
    }

    #[test]
    fn the_rate_bounds_a_round_and_busy_ones_wait() {
        let at = |subset| ((9, 1), (subset, 1));
        let some = |connections, idle, soonest_ns| Excess {
            connections,
            seen: Seen { live: connections, idle, soonest_ns },
        };
        let mut closing = Closing::default();
        let all = vec![(at(1), some(3, 9, 70)), (at(2), some(8, 5, 50)), (at(3), some(2, 0, 40))];
        share_out(&mut closing, &"a".into(), all, 6);
        assert_eq!(closing.quotas, HashMap::from([(at(2), 5), (at(1), 1)]));
        assert_eq!(closing.soonest_ns, Some(0));
        let mut closing = Closing::default();
        share_out(&mut closing, &"a".into(), vec![(at(3), some(2, 0, 40))], 6);
        assert!(closing.quotas.is_empty());
        assert_eq!(closing.soonest_ns, Some(40));
    }
}
