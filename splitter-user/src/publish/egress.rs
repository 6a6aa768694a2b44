//! The roots of what clients may reach: one is in force, and the other is spare.

use std::io;

use splitter_common::abi::{EgressCounts, EgressRoot};

use super::Publisher;
use crate::tables::{Arena, Maps, read, write};

impl<M: Maps> Publisher<M> {
    /// What is in force; all zeros where nothing is.
    pub fn egress_root(&self) -> EgressRoot {
        self.root(self.egress_slot())
    }

    /// Has connections to what is no service look whether they are allowed, or no longer. Before a
    /// commit for the first, after one for the second.
    pub fn set_egress(&mut self, is_there: bool) -> io::Result<()> {
        self.has_egress = is_there;
        self.store_flags(self.n_stateful)
    }

    /// Whether they look.
    pub fn has_egress(&self) -> bool {
        self.has_egress
    }

    /// What came of a rule.
    pub fn egress_counts(&self, rule: u32) -> EgressCounts {
        read(&self.maps, Arena::EgressCounts, rule).unwrap_or_default()
    }

    /// Has a rule count on from there.
    pub fn set_egress_counts(&mut self, rule: u32, counts: &EgressCounts) -> io::Result<()> {
        write(&mut self.maps, Arena::EgressCounts, rule, counts)
    }

    fn root(&self, slot: u32) -> EgressRoot {
        read(&self.maps, Arena::EgressRoots, slot).unwrap_or_default()
    }

    /// The record that is in force, as readers have it.
    fn egress_slot(&self) -> u32 {
        let generation = |slot| {
            Some(self.root(slot).generation).filter(|root| *root <= self.generation).unwrap_or(0)
        };
        u32::from(generation(1) > generation(0))
    }

    /// Writes the spare root: that it counts comes last, so that nobody takes a half of it.
    pub(super) fn write_egress_root(&mut self, root: EgressRoot) -> io::Result<()> {
        let spare = 1 - self.egress_slot();
        self.clear_spare_egress_root()?;
        let words: [u64; 3] = bytemuck::cast(root);
        let first = spare as usize * Arena::EgressRoots.record_words();
        self.maps.store(Arena::EgressRoots, first + 1, &words[1..])?;
        self.maps.store(Arena::EgressRoots, first, &words[..1])
    }

    /// Takes back what was not committed.
    pub(super) fn clear_spare_egress_root(&mut self) -> io::Result<()> {
        let first = (1 - self.egress_slot()) as usize * Arena::EgressRoots.record_words();
        self.maps.store(Arena::EgressRoots, first, &[0])
    }
}
