//! The records of a service whose connections are followed: what is asked of them, and the states
//! of its subsets, backends and routes.
//!
//! A state belongs to its owner for as long as the owner is in the policy. Sockets outlive
//! policies, so each state has an epoch: it is raised when the owner goes and when another comes,
//! and a socket that remembers an older one no longer counts there.

use std::io;

use smallvec::{SmallVec, smallvec};
use splitter_common::abi::{Conduct, Fault, STATE_CELLS, State, cell};

use super::counters::Indices;
use super::place::Few;
use super::space::{NoRoom, Pool, Range, Space};
use crate::compile::image::{ServiceImage, SubsetImage};
use crate::tables::{Arena, Maps, read, write, write_all};

/// Where the states are.
pub(super) const STATES: Pool = Pool::Arena(Arena::States);
const CONDUCTS: Pool = Pool::Arena(Arena::Conducts);
const FAULTS: Pool = Pool::Arena(Arena::Faults);
const CELLS: Pool = Pool::Arena(Arena::Cells);

/// The records of one followed service.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    pub(super) states: Indices,
    /// Of each subset, in their order.
    pub(super) conducts: Few<u32>,
    /// First cell of each subset's list of states; 0 where it has no backends.
    pub(super) cells: Few<u32>,
    /// Of each route; 0 where it makes no failures.
    pub(super) faults: Few<u32>,
}

impl Life {
    /// None taken yet; nothing at all for a service that is not followed.
    pub(super) fn of(image: &ServiceImage) -> Option<Box<Self>> {
        image.is_followed().then(|| {
            let n_subsets = image.subsets.len();
            Box::new(Self {
                states: Indices::of(image),
                conducts: smallvec![0; n_subsets],
                cells: smallvec![0; n_subsets],
                faults: smallvec![0; image.routes.len()],
            })
        })
    }

    /// Keeps the states of owners that the old image has, and takes what else is needed.
    pub(super) fn take(
        &mut self,
        image: &ServiceImage,
        old: Option<(&ServiceImage, &Self)>,
        space: &mut Space,
    ) -> Result<(), NoRoom> {
        self.states.take(image, old.map(|(image, old)| (image, &old.states)), (STATES, space))?;
        for (i, subset) in image.subsets.iter().enumerate() {
            self.conducts[i] = space.take(CONDUCTS, 1)?;
            self.cells[i] = space.take(CELLS, n_cells(subset))?;
        }
        for (i, _) in image.routes.iter().enumerate().filter(|(_, route)| route.fault.is_some()) {
            self.faults[i] = space.take(FAULTS, 1)?;
        }
        Ok(())
    }

    /// Everything but the states that `other` has.
    pub(super) fn own_ranges(&self, image: &ServiceImage, other: Option<&Self>) -> Vec<Range> {
        let one = |pool| move |start: &u32| Range { pool, start: *start, len: 1 };
        let cells = self.cells.iter().zip(&image.subsets);
        let cells =
            cells.map(|(start, subset)| Range { pool: CELLS, start: *start, len: n_cells(subset) });
        self.states
            .own_ranges(STATES, other.map(|other| &other.states))
            .chain(self.conducts.iter().map(one(CONDUCTS)))
            .chain(self.faults.iter().map(one(FAULTS)))
            .chain(cells)
            .collect()
    }

    /// Writes everything but the states that `old` has. No reader can reach it yet.
    pub(super) fn write<M: Maps>(
        &self,
        maps: &mut M,
        image: &ServiceImage,
        old: Option<&Self>,
    ) -> io::Result<()> {
        for range in self.states.own_ranges(STATES, old.map(|old| &old.states)) {
            begin_epoch(maps, range.start)?;
        }
        let (mut of_subsets, of_routes) = self.states.of_subsets_and_routes(image.routes.len());
        for (i, subset) in image.subsets.iter().enumerate() {
            let (own, rest) = of_subsets.split_at(1 + subset.backends.len());
            of_subsets = rest;
            self.write_subset(maps, i, subset, own)?;
        }
        for (i, route) in image.routes.iter().enumerate() {
            if let Some(fault) = &route.fault {
                let record = Fault { state: of_routes[i], ..**fault };
                write(maps, Arena::Faults, self.faults[i], &record)?;
            }
        }
        Ok(())
    }

    /// `states` are that of the subset and those of its backends.
    fn write_subset<M: Maps>(
        &self,
        maps: &mut M,
        i: usize,
        subset: &SubsetImage,
        states: &[u32],
    ) -> io::Result<()> {
        let pack =
            |pair: &[u32]| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
        let cells: SmallVec<[u64; 8]> = states[1..].chunks(2).map(pack).collect();
        write_all(maps, Arena::Cells, self.cells[i], &cells)?;
        let asked = subset.conduct.as_deref().copied().unwrap_or_default();
        let record = Conduct { state: states[0], states: self.cells[i], ..asked };
        write(maps, Arena::Conducts, self.conducts[i], &record)
    }

    /// The states of the routes.
    pub(super) fn of_routes(&self) -> &[u32] {
        self.states.of_subsets_and_routes(self.faults.len()).1
    }
}

/// Two states to a cell.
fn n_cells(subset: &SubsetImage) -> u32 {
    u32::try_from(subset.backends.len().div_ceil(2)).expect("bounded by the limits of the ABI")
}

/// Indices of the states of a subset's backends, as its cells have them.
pub(super) fn read_states<M: Maps>(maps: &M, first: u32, n: u32) -> Option<SmallVec<[u32; 8]>> {
    let state = |i: u32| {
        let cell: u64 = read(maps, Arena::Cells, first.checked_add(i / 2)?)?;
        u32::try_from(cell >> (32 * (i % 2)) & u64::from(u32::MAX)).ok()
    };
    (0..n).map(state).collect()
}

/// Gives a state to a new owner: all zero, and not what any socket remembers.
fn begin_epoch<M: Maps>(maps: &mut M, index: u32) -> io::Result<()> {
    end_epoch(maps, index)?;
    let standing = standing_of(maps, index);
    let mut cells = [0; STATE_CELLS];
    cells[cell::STANDING] = standing;
    write(maps, Arena::States, index, &State { cells })
}

/// Takes a state from its owner: no socket that connects or ends from here on counts there.
pub(super) fn end_epoch<M: Maps>(maps: &mut M, index: u32) -> io::Result<()> {
    let epoch = (standing_of(maps, index) >> 32).wrapping_add(1);
    let word = index as usize * Arena::States.record_words() + cell::STANDING;
    maps.store(Arena::States, word, &[epoch << 32])
}

/// Sets or clears bits of a state's standing.
pub(super) fn set_standing<M: Maps>(
    maps: &mut M,
    index: u32,
    bit: u64,
    is_set: bool,
) -> io::Result<()> {
    let old = standing_of(maps, index);
    let new = if is_set { old | bit } else { old & !bit };
    let word = index as usize * Arena::States.record_words() + cell::STANDING;
    maps.store(Arena::States, word, &[new])
}

fn standing_of<M: Maps>(maps: &M, index: u32) -> u64 {
    read::<State, _>(maps, Arena::States, index).map_or(0, |state| state.cells[cell::STANDING])
}
