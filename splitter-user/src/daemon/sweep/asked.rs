//! What is asked of connections, by backend.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use splitter_common::abi::StateRef;

use super::Order;
use super::balance::{Balance, Closing, Excess, Live, Shares, find_excess, share_out};

const MS: u64 = 1_000_000;
/// How long after the end of a drain it is looked at once more: a connection that chose the backend
/// just before nobody was to may be established just after.
const AFTER_NS: u64 = 1_000 * MS;

/// Index and epoch of a state.
pub(super) type Key = (u32, u32);
/// The states of a route and of a subset.
pub(super) type Share = (Key, Key);

/// What is asked of the connections to one backend, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Longest time without data.
    pub(crate) idle_ms: Option<u32>,
    /// Longest time from `connect()` on.
    pub(crate) lifetime_ms: Option<u32>,
    /// When the last of them is closed, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) until_ns: Option<u64>,
    /// When the backend was known not to serve, on the same clock: what began before is closed.
    pub(crate) down_ns: Option<u64>,
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

/// What one service asks of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asking {
    /// By the state of each backend, those included that left the policy.
    pub(crate) terms: Vec<(StateRef, Terms)>,
    /// How the live split comes to what the weights ask for, if it does.
    pub(crate) balance: Option<Balance>,
    /// Whether the terms are for UDP sockets too.
    pub(crate) datagrams: bool,
}

impl Asking {
    fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.balance.is_none()
    }
}

/// What all services ask.
#[derive(Default)]
pub(super) struct Asked {
    services: BTreeMap<Arc<str>, Asking>,
    /// By the backend's state.
    backends: HashMap<Key, (Arc<str>, Terms)>,
    /// Routes whose live split is not known to be what their weights ask for, by their states.
    unbalanced: HashMap<Key, Arc<str>>,
}

impl Asked {
    /// Takes an order in. Answers whether it changes anything.
    pub(super) fn set(&mut self, order: Order) -> bool {
        let Order { service, asking } = order;
        let old = self.services.remove(&service).unwrap_or_default();
        let is_other = old != asking;
        for (state, _) in &old.terms {
            self.backends.remove(&key(*state));
        }
        for (state, terms) in &asking.terms {
            self.backends.insert(key(*state), (Arc::clone(&service), *terms));
        }
        self.set_unbalanced(&service, old.balance.as_ref(), asking.balance.as_ref());
        if !asking.is_empty() {
            self.services.insert(service, asking);
        }
        is_other
    }

    /// Routes that are new or have other weights are to be looked at, and those that are gone no
    /// longer.
    fn set_unbalanced(&mut self, service: &Arc<str>, old: Option<&Balance>, new: Option<&Balance>) {
        let routes =
            |balance: Option<&Balance>| balance.map(|it| it.routes.clone()).unwrap_or_default();
        let (old, new) = (routes(old), routes(new));
        for gone in old.iter().filter(|old| new.iter().all(|new| new.route != old.route)) {
            self.unbalanced.remove(&key(gone.route));
        }
        for Shares { route, weights, .. } in &new {
            if old.iter().all(|old| (&old.route, &old.weights) != (route, weights)) {
                self.unbalanced.insert(key(*route), Arc::clone(service));
            }
        }
    }

    /// Whose backend counts there, and what is asked.
    pub(super) fn find(&self, state: StateRef) -> Option<&(Arc<str>, Terms)> {
        self.backends.get(&key(state))
    }

    /// Time without data after which connections of a route are idle, if its live split is not
    /// known to be what its weights ask for.
    pub(super) fn find_unbalanced(&self, route: StateRef) -> Option<u32> {
        let service = self.unbalanced.get(&key(route))?;
        Some(self.services.get(service)?.balance.as_ref()?.idle_ms)
    }

