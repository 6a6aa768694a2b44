//! Where one service lives in the arenas, and the records it consists of.

use std::io;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use splitter_common::abi::{
    Backend, Choice, INLINE_WORDS, Plan, Route, Subset, Wheel, action, pick, plan_flag,
};

use super::counters::{CounterOwner, Counters};
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
    /// First backend of each subset.
    pub(super) backends: Few<u32>,
    /// Match of each route; 0 for routes that take every client.
    pub(super) matches: Few<u32>,
    /// First threshold cell of each route; 0 for routes that have none.
    pub(super) thresholds: Few<u32>,
    pub(super) wheels: SmallVec<[PlacedWheel; 3]>,
    pub(super) counters: Counters,
}

impl Placed {
    /// Finds room for an image. What was taken before the room ran out is given back.
    pub(super) fn new(
        image: Arc<ServiceImage>,
        old: Option<&Self>,
        space: &mut Space,
    ) -> Result<Self, NoRoom> {
        let n = image.routes.len();
        let of_subset = |subset: &SubsetImage| 1 + subset.backends.len();
        let n_counters = n + image.subsets.iter().map(of_subset).sum::<usize>();
        let mut placed = Self {
            plan: 0,
            routes: 0,
            subsets: 0,
            backends: Few::new(),
            matches: smallvec![0; n],
            thresholds: smallvec![0; n],
            wheels: SmallVec::new(),
            counters: Counters::with_capacity(n_counters),
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
        for subset in &image.subsets {
            let first = space.take(Pool::Arena(Arena::Backends), len(&subset.backends))?;
            self.backends.push(first);
            self.take_counters(old, space, subset)?;
            if let Some(slots) = subset.choice.as_ref().and_then(ChoiceImage::slots) {
                self.take_wheel(old, space, WheelOwner::Subset(subset.id), slots)?;
            }
        }
        for (i, route) in image.routes.iter().enumerate() {
            self.take_route(old, space, i, route)?;
        }
        Ok(())
    }

    fn take_counters(
        &mut self,
        old: Option<&Self>,
        space: &mut Space,
        subset: &SubsetImage,
    ) -> Result<(), NoRoom> {
        self.take_counter(old, space, CounterOwner::Subset(subset.id))?;
        for backend in &subset.backends {
            self.take_counter(old, space, CounterOwner::Backend(subset.id, *backend))?;
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
        self.take_counter(old, space, CounterOwner::Route(route.id))?;
        let ActionImage::Split(choice) = &route.action else { return Ok(()) };
        if let ChoiceImage::Threshold { thresholds, .. } = choice {
            self.thresholds[i] = space.take(Pool::Arena(Arena::Cells), len(thresholds))?;
        }
        match choice.slots() {
            Some(slots) => self.take_wheel(old, space, WheelOwner::Route(route.id), slots),
            None => Ok(()),
        }
    }

    fn take_counter(
        &mut self,
        old: Option<&Self>,
        space: &mut Space,
        owner: CounterOwner,
    ) -> Result<(), NoRoom> {
        if self.counters.get(&owner).is_none() {
            let kept = old.and_then(|old| old.counters.get(&owner));
            self.counters.insert(owner, kept.map_or_else(|| space.take(Pool::Counters, 1), Ok)?);
        }
        Ok(())
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
        for (owner, index) in self.counters.iter() {
            if other.is_none_or(|other| other.counters.get(owner) != Some(index)) {
                ranges.push(Range { pool: Pool::Counters, start: index, len: 1 });
            }
        }
        // Index 0 stands for what was never taken.
        ranges.retain(|range| range.start != 0 && range.len != 0);
        ranges
    }

    fn record_ranges(&self) -> Vec<Range> {
        let range = |arena, start, len| Range { pool: Pool::Arena(arena), start, len };
        let mut ranges = vec![
            range(Arena::Plans, self.plan, 1),
            range(Arena::Routes, self.routes, len(&self.image.routes)),
            range(Arena::Subsets, self.subsets, len(&self.image.subsets)),
        ];
        for (start, subset) in self.backends.iter().zip(&self.image.subsets) {
            ranges.push(range(Arena::Backends, *start, len(&subset.backends)));
        }
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
        for (first, subset) in self.backends.iter().zip(&self.image.subsets) {
            write_all(maps, Arena::Backends, *first, &self.backend_records(subset))?;
        }
        for (i, route) in self.image.routes.iter().enumerate() {
            self.write_route_parts(maps, i, route)?;
        }
        write_all(maps, Arena::Subsets, self.subsets, &self.subset_records())?;
        write_all(maps, Arena::Routes, self.routes, &self.route_records())?;
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

    fn backend_records(&self, subset: &SubsetImage) -> SmallVec<[Backend; 8]> {
        let record = |backend: &BackendImage| Backend {
            addr: backend.addr,
            port_be: backend.port_be,
            pad: 0,
            counter: self.counter(CounterOwner::Backend(subset.id, *backend)),
        };
        subset.backends.iter().map(record).collect()
    }

    /// Every owner was given one when the room was taken.
    fn counter(&self, owner: CounterOwner) -> u32 {
        self.counters.get(&owner).expect("every owner has a counter")
    }

    fn subset_records(&self) -> SmallVec<[Subset; 4]> {
        let record = |(subset, first): (&SubsetImage, &u32)| {
            let wheel = self.wheel(WheelOwner::Subset(subset.id)).map_or(0, |wheel| wheel.index);
            let usable = subset.choice.is_some();
            Subset {
                choice: subset
                    .choice
                    .as_ref()
                    .map_or_else(Choice::default, |choice| choice_record(choice, wheel, 0)),
                id: subset.id,
                backends: *first,
                counter: self.counter(CounterOwner::Subset(subset.id)),
                n_backends: if usable { short(subset.backends.len()) } else { 0 },
                n_listed: short(subset.backends.len()),
                pad: [0; 2],
            }
        };
        self.image.subsets.iter().zip(&self.backends).map(record).collect()
    }

    fn route_records(&self) -> SmallVec<[Route; 4]> {
        let routes = self.image.routes.iter().enumerate();
        routes.map(|(i, route)| self.route_record(i, route)).collect()
    }

    fn route_record(&self, i: usize, route: &RouteImage) -> Route {
        let wheel = self.wheel(WheelOwner::Route(route.id)).map_or(0, |wheel| wheel.index);
        let (action, errno, choice) = match &route.action {
            ActionImage::Pass => (action::PASS, 0, Choice::default()),
            ActionImage::Reject(errno) => (action::REJECT, *errno, Choice::default()),
            ActionImage::Split(choice) => {
                (action::SPLIT, 0, choice_record(choice, wheel, self.thresholds[i]))
            }
        };
        Route {
            choice,
            id: route.id,
            client: self.matches[i],
            counter: self.counter(CounterOwner::Route(route.id)),
            errno,
            action,
            pad: [0; 9],
        }
    }

    fn plan_record(&self, generation: u64) -> Plan {
        Plan {
            generation,
            service: self.image.id.0,
            routes: self.routes,
            n_routes: short(self.image.routes.len()),
            flags: if self.image.answer_frontend { plan_flag::ANSWER_FRONTEND } else { 0 },
            subsets: self.subsets,
            n_subsets: short(self.image.subsets.len()),
            pad: 0,
        }
    }
}

fn choice_record(choice: &ChoiceImage, wheel: u32, thresholds: u32) -> Choice {
    let record = Choice { wheel, ..Choice::default() };
    match choice {
        ChoiceImage::Only(only) => Choice { pick: pick::ONLY, only: *only, wheel: 0, ..record },
        ChoiceImage::Ticket(_) => Choice { pick: pick::TICKET, ..record },
        ChoiceImage::Random(_) => Choice { pick: pick::RANDOM, ..record },
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
