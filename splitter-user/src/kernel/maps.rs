//! The kernel's maps as [`Maps`]: arenas through memory mappings, the rest through bpf(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use splitter_common::abi::FrontendKey;

use super::sys;
use crate::tables::{Arena, Grace, Maps, Sizes};

/// Elements per batch call where everything is read.
const CHUNK: usize = 8_192;

/// The maps of one data path.
pub struct KernelMaps {
    sizes: Sizes,
    arenas: Vec<Mapping>,
    frontends: OwnedFd,
    /// The counters of the first CPU, then of the second, and so on.
    counters: Mapping,
    grace: Arc<GracePeriod>,
}

impl KernelMaps {
    /// Maps the arenas, which must be in the order of [`Arena::ALL`], into memory.
    pub(super) fn new(
        sizes: Sizes,
        arenas: &[OwnedFd],
        frontends: OwnedFd,
        counters: &OwnedFd,
    ) -> io::Result<Self> {
        let map = |(arena, fd): (&Arena, &OwnedFd)| {
            Mapping::new(fd, sizes.records(*arena) as usize * arena.record_words())
        };
        Ok(Self {
            arenas: Arena::ALL.iter().zip(arenas).map(map).collect::<io::Result<_>>()?,
            sizes,
            frontends,
            counters: Mapping::new(counters, n_counters(&sizes)? as usize)?,
            grace: Arc::new(GracePeriod::new()?),
        })
    }
}

/// Number of counters of all CPUs together.
pub(super) fn n_counters(sizes: &Sizes) -> io::Result<u32> {
    let n_cpus = u32::try_from(possible_cpus()?).map_err(io::Error::other)?;
    n_cpus.checked_mul(sizes.counters).ok_or_else(|| io::Error::other("too many counters"))
}

/// Number of CPUs that there may ever be.
fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus()
        .map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
}

impl Maps for KernelMaps {
    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn words(&self, arena: Arena) -> &[AtomicU64] {
        self.arenas[arena as usize].words()
    }

    fn frontend(&self, key: &FrontendKey) -> io::Result<Option<u32>> {
        sys::lookup(&self.frontends, key)
    }

    fn frontends(&self) -> io::Result<Vec<(FrontendKey, u32)>> {
        let (keys, pairs) = sys::lookup_all(&self.frontends, CHUNK)?;
        Ok(keys.into_iter().zip(pairs).collect())
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        let mut sums = vec![0; self.sizes.counters as usize];
        for cpu in self.counters.words().chunks(sums.len()) {
            for (sum, counter) in sums.iter_mut().zip(cpu) {
                *sum += counter.load(Ordering::Relaxed);
            }
        }
        Ok(sums)
    }

    fn grace(&self) -> Arc<dyn Grace> {
        Arc::clone(&self.grace) as Arc<dyn Grace>
    }

    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()> {
        let (keys, pairs): (Vec<FrontendKey>, Vec<u32>) = frontends.iter().copied().unzip();
        // Batches take no BPF_NOEXIST; that these are new is known to who calls.
        sys::update_batch(&self.frontends, &keys, &pairs)
    }

    fn delete_frontends(&mut self, mut keys: &[FrontendKey]) -> io::Result<()> {
        while !keys.is_empty() {
            let (deleted, result) = sys::delete_batch(&self.frontends, keys);
            match result {
                Ok(()) => return Ok(()),
                // Gone already: go on behind it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    keys = keys.get(deleted + 1..).unwrap_or(&[]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()> {
        for cpu in self.counters.words().chunks(self.sizes.counters as usize) {
            for counter in indices.iter().filter_map(|index| cpu.get(*index as usize)) {
                counter.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Words of a map in this process's memory.
struct Mapping {
    start: *mut core::ffi::c_void,
    n_words: usize,
}

// SAFETY: the words are atomic and live until the mapping is dropped.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: &impl AsFd, n_words: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let length = Self::length(n_words);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, map, 0) }?;
        Ok(Self { start, n_words })
    }

    /// Whole pages, as the kernel wants it.
    fn length(n_words: usize) -> usize {
        (n_words * size_of::<u64>()).next_multiple_of(rustix::param::page_size())
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is that long, page-aligned, and lives as long as `self`. Everybody
        // who shares it reads and writes whole aligned words.
        unsafe { std::slice::from_raw_parts(self.start.cast::<AtomicU64>(), self.n_words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and no slice of it outlives `self`. It cannot
        // fail for a whole mapping, and there is nobody to tell.
        let _unmapped = unsafe { munmap(self.start, Self::length(self.n_words)) };
    }
}

/// Waits for running programs by storing into a map of maps.
///
/// The kernel promises that such a store returns after the programs that could see the old inner
/// map have ended (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`), which is an RCU grace
/// period: 13 to 16 ms.
struct GracePeriod {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriod {
    fn new() -> io::Result<Self> {
        let inner = sys::create_array(1)?;
        Ok(Self { outer: sys::create_map_of_maps(&inner)?, inner })
    }
}

impl Grace for GracePeriod {
    fn wait(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        sys::update(&self.outer, &0_u32, &self.inner.as_raw_fd())
    }
}
