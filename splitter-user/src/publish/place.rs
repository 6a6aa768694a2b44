//! Where one service lives in the arenas, and the records it consists of.

use std::io;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use splitter_common::abi::{
    Backend, Choice, INLINE_WORDS, Plan, Route, Subset, Wheel, action, pick, plan_flag,
};

use super::counters::{Counters, Indices};
use super::life::Life;
use super::space::{NoRoom, Pool, Range, Space};
use crate::compile::image::{
    ActionImage, BackendImage, ChoiceImage, RouteImage, ServiceImage, SubsetImage,
};
use crate::compile::slots::Slots;
use crate::tables::{Arena, Maps, write, write_all};

/// Whose wheel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum WheelOwner {
    Route(u32),
    Subset(u32),
}

/// A list that is nearly always short.
pub(super) type Few<T> = SmallVec<[T; 2]>;

/// A wheel in its arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedWheel {
    pub(super) owner: WheelOwner,
    pub(super) slots: Slots,
    pub(super) index: u32,
    pub(super) cells: u32,
}

impl PlacedWheel {
    fn ranges(&self) -> [Range; 2] {
        let cells = Pool::Arena(Arena::Cells);
        [
            Range { pool: Pool::Arena(Arena::Wheels), start: self.index, len: 1 },
            Range { pool: cells, start: self.cells, len: self.slots.n_cells() },
        ]
    }
}

/// One service and its place.
///
/// A changed service gets new records throughout, except for wheels whose slots did not change,
/// which keep their tickets, and for counters, which stay with their names.
pub(super) struct Placed {
    pub(super) image: Arc<ServiceImage>,
    pub(super) plan: u32,
    pub(super) routes: u32,
    pub(super) subsets: u32,
    /// First backend of the first subset; those of all subsets are consecutive.
    pub(super) backends: u32,
    /// Match of each route; 0 for routes that take every client.
    pub(super) matches: Few<u32>,
    /// First threshold cell of each route; 0 for routes that have none.
    pub(super) thresholds: Few<u32>,
    pub(super) wheels: SmallVec<[PlacedWheel; 3]>,
    pub(super) counters: Indices,
    /// Where the service is followed.
    pub(super) life: Option<Box<Life>>,
}

impl Placed {
    /// Finds room for an image. What was taken before the room ran out is given back.
    pub(super) fn new(
        image: Arc<ServiceImage>,
        old: Option<&Self>,
        space: &mut Space,
    ) -> Result<Self, NoRoom> {
        let n = image.routes.len();
        let mut placed = Self {
            plan: 0,
            routes: 0,
            subsets: 0,
            backends: 0,
            matches: smallvec![0; n],
            thresholds: smallvec![0; n],
            wheels: SmallVec::new(),
            counters: Indices::of(&image),
            life: Life::of(&image),
            image,
        };
        match placed.take_room(old, space) {
            Ok(()) => Ok(placed),
            Err(no_room) => {
                placed.own_ranges(old).into_iter().for_each(|range| space.give(range));
                Err(no_room)
            }
        }
    }

    fn take_room(&mut self, old: Option<&Self>, space: &mut Space) -> Result<(), NoRoom> {
        let image = Arc::clone(&self.image);
        self.plan = space.take(Pool::Arena(Arena::Plans), 1)?;
        self.routes = space.take(Pool::Arena(Arena::Routes), len(&image.routes))?;
        self.subsets = space.take(Pool::Arena(Arena::Subsets), len(&image.subsets))?;
        self.backends = space.take(Pool::Arena(Arena::Backends), n_backends(&image))?;
        let counters = old.map(|old| (&*old.image, &old.counters));
        self.counters.take(&image, counters, (Pool::Counters, space))?;
        if let Some(life) = &mut self.life {
            life.take(&image, old.and_then(Self::life), space)?;
        }
        for subset in &image.subsets {
            if let Some(slots) = subset.choice.as_ref().and_then(ChoiceImage::slots) {
                self.take_wheel(old, space, WheelOwner::Subset(subset.id), slots)?;
            }
        }
        for (i, route) in image.routes.iter().enumerate() {
            self.take_route(old, space, i, route)?;
        }
        Ok(())
    }

