//! The decision's view of the tables from user space.
//!
//! It lets `simulate`, `explain` and every test call the very function that the kernel runs, on
//! the very records that the kernel reads.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use splitter_common::abi::{
    Backend, COMMAND_LEN, Commit, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route,
    Subset, Wheel, client_key,
};
use splitter_common::decide::{WheelRef, World};
use splitter_common::hash::mix;
use splitter_common::life::Cells;

use super::{Arena, Maps, read};

/// A connecting client, as the kernel would see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Command name, zero-padded.
    pub command: [u8; COMMAND_LEN],
    /// Ids of the client's cgroup and its ancestors, the v2 root first.
    pub cgroups: Vec<u64>,
    /// Process id.
    pub process: u32,
    /// Network namespace cookie.
    pub netns: u64,
    /// `SO_MARK` of the socket.
    pub mark: u32,
    /// `IP_TOS` of the socket, `IPV6_TCLASS` of one of IPv6.
    pub tos: u32,
    /// When it connects, in nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

/// Whether a decision moves the tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tickets {
    /// Take them, as a connection does.
    Take,
    /// Look at them and leave them.
    Peek,
}

/// One client in front of the tables.
pub struct HostWorld<'a, M: Maps> {
    maps: &'a M,
    client: Client,
    tickets: Tickets,
    random: Cell<u64>,
}

impl<'a, M: Maps> HostWorld<'a, M> {
    /// A world whose random numbers follow from `seed`.
    pub fn new(maps: &'a M, client: Client, tickets: Tickets, seed: u64) -> Self {
        Self { maps, client, tickets, random: Cell::new(seed) }
    }
}

/// A wheel in the tables.
pub struct HostWheel<'a, M: Maps> {
    maps: &'a M,
    index: u32,
    record: Wheel,
    tickets: Tickets,
}

impl<'a, M: Maps> World for HostWorld<'a, M> {
    type Wheel = HostWheel<'a, M>;
    type Backend = Backend;
    type Conduct = Conduct;
    type Fault = Fault;
    type State = HostState<'a, M>;

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        // A look-up that fails is a miss to the kernel too.
        self.maps.frontend(key).ok().flatten()
    }

    fn plan_pair(&self, index: u32) -> Option<PlanPair> {
        read(self.maps, Arena::PlanPairs, index)
    }

    fn generation(&self) -> u64 {
        read::<Commit, _>(self.maps, Arena::Commit, 0).map_or(0, |commit| commit.generation)
    }

    fn plan(&self, index: u32) -> Option<Plan> {
        read(self.maps, Arena::Plans, index)
    }

    fn route(&self, index: u32) -> Option<Route> {
        read(self.maps, Arena::Routes, index)
    }

    fn client_match(&self, index: u32) -> Option<Match> {
        read(self.maps, Arena::Matches, index)
    }

    fn wheel(&self, index: u32) -> Option<Self::Wheel> {
        let record = read(self.maps, Arena::Wheels, index)?;
        Some(HostWheel { maps: self.maps, index, record, tickets: self.tickets })
    }

    fn cell(&self, index: u32) -> Option<u64> {
        read(self.maps, Arena::Cells, index)
    }

    fn subset(&self, index: u32) -> Option<Subset> {
        read(self.maps, Arena::Subsets, index)
    }

    fn backend(&self, index: u32) -> Option<Backend> {
        read(self.maps, Arena::Backends, index)
    }

    fn conduct(&self, index: u32) -> Option<Conduct> {
        read(self.maps, Arena::Conducts, index)
    }

    fn fault(&self, index: u32) -> Option<Fault> {
        read(self.maps, Arena::Faults, index)
    }

    fn two_states(&self, cell: u32) -> Option<u64> {
        self.cell(cell)
    }

    fn state(&self, index: u32) -> Option<HostState<'a, M>> {
        let is_there = index < self.maps.sizes().records(Arena::States);
        is_there.then_some(HostState { maps: self.maps, index, tickets: self.tickets })
    }

    fn now_ns(&self) -> u64 {
        self.client.now_ns
    }

    fn uid_gid(&self) -> u64 {
        u64::from(self.client.gid) << 32 | u64::from(self.client.uid)
    }

    fn command(&self) -> [u8; COMMAND_LEN] {
        self.client.command
    }

    fn ancestor_cgroup(&self, level: u32) -> u64 {
        self.client.cgroups.get(level as usize).copied().unwrap_or(0)
    }

    fn netns(&self) -> u64 {
        self.client.netns
    }

    fn mark(&self) -> u32 {
        self.client.mark
    }

    fn tos(&self) -> u32 {
        self.client.tos
    }

    fn client(&self, key: u8) -> u64 {
        match key {
            client_key::UID => u64::from(self.client.uid),
            client_key::GID => u64::from(self.client.gid),
            client_key::COMMAND => {
                let [low, high]: [u64; 2] = bytemuck::cast(self.client.command);
                mix(low, high)
            }
            client_key::CGROUP => self.client.cgroups.last().copied().unwrap_or(0),
            client_key::PROCESS => u64::from(self.client.process),
            _ => self.client.netns,
        }
    }

    fn random(&self) -> u32 {
        let state = self.random.get().wrapping_add(1);
        self.random.set(state);
        (mix(0, state) >> 32) as u32
    }
}

impl<M: Maps> WheelRef for HostWheel<'_, M> {
    fn n_slots(&self) -> u32 {
        u32::from(self.record.len)
    }

    fn slot_bits(&self) -> u32 {
        u32::from(self.record.slot_bits)
    }

    fn cells(&self) -> u32 {
        self.record.cells
    }

    fn inline_word(&self, word: u32) -> u64 {
        self.record.words.get(word as usize).copied().unwrap_or(0)
    }

    fn take_ticket(&self) -> u64 {
        let word = self.index as usize * Arena::Wheels.record_words();
        let ticket = &self.maps.words(Arena::Wheels)[word];
        match self.tickets {
            Tickets::Take => ticket.fetch_add(1, Ordering::SeqCst),
            Tickets::Peek => ticket.load(Ordering::SeqCst),
        }
    }
}

/// A state in the tables.
pub struct HostState<'a, M: Maps> {
    maps: &'a M,
    index: u32,
    tickets: Tickets,
}

impl<'a, M: Maps> HostState<'a, M> {
    /// A state that is looked at and never changed.
    pub(crate) fn peek(maps: &'a M, index: u32) -> Self {
        Self { maps, index, tickets: Tickets::Peek }
    }

    fn word(&self, cell: usize) -> &AtomicU64 {
        &self.maps.words(Arena::States)[self.index as usize * Arena::States.record_words() + cell]
    }
}

/// Where tickets are only looked at, nothing is taken or counted either.
impl<M: Maps> Cells for HostState<'_, M> {
    fn load(&self, cell: usize) -> u64 {
        self.word(cell).load(Ordering::SeqCst)
    }

    fn add(&self, cell: usize, n: u64) -> u64 {
        match self.tickets {
            Tickets::Take => self.word(cell).fetch_add(n, Ordering::SeqCst),
            Tickets::Peek => self.load(cell),
        }
    }

    fn replace(&self, cell: usize, old: u64, new: u64) -> bool {
        let (set, then) = (Ordering::SeqCst, Ordering::SeqCst);
        match self.tickets {
            Tickets::Take => self.word(cell).compare_exchange(old, new, set, then).is_ok(),
            Tickets::Peek => self.load(cell) == old,
        }
    }

    fn take_ticket(&self, cell: usize) -> u64 {
        self.add(cell, 1)
    }
}
