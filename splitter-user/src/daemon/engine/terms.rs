//! Which services' times for connections may be others than they were.

use std::collections::{BTreeMap, BTreeSet};

use splitter_common::abi::{State, StateRef, cell};

use super::{Engine, OptionalHooks};
use crate::compile::{backend_image, name_ids, service_id};
use crate::daemon::sweep::Terms;
use crate::policy::model::{Service, Subset};
use crate::publish::{CounterOwner, Counters};
use crate::tables::{Arena, Maps, read};

/// Services that close connections after a time, and what became of them since somebody asked.
#[derive(Default)]
pub(super) struct TimedServices {
    users: BTreeSet<String>,
    changed: BTreeSet<String>,
}

impl TimedServices {
    /// A service is in force, in place of what ran under its name. Its states may be others even
    /// where its subsets are what they were.
    pub(super) fn installed(&mut self, new: &Service) {
        let is_user = new.subsets.iter().any(|subset| !terms_of(subset).is_empty());
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
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Names of the services that may ask for other times than when this was last asked, each with
    /// what it asks of the connections to its backends, by their states.
    pub(crate) fn take_changed_terms(&mut self) -> Vec<(String, Vec<(StateRef, Terms)>)> {
        let changed = std::mem::take(&mut self.timed.changed).into_iter();
        let terms = |name: String| {
            let terms = self.find_terms(&name);
            (name, terms)
        };
        changed.map(terms).collect()
    }

    /// Nothing where the service is gone, or its connections are not followed.
    fn find_terms(&self, name: &str) -> Vec<(StateRef, Terms)> {
        let Some(running) = self.running.get(name) else { return Vec::new() };
        let subsets = &running.service.subsets;
        let ids = name_ids(subsets.iter().map(|subset| subset.name.as_str()));
        let asked = subsets.iter().zip(ids).flat_map(|(subset, id)| {
            let owner = move |addr| CounterOwner::Backend(id, backend_image(addr));
            subset.backends.iter().map(move |it| (owner(it.addr), terms_of(subset)))
        });
        let asked = asked.filter(|(_, terms)| !terms.is_empty());
        let states = self.publisher.states(service_id(name));
        let states: BTreeMap<_, _> = states.iter().flat_map(Counters::iter).collect();
        asked
            .filter_map(|(owner, terms)| Some((self.state_ref(*states.get(&owner)?)?, terms)))
            .collect()
    }

    fn state_ref(&self, index: u32) -> Option<StateRef> {
        let state: State = read(self.publisher.maps(), Arena::States, index)?;
        let epoch = u32::try_from(state.cells[cell::STANDING] >> 32).ok()?;
        Some(StateRef { index, epoch })
    }
}

fn terms_of(subset: &Subset) -> Terms {
    let asked = &subset.connection;
    Terms { idle_ms: asked.idle_timeout_ms, lifetime_ms: asked.max_lifetime_ms }
}
