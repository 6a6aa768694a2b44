//! The policy tables as both sides see them: typed arenas over shared words.
//!
//! [`Maps`] is what the publisher writes and the decision reads. It has two implementations: the
//! kernel's maps, and [`memory::MemoryMaps`], their twin in plain memory for the simulator and the
//! property tests. Readers may run at any moment, so words are stored atomically, in order.

pub mod egress;
pub mod memory;
pub mod world;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;
use splitter_common::abi::{
    AFFINITY_RANGE, Backend, Choice, Commit, Conduct, EgressClient, EgressCounts, EgressNetwork,
    EgressRoot, EgressRule, Fault, FrontendKey, MAX_EGRESS_RULES, MAX_SPLIT, Match, Plan, PlanPair,
    PortRanges, Route, STATE_CELLS, State, Subset, Wheel, map,
};

use crate::compile::egress::EgressImage;
use crate::compile::slots::{Slots, n_words};

/// A map that is an array of records of whole eight-byte words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arena {
    /// The committed generation; one record.
    Commit,
    /// Plan pairs.
    PlanPairs,
    /// Plans.
    Plans,
    /// Routes.
    Routes,
    /// Client matches.
    Matches,
    /// Wheels.
    Wheels,
    /// Slots of long wheels and affinity thresholds.
    Cells,
    /// Subsets.
    Subsets,
    /// Backends.
    Backends,
    /// What followed subsets ask of their connections.
    Conducts,
    /// Failures that routes make on purpose.
    Faults,
    /// What goes on at followed subsets, backends and routes.
    States,
    /// What clients may reach besides services; two records.
    EgressRoots,
    /// What came of the rules of that.
    EgressCounts,
}

impl Arena {
    /// Every arena.
    pub const ALL: [Self; 14] = [
        Self::Commit,
        Self::PlanPairs,
        Self::Plans,
        Self::Routes,
        Self::Matches,
        Self::Wheels,
        Self::Cells,
        Self::Subsets,
        Self::Backends,
        Self::Conducts,
        Self::Faults,
        Self::States,
        Self::EgressRoots,
        Self::EgressCounts,
    ];

    /// Name of the kernel's map.
    pub const fn map_name(self) -> &'static str {
        match self {
            Self::Commit => map::COMMIT,
            Self::PlanPairs => map::PLAN_PAIRS,
            Self::Plans => map::PLANS,
            Self::Routes => map::ROUTES,
            Self::Matches => map::MATCHES,
            Self::Wheels => map::WHEELS,
            Self::Cells => map::CELLS,
            Self::Subsets => map::SUBSETS,
            Self::Backends => map::BACKENDS,
            Self::Conducts => map::CONDUCTS,
            Self::Faults => map::FAULTS,
            Self::States => map::STATES,
            Self::EgressRoots => map::EGRESS_ROOTS,
            Self::EgressCounts => map::EGRESS_COUNTS,
        }
    }

    /// Whether its records are taken and given back by services; the others have fixed places.
    pub const fn is_allocated(self) -> bool {
        !matches!(self, Self::Commit | Self::EgressRoots | Self::EgressCounts)
    }

    /// Size of a record in eight-byte words.
    pub const fn record_words(self) -> usize {
        let bytes = match self {
            Self::Commit => size_of::<Commit>(),
            Self::PlanPairs => size_of::<PlanPair>(),
            Self::Plans => size_of::<Plan>(),
            Self::Routes => size_of::<Route>(),
            Self::Matches => size_of::<Match>(),
            Self::Wheels => size_of::<Wheel>(),
            Self::Cells => size_of::<u64>(),
            Self::Subsets => size_of::<Subset>(),
            Self::Backends => size_of::<Backend>(),
            Self::Conducts => size_of::<Conduct>(),
            Self::Faults => size_of::<Fault>(),
            Self::States => size_of::<State>(),
            Self::EgressRoots => size_of::<EgressRoot>(),
            Self::EgressCounts => size_of::<EgressCounts>(),
        };
        bytes / size_of::<u64>()
    }
}

