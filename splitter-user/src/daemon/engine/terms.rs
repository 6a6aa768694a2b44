//! Which services may ask something else of established connections than they did.

use std::collections::{BTreeMap, BTreeSet};

use splitter_common::abi::{State, StateRef, cell};
use splitter_common::life::{is_down, is_panic};

use super::leaving::Seat;
use super::{Engine, OptionalHooks};
use crate::compile::{backend_image, effective_weights, name_ids, service_id};
use crate::daemon::outcomes::{OutOfUse, monotonic_ns};
use crate::daemon::sweep::{Asking, Balance, Shares, Terms};
use crate::policy::model::{Action, OldConnections, OnBackendDown, Pick, Service, Subset};
use crate::publish::{CounterOwner, Counters};
use crate::tables::world::HostState;
use crate::tables::{Arena, Maps, read};

/// Services that close connections, and what became of them since somebody asked.
#[derive(Default)]
pub(super) struct TimedServices {
    users: BTreeSet<String>,
    changed: BTreeSet<String>,
    /// Services that close connections to backends that are down, with the states of those that were
    /// when somebody looked last.
    down: BTreeMap<String, Vec<StateRef>>,
}

impl TimedServices {
    /// A service is in force, in place of what ran under its name. Its states may be others even
    /// where its subsets are what they were.
    pub(super) fn installed(&mut self, new: &Service) {
        let closes = new.on_backend_down == OnBackendDown::Close;
        if closes {
            self.down.entry(new.name.clone()).or_default();
        } else {
            self.down.remove(&new.name);
        }
        let is_user = closes
            || new.old_connections != OldConnections::Leave
            || new.subsets.iter().any(|subset| !terms_of(subset).is_empty());
        let was_user = self.users.contains(&new.name);
        if is_user && !was_user {
            self.users.insert(new.name.clone());
        } else if was_user && !is_user {
            self.users.remove(&new.name);
        }
        if is_user || was_user {
            self.changed.insert(new.name.clone());
        }
    }

    /// Services are gone; `is_left` says which are not.
    pub(super) fn removed(&mut self, is_left: impl Fn(&str) -> bool) {
        self.down.retain(|name, _| is_left(name));
        let (users, gone) = std::mem::take(&mut self.users).into_iter().partition(|it| is_left(it));
        self.users = users;
        self.changed.extend::<BTreeSet<String>>(gone);
    }

    /// A service may ask something else, for another reason than its text.
    pub(super) fn touch(&mut self, name: &str) {
        self.changed.insert(name.to_owned());
    }
}

