//! Who has connections that are to end, whether the policy or a command says so: before and after a
//! change, after a start, and for `status`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use serde::{Deserialize, Serialize};
use splitter_common::abi::{State, StateRef, cell, standing};
use tracing::{info, warn};

use super::leaving::{Member, Seat};
use super::{Engine, OptionalHooks, Target};
use crate::compile::image::ServiceId;
use crate::compile::{backend_image, effective_weights, name_ids, service_id};
use crate::daemon::drains::{Deadline, Drain, Now};
use crate::daemon::outcomes::monotonic_ns;
use crate::daemon::overrides::Changes;
use crate::policy::model::{Action, OldConnections, Service};
use crate::publish::{CounterOwner, Counters};
use crate::tables::{Arena, Maps, read};

/// A backend that drains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainStatus {
    /// Name of the service, which may be gone.
    pub(crate) service: String,
    /// Name of the subset, which may be gone.
    pub(crate) subset: String,
    /// Address of the backend, which may be gone.
    pub(crate) backend: String,
    /// Connections that are left.
    pub(crate) connections: u64,
    /// When they are closed, in milliseconds from now, 0 where that is over; not at all where there
    /// is none.
    pub(crate) for_ms: Option<u64>,
    /// `command` or `policy`.
    pub(crate) by: String,
}

/// A service before a change.
pub(super) struct Watched {
    name: String,
    was: Vec<Seat>,
    /// How long connections of those that leave may go on, if the policy closes them.
    deadline_ms: Option<u32>,
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Backends of a service in force whose connections are followed.
    pub(super) fn seats(&self, name: &str) -> Vec<Seat> {
        let Some(running) = self.running.get(name) else { return Vec::new() };
        let (service, states) = (&running.service, self.states_of(name));
        let ids = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        let mut seats = Vec::new();
        for ((subset, id), is_weighted) in service.subsets.iter().zip(ids).zip(weighted(service)) {
            for backend in &subset.backends {
                let owner = CounterOwner::Backend(id, backend_image(backend.addr));
                let state = states.get(&owner).and_then(|index| self.state_ref(*index));
                let Some(state) = state else { continue };
                seats.push(Seat {
                    member: Member { subset: subset.name.clone(), addr: backend.addr },
                    state,
                    is_offered: is_weighted && backend.weight > 0,
                    command: self.drains.find(name, &subset.name, backend.addr),
                    live: self.live(state),
                });
            }
        }
        seats
    }

    /// Connections that count at a state.
    fn live(&self, state: StateRef) -> u64 {
        let state = read::<State, _>(self.publisher.maps(), Arena::States, state.index);
        state.map_or(0, |state| state.cells[cell::LIVE])
    }

    /// The services of a change from which backends may leave whose connections are to end.
    pub(super) fn watch_leavers(&self, targets: &[Target], removed: &[ServiceId]) -> Vec<Watched> {
        let watch = |service: &Service| {
            let (name, deadline_ms) = (&service.name, deadline_ms(service));
            let is_watched = deadline_ms.is_some() || self.has_leavers(name);
            is_watched.then(|| Watched { name: name.clone(), was: self.seats(name), deadline_ms })
        };
        let mut watched: Vec<Watched> =
            targets.iter().filter_map(|target| watch(&target.service)).collect();
        if !removed.is_empty() {
            let removed: HashSet<&ServiceId> = removed.iter().collect();
            let gone = self.running.values().map(|running| running.service.as_ref());
            let gone = gone.filter(|service| removed.contains(&service_id(&service.name)));
            watched.extend(gone.filter_map(watch));
        }
        watched
    }

    /// Whether the policy in force or a command has connections of a service end.
    fn has_leavers(&self, name: &str) -> bool {
        self.leaving.has(name)
            || self.drains.of(name).next().is_some()
            || self.running.get(name).is_some_and(|it| deadline_ms(&it.service).is_some())
    }

    /// The change is in force.
    pub(super) fn follow_leavers(&mut self, watched: Vec<Watched>) {
        for Watched { name, was, deadline_ms } in watched {
            let is = self.seats(&name);
            let deadline = Deadline::after(monotonic_ns(), deadline_ms.map(u64::from));
            let new = self.leaving.change(&name, (&was, &is), deadline.ns());
            let live = |seats: &[Seat], member: &Member| {
                let seat = seats.iter().find(|seat| seat.member == *member);
                seat.map(|seat| seat.live)
            };
            let live = |member| live(&was, member).or_else(|| live(&is, member)).unwrap_or(0);
            let connections: u64 = new.iter().map(live).sum();
            if connections > 0 {
                let backends = new.len();
                info!(service = %name, backends, connections, deadline_ms, "connections are to end");
            }
            self.timed.touch(&name);
        }
    }

    /// What is drained by command is something else now.
    pub(super) fn refresh_leavers(&mut self, name: &str) {
        let seats = self.seats(name);
        let running = self.running.get(name);
        let ms = running.and_then(|running| deadline_ms(&running.service)).map(u64::from);
        let deadline = Deadline::after(monotonic_ns(), ms);
        self.leaving.change(name, (&seats, &seats), deadline.ns());
        self.timed.touch(name);
    }

