//! The compiled kernel programs: what is in them, what must not be, and how large they may grow.
//!
//! Needs no privilege, but the object: `cargo xtask build` makes it.

use std::cell::Cell;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};
use splitter_common::abi::{
    Backend, Commit, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route, State, Subset,
    Wheel, map,
};
use splitter_common::decide::{Verdict, World, decide};
use splitter_tests::node::{compile, parse, two_versions};
use splitter_user::kernel::embedded;
use splitter_user::publish::{Change, Publisher};
use splitter_user::tables::Sizes;
use splitter_user::tables::memory::MemoryMaps;
use splitter_user::tables::world::{Client, HostState, HostWheel, HostWorld, Tickets};

/// `BPF_STX | BPF_ATOMIC | BPF_DW`.
const ATOMIC: u8 = 0xdb;
/// `BPF_ADD | BPF_FETCH`, in the immediate of an atomic instruction.
const FETCH_ADD: i32 = 0x01;
/// `BPF_CMPXCHG`, likewise.
const COMPARE_AND_SWAP: i32 = 0xf1;
/// `BPF_ALU64 | BPF_MOD | BPF_X`.
const MODULO: u8 = 0x9f;
/// The frame pointer.
const R10: u8 = 10;
/// Bytes of stack that a program may use; the kernel's own limit is 512.
const STACK_BUDGET: u64 = 256;

/// One instruction, as `struct bpf_insn` has it.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn parse(bytes: &[u8]) -> Self {
        let word = |range: std::ops::Range<usize>| bytes[range].try_into().expect("four bytes");
        Self {
            code: bytes[0],
            dst: bytes[1] & 0xf,
            src: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes(word(4..8)),
        }
    }

    /// How deep below the frame pointer it reaches, by an access or by making a pointer.
    fn depth(self, previous: Option<Self>) -> u64 {
        let class = self.code & 7;
        let store = (class == 2 || class == 3) && self.dst == R10;
        let load = class == 1 && self.src == R10;
        let offset = if store || load { i64::from(self.offset) } else { 0 };
        // `rX = r10; rX += -N`.
        let pointer = previous.is_some_and(|p| p.code == 0xbf && p.src == R10 && p.dst == self.dst)
            && self.code == 0x07;
        let below = if pointer { i64::from(self.immediate) } else { 0 };
        offset.min(below).min(0).unsigned_abs()
    }
}

fn elf() -> Result<object::File<'static>> {
    let bytes = embedded().context("built without the kernel programs: cargo xtask build")?;
    Ok(object::File::parse(bytes)?)
}

/// The code of every section that has some.
fn code(elf: &object::File<'_>) -> Result<BTreeMap<String, Vec<Instruction>>> {
    let text = elf.sections().filter(|section| section.kind() == SectionKind::Text);
    text.map(|section| {
        let instructions = section.data()?.chunks_exact(8).map(Instruction::parse).collect();
        Ok((section.name()?.to_owned(), instructions))
    })
    .collect()
}

#[test]
fn maps_are_as_the_abi_says() -> Result<()> {
    let elf = elf()?;
    let expected = [
        (map::COMMIT, 2, 4, size_of::<Commit>()),
        (map::FRONTENDS, 1, size_of::<FrontendKey>(), 4),
        (map::PLAN_PAIRS, 2, 4, size_of::<PlanPair>()),
        (map::PLANS, 2, 4, size_of::<Plan>()),
        (map::ROUTES, 2, 4, size_of::<Route>()),
        (map::MATCHES, 2, 4, size_of::<Match>()),
        (map::WHEELS, 2, 4, size_of::<Wheel>()),
        (map::CELLS, 2, 4, 8),
        (map::SUBSETS, 2, 4, size_of::<Subset>()),
        (map::BACKENDS, 2, 4, size_of::<Backend>()),
        (map::COUNTERS, 2, 4, 8),
        (map::CONDUCTS, 2, 4, size_of::<Conduct>()),
        (map::FAULTS, 2, 4, size_of::<Fault>()),
        (map::STATES, 2, 4, size_of::<State>()),
    ];
    for (name, kind, key, value) in expected {
        let symbol = elf.symbols().find(|s| s.name() == Ok(name)).context(name)?;
        let section = elf.section_by_index(symbol.section_index().context(name)?)?;
        let start = usize::try_from(symbol.address())?;
        let words: Vec<u32> = section.data()?[start..start + 12]
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
            .collect();
        assert_eq!(words, [kind, u32::try_from(key)?, u32::try_from(value)?], "{name}");
    }
    ensure!(elf.symbols().any(|s| s.name() == Ok(map::SOCKETS)), "no {}", map::SOCKETS);
    Ok(())
}

#[test]
fn nothing_in_the_programs_can_panic() -> Result<()> {
    let elf = elf()?;
    let panics: Vec<&str> = elf
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.contains("panic") || name.contains("unwind"))
        .collect();
    assert_eq!(panics, Vec::<&str>::new());
    Ok(())
}