/// The states of one service, by their owners.
pub(in crate::daemon) type States = BTreeMap<CounterOwner, u32>;

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Names of the services that may ask for something else than when this was last asked, each
    /// with what it asks of its established connections.
    pub(crate) fn take_changed_terms(&mut self) -> Vec<(String, Asking)> {
        self.settle_drains();
        let pruned = self.leaving.prune(monotonic_ns());
        if !pruned.is_empty() {
            for name in &pruned {
                self.timed.touch(name);
            }
            self.hold_state(!self.leaving.is_empty());
        }
        let changed = std::mem::take(&mut self.timed.changed).into_iter();
        let asking = |name: String| {
            let asking = self.find_asking(&name);
            (name, asking)
        };
        changed.map(asking).collect()
    }

    /// Has services that come to their weights look again at who takes connections.
    pub(crate) fn touch_balanced(&mut self) {
        let is_balanced = |name: &&String| {
            self.running.get(*name).is_some_and(|running| {
                matches!(running.service.old_connections, OldConnections::Rebalance { .. })
            })
        };
        let balanced: Vec<String> = self.timed.users.iter().filter(is_balanced).cloned().collect();
        self.timed.changed.extend(balanced);
    }

    /// Whether it has to be looked at times which backends are down.
    pub(crate) fn closes_at_down(&self) -> bool {
        !self.timed.down.is_empty()
    }

    /// Looks which backends are down: the kernel ejects them by itself, and tells nobody.
    pub(crate) fn look_for_down(&mut self) {
        let names: Vec<String> = self.timed.down.keys().cloned().collect();
        for name in names {
            let down = self.find_down(&name);
            if self.timed.down.get(&name) != Some(&down) {
                self.timed.touch(&name);
                self.timed.down.insert(name, down);
            }
        }
    }

    /// States of the backends of a service that are down, and whose connections are to be closed.
    fn find_down(&self, name: &str) -> Vec<StateRef> {
        let closing = self.timed.down.contains_key(name).then(|| service_id(name));
        let Some(image) = closing.and_then(|id| self.publisher.image(id)) else {
            return Vec::new();
        };
        let (states, now_ns) = (self.states_of(name), monotonic_ns());
        let peek = |owner| Some(HostState::peek(self.publisher.maps(), *states.get(&owner)?));
        let mut down = Vec::new();
        for subset in &image.subsets {
            let own = subset.conduct.as_deref().zip(peek(CounterOwner::Subset(subset.id)));
            let is_panic =
                own.is_some_and(|(conduct, own)| is_panic(conduct, subset.n_weighted.into(), &own));
            for backend in &subset.backends {
                let owner = CounterOwner::Backend(subset.id, *backend);
                if peek(owner).is_some_and(|backend| is_down(&backend, is_panic, now_ns)) {
                    down.extend(states.get(&owner).and_then(|index| self.state_ref(*index)));
                }
            }
        }
        down
    }

    /// Indices of the states of a service that is followed.
    pub(in crate::daemon) fn states_of(&self, name: &str) -> States {
        let states = self.publisher.states(service_id(name));
        states.iter().flat_map(Counters::iter).collect()
    }

    /// Of a service that is gone, or not followed, only what left.
    fn find_asking(&self, name: &str) -> Asking {
        let leavers = self.leaving.of(name).iter();
        let until = |until_ns| Terms { until_ns: Some(until_ns), ..Terms::default() };
        let mut left: Vec<_> = leavers.clone().map(|it| (it.state, until(it.until_ns))).collect();
        let has_left = leavers.clone().any(|leaver| leaver.has_datagrams);
        let Some(running) = self.running.get(name) else {
            return Asking { terms: left, balance: None, datagrams: has_left };
        };
        let (service, states) = (&running.service, self.states_of(name));
        let (down, now_ns) = (self.find_down(name), monotonic_ns());
        let mut terms = Vec::new();
        for Seat { member, state, command, has_datagrams, .. } in self.seats(name) {
            let at = left.iter().position(|(left, _)| *left == state);
            let policy = at.and_then(|at| left.swap_remove(at).1.until_ns);
            // Where nobody counts them, they are looked at also if they never end.
            let never = has_datagrams.then_some(u64::MAX);
            let until_ns = command.map_or(policy, |deadline| deadline.ns().or(never));
            let down_ns = down.contains(&state).then_some(now_ns);
            let subset = service.subsets.iter().find(|it| it.name == member.subset);
            let asked = subset.map(terms_of).unwrap_or_default();
            terms.push((state, Terms { until_ns, down_ns, ..asked }));
        }
        terms.retain(|(_, terms)| !terms.is_empty());
        terms.extend(left);
        let datagrams = has_left || service.has_datagrams();
        Asking { terms, balance: self.find_balance(service, &states), datagrams }
    }

    /// Routes whose clients come again to what the weights say: those by a wheel.
    fn find_balance(&self, service: &Service, states: &States) -> Option<Balance> {
        let OldConnections::Rebalance { per_second, idle_ms } = service.old_connections else {
            return None;
        };
        let state = |owner| self.state_ref(*states.get(&owner)?);
        let subset_ids = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        let route_ids = name_ids(service.routes.iter().map(|route| route.name.as_str()));
        let mut routes = Vec::new();
        for (route, id) in service.routes.iter().zip(route_ids) {
            let Action::Split(split) = &route.action else { continue };
            let Some(route) = state(CounterOwner::Route(id)) else { continue };
            if split.pick != Pick::Exact {
                continue;
            }
            let subsets = service.subsets.iter().zip(&subset_ids);
            let weighted = subsets.zip(effective_weights(service, split));
            let is_able = weighted
                .clone()
                .all(|((subset, id), weight)| weight == 0 || self.is_taking(subset, *id, states));
            let weights = weighted
                .filter_map(|((_, id), weight)| Some((state(CounterOwner::Subset(*id))?, weight)))
                .collect();
            routes.push(Shares { route, weights, is_able });
        }
        Some(Balance { per_second, idle_ms, routes })
    }

    /// Whether a subset takes connections: it has room, and a backend that may be chosen and did not
    /// fail the last time.
    fn is_taking(&self, subset: &Subset, id: u32, states: &States) -> bool {
        let state =
            |owner| read::<State, _>(self.publisher.maps(), Arena::States, *states.get(&owner)?);
        let now_ns = monotonic_ns();
        let has_room = subset.connection.max_connections.is_none_or(|most| {
            let own = state(CounterOwner::Subset(id));
            own.is_some_and(|own| own.cells[cell::LIVE] < u64::from(most))
        });
        let mut weighted = subset.backends.iter().filter(|backend| backend.weight > 0);
        has_room
            && weighted.any(|backend| {
                let owner = CounterOwner::Backend(id, backend_image(backend.addr));
                state(owner).is_some_and(|state| {
                    OutOfUse::of(&state, now_ns).is_none() && state.cells[cell::FAILURES] == 0
                })
            })
    }

    pub(super) fn state_ref(&self, index: u32) -> Option<StateRef> {
        let state: State = read(self.publisher.maps(), Arena::States, index)?;
        let epoch = u32::try_from(state.cells[cell::STANDING] >> 32).ok()?;
        Some(StateRef { index, epoch })
    }
}

fn terms_of(subset: &Subset) -> Terms {
    let asked = &subset.connection;
    let (idle_ms, lifetime_ms) = (asked.idle_timeout_ms, asked.max_lifetime_ms);
    Terms { idle_ms, lifetime_ms, ..Terms::default() }
}