    fn take_route(
        &mut self,
        old: Option<&Self>,
        space: &mut Space,
        i: usize,
        route: &RouteImage,
    ) -> Result<(), NoRoom> {
        if route.client.is_some() {
            self.matches[i] = space.take(Pool::Arena(Arena::Matches), 1)?;
        }
        let ActionImage::Split(choice) = &route.action else { return Ok(()) };
        if let ChoiceImage::Threshold { thresholds, .. } = choice {
            self.thresholds[i] = space.take(Pool::Arena(Arena::Cells), len(thresholds))?;
        }
        match choice.slots() {
            Some(slots) => self.take_wheel(old, space, WheelOwner::Route(route.id), slots),
            None => Ok(()),
        }
    }

    /// Keeps the old wheel where its slots are the same: its ticket then stands where it stood.
    fn take_wheel(
        &mut self,
        old: Option<&Self>,
        space: &mut Space,
        owner: WheelOwner,
        slots: &Slots,
    ) -> Result<(), NoRoom> {
        if self.wheel(owner).is_some() {
            return Ok(());
        }
        let kept = old.and_then(|old| old.wheel(owner)).filter(|wheel| wheel.slots == *slots);
        if let Some(kept) = kept {
            self.wheels.push(kept.clone());
            return Ok(());
        }
        let index = space.take(Pool::Arena(Arena::Wheels), 1)?;
        let slots = slots.clone();
        self.wheels.push(PlacedWheel { owner, index, cells: 0, slots });
        if let Some(wheel) = self.wheels.last_mut() {
            wheel.cells = space.take(Pool::Arena(Arena::Cells), wheel.slots.n_cells())?;
        }
        Ok(())
    }

    /// The counters with their owners.
    pub(super) fn counters(&self) -> Counters {
        Counters { image: Arc::clone(&self.image), indices: self.counters.clone() }
    }

    /// The states with their owners, where the service is followed.
    pub(super) fn states(&self) -> Option<Counters> {
        let life = self.life.as_ref()?;
        Some(Counters { image: Arc::clone(&self.image), indices: life.states.clone() })
    }

    /// The image with the records of a followed service.
    fn life(&self) -> Option<(&ServiceImage, &Life)> {
        self.life.as_deref().map(|life| (&*self.image, life))
    }

    pub(super) fn wheel(&self, owner: WheelOwner) -> Option<&PlacedWheel> {
        self.wheels.iter().find(|wheel| wheel.owner == owner)
    }

    /// The ranges of this place that `other`, an earlier or later place of the same service, does
    /// not share.
    pub(super) fn own_ranges(&self, other: Option<&Self>) -> Vec<Range> {
        let mut ranges = self.record_ranges();
        for wheel in &self.wheels {
            if other.and_then(|other| other.wheel(wheel.owner)).is_none_or(|o| o != wheel) {
                ranges.extend(wheel.ranges());
            }
        }
        let others = other.map(|other| &other.counters);
        ranges.extend(self.counters.own_ranges(Pool::Counters, others));
        if let Some(life) = &self.life {
            let others = other.and_then(|other| other.life.as_deref());
            ranges.extend(life.own_ranges(&self.image, others));
        }
        // Index 0 stands for what was never taken.
        ranges.retain(|range| range.start != 0 && range.len != 0);
        ranges
    }