/// Sizes of the maps, in records. Each includes the reserved record 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Most frontends; also the number of plan pairs.
    pub frontends: u32,
    /// Most plans: one per service, and one more per service that is changing.
    pub plans: u32,
    /// Most routes.
    pub routes: u32,
    /// Most client matches.
    pub matches: u32,
    /// Most wheels.
    pub wheels: u32,
    /// Most cells.
    pub cells: u32,
    /// Most subsets.
    pub subsets: u32,
    /// Most backends.
    pub backends: u32,
    /// Most counters.
    pub counters: u32,
    /// Most subsets whose connections are followed.
    pub conducts: u32,
    /// Most routes that fail connections on purpose.
    pub faults: u32,
    /// Most followed subsets, backends and routes together.
    pub states: u32,
}

impl Sizes {
    /// Services of ordinary shape that the daemon makes room for where nothing else is said.
    pub const DEFAULT_SERVICES: u32 = 4_096;

    /// Room for so many services of ordinary shape (one frontend, two subsets, four backends, a
    /// wheel of 100 slots), with half as much again for policies that are changing.
    pub const fn for_services(services: u32) -> Self {
        let room = services + services / 2 + 64;
        // Their records are large, and few services are followed.
        let followed = room / 8 + 64;
        Self {
            frontends: room,
            plans: room,
            routes: room * 2,
            matches: room,
            wheels: room * 3,
            cells: room * 4 + 5_000,
            subsets: room * 2,
            backends: room * 4,
            counters: room * 8,
            conducts: followed * 2,
            faults: followed,
            states: followed * 7,
        }
    }

    /// Number of records of an arena.
    pub const fn records(&self, arena: Arena) -> u32 {
        match arena {
            Arena::Commit => 1,
            Arena::PlanPairs => self.frontends,
            Arena::Plans => self.plans,
            Arena::Routes => self.routes,
            Arena::Matches => self.matches,
            Arena::Wheels => self.wheels,
            Arena::Cells => self.cells,
            Arena::Subsets => self.subsets,
            Arena::Backends => self.backends,
            Arena::Conducts => self.conducts,
            Arena::Faults => self.faults,
            Arena::States => self.states,
            Arena::EgressRoots => 2,
            Arena::EgressCounts => MAX_EGRESS_RULES,
        }
    }
}

/// Waits for every decision that is under way to end.
pub trait Grace: Send + Sync {
    /// Returns once every decision that ran when this was called has ended. May take tens of
    /// milliseconds.
    fn wait(&self) -> io::Result<()>;
}

/// The tables of one data path.
///
/// Writes go through [`Maps::store`] and the other `&mut self` methods, one call per step, in the
/// order in which readers may see them.
pub trait Maps {
    /// Sizes that the tables were made with.
    fn sizes(&self) -> &Sizes;
    /// The words of an arena.
    fn words(&self, arena: Arena) -> &[AtomicU64];
    /// Index of a frontend's plan pair.
    fn frontend(&self, key: &FrontendKey) -> io::Result<Option<u32>>;
    /// All frontends.
    fn frontends(&self) -> io::Result<Vec<(FrontendKey, u32)>>;
    /// Sum over all CPUs of every counter.
    fn counters(&self) -> io::Result<Vec<u64>>;
    /// Something that waits for running decisions to end.
    fn grace(&self) -> Arc<dyn Grace>;

    /// Stores consecutive words, in order, each whole, none before an earlier one.
    fn store(&mut self, arena: Arena, first_word: usize, words: &[u64]) -> io::Result<()> {
        for (word, value) in self.words(arena)[first_word..].iter().zip(words) {
            word.store(*value, Ordering::Release);
        }
        Ok(())
    }
    /// Adds frontends that are not there yet.
    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()>;
    /// Removes frontends that are there.
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> io::Result<()>;
    /// Sets counters to zero on every CPU.
    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()>;
}

