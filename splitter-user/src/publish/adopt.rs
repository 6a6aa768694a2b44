//! Reading a running policy back from the maps.
//!
//! What an earlier daemon committed is kept as it stands, tickets and counters included. What it
//! wrote and did not commit is scrubbed: those plans bear a number that the next commit would
//! reach. All of it is found by walking from the frontends; what the walk does not reach is free.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use splitter_common::abi::{
    Backend, Choice, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route, Subset, Wheel,
    action, pick, plan_flag,
};

use super::counters::Indices;
use super::life::read_states;
use super::place::{Few, Placed, PlacedWheel, WheelOwner};
use crate::compile::image::{
    ActionImage, BackendImage, ChoiceImage, RouteImage, ServiceId, ServiceImage, SubsetImage,
};
use crate::compile::slots::Slots;
use crate::tables::{Arena, Maps, committed, read, read_slots, read_thresholds, write};

/// A running policy could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The kernel refused an access.
    #[error("read the running policy from the maps")]
    Kernel(#[from] io::Error),
    /// Records contradict each other; the maps were changed by something else.
    #[error("the running policy is damaged: {what} of the plan at index {plan}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
        /// Index of the plan.
        plan: u32,
    },
}

/// What the walk found.
pub(super) struct Adopted {
    pub(super) services: FxHashMap<ServiceId, Placed>,
    /// Plan pair and owner of each frontend in force.
    pub(super) frontends: FxHashMap<FrontendKey, (u32, ServiceId)>,
    /// Frontends that no plan in force has, with their plan pairs.
    pub(super) leftovers: Vec<(FrontendKey, u32)>,
}

/// Walks the maps, and scrubs what was not committed.
pub(super) fn adopt<M: Maps>(maps: &mut M) -> Result<Adopted, AdoptError> {
    let generation = committed(maps).generation;
    let mut leftovers = Vec::new();
    let mut by_plan: BTreeMap<u32, Vec<(FrontendKey, u32)>> = BTreeMap::new();
    for (key, pair) in maps.frontends()? {
        match settle_pair(maps, pair, generation)? {
            Some(plan) => by_plan.entry(plan).or_default().push((key, pair)),
            None => leftovers.push((key, pair)),
        }
    }
    let mut services = FxHashMap::default();
    let mut frontends = FxHashMap::default();
    for (plan, mut keys) in by_plan {
        keys.sort_unstable();
        let placed = read_service(maps, plan, keys.iter().map(|(key, _)| *key).collect())?;
        let id = placed.image.id;
        frontends.extend(keys.into_iter().map(|(key, pair)| (key, (pair, id))));
        services.insert(id, placed);
    }
    Ok(Adopted { services, frontends, leftovers })
}

/// The plan in force of a pair, after the pair was made to hold nothing else.
fn settle_pair<M: Maps>(maps: &mut M, index: u32, generation: u64) -> io::Result<Option<u32>> {
    let pair: PlanPair = read(maps, Arena::PlanPairs, index).unwrap_or_default();
    let in_force = |maps: &M, plan: u32| {
        let record: Plan = read(maps, Arena::Plans, plan).unwrap_or_default();
        (1..=generation).contains(&record.generation).then_some(record.n_routes)
    };
    let plan = [pair.newer(), pair.older()]
        .into_iter()
        .find_map(|plan| in_force(maps, plan).map(|n_routes| (plan, n_routes)));
    let settled = PlanPair::new(0, plan.map_or(0, |(plan, _)| plan));
    if settled.newer() != pair.newer() {
        write(maps, Arena::PlanPairs, index, &settled)?;
    }
    Ok(plan.filter(|(_, n_routes)| *n_routes > 0).map(|(plan, _)| plan))
}

fn read_service<M: Maps>(
    maps: &M,
    plan: u32,
    frontends: SmallVec<[FrontendKey; 1]>,
) -> Result<Placed, AdoptError> {
    let damaged = |what| AdoptError::Damaged { what, plan };
    let record: Plan = read(maps, Arena::Plans, plan).ok_or_else(|| damaged("the plan"))?;
    let image = ServiceImage {
        id: ServiceId(record.service),
        frontends,
        answer_frontend: record.flags & plan_flag::ANSWER_FRONTEND != 0,
        datagrams: record.flags & plan_flag::DATAGRAMS != 0,
        routes: SmallVec::new(),
        subsets: SmallVec::new(),
    };
    let mut reader = Reader { maps, placed: empty(plan, &record, &image), image };
    for i in 0..u32::from(record.n_subsets) {
        reader.read_subset(record.subsets + i).ok_or_else(|| damaged("a subset"))?;
    }
    for i in 0..u32::from(record.n_routes) {
        reader.read_route(record.routes + i).ok_or_else(|| damaged("a route"))?;
    }
    Ok(Placed { image: Arc::new(reader.image), ..reader.placed })
}

/// A place whose service is still to be read.
fn empty(plan: u32, record: &Plan, image: &ServiceImage) -> Placed {
    Placed {
        image: Arc::new(image.clone()),
        plan,
        routes: record.routes,
        subsets: record.subsets,
        backends: 0,
        matches: Few::new(),
        thresholds: Few::new(),
        wheels: SmallVec::new(),
        counters: Indices::default(),
        life: None,
    }
}

