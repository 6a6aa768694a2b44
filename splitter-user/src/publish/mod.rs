//! The only writer of policy: from changed images to ordered writes and one commit store.
//!
//! The order, and what a `connect()` that runs at that moment sees:
//!
//! 1. Wheels, backends, matches, subsets, routes, plans go into free records. Nothing refers to
//!    them: everybody sees the old policy.
//! 2. New frontends enter the hash with a pair of no plan and the new one. The new plan bears the
//!    next generation, so it does not count: the address still passes through.
//! 3. Pairs of changed frontends become old plan and new plan. The old one still counts.
//!    So does the root of what clients may reach, if that changes.
//! 4. The generation is stored: one aligned word. From here every decision of every changed
//!    service is the new policy's.
//! 5. Frontends that are no longer in the policy leave the hash.
//! 6. After a grace period, when no decision of before the commit is under way any more, what the
//!    old policy alone used is free again.
//!
//! The daemon may die between any two of these; [`Publisher::adopt`] puts things right.

mod adopt;
mod counters;
mod draft;
mod egress;
mod fault;
mod life;
mod mend;
mod place;
mod space;
#[cfg(test)]
mod tests;

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;

use splitter_common::abi::{
    ABI_VERSION, Commit, EgressRoot, FIRST_COUNTER, FrontendKey, Plan, PlanPair, commit_flag,
};

pub use adopt::AdoptError;
pub use counters::{CounterOwner, Counters};
pub use fault::FaultyMaps;

use crate::compile::image::{ServiceId, ServiceImage};
use crate::tables::{Arena, Grace, Maps, committed, write};
use draft::{Draft, NewPair};
use mend::{Leaving, pair_range};
use place::Placed;
use space::{NoRoom, Pool, Range, Space};

/// A policy could not be published. The running policy is what it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A map is too small.
    #[error("the map {map} is full: {wanted} more needed, {used} of {size} in use")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Records that were needed.
        wanted: u32,
        /// Records in use.
        used: u32,
        /// Size of the map.
        size: u32,
    },
    /// Two services have one frontend.
    #[error("the frontend {0:?} belongs to another service")]
    FrontendTaken(FrontendKey),
    /// The kernel refused an access.
    #[error("write the policy to the maps")]
    Kernel(#[source] io::Error),
}

/// One change of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service that is new or replaces the one with its id.
    Put(Arc<ServiceImage>),
    /// A service that goes.
    Remove(ServiceId),
}

/// What a publish did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The committed generation, old if nothing changed.
    pub generation: u64,
    /// Services whose records were written.
    pub changed: usize,
    /// Services that went.
    pub removed: usize,
}

/// Everything up to here was retired before this mark was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// The owner of the policy maps.
pub struct Publisher<M> {
    maps: M,
    generation: u64,
    services: FxHashMap<ServiceId, Placed>,
    frontends: FxHashMap<FrontendKey, (u32, ServiceId)>,
    /// Services that keep per-socket state.
    n_stateful: usize,
    /// Whether clients are assigned subsets.
    has_assignments: bool,
    /// Whether clients may not reach everything.
    has_egress: bool,
    /// Whether sockets of services that are gone are still asked whose they are.
    is_state_held: bool,
    space: Space,
    /// What readers of before a commit may still look at, oldest first.
    retired: Vec<(Mark, Vec<Range>)>,
    /// When frontends last left the hash. It must not reuse their elements for others before
    /// those who found them there have let go.
    unsettled: Option<Mark>,
    /// How often something was retired.
    last_mark: u64,
    /// What a failed publish wrote and could not take back. Nothing is published before it is.
    torn: Option<Draft>,
    /// What left the policy and is still to be deleted.
    leaving: Leaving,
}

