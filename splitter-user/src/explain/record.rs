//! A world that remembers what a decision looked at.

use std::cell::RefCell;

use splitter_common::abi::{
    Backend, COMMAND_LEN, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route, Subset,
};
use splitter_common::decide::{WheelRef, World};

use crate::tables::Maps;
use crate::tables::world::{HostState, HostWheel, HostWorld};

/// One look-up that the story needs, and what it found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Look {
    Generation(u64),
    Plan(u32, Plan),
    Route(u32, Route),
    Match(Match),
    Wheel(u32),
    Ticket(u64),
    Cell(u64),
    Subset(Subset),
    Fault(Fault),
    /// Whether a backend of a followed subset may be chosen.
    Probed,
    Backend(Backend),
    Client(u64),
    Random(u32),
}

/// Hands every look-up on and writes down what it found.
pub(super) struct Recorder<'a, M: Maps> {
    inner: HostWorld<'a, M>,
    looks: &'a RefCell<Vec<Look>>,
}

impl<'a, M: Maps> Recorder<'a, M> {
    pub(super) fn new(inner: HostWorld<'a, M>, looks: &'a RefCell<Vec<Look>>) -> Self {
        Self { inner, looks }
    }

    fn note<T: Copy>(&self, found: Option<T>, look: impl Fn(T) -> Look) -> Option<T> {
        self.looks.borrow_mut().extend(found.map(look));
        found
    }
}

impl<'a, M: Maps> World for Recorder<'a, M> {
    type Wheel = RecordedWheel<'a, M>;
    type Backend = Backend;
    type Conduct = Conduct;
    type Fault = Fault;
    type State = HostState<'a, M>;

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.inner.frontend(key)
    }
    fn plan_pair(&self, index: u32) -> Option<PlanPair> {
        self.inner.plan_pair(index)
    }
    fn generation(&self) -> u64 {
        let generation = self.inner.generation();
        self.looks.borrow_mut().push(Look::Generation(generation));
        generation
    }
    fn plan(&self, index: u32) -> Option<Plan> {
        self.note(self.inner.plan(index), |plan| Look::Plan(index, plan))
    }
    fn route(&self, index: u32) -> Option<Route> {
        self.note(self.inner.route(index), |route| Look::Route(index, route))
    }
    fn client_match(&self, index: u32) -> Option<Match> {
        self.note(self.inner.client_match(index), Look::Match)
    }
    fn wheel(&self, index: u32) -> Option<Self::Wheel> {
        let inner = self.inner.wheel(index)?;
        self.looks.borrow_mut().push(Look::Wheel(inner.n_slots()));
        Some(RecordedWheel { inner, looks: self.looks })
    }
    fn cell(&self, index: u32) -> Option<u64> {
        self.note(self.inner.cell(index), Look::Cell)
    }
    fn subset(&self, index: u32) -> Option<Subset> {
        self.note(self.inner.subset(index), Look::Subset)
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.note(self.inner.backend(index), Look::Backend)
    }
    fn conduct(&self, index: u32) -> Option<Conduct> {
        self.inner.conduct(index)
    }
    fn fault(&self, index: u32) -> Option<Fault> {
        self.note(self.inner.fault(index), Look::Fault)
    }
    fn two_states(&self, cell: u32) -> Option<u64> {
        self.looks.borrow_mut().push(Look::Probed);
        self.inner.two_states(cell)
    }
    fn state(&self, index: u32) -> Option<HostState<'a, M>> {
        self.inner.state(index)
    }
    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }
    fn uid_gid(&self) -> u64 {
        self.inner.uid_gid()
    }
    fn command(&self) -> [u8; COMMAND_LEN] {
        self.inner.command()
    }
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        self.inner.ancestor_cgroup(level)
    }
    fn netns(&self) -> u64 {
        self.inner.netns()
    }
    fn mark(&self) -> u32 {
        self.inner.mark()
    }
    fn tos(&self) -> u32 {
        self.inner.tos()
    }
    fn client(&self, key: u8) -> u64 {
        let client = self.inner.client(key);
        self.looks.borrow_mut().push(Look::Client(client));
        client
    }
    fn random(&self) -> u32 {
        let random = self.inner.random();
        self.looks.borrow_mut().push(Look::Random(random));
        random
    }
}

/// A wheel that remembers its ticket.
pub(super) struct RecordedWheel<'a, M: Maps> {
    inner: HostWheel<'a, M>,
    looks: &'a RefCell<Vec<Look>>,
}

impl<M: Maps> WheelRef for RecordedWheel<'_, M> {
    fn n_slots(&self) -> u32 {
        self.inner.n_slots()
    }
    fn slot_bits(&self) -> u32 {
        self.inner.slot_bits()
    }
    fn cells(&self) -> u32 {
        self.inner.cells()
    }
    fn inline_word(&self, word: u32) -> u64 {
        self.inner.inline_word(word)
    }
    fn take_ticket(&self) -> u64 {
        let ticket = self.inner.take_ticket();
        self.looks.borrow_mut().push(Look::Ticket(ticket));
        ticket
    }
}
