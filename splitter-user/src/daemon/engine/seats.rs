//! Who has connections that are to end, whether the policy or a command says so: before and after a
//! change, after a start, and for `status`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use serde::{Deserialize, Serialize};
use splitter_common::abi::{State, StateRef, cell, standing};
use tracing::{info, warn};

use super::leaving::{Ends, Member, Seat};
use super::{Engine, OptionalHooks, Target};
use crate::compile::image::ServiceId;
use crate::compile::{backend_image, effective_weights, name_ids, service_id};
use crate::daemon::drains::{Deadline, Drain, Now};
use crate::daemon::outcomes::monotonic_ns;
use crate::daemon::overrides::Changes;
use crate::daemon::sweep::Left;
use crate::policy::model::{Action, OldConnections, OnBackendDown, Service};
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
    /// TCP connections that are left.
    pub(crate) connections: u64,
    /// Connected UDP sockets that are left, as far as they were looked at; not at all where the
    /// service has no UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sockets: Option<u64>,
    /// When they are closed, in milliseconds from now, 0 where that is over; not at all where there
    /// is none.
    pub(crate) for_ms: Option<u64>,
    /// `command` or `policy`.
    pub(crate) by: String,
    /// What `splitter drain --undo` takes to end it, where it was made by command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undo: Option<String>,
}

/// A service before a change.
pub(super) struct Watched {
    name: String,
    was: Vec<Seat>,
    deadlines: Deadlines,
}

/// How long connections may go on that a policy would not make any more, in milliseconds, if the
/// policy closes them.
#[derive(Clone, Copy, Debug, Default)]
struct Deadlines {
    /// Those to backends that left the policy.
    gone_ms: Option<u32>,
    /// Those to backends to which no weight sends others.
    weightless_ms: Option<u32>,
}

impl Deadlines {
    fn of(service: &Service) -> Self {
        let gone_ms = match service.on_backend_down {
            OnBackendDown::Leave => None,
            OnBackendDown::Close => Some(0),
        };
        match service.old_connections {
            OldConnections::Drain { deadline_ms } => {
                Self { gone_ms: Some(deadline_ms), weightless_ms: Some(deadline_ms) }
            }
            OldConnections::Leave | OldConnections::Rebalance { .. } => {
                Self { gone_ms, weightless_ms: None }
            }
        }
    }

    /// From now on.
    fn ends(self) -> Ends {
        let now_ns = monotonic_ns();
        let ns = |ms: Option<u32>| Deadline::after(now_ns, ms.map(u64::from)).ns();
        Ends { gone_ns: ns(self.gone_ms), weightless_ns: ns(self.weightless_ms) }
    }
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Backends of a service in force whose connections are followed.
    pub(super) fn seats(&self, name: &str) -> Vec<Seat> {
        let Some(running) = self.running.get(name) else { return Vec::new() };
        let (service, states) = (&running.service, self.states_of(name));
        let ids = name_ids(service.subsets.iter().map(|subset| subset.name.as_str()));
        let has_datagrams = service.has_datagrams();
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
                    has_datagrams,
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
            let (name, deadlines) = (&service.name, Deadlines::of(service));
            let is_watched = deadlines.gone_ms.is_some() || self.has_leavers(name);
            is_watched.then(|| Watched { name: name.clone(), was: self.seats(name), deadlines })
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
            || self.running.get(name).is_some_and(|it| Deadlines::of(&it.service).gone_ms.is_some())
    }

    /// The change is in force.
    pub(super) fn follow_leavers(&mut self, watched: Vec<Watched>) {
        for Watched { name, was, deadlines } in watched {
            let is = self.seats(&name);
            let new = self.leaving.change(&name, (&was, &is), deadlines.ends());
            let live = |seats: &[Seat], member: &Member| {
                let seat = seats.iter().find(|seat| seat.member == *member);
                seat.map(|seat| seat.live)
            };
            let live = |member| live(&was, member).or_else(|| live(&is, member)).unwrap_or(0);
            let connections: u64 = new.iter().map(live).sum();
            if connections > 0 {
                let (backends, deadline_ms) = (new.len(), deadlines.gone_ms);
                info!(service = %name, backends, connections, deadline_ms, "connections are to end");
            }
            self.mark_leaving(&name);
            self.timed.touch(&name);
        }
        self.hold_state(!self.leaving.is_empty());
    }

    /// While connections to what is gone are to be closed, sockets have to be known for theirs.
    pub(super) fn hold_state(&mut self, is_held: bool) {
        if let Err(error) = self.publisher.hold_state(is_held) {
            warn!("sockets that connect elsewhere may be taken for what they were: {error}");
        }
    }