impl<M: Maps> Publisher<M> {
    /// Takes over the maps, with whatever policy they hold.
    pub fn adopt(mut maps: M) -> Result<Self, AdoptError> {
        let found = adopt::adopt(&mut maps)?;
        let keys: Vec<FrontendKey> = found.leftovers.iter().map(|(key, _)| *key).collect();
        maps.delete_frontends(&keys)?;
        // Readers may hold a scrubbed pair; the next commit would make its plan count.
        maps.grace().wait()?;
        let used: Vec<Range> = found
            .services
            .values()
            .flat_map(|placed| placed.own_ranges(None))
            .chain(found.frontends.values().map(|(pair, _)| pair_range(*pair)))
            .collect();
        let space = Space::with_used(maps.sizes(), FIRST_COUNTER, &used);
        let Commit { generation, flags, .. } = committed(&maps);
        let n_stateful = found.services.values().filter(|p| p.image.keeps_state()).count();
        let mut publisher = Self {
            maps,
            generation,
            services: found.services,
            frontends: found.frontends,
            n_stateful,
            has_assignments: flags & commit_flag::ASSIGNMENTS != 0,
            has_egress: flags & commit_flag::EGRESS != 0,
            is_state_held: false,
            space,
            retired: Vec::new(),
            unsettled: None,
            last_mark: 0,
            torn: None,
            leaving: Leaving::default(),
        };
        publisher.zero_free_counters(&used)?;
        publisher.clear_spare_egress_root()?;
        publisher.store_commit()?;
        Ok(publisher)
    }

    /// The maps, for readers.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// Gives the maps back. The policy in them stays in force.
    pub fn into_maps(self) -> M {
        self.maps
    }

    /// The committed generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ids of the services in force.
    pub fn services(&self) -> impl Iterator<Item = ServiceId> {
        self.services.keys().copied()
    }

    /// The image in force of a service.
    pub fn image(&self, id: ServiceId) -> Option<&ServiceImage> {
        self.services.get(&id).map(|placed| placed.image.as_ref())
    }

    /// Whether connections to an address are decided by the policy.
    pub fn has_frontend(&self, key: &FrontendKey) -> bool {
        self.frontends.contains_key(key)
    }

    /// The counters of a service.
    pub fn counters(&self, id: ServiceId) -> Option<Counters> {
        self.services.get(&id).map(Placed::counters)
    }

    /// The states of a followed service: indices into the states.
    pub fn states(&self, id: ServiceId) -> Option<Counters> {
        self.services.get(&id).and_then(Placed::states)
    }

    /// Sets or clears one of the [`splitter_common::abi::standing`] bits of a backend: the next
    /// connection knows. Answers whether there is such a backend in a followed service.
    pub fn set_standing(
        &mut self,
        id: ServiceId,
        owner: CounterOwner,
        bit: u64,
        is_set: bool,
    ) -> io::Result<bool> {
        let states = self.states(id);
        let mut states = states.iter().flat_map(Counters::iter);
        let Some((_, index)) = states.find(|(other, _)| *other == owner) else { return Ok(false) };
        life::set_standing(&mut self.maps, index, bit, is_set)?;
        Ok(true)
    }

    /// Has what sockets keep stay true also while no service keeps any, or no longer: a socket that
    /// connects elsewhere is not to be taken for one of a service that is gone.
    pub fn hold_state(&mut self, is_held: bool) -> io::Result<()> {
        self.is_state_held = is_held;
        self.store_flags(self.n_stateful)
    }

    /// Records in use and in all, by map name, the reserved ones included.
    pub fn usage(&self) -> Vec<(&'static str, u32, u32)> {
        let arenas = Arena::ALL.into_iter().filter(|arena| arena.is_allocated());
        let pools = arenas.map(Pool::Arena).chain([Pool::Counters]);
        pools.map(|pool| (pool_name(pool), self.space.used(pool), self.size(pool))).collect()
    }

    /// Publishes changes: all of them or, with an error, none.
    pub fn publish(&mut self, changes: Vec<Change>) -> Result<Published, PublishError> {
        self.publish_with(changes, None)
    }

    /// The same, and by the same commit what clients may reach, where there is another root for it.
    pub fn publish_with(
        &mut self,
        changes: Vec<Change>,
        egress: Option<EgressRoot>,
    ) -> Result<Published, PublishError> {
        self.mend().map_err(PublishError::Kernel)?;
        let changes = self.real_changes(changes);
        if changes.is_empty() && egress.is_none() {
            return Ok(Published { generation: self.generation, changed: 0, removed: 0 });
        }
        let draft = Draft { egress, ..self.draft_with_room(&changes)? };
        match self.write_draft(&draft) {
            Ok(()) => Ok(self.take_over(draft)),
            Err(error) => {
                // Where undoing fails too, the next publish tries again, and reports it.
                let _later = self.undo(draft);
                Err(PublishError::Kernel(error))
            }
        }
    }

    /// What is retired now. Once a [`Grace`] that was asked for after this has waited,
    /// [`Publisher::release`] may be called with it. `None` where nothing is retired.
    pub fn retired(&self) -> Option<(Mark, Arc<dyn Grace>)> {
        self.retired.last().map(|(mark, _)| (*mark, self.maps.grace()))
    }

