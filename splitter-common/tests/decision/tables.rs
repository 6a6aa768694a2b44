//! A world of plain vectors, which remembers what was looked up of the client.

use std::cell::RefCell;

use splitter_common::abi::{
    Backend, COMMAND_LEN, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route, STATE_CELLS,
    Subset, Wheel, match_flag,
};
use splitter_common::decide::{WheelRef, World};
use splitter_common::life::Cells;

use crate::KEY;

/// Tables of plain vectors, with one frontend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) pair: PlanPair,
    pub(crate) generation: u64,
    pub(crate) plans: Vec<Plan>,
    pub(crate) routes: Vec<Route>,
    pub(crate) matches: Vec<Match>,
    pub(crate) wheels: Vec<Wheel>,
    pub(crate) cells: Vec<u64>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) conducts: Vec<Conduct>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) states: Vec<u64>,
    pub(crate) client: Client,
    /// Identity of the subset that the client is assigned.
    pub(crate) assigned: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) uid_gid: u64,
    pub(crate) command: [u8; COMMAND_LEN],
    pub(crate) cgroups: Vec<u64>,
    pub(crate) netns: u64,
    pub(crate) mark: u32,
    pub(crate) tos: u32,
    pub(crate) hashed: u64,
    pub(crate) random: u32,
    /// What was looked up, as [`match_flag`] bits, each look-up once.
    pub(crate) looked_up: RefCell<Vec<u32>>,
}

impl Client {
    fn look_up<T>(&self, flag: u32, found: T) -> T {
        self.looked_up.borrow_mut().push(flag);
        found
    }
}

/// A state all of whose cells have one value, which nothing changes.
pub(crate) struct Constant(u64);

impl Cells for Constant {
    fn load(&self, cell: usize) -> u64 {
        assert!(cell < STATE_CELLS);
        self.0
    }
    fn add(&self, cell: usize, _n: u64) -> u64 {
        self.load(cell)
    }
    fn replace(&self, cell: usize, old: u64, _new: u64) -> bool {
        self.load(cell) == old
    }
    fn take_ticket(&self, cell: usize) -> u64 {
        self.load(cell)
    }
}

pub(crate) struct Handle(Wheel);

impl WheelRef for Handle {
    fn n_slots(&self) -> u32 {
        u32::from(self.0.len)
    }
    fn slot_bits(&self) -> u32 {
        u32::from(self.0.slot_bits)
    }
    fn cells(&self) -> u32 {
        self.0.cells
    }
    fn inline_word(&self, word: u32) -> u64 {
        get(&self.0.words, word).unwrap_or(0)
    }
    fn take_ticket(&self) -> u64 {
        self.0.ticket
    }
}

pub(crate) fn get<T: Copy>(records: &[T], index: u32) -> Option<T> {
    records.get(index as usize).copied()
}

impl World for Tables {
    type Wheel = Handle;
    type Backend = Backend;
    type Conduct = Conduct;
    type Fault = Fault;
    type State = Constant;

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        (*key == KEY).then_some(0)
    }
    fn plan_pair(&self, _index: u32) -> Option<PlanPair> {
        Some(self.pair)
    }
    fn generation(&self) -> u64 {
        self.generation
    }
    fn plan(&self, index: u32) -> Option<Plan> {
        get(&self.plans, index)
    }
    fn route(&self, index: u32) -> Option<Route> {
        get(&self.routes, index)
    }
    fn client_match(&self, index: u32) -> Option<Match> {
        get(&self.matches, index)
    }
    fn wheel(&self, index: u32) -> Option<Handle> {
        get(&self.wheels, index).map(Handle)
    }
    fn cell(&self, index: u32) -> Option<u64> {
        get(&self.cells, index)
    }
    fn subset(&self, index: u32) -> Option<Subset> {
        get(&self.subsets, index)
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        get(&self.backends, index)
    }
    fn conduct(&self, index: u32) -> Option<Conduct> {
        get(&self.conducts, index)
    }
    fn fault(&self, index: u32) -> Option<Fault> {
        get(&self.faults, index)
    }
    fn two_states(&self, cell: u32) -> Option<u64> {
        self.cell(cell)
    }
    fn state(&self, index: u32) -> Option<Constant> {
        get(&self.states, index).map(Constant)
    }
    fn now_ns(&self) -> u64 {
        5
    }
    fn uid_gid(&self) -> u64 {
        self.client.look_up(match_flag::UID | match_flag::GID, self.client.uid_gid)
    }
    fn command(&self) -> [u8; COMMAND_LEN] {
        self.client.look_up(match_flag::COMMAND, self.client.command)
    }
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        let id = get(&self.client.cgroups, level).unwrap_or(0);
        self.client.look_up(match_flag::CGROUP, id)
    }
    fn netns(&self) -> u64 {
        self.client.look_up(match_flag::NETNS, self.client.netns)
    }
    fn mark(&self) -> u32 {
        self.client.look_up(match_flag::MARK, self.client.mark)
    }
    fn tos(&self) -> u32 {
        self.client.look_up(match_flag::TOS, self.client.tos)
    }
    fn client(&self, _key: u8) -> u64 {
        self.client.hashed
    }
    fn random(&self) -> u32 {
        self.client.random
    }
    fn has_assignments(&self) -> bool {
        self.assigned.is_some()
    }
    fn assignment(&self, _service: u64) -> Option<u32> {
        self.assigned
    }
}