    /// Forgets drains by command that the policy has put an end to.
    pub(super) fn settle_drains(&mut self) {
        if self.degraded.is_some() || self.drains.iter().all(|drain| self.stands(drain)) {
            return;
        }
        let (kept, ended) = (
            self.drains.filtered(|drain| self.stands(drain)),
            self.drains.filtered(|drain| !self.stands(drain)),
        );
        for Drain { service, subset, backend, .. } in ended.iter() {
            let backend = backend.map(|addr| addr.to_string());
            info!(%service, %subset, backend, "the policy changed after the drain: it counts");
            self.timed.touch(service);
        }
        let changes = Changes { drains: Some(kept.to_text(Now::read())), ..Changes::default() };
        self.drains = kept;
        if let Err(error) = self.overrides.set(changes).and_then(|()| self.overrides.settle()) {
            warn!("remove drains from the state directory: {error}");
        }
    }

    /// Whether what is drained is still there, and still gets nothing.
    fn stands(&self, drain: &Drain) -> bool {
        let Some(running) = self.running.get(&drain.service) else { return false };
        let service = &running.service;
        let subsets = service.subsets.iter().zip(weighted(service));
        let mut subsets = subsets.filter(|(subset, _)| subset.name == drain.subset);
        match (subsets.next(), drain.backend) {
            (None, _) => false,
            (Some((_, is_weighted)), None) => !is_weighted,
            (Some((subset, _)), Some(addr)) => {
                self.publisher.states(service_id(&service.name)).is_some()
                    && subset.backends.iter().any(|backend| backend.addr == addr)
            }
        }
    }

    /// Takes up what an earlier daemon drained, before connections meet the policy.
    pub(crate) fn resume_drains(&mut self) -> io::Result<()> {
        if self.degraded.is_some() {
            return Ok(());
        }
        let drained = self.drains.iter().filter_map(|drain| self.owner_of(drain));
        let drained: HashSet<(ServiceId, CounterOwner)> = drained.collect();
        let ids: Vec<ServiceId> = self.publisher.services().collect();
        for id in ids {
            let states = self.publisher.states(id);
            for (owner, index) in states.iter().flat_map(Counters::iter) {
                let state = read::<State, _>(self.publisher.maps(), Arena::States, index);
                let bits = state.map_or(0, |state| state.cells[cell::STANDING]);
                let wanted = drained.contains(&(id, owner));
                if wanted != (bits & standing::DRAINING != 0) {
                    self.publisher.set_standing(id, owner, standing::DRAINING, wanted)?;
                }
            }
        }
        Ok(())
    }

    /// Where a drained backend counts.
    fn owner_of(&self, drain: &Drain) -> Option<(ServiceId, CounterOwner)> {
        let subsets = &self.running.get(&drain.service)?.service.subsets;
        let ids = name_ids(subsets.iter().map(|subset| subset.name.as_str()));
        let (_, id) = subsets.iter().zip(ids).find(|(subset, _)| subset.name == drain.subset)?;
        let owner = CounterOwner::Backend(id, backend_image(drain.backend?));
        Some((service_id(&drain.service), owner))
    }

    /// Everything that drains. `seen` has the connections to backends that left the policy, by index
    /// and epoch of their states.
    pub(crate) fn draining(&self, seen: &HashMap<(u32, u32), u64>) -> Vec<DrainStatus> {
        let now_ns = monotonic_ns();
        let names: BTreeSet<&str> = self.drains.iter().map(|it| it.service.as_str()).collect();
        let mut all = Vec::new();
        for name in names {
            for Seat { member, command, live, .. } in self.seats(name) {
                let deadline = command.map(|deadline| (deadline.ns(), now_ns));
                all.extend(deadline.map(|it| DrainStatus::new(name, &member, live, it, "command")));
            }
        }
        let leavers = self.leaving.iter().map(|(name, leaver)| {
            let state = (leaver.state.index, leaver.state.epoch);
            let live = match leaver.last_live {
                None => self.live(leaver.state),
                Some(last) => seen.get(&state).copied().unwrap_or(last),
            };
            let by = if leaver.by_command { "command" } else { "policy" };
            DrainStatus::new(name, &leaver.member, live, (Some(leaver.until_ns), now_ns), by)
        });
        all.extend(leavers.filter(|drain| drain.connections > 0));
        all
    }
}

impl DrainStatus {
    fn new(
        service: &str,
        member: &Member,
        connections: u64,
        (until_ns, now_ns): (Option<u64>, u64),
        by: &str,
    ) -> Self {
        let left_ms = |until: u64| until.saturating_sub(now_ns).div_ceil(1_000_000);
        Self {
            service: service.to_owned(),
            subset: member.subset.clone(),
            backend: member.addr.to_string(),
            connections,
            for_ms: until_ns.map(left_ms),
            by: by.to_owned(),
        }
    }
}

/// How long connections of backends go on that nobody is sent to any more, if the policy closes
/// them.
fn deadline_ms(service: &Service) -> Option<u32> {
    match service.old_connections {
        OldConnections::Drain { deadline_ms } => Some(deadline_ms),
        OldConnections::Leave | OldConnections::Rebalance { .. } => None,
    }
}

/// Whether some route sends connections to each subset.
fn weighted(service: &Service) -> Vec<bool> {
    let mut weighted = vec![false; service.subsets.len()];
    for route in &service.routes {
        let Action::Split(split) = &route.action else { continue };
        for (is_weighted, weight) in weighted.iter_mut().zip(effective_weights(service, split)) {
            *is_weighted |= weight > 0;
        }
    }
    weighted
}