#[test]
fn tickets_are_taken_by_an_atomic_fetch_and_add() -> Result<()> {
    let mut tickets = 0;
    for (section, code) in code(&elf()?)? {
        for (at, instruction) in code.iter().enumerate().filter(|(_, i)| i.code == ATOMIC) {
            ensure!(
                [FETCH_ADD, COMPARE_AND_SWAP].contains(&instruction.immediate),
                "{section}:{at}: an add that fetches nothing"
            );
            // A ticket is what is divided by the wheel's length next, possibly after moves.
            let next = &code[at + 1..code.len().min(at + 8)];
            tickets += u32::from(next.iter().any(|i| i.code == MODULO));
        }
    }
    ensure!(tickets >= 2, "{tickets} tickets are taken and divided");
    Ok(())
}

#[test]
fn the_stack_stays_within_its_budget() -> Result<()> {
    let elf = elf()?;
    let functions = elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let over: Vec<String> = functions
        .filter_map(|function| {
            let depth = depth(&elf, &function)?;
            (depth > STACK_BUDGET).then(|| format!("{}: {depth}", function.name().unwrap_or("?")))
        })
        .collect();
    assert_eq!(over, Vec::<String>::new(), "bytes of stack, {STACK_BUDGET} allowed");
    Ok(())
}

/// Bytes of stack that a function uses.
fn depth(elf: &object::File<'_>, function: &object::Symbol<'_, '_>) -> Option<u64> {
    let section = elf.section_by_index(function.section_index()?).ok()?;
    let bytes = section.data_range(function.address(), function.size()).ok()??;
    let code: Vec<_> = bytes.chunks_exact(8).map(Instruction::parse).collect();
    let previous = |at: usize| at.checked_sub(1).map(|before| code[before]);
    (0..code.len()).map(|at| code[at].depth(previous(at))).max()
}

/// Counts look-ups in maps on their way to the tables.
struct Counting<'a> {
    inner: HostWorld<'a, MemoryMaps>,
    lookups: Cell<u32>,
}

impl Counting<'_> {
    fn count<T>(&self, found: T) -> T {
        self.lookups.set(self.lookups.get() + 1);
        found
    }
}

impl<'a> World for Counting<'a> {
    type Wheel = HostWheel<'a, MemoryMaps>;
    type Backend = Backend;
    type Conduct = Conduct;
    type Fault = Fault;
    type State = HostState<'a, MemoryMaps>;

    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.count(self.inner.frontend(key))
    }
    fn plan_pair(&self, index: u32) -> Option<PlanPair> {
        self.count(self.inner.plan_pair(index))
    }
    fn generation(&self) -> u64 {
        self.count(self.inner.generation())
    }
    fn plan(&self, index: u32) -> Option<Plan> {
        self.count(self.inner.plan(index))
    }
    fn route(&self, index: u32) -> Option<Route> {
        self.count(self.inner.route(index))
    }
    fn client_match(&self, index: u32) -> Option<Match> {
        self.count(self.inner.client_match(index))
    }
    fn wheel(&self, index: u32) -> Option<Self::Wheel> {
        self.count(self.inner.wheel(index))
    }
    fn cell(&self, index: u32) -> Option<u64> {
        self.count(self.inner.cell(index))
    }
    fn subset(&self, index: u32) -> Option<Subset> {
        self.count(self.inner.subset(index))
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.count(self.inner.backend(index))
    }
    fn conduct(&self, index: u32) -> Option<Conduct> {
        self.count(self.inner.conduct(index))
    }
    fn fault(&self, index: u32) -> Option<Fault> {
        self.count(self.inner.fault(index))
    }
    fn two_states(&self, cell: u32) -> Option<u64> {
        self.count(self.inner.two_states(cell))
    }
    fn state(&self, index: u32) -> Option<Self::State> {
        self.count(self.inner.state(index))
    }
    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }
    fn uid_gid(&self) -> u64 {
        self.inner.uid_gid()
    }
    fn command(&self) -> [u8; 16] {
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
        self.inner.client(key)
    }
    fn random(&self) -> u32 {
        self.inner.random()
    }
}

#[test]
fn a_decision_makes_this_many_lookups() -> Result<()> {
    let mut publisher = Publisher::adopt(MemoryMaps::new(Sizes::for_services(4)))?;
    let images = compile(&parse(&two_versions("tcp", 80, 20))?)?;
    let key = images[0].frontends[0];
    publisher.publish(images.into_iter().map(|i| Change::Put(i.into())).collect())?;
    let lookups = |key: &FrontendKey, verdict: Verdict| {
        let inner = HostWorld::new(publisher.maps(), Client::default(), Tickets::Take, 1);
        let world = Counting { inner, lookups: Cell::new(0) };
        assert_eq!(decide(&world, key).verdict, verdict);
        world.lookups.get()
    };
    // The hash; pair, generation, plan, route, wheel, subset, backend.
    assert_eq!(lookups(&key, Verdict::Rewrite), 8);
    assert_eq!(lookups(&FrontendKey { pad: 1, ..key }, Verdict::Miss), 1);
    Ok(())
}