    /// Which connections are to be closed where these are live, by route. Routes whose live split
    /// is what the weights ask for are looked at no more.
    pub(super) fn balance(&mut self, live: &HashMap<Key, Live>) -> Closing {
        let mut closing = Closing::default();
        for (name, asking) in &self.services {
            let Some(balance) = &asking.balance else { continue };
            let mut excess: Vec<(Share, Excess)> = Vec::new();
            for shares in &balance.routes {
                let route = key(shares.route);
                if !self.unbalanced.contains_key(&route) {
                    continue;
                }
                let found = live.get(&route).map(|live| find_excess(&shares.weights, live));
                let found = found.unwrap_or_default();
                if found.is_empty() {
                    self.unbalanced.remove(&route);
                } else if shares.is_able {
                    excess.extend(found.into_iter().map(|(subset, it)| ((route, subset), it)));
                }
            }
            share_out(&mut closing, name, excess, balance.per_second);
        }
        closing
    }

    /// States of backends whose connections are to end.
    pub(super) fn ends(&self) -> impl Iterator<Item = Key> {
        let ends = self.backends.iter().filter(|(_, (_, terms))| terms.until_ns.is_some());
        ends.map(|(state, _)| *state)
    }

    /// Whether some service asks for something of UDP sockets.
    pub(super) fn asks_of_datagrams(&self) -> bool {
        self.services.values().any(|asking| asking.datagrams && !asking.terms.is_empty())
    }

    /// Services that ask for something.
    pub(super) fn n_services(&self) -> usize {
        self.services.len()
    }

    /// Routes whose live split is not known to be what their weights ask for.
    pub(super) fn n_unbalanced(&self) -> usize {
        self.unbalanced.len()
    }

    /// When a connection that is not there yet at this time may first have to be closed; `None`
    /// where none has to. In nanoseconds.
    pub(super) fn soonest_ns(&self, now_ns: u64) -> Option<u64> {
        let all = || self.backends.values().map(|(_, terms)| terms);
        let times = all().flat_map(|terms| [terms.idle_ns(), terms.lifetime_ns()]).flatten();
        let times = times.map(|time| now_ns.saturating_add(time));
        let ends = all().flat_map(|terms| [terms.until_ns, terms.down_ns]).flatten();
        let ends = ends.flat_map(|end| [end, end.saturating_add(AFTER_NS)]);
        times.chain(ends.filter(|end| *end > now_ns)).min()
    }
}

pub(super) fn key(state: StateRef) -> Key {
    (state.index, state.epoch)
}

#[cfg(test)]
mod tests {
    use super::super::balance::Seen;
    use super::*;

    fn order(service: &str, terms: &[(u32, u32, u32)]) -> Order {
        let idle = |ms| Terms { idle_ms: Some(ms), ..Terms::default() };
        let entry = |(index, epoch, ms)| (StateRef { index, epoch }, idle(ms));
        let terms = terms.iter().copied().map(entry).collect();
        Order { service: service.into(), asking: Asking { terms, ..Asking::default() } }
    }

    fn balanced(weights: [u32; 2], is_able: bool) -> Order {
        let subset = |(index, weight)| (StateRef { index, epoch: 1 }, weight);
        let route = StateRef { index: 9, epoch: 1 };
        let weights = (1..).zip(weights).map(subset).collect();
        let routes = vec![Shares { route, weights, is_able }];
        let balance = Some(Balance { per_second: 5, idle_ms: 7, routes });
        Order { service: "a".into(), asking: Asking { balance, ..Asking::default() } }
    }

    fn live(first: u64, second: u64) -> HashMap<Key, Live> {
        let all = |n| Seen { live: n, idle: n, soonest_ns: u64::MAX };
        HashMap::from([((9, 1), Live::from([((1, 1), all(first)), ((2, 1), all(second))]))])
    }

