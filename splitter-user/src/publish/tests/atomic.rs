//! What readers see while a publish is under way: before every store, and with a plan pair that
//! they loaded at any earlier moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use splitter_common::abi::{
    Backend, COMMAND_LEN, Conduct, Fault, FrontendKey, Match, Plan, PlanPair, Route, Subset,
};
use splitter_common::decide::{World, decide};

use super::fixture::{SIZES, Seen, clients, connect, fresh, keys, observe, put, seen};
use crate::policy::arbitrary::policy;
use crate::publish::Publisher;
use crate::tables::memory::MemoryMaps;
use crate::tables::world::{HostState, HostWheel, HostWorld, Tickets};
use crate::tables::{Arena, Grace, Maps, Sizes, committed, read};

/// A write that is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Word(Arena, usize),
    Insert,
    Delete,
    Zero,
}

const COMMIT: Write = Write::Word(Arena::Commit, 0);

/// Maps that show themselves before every write.
struct Watched<F> {
    inner: MemoryMaps,
    watch: F,
    graces: Arc<Graces>,
}

/// Counts grace periods.
#[derive(Default)]
struct Graces(AtomicU64);

impl Grace for Graces {
    fn wait(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl<F: FnMut(&MemoryMaps, Write)> Maps for Watched<F> {
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
        Arc::clone(&self.graces) as Arc<dyn Grace>
    }
    fn store(&mut self, arena: Arena, first_word: usize, words: &[u64]) -> io::Result<()> {
        for (word, value) in (first_word..).zip(words) {
            (self.watch)(&self.inner, Write::Word(arena, word));
            self.inner.store(arena, word, std::slice::from_ref(value))?;
        }
        Ok(())
    }
    fn insert_frontends(&mut self, frontends: &[(FrontendKey, u32)]) -> io::Result<()> {
        for frontend in frontends {
            (self.watch)(&self.inner, Write::Insert);
            self.inner.insert_frontends(std::slice::from_ref(frontend))?;
        }
        Ok(())
    }
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> io::Result<()> {
        for key in keys {
            (self.watch)(&self.inner, Write::Delete);
            self.inner.delete_frontends(std::slice::from_ref(key))?;
        }
        Ok(())
    }
    fn zero_counters(&mut self, indices: &[u32]) -> io::Result<()> {
        for index in indices {
            (self.watch)(&self.inner, Write::Zero);
            self.inner.zero_counters(std::slice::from_ref(index))?;
        }
        Ok(())
    }
}

/// A reader that found its frontend and loaded the pair some time ago.
struct LateReader<'a> {
    now: HostWorld<'a, MemoryMaps>,
    pair: Option<PlanPair>,
}

impl<'a> World for LateReader<'a> {
    type Wheel = HostWheel<'a, MemoryMaps>;
    type Backend = Backend;
    type Conduct = Conduct;
    type Fault = Fault;
    type State = HostState<'a, MemoryMaps>;

    fn frontend(&self, _key: &FrontendKey) -> Option<u32> {
        self.pair.map(|_| 0)
    }
    fn plan_pair(&self, _index: u32) -> Option<PlanPair> {
        self.pair
    }
    fn generation(&self) -> u64 {
        self.now.generation()
    }
    fn plan(&self, index: u32) -> Option<Plan> {
        self.now.plan(index)
    }
    fn route(&self, index: u32) -> Option<Route> {
        self.now.route(index)
    }
    fn client_match(&self, index: u32) -> Option<Match> {
        self.now.client_match(index)
    }
    fn wheel(&self, index: u32) -> Option<Self::Wheel> {
        self.now.wheel(index)
    }
    fn cell(&self, index: u32) -> Option<u64> {
        self.now.cell(index)
    }
    fn subset(&self, index: u32) -> Option<Subset> {
        self.now.subset(index)
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.now.backend(index)
    }
    fn conduct(&self, index: u32) -> Option<Conduct> {
        self.now.conduct(index)
    }
    fn fault(&self, index: u32) -> Option<Fault> {
        self.now.fault(index)
    }
    fn two_states(&self, cell: u32) -> Option<u64> {
        self.now.two_states(cell)
    }
    fn state(&self, index: u32) -> Option<Self::State> {
        self.now.state(index)
    }
    fn now_ns(&self) -> u64 {
        self.now.now_ns()
    }
    fn uid_gid(&self) -> u64 {
        self.now.uid_gid()
    }
    fn command(&self) -> [u8; COMMAND_LEN] {
        self.now.command()
    }
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        self.now.ancestor_cgroup(level)
    }
    fn netns(&self) -> u64 {
        self.now.netns()
    }
    fn mark(&self) -> u32 {
        self.now.mark()
    }
    fn tos(&self) -> u32 {
        self.now.tos()
    }
    fn client(&self, key: u8) -> u64 {
        self.now.client(key)
    }
    fn random(&self) -> u32 {
        self.now.random()
    }
}

