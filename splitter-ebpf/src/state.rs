//! States in their map: cells that several CPUs change.

use splitter_common::{
    abi::{STATE_CELLS, State, StateRef},
    life::{Cells, epoch},
};

use crate::{atomic, maps};

/// A state in its map.
#[derive(Clone, Copy)]
pub(crate) struct MapState(*mut State);

impl MapState {
    /// Looks a state up.
    #[inline(always)]
    pub(crate) fn get(index: u32) -> Option<Self> {
        maps::STATES.get_ptr_mut(index).map(Self)
    }

    /// Looks up what a socket counts at, unless it has become another's.
    #[inline(always)]
    pub(crate) fn resolve(at: StateRef) -> Option<Self> {
        if at.index == 0 {
            return None;
        }
        Self::get(at.index).filter(|state| epoch(state) == at.epoch)
    }

    /// The cell; the record's last where there is none of that number.
    #[inline(always)]
    fn word(&self, cell: usize) -> *mut u64 {
        let cell = if cell < STATE_CELLS { cell } else { STATE_CELLS - 1 };
        // SAFETY: inside the record.
        unsafe { self.0.cast::<u64>().add(cell) }
    }
}

impl Cells for MapState {
    #[inline(always)]
    fn load(&self, cell: usize) -> u64 {
        // SAFETY: a live, aligned map value, changed word by word.
        unsafe { self.word(cell).read_volatile() }
    }

    #[inline(always)]
    fn add(&self, cell: usize, n: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(self.word(cell), n) }
    }

    #[inline(always)]
    fn replace(&self, cell: usize, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic::replace(self.word(cell), old, new) }
    }

    #[inline(always)]
    fn take_ticket(&self, cell: usize) -> u64 {
        self.add(cell, 1)
    }
}
