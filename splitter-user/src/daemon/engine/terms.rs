//! Which services may ask something else of established connections than they did.

use std::collections::{BTreeMap, BTreeSet};

use splitter_common::abi::{State, StateRef, cell};

use super::{Engine, OptionalHooks};
use crate::compile::{backend_image, effective_weights, name_ids, service_id};
use crate::daemon::drains::Deadline;
use crate::daemon::outcomes::{OutOfUse, monotonic_ns};
use crate::daemon::sweep::{Asking, Balance, Shares, Terms};
use crate::policy::model::{Action, OldConnections, Pick, Service, Subset};
use crate::publish::{CounterOwner, Counters};
use crate::tables::{Arena, Maps, read};

/// Services that close connections, and what became of them since somebody asked.
#[derive(Default)]
pub(super) struct TimedServices {
    users: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl TimedServices {
    /// A service is in force, in place of what ran under its name. Its states may be others even
    /// where its subsets are what they were.
    pub(super) fn installed(&mut self, new: &Service) {
        let is_user = new.old_connections != OldConnections::Leave
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
        for name in self.leaving.prune(monotonic_ns()) {
            self.timed.touch(&name);
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

    /// Indices of the states of a service that is followed.
    pub(in crate::daemon) fn states_of(&self, name: &str) -> States {
        let states = self.publisher.states(service_id(name));
        states.iter().flat_map(Counters::iter).collect()
    }

    /// Of a service that is gone, or not followed, only what left.
    fn find_asking(&self, name: &str) -> Asking {
        let leavers = self.leaving.of(name).iter();
        let until = |until_ns| Terms { until_ns: Some(until_ns), ..Terms::default() };
        let mut left: Vec<_> = leavers.map(|it| (it.state, until(it.until_ns))).collect();
        let Some(running) = self.running.get(name) else {
            return Asking { terms: left, balance: None };
        };
        let (service, states) = (&running.service, self.states_of(name));
        let ids = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        let mut terms = Vec::new();
        for (subset, id) in service.subsets.iter().zip(ids) {
            for backend in &subset.backends {
                let owner = CounterOwner::Backend(id, backend_image(backend.addr));
                let Some(state) = states.get(&owner).and_then(|it| self.state_ref(*it)) else {
                    continue;
                };
                let at = left.iter().position(|(left, _)| *left == state);
                let policy = at.and_then(|at| left.swap_remove(at).1.until_ns);
                let command = self.drains.find(name, &subset.name, backend.addr);
                let until_ns = command.map_or(policy, Deadline::ns);
                terms.push((state, Terms { until_ns, ..terms_of(subset) }));
            }
        }
        terms.retain(|(_, terms)| !terms.is_empty());
        terms.extend(left);
        Asking { terms, balance: self.find_balance(service, &states) }
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
    Terms { idle_ms: asked.idle_timeout_ms, lifetime_ms: asked.max_lifetime_ms, until_ns: None }
}