fn watched<F: FnMut(&MemoryMaps, Write)>(inner: MemoryMaps, watch: F) -> Publisher<Watched<F>> {
    let maps = Watched { inner, watch, graces: Arc::default() };
    Publisher::adopt(maps).expect("a sound policy")
}

/// Everything that happened, in order: what was about to be written, and what was seen.
type Story = Rc<RefCell<Vec<(Write, Vec<Seen>)>>>;

/// Every moment must show all of the old policy or all of the new one, and the one store between
/// them is the commit.
fn assert_one_flip(story: &[(Write, Vec<Seen>)], old: &[Seen], new: &[Seen]) {
    let commit = story.iter().position(|(write, _)| *write == COMMIT);
    for (i, (write, seen)) in story.iter().enumerate() {
        let expected = if commit.is_none_or(|commit| i <= commit) { old } else { new };
        assert_eq!(seen, expected, "before write {i}, {write:?}");
    }
    let commits = story.iter().filter(|(write, _)| *write == COMMIT).count();
    assert!(commits <= 1 && (commits == 1 || old == new));
}

/// Pairs that readers may hold, by frontend.
#[derive(Default)]
struct Held {
    /// Each with the position of the policy that was committed when it was loaded.
    pairs: BTreeMap<FrontendKey, Vec<(Option<PlanPair>, usize)>>,
    graces: u64,
    /// What each policy shows, in the order of [`observe`].
    shown: Vec<Vec<Seen>>,
    /// Committed generation before the last of them was published.
    generation: u64,
}

impl Held {
    fn publishing(&mut self, shown: Vec<Seen>, generation: u64) {
        self.shown.push(shown);
        self.generation = generation;
    }

    /// Position of the policy that is committed.
    fn committed(&self, maps: &MemoryMaps) -> usize {
        let pending = usize::from(committed(maps).generation == self.generation);
        (self.shown.len() - 1).saturating_sub(pending)
    }

    /// Readers load the pairs as they are now. After a grace period, earlier readers are gone.
    fn load(&mut self, maps: &MemoryMaps, graces: u64) {
        if self.graces != graces {
            self.graces = graces;
            self.pairs.clear();
        }
        let committed = self.committed(maps);
        for key in keys() {
            let pair = maps.frontend(&key).expect("plain memory");
            let pair = pair.and_then(|pair| read(maps, Arena::PlanPairs, pair));
            let held = self.pairs.entry(key).or_default();
            if !held.contains(&(pair, committed)) {
                held.push((pair, committed));
            }
        }
    }

    /// Whoever holds a pair still gets a decision of a policy that was in force since.
    fn check(&self, maps: &MemoryMaps) {
        let clients = clients();
        let committed = self.committed(maps);
        for (i, key) in keys().iter().enumerate() {
            for (pair, since) in self.pairs.get(key).into_iter().flatten() {
                for (j, client) in clients.iter().enumerate() {
                    let now = HostWorld::new(maps, client.clone(), Tickets::Peek, 1);
                    let decision = seen(&decide(&LateReader { now, pair: *pair }, key));
                    let at = i * clients.len() + j;
                    assert!(
                        self.shown[*since..=committed].iter().any(|shown| shown[at] == decision)
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_services_flip_at_one_store(old in policy(), new in policy()) {
        let mut publisher = Publisher::adopt(MemoryMaps::new(SIZES)).unwrap();
        put(&mut publisher, &old);
        connect(publisher.maps(), 3);
        let before = observe(publisher.maps());
        let story = Story::default();
        let told = Rc::clone(&story);
        let mut publisher = watched(publisher.into_maps(), move |maps, write| {
            told.borrow_mut().push((write, observe(maps)));
        });
        story.borrow_mut().clear();
        put(&mut publisher, &new);
        let after = observe(publisher.maps());
        assert_one_flip(&story.borrow(), &before, &after);
        publisher.settle().unwrap();
        prop_assert_eq!(observe(publisher.maps()), after);
    }

    #[test]
    fn late_readers_see_a_whole_policy(policies in prop::collection::vec(policy(), 6)) {
        let held = Rc::new(RefCell::new(Held::default()));
        let graces = Arc::<Graces>::default();
        let (watcher, counter) = (Rc::clone(&held), Arc::clone(&graces));
        let watch = move |maps: &MemoryMaps, _: Write| {
            let mut held = watcher.borrow_mut();
            held.load(maps, counter.0.load(Ordering::SeqCst));
            held.check(maps);
        };
        held.borrow_mut().publishing(observe(&MemoryMaps::new(SIZES)), u64::MAX);
        let mut publisher =
            Publisher::adopt(Watched { inner: MemoryMaps::new(SIZES), watch, graces }).unwrap();
        for policy in &policies {
            let shown = observe(fresh(policy).maps());
            held.borrow_mut().publishing(shown, publisher.generation());
            put(&mut publisher, policy);
            held.borrow().check(&publisher.maps().inner);
        }
    }
}