    #[test]
    fn an_order_replaces_the_one_before_of_the_same_service() {
        let mut asked = Asked::default();
        assert_eq!(asked.soonest_ns(0), None);
        assert!(asked.set(order("a", &[(1, 1, 50), (2, 1, 70)])));
        assert!(!asked.set(order("a", &[(1, 1, 50), (2, 1, 70)])), "nothing is other");
        assert!(asked.set(order("b", &[(3, 1, 90)])));
        assert_eq!(asked.soonest_ns(3), Some(50 * MS + 3));
        assert!(asked.set(order("a", &[(2, 2, 80)])));
        let of = |index, epoch| asked.find(StateRef { index, epoch }).map(|(name, _)| &**name);
        assert_eq!([of(1, 1), of(2, 1), of(2, 2), of(3, 1)], [None, None, Some("a"), Some("b")]);
        assert_eq!(asked.soonest_ns(0), Some(80 * MS));
    }

    #[test]
    fn services_that_ask_no_more_are_forgotten() {
        let mut asked = Asked::default();
        asked.set(order("a", &[(1, 1, 50)]));
        assert!(asked.set(order("a", &[])));
        assert!(!asked.set(order("a", &[])));
        assert_eq!((asked.n_services(), asked.soonest_ns(0)), (0, None));
    }

    #[test]
    fn a_state_that_has_another_owner_stays_the_others() {
        let mut asked = Asked::default();
        asked.set(order("a", &[(1, 1, 50)]));
        asked.set(order("b", &[(1, 2, 60)]));
        asked.set(order("a", &[]));
        assert!(asked.find(StateRef { index: 1, epoch: 2 }).is_some());
    }

    #[test]
    fn a_drain_is_looked_at_when_it_ends_and_once_after() {
        let mut asked = Asked::default();
        let terms = Terms { until_ns: Some(500), ..Terms::default() };
        let terms = vec![(StateRef { index: 1, epoch: 1 }, terms)];
        let asking = Asking { terms, ..Asking::default() };
        asked.set(Order { service: "a".into(), asking });
        let at = |now| asked.soonest_ns(now);
        assert_eq!([at(0), at(499)], [Some(500); 2]);
        assert_eq!([at(500), at(AFTER_NS)], [Some(500 + AFTER_NS); 2]);
        assert_eq!(at(500 + AFTER_NS), None);
    }

    #[test]
    fn a_backend_that_is_down_is_looked_at_at_once_and_once_after() {
        let mut asked = Asked::default();
        let terms = Terms { down_ns: Some(500), ..Terms::default() };
        let terms = vec![(StateRef { index: 1, epoch: 1 }, terms)];
        let asking = Asking { terms, datagrams: true, ..Asking::default() };
        asked.set(Order { service: "a".into(), asking });
        assert!(asked.asks_of_datagrams());
        assert_eq!(asked.soonest_ns(500), Some(500 + AFTER_NS));
        assert_eq!(asked.soonest_ns(500 + AFTER_NS), None);
        asked.set(order("a", &[]));
        assert!(!asked.asks_of_datagrams());
    }

    #[test]
    fn a_route_is_balanced_until_it_is_and_again_when_its_weights_change() {
        let mut asked = Asked::default();
        let route = StateRef { index: 9, epoch: 1 };
        assert_eq!(asked.find_unbalanced(route), None);
        asked.set(balanced([1, 1], true));
        assert_eq!(asked.find_unbalanced(route), Some(7));
        let quotas = asked.balance(&live(80, 20)).quotas;
        assert_eq!(quotas, HashMap::from([(((9, 1), (1, 1)), 5)]), "no more than the rate");
        assert_eq!(asked.n_unbalanced(), 1);
        asked.set(balanced([1, 1], false));
        assert!(asked.balance(&live(80, 20)).quotas.is_empty(), "nobody could come again");
        assert_eq!(asked.n_unbalanced(), 1);
        asked.set(balanced([1, 1], true));
        assert!(asked.balance(&live(50, 50)).quotas.is_empty());
        assert_eq!(asked.n_unbalanced(), 0);
        asked.set(balanced([1, 1], true));
        assert_eq!(asked.n_unbalanced(), 0, "the weights are what they were");
        asked.set(balanced([1, 3], true));
        assert_eq!(asked.n_unbalanced(), 1);
        asked.set(order("a", &[]));
        assert_eq!((asked.n_unbalanced(), asked.n_services()), (0, 0));
    }
}
