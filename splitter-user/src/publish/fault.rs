//! Maps that fail, or die, at a chosen write. For tests: a publish must survive both.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use splitter_common::abi::FrontendKey;

use crate::tables::{Arena, Grace, Maps, Sizes};

/// Maps whose writes are counted, and stop working after a number of them.
pub struct FaultyMaps<M, F> {
    inner: M,
    writes_left: u64,
    /// Called for the write that is one too many, and for all after it.
    fault: F,
}

impl<M: Maps, F: FnMut() -> io::Result<()>> FaultyMaps<M, F> {
    /// Lets `writes` writes through and answers the others with `fault`.
    pub fn new(inner: M, writes: u64, fault: F) -> Self {
        Self { inner, writes_left: writes, fault }
    }

    /// The maps behind the fault.
    pub fn into_inner(self) -> M {
        self.inner
    }

    /// How many more writes go through.
    pub fn writes_left(&self) -> u64 {
        self.writes_left
    }

    fn step(&mut self) -> io::Result<()> {
        match self.writes_left.checked_sub(1) {
            Some(left) => {
                self.writes_left = left;
                Ok(())
            }
            None => (self.fault)(),
        }
    }
}

impl<M: Maps, F: FnMut() -> io::Result<()>> Maps for FaultyMaps<M, F> {
    fn sizes(&self) -> &Sizes {
        self.inner.sizes()
    }

    fn words(&self, arena: Arena) -> &[AtomicU64] {
        self.inner.words(arena)
    }

    fn frontend(&self, key: &FrontendKey) -> io::Result<Option<u32>> {
        self.inner.frontend(key)
    }

    fn frontends(&self) -> io::Result<Vec<(FrontendKey, u32)>> {
        self.inner.frontends()
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        self.inner.counters()
    }

    fn grace(&self) -> Arc<dyn Grace> {
        self.inner.grace()
    }

    /// Every word is a write of its own: a store of several is not atomic.
    fn store(&mut self, arena: Arena, first_word: usize, words: &[u64]) -> io::Result<()> {
        for (i, word) in words.iter().enumerate() {
            self.step()?;
            self.inner.store(arena, first_word + i, std::slice::from_ref(word))?;
        }
        Ok(())
    }

    /// Every frontend is a write of its own: a batch can stop in the middle.
    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()> {
        for frontend in frontends {
            self.step()?;
            self.inner.insert_frontends(std::slice::from_ref(frontend))?;
        }
        Ok(())
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> io::Result<()> {
        for key in keys {
            self.step()?;
            self.inner.delete_frontends(std::slice::from_ref(key))?;
        }
        Ok(())
    }

    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()> {
        for index in indices {
            self.step()?;
            self.inner.zero_counters(std::slice::from_ref(index))?;
        }
        Ok(())
    }
}
