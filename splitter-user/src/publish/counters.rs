//! Which counter counts for whom, and which state is whose, in one service.
//!
//! Kept as bare indices in the order of the image, which knows whose they are.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::space::{NoRoom, Pool, Range, Space};
use crate::compile::image::{BackendImage, ServiceImage};

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

/// The counters of a service, to be kept cheaply.
#[derive(Clone, Debug)]
pub struct Counters {
    pub(super) image: Arc<ServiceImage>,
    pub(super) indices: Indices,
}

impl Counters {
    /// Indices into the counters map with their owners, in no particular order. An owner that the
    /// service lists several times comes as often, with one index.
    pub fn iter(&self) -> impl Iterator<Item = (CounterOwner, u32)> {
        owners(&self.image).zip(self.indices.0.iter().copied())
    }
}

/// Indices into the counters map or the states, one for each of [`owners`]; 0 where none was taken
/// yet. None at all where the service has none of the kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Indices(SmallVec<[u32; 8]>);

impl Indices {
    /// None yet.
    pub(super) fn of(image: &ServiceImage) -> Self {
        Self(smallvec![0; owners(image).count()])
    }

    /// Adds the next owner's.
    pub(super) fn push(&mut self, index: u32) {
        self.0.push(index);
    }

    /// The indices of subsets with their backends, then those of routes.
    pub(super) fn of_subsets_and_routes(&self, n_routes: usize) -> (&[u32], &[u32]) {
        self.0.split_at(self.0.len() - n_routes)
    }

    /// Keeps those of owners that the old image has, and takes others.
    pub(super) fn take(
        &mut self,
        image: &ServiceImage,
        old: Option<(&ServiceImage, &Self)>,
        (pool, space): (Pool, &mut Space),
    ) -> Result<(), NoRoom> {
        let known: ByOwner<u32> =
            old.map(|(image, old)| by_owner(image, old.0.iter().copied())).unwrap_or_default();
        let positions = by_owner(image, 0..self.0.len());
        for same in positions.chunk_by(|(a, _), (b, _)| a == b) {
            let kept = known.binary_search_by(|(owner, _)| owner.cmp(&same[0].0));
            let index = match kept {
                Ok(at) => known[at].1,
                Err(_) => space.take(pool, 1)?,
            };
            for (_, position) in same {
                self.0[*position] = index;
            }
        }
        Ok(())
    }

    /// Those that `other` does not have.
    pub(super) fn own_ranges(
        &self,
        pool: Pool,
        other: Option<&Self>,
    ) -> impl Iterator<Item = Range> + use<> {
        let mut own = self.0.clone();
        own.sort_unstable();
        own.dedup();
        let mut others = other.map(|other| other.0.clone()).unwrap_or_default();
        others.sort_unstable();
        own.retain(|index| others.binary_search(index).is_err());
        own.into_iter().map(move |start| Range { pool, start, len: 1 })
    }
}

/// Whoever has a counter: each subset with its backends, then the routes.
fn owners(image: &ServiceImage) -> impl Iterator<Item = CounterOwner> {
    let subsets = image.subsets.iter().flat_map(|subset| {
        let backend = |backend: &BackendImage| CounterOwner::Backend(subset.id, *backend);
        std::iter::once(CounterOwner::Subset(subset.id)).chain(subset.backends.iter().map(backend))
    });
    subsets.chain(image.routes.iter().map(|route| CounterOwner::Route(route.id)))
}

type ByOwner<T> = SmallVec<[(CounterOwner, T); 8]>;

/// Sorted, so that those of one owner are neighbours.
fn by_owner<T: Ord>(image: &ServiceImage, items: impl Iterator<Item = T>) -> ByOwner<T> {
    let mut sorted: ByOwner<T> = owners(image).zip(items).collect();
    sorted.sort_unstable();
    sorted
}
