//! Planning a publish: everything that it will write, with its room taken, before the first write.

use rustc_hash::{FxBuildHasher, FxHashSet};
use std::sync::Arc;

use splitter_common::abi::{EgressRoot, FrontendKey};

use super::place::Placed;
use super::space::{NoRoom, Pool};
use super::{Change, PublishError, Publisher};
use crate::compile::image::ServiceId;
use crate::tables::{Arena, Maps};

/// A frontend's next pair.
pub(super) struct NewPair {
    pub(super) pair: u32,
    pub(super) older: u32,
    pub(super) newer: u32,
}

/// Everything that a publish will write, with its room taken.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) placed: Vec<Placed>,
    pub(super) removed: Vec<ServiceId>,
    /// Of every frontend of every place, in their order.
    pub(super) pairs: Vec<NewPair>,
    pub(super) inserts: Vec<(FrontendKey, u32)>,
    /// Key, plan pair and plan in force of frontends that go.
    pub(super) deletes: Vec<(FrontendKey, u32, u32)>,
    /// A plan that takes nobody, which frontends that go change to; 0 where none goes.
    pub(super) tombstone: u32,
    /// What clients may reach, where that changes.
    pub(super) egress: Option<EgressRoot>,
}

impl Draft {
    pub(super) fn n_stateful(&self) -> usize {
        self.placed.iter().filter(|placed| placed.image.keeps_state()).count()
    }
}

impl<M: Maps> Publisher<M> {
    /// Drafts, after a grace period if there is no room before one.
    pub(super) fn draft_with_room(&mut self, changes: &[Change]) -> Result<Draft, PublishError> {
        self.check_frontends(changes)?;
        let inserts = self.new_keys(changes).next().is_some();
        if inserts && self.unsettled.is_some() {
            self.settle().map_err(PublishError::Kernel)?;
        }
        match self.draft(changes) {
            Err(_) if !self.retired.is_empty() => {
                self.settle().map_err(PublishError::Kernel)?;
                self.draft(changes).map_err(|no_room| self.full(no_room))
            }
            result => result.map_err(|no_room| self.full(no_room)),
        }
    }

    /// Every frontend must be free, or belong to a service that changes and no longer has it.
    fn check_frontends(&self, changes: &[Change]) -> Result<(), PublishError> {
        let ids: FxHashSet<ServiceId> = match self.frontends.len() {
            0 => FxHashSet::default(),
            _ => changes.iter().map(Change::id).collect(),
        };
        let mut claimed = FxHashSet::with_capacity_and_hasher(changes.len(), FxBuildHasher);
        for key in changes.iter().flat_map(Change::frontends) {
            let owner = self.frontends.get(key).map(|(_, owner)| owner);
            if !claimed.insert(*key) || owner.is_some_and(|owner| !ids.contains(owner)) {
                return Err(PublishError::FrontendTaken(*key));
            }
        }
        Ok(())
    }

    fn new_keys<'a>(&'a self, changes: &'a [Change]) -> impl Iterator<Item = FrontendKey> + 'a {
        let keys = changes.iter().flat_map(Change::frontends);
        keys.filter(|key| !self.frontends.contains_key(key)).copied()
    }

    /// Finds room for everything that is new.
    fn draft(&mut self, changes: &[Change]) -> Result<Draft, NoRoom> {
        let mut draft = Draft::default();
        match self.fill_draft(&mut draft, changes) {
            Ok(()) => Ok(draft),
            Err(no_room) => {
                self.give_back(&draft);
                Err(no_room)
            }
        }
    }

    fn fill_draft(&mut self, draft: &mut Draft, changes: &[Change]) -> Result<(), NoRoom> {
        let new_keys: Vec<FrontendKey> = self.new_keys(changes).collect();
        draft.inserts.reserve(new_keys.len());
        draft.placed.reserve(changes.len());
        for key in new_keys {
            draft.inserts.push((key, self.space.take(Pool::Arena(Arena::PlanPairs), 1)?));
        }
        for change in changes {
            match change {
                Change::Put(image) => {
                    let old = self.services.get(&image.id);
                    draft.placed.push(Placed::new(Arc::clone(image), old, &mut self.space)?);
                }
                Change::Remove(id) => draft.removed.push(*id),
            }
        }
        self.draft_pairs(draft);
        if !draft.deletes.is_empty() {
            draft.tombstone = self.space.take(Pool::Arena(Arena::Plans), 1)?;
        }
        Ok(())
    }

    /// Where each frontend goes: from the plan in force to the new one, or to none.
    fn draft_pairs(&self, draft: &mut Draft) {
        // The new keys were collected in this very order.
        let mut new_pairs = draft.inserts.iter().map(|(_, pair)| *pair);
        draft.pairs.reserve(draft.placed.len());
        for placed in &draft.placed {
            for key in &placed.image.frontends {
                let (pair, older) = match self.frontends.get(key) {
                    Some((pair, owner)) => (*pair, self.services[owner].plan),
                    None => (new_pairs.next().expect("each new key has a pair"), 0),
                };
                draft.pairs.push(NewPair { pair, older, newer: placed.plan });
            }
        }
        let changing = draft.placed.iter().map(|placed| placed.image.id);
        let changing = changing.chain(draft.removed.iter().copied());
        let olds: Vec<&Placed> = changing.filter_map(|id| self.services.get(&id)).collect();
        if olds.is_empty() {
            return;
        }
        let claimed: FxHashSet<&FrontendKey> =
            draft.placed.iter().flat_map(|placed| &placed.image.frontends).collect();
        for old in olds {
            for key in old.image.frontends.iter().filter(|key| !claimed.contains(key)) {
                draft.deletes.push((*key, self.frontends[key].0, old.plan));
            }
        }
    }
}
