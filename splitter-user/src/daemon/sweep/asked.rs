//! What is asked of connections, by backend.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use splitter_common::abi::StateRef;

use super::Order;

const MS: u64 = 1_000_000;

/// What is asked of the connections to one backend, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Longest time without data.
    pub(crate) idle_ms: Option<u32>,
    /// Longest time from `connect()` on.
    pub(crate) lifetime_ms: Option<u32>,
}

impl Terms {
    /// As [`Self::idle_ms`], in nanoseconds.
    pub(super) fn idle_ns(&self) -> Option<u64> {
        self.idle_ms.map(|ms| u64::from(ms) * MS)
    }

    /// As [`Self::lifetime_ms`], in nanoseconds.
    pub(super) fn lifetime_ns(&self) -> Option<u64> {
        self.lifetime_ms.map(|ms| u64::from(ms) * MS)
    }

    /// Whether nothing is asked.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What all services ask.
#[derive(Default)]
pub(super) struct Asked {
    services: BTreeMap<Arc<str>, Vec<(StateRef, Terms)>>,
    /// By index and epoch of the backend's state.
    backends: HashMap<(u32, u32), (Arc<str>, Terms)>,
}

impl Asked {
    /// Takes an order in. Answers whether it changes anything.
    pub(super) fn set(&mut self, order: Order) -> bool {
        let Order { service, terms } = order;
        let old = self.services.remove(&service).unwrap_or_default();
        let is_other = old != terms;
        for (state, _) in old {
            self.backends.remove(&key(state));
        }
        for (state, terms) in &terms {
            self.backends.insert(key(*state), (Arc::clone(&service), *terms));
        }
        if !terms.is_empty() {
            self.services.insert(service, terms);
        }
        is_other
    }

    /// Whose backend counts there, and what is asked.
    pub(super) fn find(&self, state: StateRef) -> Option<&(Arc<str>, Terms)> {
        self.backends.get(&key(state))
    }

    /// Services that ask for something.
    pub(super) fn n_services(&self) -> usize {
        self.services.len()
    }

    /// The shortest time that anybody asks for, in nanoseconds: no connection that begins now has
    /// to be closed before. `None` where nobody asks.
    pub(super) fn shortest_ns(&self) -> Option<u64> {
        let all = self.backends.values();
        all.flat_map(|(_, terms)| [terms.idle_ns(), terms.lifetime_ns()]).flatten().min()
    }
}

fn key(state: StateRef) -> (u32, u32) {
    (state.index, state.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(service: &str, terms: &[(u32, u32, u32)]) -> Order {
        let idle = |ms| Terms { idle_ms: Some(ms), lifetime_ms: None };
        let entry = |(index, epoch, ms)| (StateRef { index, epoch }, idle(ms));
        Order { service: service.into(), terms: terms.iter().copied().map(entry).collect() }
    }

    #[test]
    fn an_order_replaces_the_one_before_of_the_same_service() {
        let mut asked = Asked::default();
        assert_eq!(asked.shortest_ns(), None);
        assert!(asked.set(order("a", &[(1, 1, 50), (2, 1, 70)])));
        assert!(!asked.set(order("a", &[(1, 1, 50), (2, 1, 70)])), "nothing is other");
        assert!(asked.set(order("b", &[(3, 1, 90)])));
        assert_eq!(asked.shortest_ns(), Some(50 * MS));
        assert!(asked.set(order("a", &[(2, 2, 80)])));
        let of = |index, epoch| asked.find(StateRef { index, epoch }).map(|(name, _)| &**name);
        assert_eq!([of(1, 1), of(2, 1), of(2, 2), of(3, 1)], [None, None, Some("a"), Some("b")]);
        assert_eq!(asked.shortest_ns(), Some(80 * MS));
    }

    #[test]
    fn services_that_ask_no_more_are_forgotten() {
        let mut asked = Asked::default();
        asked.set(order("a", &[(1, 1, 50)]));
        assert!(asked.set(order("a", &[])));
        assert!(!asked.set(order("a", &[])));
        assert_eq!((asked.n_services(), asked.shortest_ns()), (0, None));
    }

    #[test]
    fn a_state_that_has_another_owner_stays_the_others() {
        let mut asked = Asked::default();
        asked.set(order("a", &[(1, 1, 50)]));
        asked.set(order("b", &[(1, 2, 60)]));
        asked.set(order("a", &[]));
        assert!(asked.find(StateRef { index: 1, epoch: 2 }).is_some());
    }
}