    fn record_ranges(&self) -> Vec<Range> {
        let range = |arena, start, len| Range { pool: Pool::Arena(arena), start, len };
        let mut ranges = Vec::with_capacity(16);
        ranges.extend([
            range(Arena::Plans, self.plan, 1),
            range(Arena::Routes, self.routes, len(&self.image.routes)),
            range(Arena::Subsets, self.subsets, len(&self.image.subsets)),
            range(Arena::Backends, self.backends, n_backends(&self.image)),
        ]);
        ranges.extend(self.matches.iter().map(|index| range(Arena::Matches, *index, 1)));
        for (start, route) in self.thresholds.iter().zip(&self.image.routes) {
            if let ActionImage::Split(ChoiceImage::Threshold { thresholds, .. }) = &route.action {
                ranges.push(range(Arena::Cells, *start, len(thresholds)));
            }
        }
        ranges
    }

    /// Writes every record that `old` does not share. No reader can reach them yet.
    pub(super) fn write<M: Maps>(
        &self,
        maps: &mut M,
        old: Option<&Self>,
        generation: u64,
    ) -> io::Result<()> {
        for wheel in &self.wheels {
            if old.and_then(|old| old.wheel(wheel.owner)).is_none_or(|o| o != wheel) {
                write_wheel(maps, wheel)?;
            }
        }
        for (i, route) in self.image.routes.iter().enumerate() {
            self.write_route_parts(maps, i, route)?;
        }
        if let Some(life) = &self.life {
            life.write(maps, &self.image, old.and_then(|old| old.life.as_deref()))?;
        }
        let (subsets, routes) = self.counters.of_subsets_and_routes(self.image.routes.len());
        let (subsets, backends) = self.subset_records(subsets);
        write_all(maps, Arena::Backends, self.backends, &backends)?;
        write_all(maps, Arena::Subsets, self.subsets, &subsets)?;
        write_all(maps, Arena::Routes, self.routes, &self.route_records(routes))?;
        write(maps, Arena::Plans, self.plan, &self.plan_record(generation))
    }

    fn write_route_parts<M: Maps>(
        &self,
        maps: &mut M,
        i: usize,
        route: &RouteImage,
    ) -> io::Result<()> {
        if let Some(client) = &route.client {
            write(maps, Arena::Matches, self.matches[i], client)?;
        }
        if let ActionImage::Split(ChoiceImage::Threshold { thresholds, .. }) = &route.action {
            let cells: SmallVec<[u64; 16]> =
                thresholds.iter().map(|(t, ordinal)| t << 16 | u64::from(*ordinal)).collect();
            write_all(maps, Arena::Cells, self.thresholds[i], &cells)?;
        }
        Ok(())
    }

    /// Subsets and the backends of all of them, with counters in that order.
    fn subset_records(&self, counters: &[u32]) -> (SmallVec<[Subset; 4]>, SmallVec<[Backend; 8]>) {
        let mut counters = counters.iter().copied();
        let (mut subsets, mut backends) = (SmallVec::new(), SmallVec::new());
        let mut first = self.backends;
        for (i, subset) in self.image.subsets.iter().enumerate() {
            let own = counters.next().expect("every subset has a counter");
            subsets.push(self.subset_record(i, subset, first, own));
            let records = subset.backends.iter().zip(counters.by_ref());
            backends.extend(records.map(|(backend, counter)| backend_record(backend, counter)));
            first += len(&subset.backends);
        }
        (subsets, backends)
    }

    fn subset_record(&self, i: usize, subset: &SubsetImage, backends: u32, counter: u32) -> Subset {
        let wheel = self.wheel(WheelOwner::Subset(subset.id)).map_or(0, |wheel| wheel.index);
        let n_listed = short(subset.backends.len());
        let choice = subset.choice.as_ref();
        Subset {
            choice: choice.map_or_else(Choice::default, |choice| choice_record(choice, wheel, 0)),
            id: subset.id,
            backends,
            counter,
            n_backends: subset.n_weighted,
            n_listed,
            conduct: self.life.as_ref().map_or(0, |life| life.conducts[i]),
            pad: 0,
        }
    }