    /// Makes room of what was retired up to a mark. Readers of it must have ended.
    pub fn release(&mut self, mark: Mark) -> io::Result<()> {
        let n = self.retired.iter().take_while(|(retired, _)| *retired <= mark).count();
        let ranges = self.retired.iter().take(n).flat_map(|(_, ranges)| ranges);
        let counters = ranges.filter(|range| range.pool == Pool::Counters);
        let counters: Vec<u32> = counters.map(|range| range.start).collect();
        self.maps.zero_counters(&counters)?;
        for range in self.retired.drain(..n).flat_map(|(_, ranges)| ranges) {
            self.space.give(range);
        }
        self.unsettled = self.unsettled.filter(|deleted| *deleted > mark);
        Ok(())
    }

    /// Waits for a grace period and makes room of everything that is retired.
    pub fn settle(&mut self) -> io::Result<()> {
        if let Some((mark, grace)) = self.retired() {
            grace.wait()?;
            self.release(mark)?;
        }
        Ok(())
    }

    /// Leaves out changes that change nothing; of several of one service the last counts.
    ///
    /// Their order stays: it is mostly the one in which they lie in memory, which sorting by id
    /// would lose.
    fn real_changes(&self, mut changes: Vec<Change>) -> Vec<Change> {
        if changes.len() > 1 {
            let mut last = FxHashMap::with_capacity_and_hasher(changes.len(), FxBuildHasher);
            last.extend(changes.iter().enumerate().map(|(i, change)| (change.id(), i)));
            let mut i = 0..;
            changes.retain(|change| last.get(&change.id()).copied() == i.next());
        }
        changes.retain(|change| self.is_real(change));
        changes
    }

    fn is_real(&self, change: &Change) -> bool {
        match change {
            Change::Put(image) => self.image(image.id) != Some(image.as_ref()),
            Change::Remove(id) => self.services.contains_key(id),
        }
    }

    /// Steps 1 to 4.
    fn write_draft(&mut self, draft: &Draft) -> io::Result<()> {
        let next = self.generation + 1;
        for placed in &draft.placed {
            let old = self.services.get(&placed.image.id);
            placed.write(&mut self.maps, old, next)?;
        }
        if draft.tombstone != 0 {
            let record = Plan { generation: next, ..Plan::default() };
            write(&mut self.maps, Arena::Plans, draft.tombstone, &record)?;
        }
        let (inserted, changed): (Vec<_>, Vec<_>) =
            draft.pairs.iter().partition(|pair| pair.older == 0);
        self.write_pairs(&inserted)?;
        self.maps.insert_frontends(&draft.inserts)?;
        self.write_pairs(&changed)?;
        for (_, pair, older) in &draft.deletes {
            let record = PlanPair::new(*older, draft.tombstone);
            write(&mut self.maps, Arena::PlanPairs, *pair, &record)?;
        }
        if let Some(root) = draft.egress {
            self.write_egress_root(EgressRoot { generation: next, ..root })?;
        }
        self.store_flags(self.n_stateful + draft.n_stateful())?;
        self.maps.store(Arena::Commit, 0, &[next])
    }

    fn write_pairs(&mut self, pairs: &[&NewPair]) -> io::Result<()> {
        for pair in pairs {
            let record = PlanPair::new(pair.older, pair.newer);
            write(&mut self.maps, Arena::PlanPairs, pair.pair, &record)?;
        }
        Ok(())
    }

    /// Steps 5 and 6, in memory and in the maps. The policy is committed whatever happens here.
    fn take_over(&mut self, draft: Draft) -> Published {
        self.generation += 1;
        let published = Published {
            generation: self.generation,
            changed: draft.placed.len(),
            removed: draft.removed.len(),
        };
        self.n_stateful += draft.n_stateful();
        let mut retired = Vec::new();
        self.leaving.add(&draft);
        for key in draft.deletes.iter().map(|(key, ..)| key) {
            self.frontends.remove(key);
        }
        self.frontends.reserve(draft.inserts.len());
        self.services.reserve(draft.placed.len());
        let mut pairs = draft.pairs.iter().map(|pair| pair.pair);
        for placed in draft.placed {
            retired.extend(self.replace(placed, &mut pairs));
        }
        for id in draft.removed {
            if let Some(old) = self.services.remove(&id) {
                self.n_stateful -= usize::from(old.image.keeps_state());
                retired.extend(old.own_ranges(None));
            }
        }
        self.retire(retired);
        // What fails here does no harm, and the next publish tries it again: a frontend that
        // could not be deleted has a plan that takes nobody, and a flag is a hint.
        let _later = self.delete_leaving();
        let _later = self.store_flags(self.n_stateful);
        published
    }