    /// What is drained by command is something else now.
    pub(super) fn refresh_leavers(&mut self, name: &str) {
        let seats = self.seats(name);
        let running = self.running.get(name);
        let deadlines = running.map(|running| Deadlines::of(&running.service));
        self.leaving.change(name, (&seats, &seats), deadlines.unwrap_or_default().ends());
        self.mark_leaving(name);
        self.timed.touch(name);
    }

    /// Has sockets that never connect leave the backends of a service that are to have no connections
    /// and to which no weight sends any, and no others. Who fails to is told, and stays.
    pub(super) fn mark_leaving(&mut self, name: &str) {
        let (publisher, states) = (&self.publisher, self.states_of(name));
        let key = |state: StateRef| (state.index, state.epoch);
        let is_leaving: HashSet<(u32, u32)> = self.find_leaving(name).map(key).collect();
        let marks = states.into_iter().filter_map(|(owner, index)| {
            let state = self.state_ref(index)?;
            let cells: State = read(publisher.maps(), Arena::States, index)?;
            let was = cells.cells[cell::STANDING] & standing::LEAVING != 0;
            let is = is_leaving.contains(&key(state));
            (was != is).then_some((owner, is))
        });
        let marks: Vec<_> = marks.collect();
        for (owner, is) in marks {
            let id = service_id(name);
            if let Err(error) = self.publisher.set_standing(id, owner, standing::LEAVING, is) {
                warn!(service = %name, "sockets that never connect are not told of drains: {error}");
            }
        }
    }

    /// States of backends that are to have no connections, because of a whole subset that is drained
    /// by command, or of weights.
    fn find_leaving(&self, name: &str) -> impl Iterator<Item = StateRef> {
        let is_whole = |subset: &str| {
            self.drains.of(name).any(|it| it.subset == subset && it.backend.is_none())
        };
        let drained = self.seats(name).into_iter().filter(|seat| is_whole(&seat.member.subset));
        let drained: Vec<StateRef> = drained.map(|seat| seat.state).collect();
        let there = self.leaving.of(name).iter().filter(|leaver| leaver.last_live.is_none());
        drained.into_iter().chain(there.map(|leaver| leaver.state))
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
        for drain in ended.iter() {
            self.mark_leaving(&drain.service);
        }
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
        let names: Vec<String> = self.running.keys().cloned().collect();
        for name in &names {
            self.mark_leaving(name);
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
    pub(crate) fn draining(&self, seen: &HashMap<(u32, u32), Left>) -> Vec<DrainStatus> {
        let now_ns = monotonic_ns();
        let names: BTreeSet<&str> = self.drains.iter().map(|it| it.service.as_str()).collect();
        let seen = |state: StateRef| seen.get(&(state.index, state.epoch)).copied();
        let sockets = |state| seen(state).map_or(0, |left| left.datagrams);
        let mut all = Vec::new();
        for name in names {
            for Seat { member, state, command, live, has_datagrams, .. } in self.seats(name) {
                let Some(deadline) = command else { continue };
                let sockets = has_datagrams.then(|| sockets(state));
                let undo = self.drains.undo_of(name, &member.subset, member.addr);
                let status = DrainStatus::new(name, &member, live, deadline.ns(), now_ns);
                all.push(DrainStatus { sockets, undo, ..status });
            }
        }
        let leavers = self.leaving.iter().map(|(name, leaver)| {
            let live = match leaver.last_live {
                None => self.live(leaver.state),
                Some(last) => seen(leaver.state).map_or(last, |left| left.connections),
            };
            let by = if leaver.by_command { "command" } else { "policy" }.to_owned();
            let sockets = leaver.has_datagrams.then(|| sockets(leaver.state));
            let until_ns = Some(leaver.until_ns);
            let status = DrainStatus::new(name, &leaver.member, live, until_ns, now_ns);
            DrainStatus { sockets, by, ..status }
        });
        all.extend(leavers.filter(|drain| drain.connections > 0 || drain.sockets > Some(0)));
        all
    }
}

impl DrainStatus {
    /// By command, of a service without datagrams.
    fn new(
        service: &str,
        member: &Member,
        connections: u64,
        until_ns: Option<u64>,
        now_ns: u64,
    ) -> Self {
        let left_ms = |until: u64| until.saturating_sub(now_ns).div_ceil(1_000_000);
        Self {
            service: service.to_owned(),
            subset: member.subset.clone(),
            backend: member.addr.to_string(),
            connections,
            sockets: None,
            for_ms: until_ns.map(left_ms),
            by: "command".to_owned(),
            undo: None,
        }
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
