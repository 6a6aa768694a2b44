//! The tables in plain memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use splitter_common::abi::FrontendKey;

use super::{Arena, Grace, Maps, Sizes};

/// The twin of the kernel's maps, with the same sizes and limits.
pub struct MemoryMaps {
    sizes: Sizes,
    arenas: Vec<Vec<AtomicU64>>,
    frontends: BTreeMap<FrontendKey, u32>,
    counters: Vec<u64>,
}

impl MemoryMaps {
    /// Empty tables.
    pub fn new(sizes: Sizes) -> Self {
        let arenas = Arena::ALL
            .map(|arena| arena_words(sizes.records(arena) as usize * arena.record_words()))
            .into();
        let counters = vec![0; sizes.counters as usize];
        Self { sizes, arenas, frontends: BTreeMap::new(), counters }
    }

    /// Other tables as they stand now, their counters left out. What is read from the copy does not
    /// change any more, and it may be read by another thread.
    pub fn copy_of(maps: &impl Maps) -> io::Result<Self> {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Acquire));
        let arenas = Arena::ALL.map(|arena| maps.words(arena).iter().map(copy).collect());
        let frontends = maps.frontends()?.into_iter().collect();
        Ok(Self { sizes: *maps.sizes(), arenas: arenas.into(), frontends, counters: Vec::new() })
    }
}

fn arena_words(n: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default).take(n).collect()
}

/// Decisions on plain memory borrow it, so none is under way while it is written.
struct NoReaders;

impl Grace for NoReaders {
    fn wait(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Maps for MemoryMaps {
    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn words(&self, arena: Arena) -> &[AtomicU64] {
        &self.arenas[arena as usize]
    }

    fn frontend(&self, key: &FrontendKey) -> io::Result<Option<u32>> {
        Ok(self.frontends.get(key).copied())
    }

    fn frontends(&self) -> io::Result<Vec<(FrontendKey, u32)>> {
        Ok(self.frontends.iter().map(|(key, index)| (*key, *index)).collect())
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        Ok(self.counters.clone())
    }

    fn grace(&self) -> Arc<dyn Grace> {
        Arc::new(NoReaders)
    }

    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()> {
        if self.frontends.len() + frontends.len() > self.sizes.frontends as usize {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        if frontends.iter().any(|(key, _)| self.frontends.contains_key(key)) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.frontends.extend(frontends.iter().copied());
        Ok(())
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> io::Result<()> {
        for key in keys {
            self.frontends.remove(key);
        }
        Ok(())
    }

    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()> {
        for index in indices {
            self.counters[*index as usize] = 0;
        }
        Ok(())
    }
}