    fn route_records(&self, counters: &[u32]) -> SmallVec<[Route; 4]> {
        let routes = self.image.routes.iter().zip(counters).enumerate();
        routes.map(|(i, (route, counter))| self.route_record(i, route, *counter)).collect()
    }

    fn route_record(&self, i: usize, route: &RouteImage, counter: u32) -> Route {
        let wheel = self.wheel(WheelOwner::Route(route.id)).map_or(0, |wheel| wheel.index);
        let (action, errno, choice) = match &route.action {
            ActionImage::Pass => (action::PASS, 0, Choice::default()),
            ActionImage::Reject(errno) => (action::REJECT, *errno, Choice::default()),
            ActionImage::Split(choice) => {
                (action::SPLIT, 0, choice_record(choice, wheel, self.thresholds[i]))
            }
        };
        let (fault, state) =
            self.life.as_ref().map_or((0, 0), |life| (life.faults[i], life.of_routes()[i]));
        let client = self.matches[i];
        Route { choice, id: route.id, client, counter, errno, action, pad: 0, fault, state }
    }

    fn plan_record(&self, generation: u64) -> Plan {
        Plan {
            generation,
            service: self.image.id.0,
            routes: self.routes,
            n_routes: short(self.image.routes.len()),
            flags: plan_flags(&self.image),
            subsets: self.subsets,
            n_subsets: short(self.image.subsets.len()),
            asks: asks(&self.image),
        }
    }
}

/// What the decision has to look up of a client.
fn asks(image: &ServiceImage) -> u16 {
    let flags = image.routes.iter().filter_map(|route| Some(route.client?.flags));
    let flags = flags.fold(0, |all, flags| all | flags);
    u16::try_from(flags).expect("all flags of matches are in the low half")
}

fn plan_flags(image: &ServiceImage) -> u16 {
    let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
    flag(image.answer_frontend, plan_flag::ANSWER_FRONTEND)
        | flag(image.datagrams, plan_flag::DATAGRAMS)
}

fn backend_record(backend: &BackendImage, counter: u32) -> Backend {
    Backend { addr: backend.addr, port_be: backend.port_be, pad: 0, counter }
}

fn n_backends(image: &ServiceImage) -> u32 {
    image.subsets.iter().map(|subset| len(&subset.backends)).sum()
}

fn choice_record(choice: &ChoiceImage, wheel: u32, thresholds: u32) -> Choice {
    let record = Choice { wheel, ..Choice::default() };
    match choice {
        ChoiceImage::Only(only) => Choice { pick: pick::ONLY, only: *only, wheel: 0, ..record },
        ChoiceImage::Ticket(_) => Choice { pick: pick::TICKET, ..record },
        ChoiceImage::Random(_) => Choice { pick: pick::RANDOM, ..record },
        ChoiceImage::Least(_) => Choice { pick: pick::LEAST, ..record },
        ChoiceImage::Client { key, .. } => Choice { pick: pick::CLIENT, client: *key, ..record },
        ChoiceImage::Threshold { key, .. } => {
            Choice { pick: pick::THRESHOLD, client: *key, wheel: thresholds, ..record }
        }
    }
}

/// Writes a new wheel, with its ticket at 0.
fn write_wheel<M: Maps>(maps: &mut M, wheel: &PlacedWheel) -> io::Result<()> {
    let mut words = [0; INLINE_WORDS];
    if wheel.cells == 0 {
        words.iter_mut().zip(wheel.slots.words()).for_each(|(to, from)| *to = *from);
    } else {
        write_all(maps, Arena::Cells, wheel.cells, wheel.slots.words())?;
    }
    let record = Wheel {
        ticket: 0,
        len: wheel.slots.len(),
        slot_bits: wheel.slots.slot_bits(),
        cells: wheel.cells,
        words,
    };
    write(maps, Arena::Wheels, wheel.index, &record)
}

fn len<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("bounded by the limits of the ABI")
}

fn short(n: usize) -> u16 {
    u16::try_from(n).expect("bounded by the limits of the ABI")
}