    fn retire(&mut self, ranges: Vec<Range>) {
        for range in ranges.iter().filter(|range| range.pool == life::STATES) {
            // Where this fails, the next owner's beginning does it.
            let _later = life::end_epoch(&mut self.maps, range.start);
        }
        self.last_mark += 1;
        self.retired.push((Mark(self.last_mark), ranges));
    }

    /// Puts a new place in force and answers what only the old one used. `pairs` begins with those
    /// of the frontends.
    fn replace(&mut self, placed: Placed, pairs: &mut impl Iterator<Item = u32>) -> Vec<Range> {
        let id = placed.image.id;
        for (key, pair) in placed.image.frontends.iter().zip(pairs) {
            self.frontends.insert(*key, (pair, id));
        }
        match self.services.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(placed);
                Vec::new()
            }
            Entry::Occupied(mut entry) => {
                self.n_stateful -= usize::from(entry.get().image.keeps_state());
                let retired = entry.get().own_ranges(Some(&placed));
                entry.insert(placed);
                retired
            }
        }
    }

    /// Has decisions look whether their clients are assigned subsets, or no longer.
    pub fn set_assignments(&mut self, are_there: bool) -> io::Result<()> {
        self.has_assignments = are_there;
        self.store_flags(self.n_stateful)
    }

    fn flags(&self, n_stateful: usize) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(n_stateful > 0 || self.is_state_held, commit_flag::SOCKET_STATE)
            | flag(self.has_assignments, commit_flag::ASSIGNMENTS)
            | flag(self.has_egress, commit_flag::EGRESS)
    }

    fn store_flags(&mut self, n_stateful: usize) -> io::Result<()> {
        let flags = self.flags(n_stateful);
        if committed(&self.maps).flags == flags {
            return Ok(());
        }
        self.maps.store(Arena::Commit, 1, &[commit_words(self.generation, flags)[1]])
    }

    fn store_commit(&mut self) -> io::Result<()> {
        let flags = self.flags(self.n_stateful);
        self.maps.store(Arena::Commit, 0, &commit_words(self.generation, flags))
    }

    /// Counters that nobody owns are zero, so that the next owner starts at zero.
    fn zero_free_counters(&mut self, used: &[Range]) -> io::Result<()> {
        let used: FxHashSet<u32> = used
            .iter()
            .filter(|range| range.pool == Pool::Counters)
            .map(|range| range.start)
            .collect();
        let values = self.maps.counters()?;
        let stale = values.iter().zip(0_u32..).skip(FIRST_COUNTER as usize);
        let stale: Vec<u32> = stale
            .filter(|(value, index)| **value != 0 && !used.contains(index))
            .map(|(_, index)| index)
            .collect();
        self.maps.zero_counters(&stale)
    }

    fn full(&self, no_room: NoRoom) -> PublishError {
        PublishError::Full {
            map: pool_name(no_room.pool),
            wanted: no_room.wanted,
            used: self.space.used(no_room.pool),
            size: self.size(no_room.pool),
        }
    }

    fn size(&self, pool: Pool) -> u32 {
        match pool {
            Pool::Arena(arena) => self.maps.sizes().records(arena),
            Pool::Counters => self.maps.sizes().counters,
        }
    }
}

impl Change {
    fn id(&self) -> ServiceId {
        match self {
            Self::Put(image) => image.id,
            Self::Remove(id) => *id,
        }
    }

    fn frontends(&self) -> &[FrontendKey] {
        match self {
            Self::Put(image) => &image.frontends,
            Self::Remove(_) => &[],
        }
    }
}

fn pool_name(pool: Pool) -> &'static str {
    match pool {
        // The size that runs out is that of the hash, which has one pair per frontend.
        Pool::Arena(Arena::PlanPairs) => splitter_common::abi::map::FRONTENDS,
        Pool::Arena(arena) => arena.map_name(),
        Pool::Counters => splitter_common::abi::map::COUNTERS,
    }
}

fn commit_words(generation: u64, flags: u32) -> [u64; 2] {
    bytemuck::cast(Commit { generation, flags, abi_version: ABI_VERSION })
}
