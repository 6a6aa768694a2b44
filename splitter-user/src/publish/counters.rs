//! Which counter counts for whom, in one service.

use std::sync::Arc;

use crate::compile::image::BackendImage;

/// Whose counter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CounterOwner {
    /// A route, by the hash of its name.
    Route(u32),
    /// A subset, by the hash of its name.
    Subset(u32),
    /// A backend of a subset.
    Backend(u32, BackendImage),
}

/// Indices into the counters map by owner. Shared, to be kept cheaply.
///
/// A service has few, and there may be 100,000 services: a sorted list takes one allocation, and
/// finds as fast as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Arc<Vec<(CounterOwner, u32)>>);

impl Counters {
    /// None yet, with room for so many.
    pub(super) fn with_capacity(n: usize) -> Self {
        Self(Arc::new(Vec::with_capacity(n)))
    }

    /// The counter of an owner.
    pub fn get(&self, owner: &CounterOwner) -> Option<u32> {
        self.position(owner).ok().and_then(|position| self.0.get(position)).map(|(_, index)| *index)
    }

    /// Every owner with its counter, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&CounterOwner, u32)> {
        self.0.iter().map(|(owner, index)| (owner, *index))
    }

    /// Gives an owner a counter, unless it has one.
    pub(super) fn insert(&mut self, owner: CounterOwner, index: u32) {
        if let Err(position) = self.position(&owner) {
            Arc::make_mut(&mut self.0).insert(position, (owner, index));
        }
    }

    fn position(&self, owner: &CounterOwner) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(owner))
    }
}