/// Entries of what clients may reach, in sets that a root refers to: see
/// [`splitter_common::abi::EgressRoot`].
pub trait EgressTables {
    /// Writes a set, which nothing refers to yet.
    fn insert(&mut self, set: u32, image: &EgressImage) -> io::Result<()>;
    /// Removes all entries but those of one set.
    fn keep_only(&mut self, set: u32) -> io::Result<()>;
    /// The rule of a cgroup.
    fn rule(&self, client: &EgressClient) -> io::Result<Option<EgressRule>>;
    /// What is said of the smallest network that an address is in.
    fn ranges(&self, network: &EgressNetwork) -> io::Result<Option<PortRanges>>;
    /// The entries of a set, as they are now.
    fn copy(&self, set: u32) -> io::Result<egress::MemoryEgress>;
}

/// Reads a record; `None` where the index is out of range.
pub fn read<T: Pod, M: Maps + ?Sized>(maps: &M, arena: Arena, index: u32) -> Option<T> {
    debug_assert_eq!(arena.record_words() * 8, size_of::<T>());
    let n = arena.record_words();
    let first = index as usize * n;
    let words = maps.words(arena).get(first..first + n)?;
    let mut record = T::zeroed();
    for (to, from) in bytemuck::bytes_of_mut(&mut record).chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&from.load(Ordering::Acquire).to_ne_bytes());
    }
    Some(record)
}

/// Writes a record.
pub fn write<T: Pod, M: Maps + ?Sized>(
    maps: &mut M,
    arena: Arena,
    index: u32,
    record: &T,
) -> io::Result<()> {
    write_all(maps, arena, index, std::slice::from_ref(record))
}

/// Writes consecutive records.
pub fn write_all<T: Pod, M: Maps + ?Sized>(
    maps: &mut M,
    arena: Arena,
    first: u32,
    records: &[T],
) -> io::Result<()> {
    debug_assert_eq!(arena.record_words() * 8, size_of::<T>());
    let bytes = bytemuck::cast_slice::<T, u8>(records);
    let at = first as usize * arena.record_words();
    if let Ok(words) = bytemuck::try_cast_slice(bytes) {
        return maps.store(arena, at, words);
    }
    // Some records are aligned less than words are.
    let mut words = [0_u64; MOST_WORDS];
    let n = arena.record_words();
    for (i, record) in bytes.chunks_exact(n * 8).enumerate() {
        for (word, bytes) in words.iter_mut().zip(record.chunks_exact(8)) {
            *word = bytemuck::pod_read_unaligned(bytes);
        }
        maps.store(arena, at + i * n, &words[..n])?;
    }
    Ok(())
}

/// Words of the longest record.
const MOST_WORDS: usize = STATE_CELLS;

/// The committed record.
pub fn committed<M: Maps + ?Sized>(maps: &M) -> Commit {
    read(maps, Arena::Commit, 0).unwrap_or_default()
}

/// The slots of a wheel; `None` where its cells are out of range.
pub fn read_slots<M: Maps + ?Sized>(maps: &M, wheel: &Wheel) -> Option<Slots> {
    if wheel.cells == 0 {
        return Slots::from_words(wheel.len, wheel.slot_bits, &wheel.words);
    }
    let n = u32::try_from(n_words(wheel.len, wheel.slot_bits)?).ok()?;
    let cells = wheel.cells..wheel.cells.checked_add(n)?;
    let words: Option<Vec<u64>> = cells.map(|cell| read(maps, Arena::Cells, cell)).collect();
    Slots::from_words(wheel.len, wheel.slot_bits, &words?)
}

/// The affinity thresholds of a choice and their ordinals; `None` where they have no end.
pub fn read_thresholds<M: Maps + ?Sized>(maps: &M, choice: Choice) -> Option<Vec<(u64, u16)>> {
    let mut thresholds = Vec::new();
    for cell in choice.wheel..choice.wheel.checked_add(MAX_SPLIT)? {
        let cell: u64 = read(maps, Arena::Cells, cell)?;
        thresholds.push((cell >> 16, u16::try_from(cell & 0xffff).ok()?));
        if cell >> 16 == AFFINITY_RANGE {
            return Some(thresholds);
        }
    }
    None
}
