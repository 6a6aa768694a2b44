//! What a publish leaves behind when the kernel refuses a write, and putting it right.
//!
//! A policy is in force or not by one store, so nothing here changes what a `connect()` sees. It
//! sees to it that records are free again, and not before nothing refers to them any more.

use std::io;

use splitter_common::abi::{FrontendKey, PlanPair};

use super::draft::Draft;
use super::space::{Pool, Range};
use super::{Mark, Publisher};
use crate::tables::{Arena, Maps, write};

/// Frontends that are no longer in the policy, until they are out of the hash.
#[derive(Default)]
pub(super) struct Leaving {
    keys: Vec<FrontendKey>,
    /// Their pairs, and the plans that take nobody.
    ranges: Vec<Range>,
}

impl Leaving {
    pub(super) fn add(&mut self, draft: &Draft) {
        self.keys.extend(draft.deletes.iter().map(|(key, ..)| *key));
        self.ranges.extend(draft.deletes.iter().map(|(_, pair, _)| pair_range(*pair)));
        self.ranges.extend(tombstone_range(draft.tombstone));
    }
}

impl<M: Maps> Publisher<M> {
    /// Finishes what earlier publishes could not.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if let Some(draft) = self.torn.take() {
            self.undo(draft)?;
        }
        self.delete_leaving()
    }

    /// Puts everything back as if the draft had never been written. Where that fails, the draft is
    /// kept: its plans bear the number that the next commit would reach.
    pub(super) fn undo(&mut self, draft: Draft) -> io::Result<()> {
        let taken_back = self.take_back(&draft);
        match taken_back {
            Ok(()) => self.give_back(&draft),
            Err(_) => self.torn = Some(draft),
        }
        taken_back
    }

    fn take_back(&mut self, draft: &Draft) -> io::Result<()> {
        for pair in &draft.pairs {
            let record = PlanPair::new(0, pair.older);
            write(&mut self.maps, Arena::PlanPairs, pair.pair, &record)?;
        }
        for (_, pair, older) in &draft.deletes {
            write(&mut self.maps, Arena::PlanPairs, *pair, &PlanPair::new(0, *older))?;
        }
        let keys: Vec<FrontendKey> = draft.inserts.iter().map(|(key, _)| *key).collect();
        self.maps.delete_frontends(&keys)?;
        if draft.egress.is_some() {
            self.clear_spare_egress_root()?;
        }
        self.store_flags(self.n_stateful)?;
        // Readers may hold the pairs that were just taken back; nothing may be reused, and
        // nothing committed, before they have ended.
        self.maps.grace().wait()
    }

    /// Makes room of what a draft took and no reader can reach.
    pub(super) fn give_back(&mut self, draft: &Draft) {
        for (_, pair) in &draft.inserts {
            self.space.give(pair_range(*pair));
        }
        for placed in &draft.placed {
            let old = self.services.get(&placed.image.id);
            placed.own_ranges(old).into_iter().for_each(|range| self.space.give(range));
        }
        if let Some(range) = tombstone_range(draft.tombstone) {
            self.space.give(range);
        }
    }

    /// Step 5.
    pub(super) fn delete_leaving(&mut self) -> io::Result<()> {
        if self.leaving.keys.is_empty() {
            return Ok(());
        }
        self.maps.delete_frontends(&self.leaving.keys)?;
        let left = std::mem::take(&mut self.leaving);
        self.retire(left.ranges);
        self.unsettled = Some(Mark(self.last_mark));
        Ok(())
    }
}

pub(super) fn pair_range(pair: u32) -> Range {
    Range { pool: Pool::Arena(Arena::PlanPairs), start: pair, len: 1 }
}

fn tombstone_range(plan: u32) -> Option<Range> {
    (plan != 0).then_some(Range { pool: Pool::Arena(Arena::Plans), start: plan, len: 1 })
}