/// Builds a place up from its records; `None` where one is missing or makes no sense.
struct Reader<'a, M> {
    maps: &'a M,
    image: ServiceImage,
    placed: Placed,
}

impl<M: Maps> Reader<'_, M> {
    fn read_subset(&mut self, index: u32) -> Option<()> {
        let record: Subset = read(self.maps, Arena::Subsets, index)?;
        self.follow_on(&record)?;
        self.placed.counters.push(record.counter);
        let mut backends = SmallVec::new();
        for i in 0..u32::from(record.n_listed) {
            let backend: Backend = read(self.maps, Arena::Backends, record.backends + i)?;
            self.placed.counters.push(backend.counter);
            backends.push(BackendImage { addr: backend.addr, port_be: backend.port_be });
        }
        let choice = if record.n_backends > 0 {
            Some(self.read_choice(record.choice, WheelOwner::Subset(record.id))?)
        } else {
            None
        };
        let conduct = match record.conduct {
            0 => None,
            conduct => Some(self.read_conduct(conduct, u32::from(record.n_listed))?),
        };
        let (id, n_weighted) = (record.id, record.n_backends);
        self.image.subsets.push(SubsetImage { id, choice, conduct, backends, n_weighted });
        Some(())
    }

    /// The backends of a subset follow those of the subsets before it.
    fn follow_on(&mut self, subset: &Subset) -> Option<()> {
        let before: usize = self.image.subsets.iter().map(|subset| subset.backends.len()).sum();
        if before == 0 {
            self.placed.backends = subset.backends;
        }
        let next = self.placed.backends.checked_add(u32::try_from(before).ok()?)?;
        (subset.n_listed == 0 || subset.backends == next).then_some(())
    }

    /// Reads a conduct, and the states of its subset and backends.
    fn read_conduct(&mut self, index: u32, n_backends: u32) -> Option<Box<Conduct>> {
        let record: Conduct = read(self.maps, Arena::Conducts, index)?;
        let states = read_states(self.maps, record.states, n_backends)?;
        let life = self.placed.life.get_or_insert_default();
        life.conducts.push(index);
        life.cells.push(record.states);
        life.states.push(record.state);
        states.into_iter().for_each(|state| life.states.push(state));
        Some(Box::new(Conduct { state: 0, states: 0, ..record }))
    }

    /// Reads what a route does on purpose, and takes in its state.
    fn read_life(&mut self, route: &Route) -> Option<Fault> {
        if route.state != 0 {
            let life = self.placed.life.get_or_insert_default();
            life.states.push(route.state);
            life.faults.push(route.fault);
        }
        // The record at 0 is all zeros.
        let record: Fault = read(self.maps, Arena::Faults, route.fault)?;
        Some(Fault { state: 0, ..record })
    }

    fn read_route(&mut self, index: u32) -> Option<()> {
        let record: Route = read(self.maps, Arena::Routes, index)?;
        let client = match record.client {
            0 => None,
            index => Some(read::<Match, _>(self.maps, Arena::Matches, index)?),
        };
        let action = match record.action {
            action::PASS => ActionImage::Pass,
            action::REJECT => ActionImage::Reject(record.errno),
            action::SPLIT => {
                ActionImage::Split(self.read_choice(record.choice, WheelOwner::Route(record.id))?)
            }
            _ => return None,
        };
        let thresholds = matches!(action, ActionImage::Split(ChoiceImage::Threshold { .. }));
        self.placed.thresholds.push(if thresholds { record.choice.wheel } else { 0 });
        self.placed.matches.push(record.client);
        self.placed.counters.push(record.counter);
        let fault = self.read_life(&record)?;
        let fault = (record.fault != 0).then(|| Box::new(fault));
        self.image.routes.push(RouteImage { id: record.id, client, action, fault });
        Some(())
    }

    fn read_choice(&mut self, choice: Choice, owner: WheelOwner) -> Option<ChoiceImage> {
        let key = choice.client;
        Some(match choice.pick {
            pick::ONLY => ChoiceImage::Only(choice.only),
            pick::TICKET => ChoiceImage::Ticket(self.read_wheel(choice.wheel, owner)?),
            pick::RANDOM => ChoiceImage::Random(self.read_wheel(choice.wheel, owner)?),
            pick::LEAST => ChoiceImage::Least(self.read_wheel(choice.wheel, owner)?),
            pick::CLIENT => {
                ChoiceImage::Client { key, slots: self.read_wheel(choice.wheel, owner)? }
            }
            pick::THRESHOLD => {
                let thresholds = read_thresholds(self.maps, choice)?;
                ChoiceImage::Threshold { key, thresholds }
            }
            _ => return None,
        })
    }

    fn read_wheel(&mut self, index: u32, owner: WheelOwner) -> Option<Slots> {
        if let Some(wheel) = self.placed.wheel(owner) {
            return Some(wheel.slots.clone());
        }
        let record: Wheel = read(self.maps, Arena::Wheels, index)?;
        let slots = read_slots(self.maps, &record)?;
        let cells = record.cells;
        self.placed.wheels.push(PlacedWheel { owner, slots: slots.clone(), index, cells });
        Some(slots)
    }
}
