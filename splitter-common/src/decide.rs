//! The decision: what happens to one connection.
//!
//! [`decide`] is the only implementation of the policy. It reads a [`World`], takes at most two
//! tickets, and returns what is to be done as data. It has no unbounded loop and nothing in it can
//! panic, because one of its callers is the kernel.
#![expect(clippy::cast_possible_truncation, reason = "halves of words are taken on purpose")]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod assigned;
mod clients;
pub mod egress;
pub mod followed;

use core::borrow::Borrow;

use crate::abi::{
    AFFINITY_RANGE, Backend, COMMAND_LEN, Choice, Conduct, Fault, FrontendKey, MAX_SPLIT, Match,
    Plan, PlanPair, PreviousKey, Reason, Route, StateRef, Subset, UDP, action, pick, plan_flag,
};
use crate::hash::{bucket, scale, subset_bucket};
use crate::life::Cells;
use followed::{How, Ordinals};

/// `ECONNREFUSED`: nothing serves here. `errno.h` of every Linux architecture that splitter runs on.
pub const ECONNREFUSED: u16 = 111;
/// `EHOSTUNREACH`: the policy in the kernel is broken.
pub const EHOSTUNREACH: u16 = 113;
/// `EADDRNOTAVAIL`: the source address is none of the client's network namespace.
pub const EADDRNOTAVAIL: u16 = 99;

/// Read access to one node's policy and to the client at hand.
///
/// Every method is a constant-time look-up. `None` for an index means that the record does not
/// exist, which a sound policy never asks for.
pub trait World {
    /// A handle on one wheel.
    type Wheel: WheelRef;
    /// A backend, or a reference to one where a copy is dear.
    type Backend: Copy + Borrow<Backend>;
    /// A conduct, or a reference to one.
    type Conduct: Copy + Borrow<Conduct>;
    /// A fault, or a reference to one.
    type Fault: Copy + Borrow<Fault>;
    /// A handle on one state.
    type State: Cells;

    /// Index of the plan pair of a dialled address; `None` for addresses without a policy.
    fn frontend(&self, key: &FrontendKey) -> Option<u32>;
    /// The two plans of a frontend, loaded as one word.
    fn plan_pair(&self, index: u32) -> Option<PlanPair>;
    /// The committed generation. Called after [`World::plan_pair`]; see [`PlanPair`].
    fn generation(&self) -> u64;
    /// A plan.
    fn plan(&self, index: u32) -> Option<Plan>;
    /// A route.
    fn route(&self, index: u32) -> Option<Route>;
    /// A client match.
    fn client_match(&self, index: u32) -> Option<Match>;
    /// A wheel.
    fn wheel(&self, index: u32) -> Option<Self::Wheel>;
    /// An eight-byte cell.
    fn cell(&self, index: u32) -> Option<u64>;
    /// A subset.
    fn subset(&self, index: u32) -> Option<Subset>;
    /// A backend.
    fn backend(&self, index: u32) -> Option<Self::Backend>;
    /// A conduct.
    fn conduct(&self, index: u32) -> Option<Self::Conduct>;
    /// A fault.
    fn fault(&self, index: u32) -> Option<Self::Fault>;
    /// Indices of two states, from a cell.
    fn two_states(&self, cell: u32) -> Option<u64>;
    /// A state.
    fn state(&self, index: u32) -> Option<Self::State>;

    /// Effective user id of the client in the low half, group id in the high half.
    fn uid_gid(&self) -> u64;
    /// Command name of the client, zero-padded.
    fn command(&self) -> [u8; COMMAND_LEN];
    /// Id of the client's cgroup at a depth below the v2 root; 0 where it is not that deep.
    fn ancestor_cgroup(&self, level: u32) -> u64;
    /// Cookie of the socket's network namespace.
    fn netns(&self) -> u64;
    /// `SO_MARK` of the socket.
    fn mark(&self) -> u32;
    /// `IP_TOS` of the socket, `IPV6_TCLASS` of one of IPv6.
    fn tos(&self) -> u32;
    /// The client as [`crate::abi::client_key`] `key` sees it.
    fn client(&self, key: u8) -> u64;
    /// A random number.
    fn random(&self) -> u32;
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    fn now_ns(&self) -> u64;

    /// Whether any client is assigned a subset. In user space none is: an assignment is of a process
    /// that runs, and of no policy.
    #[inline(always)]
    fn has_assignments(&self) -> bool {
        false
    }
    /// [`Subset::id`] of the subset of a service ([`Plan::service`]) that the client is assigned.
    #[inline(always)]
    fn assignment(&self, _service: u64) -> Option<u32> {
        None
    }
    /// Whether somebody listens at a backend, as far as the client's network namespace tells: false
    /// only for a loopback address at which nobody does. User space does not look.
    #[inline(always)]
    fn has_listener(&self, _backend: &Backend) -> bool {
        true
    }
    /// [`assigned::find_subset`], [`followed::strike`], [`followed::admit`], [`followed::stand`] and
    /// [`followed::turn_from`]. The kernel's programs have them as functions of their own, which the
    /// verifier walks once instead of at every call, or once for each of their answers.
    #[inline(always)]
    fn assigned(&self, service: u64, subsets: u32, n_subsets: u32) -> u32
    where
        Self: Sized,
    {
        assigned::find_subset(self, service, subsets, n_subsets)
    }
    /// See [`World::assigned`].
    #[inline(always)]
    fn strike(&self, fault: u32) -> u16
    where
        Self: Sized,
    {
        followed::strike(self, fault)
    }
    /// See [`World::assigned`].
    #[inline(always)]
    fn admit(&self, subset: u32, salt: u64, is_tcp: bool) -> u32
    where
        Self: Sized,
    {
        followed::admit(self, subset, salt, is_tcp)
    }
    /// See [`World::assigned`].
    #[inline(always)]
    fn stand(&self, subset: u32, ordinal: u32) -> u32
    where
        Self: Sized,
    {
        followed::stand(self, subset, ordinal)
    }
    /// See [`World::assigned`].
    #[inline(always)]
    fn turn_from(&self, turns: u32, ordinals: Ordinals, how: How, salt: u64) -> u32
    where
        Self: Sized,
    {
        followed::turn_from(self, turns, ordinals, how, salt)
    }
    /// Where the backend counts that a client failed to reach last; zeros for none. User space
    /// does not look.
    #[inline(always)]
    fn previous(&self, _who: &PreviousKey) -> StateRef {
        StateRef { index: 0, epoch: 0 }
    }
}

/// One wheel, looked up once.
pub trait WheelRef {
    /// Number of slots.
    fn n_slots(&self) -> u32;
    /// Bits of each slot.
    fn slot_bits(&self) -> u32;
    /// First cell of a long wheel; 0 where the slots are inline.
    fn cells(&self) -> u32;
    /// A word of inline slots.
    fn inline_word(&self, word: u32) -> u64;
    /// Advances the ticket and returns its value before.
    fn take_ticket(&self) -> u64;
}

/// Indices of the counters to raise by one; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Why the connection was not rewritten: a [`Reason`] number.
    pub reason: u32,
    /// Counter of the route that took the connection.
    pub route: u32,
    /// Counter of the chosen subset.
    pub subset: u32,
    /// Counter of the chosen backend.
    pub backend: u32,
}

/// What is to be done with a connection, and what to count.
///
/// Every field always has a value: the verifier refuses a program that so much as copies one that
/// an enum's other variant left undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<B> {
    /// What is to be done.
    pub verdict: Verdict,
    /// Positive errno of [`Verdict::Reject`], else 0.
    pub errno: u16,
    /// Whether `getpeername` is to answer the dialled address, which needs per-socket state.
    pub answer_frontend: bool,
    /// Whether answers to datagrams are to bear the address that was sent to, which needs it too.
    pub translates: bool,
    /// Where [`Verdict::Rewrite`] goes.
    pub backend: Option<B>,
    /// What a followed connection has to do with; zeros where it is not followed.
    pub followed: Followed,
    /// What to count.
    pub tally: Tally,
}

/// What a followed connection has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// What the subset asks of it, in [`crate::abi::map::CONDUCTS`]; 0 where it is not followed.
    pub conduct: u32,
    /// Ordinal of the backend in its subset.
    pub ordinal: u32,
    /// Where the route counts, in [`crate::abi::map::STATES`]; 0 for nowhere.
    pub route: u32,
    /// What may be done to its packets on purpose, in [`crate::abi::map::FAULTS`]; 0 for nothing.
    pub fault: u32,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No policy knows the address: leave it alone and count nothing.
    Miss,
    /// Leave the address alone.
    Pass,
    /// Fail `connect()`.
    Reject,
    /// Connect to the backend instead.
    Rewrite,
}

impl<B> Decision<B> {
    #[inline(always)]
    fn new(verdict: Verdict) -> Self {
        let tally = Tally::default();
        let followed = Followed { conduct: 0, ordinal: 0, route: 0, fault: 0 };
        let (answer_frontend, translates) = (false, false);
        Self { verdict, errno: 0, answer_frontend, translates, backend: None, followed, tally }
    }

    #[inline(always)]
    fn because(self, reason: Reason) -> Self {
        Self { tally: Tally { reason: reason as u32, ..self.tally }, ..self }
    }

    #[inline(always)]
    fn reject(reason: Reason, errno: u16) -> Self {
        Self { errno, ..Self::new(Verdict::Reject) }.because(reason)
    }

    #[inline(always)]
    fn broken() -> Self {
        Self::reject(Reason::Broken, EHOSTUNREACH)
    }

    #[inline(always)]
    fn empty(subset: &Subset) -> Self {
        Self::reject(Reason::EmptySubset, ECONNREFUSED).of(subset)
    }

    #[inline(always)]
    fn of(self, subset: &Subset) -> Self {
        Self { tally: Tally { subset: subset.counter, ..self.tally }, ..self }
    }
}

impl<B: Copy + Borrow<Backend>> Decision<B> {
    #[inline(always)]
    fn rewrite(subset: &Subset, backend: B) -> Self {
        let mut decision = Self::new(Verdict::Rewrite).of(subset);
        decision.backend = Some(backend);
        decision.tally.backend = backend.borrow().counter;
        decision
    }
}

/// Decides one connection to `key`.
#[inline(always)]
pub fn decide<W: World>(world: &W, key: &FrontendKey) -> Decision<W::Backend> {
    match find_plan(world, key) {
        Some(plan) => decide_by_plan(world, &plan, key.protocol),
        None => Decision::new(Verdict::Miss),
    }
}

/// The first half of [`decide`]: the plan in force for a dialled address, `None` for a miss.
///
/// For the hook, which is done with a miss at once. Taken from a whole decision, the compiler has
/// every miss fill one in.
#[inline(always)]
pub fn find_plan<W: World>(world: &W, key: &FrontendKey) -> Option<Plan> {
    plan_in_force(world, world.frontend(key)?)
}

/// The second half of [`decide`].
#[inline(always)]
pub fn decide_by_plan<W: World>(world: &W, plan: &Plan, protocol: u8) -> Decision<W::Backend> {
    match first_route(world, plan) {
        Some(route) => follow(world, plan, &route, protocol),
        None => Decision::new(Verdict::Pass).because(Reason::NoRoute),
    }
}

/// The newest plan of a frontend that is committed. `None` where the frontend is not yet, or no
/// longer, part of the policy.
#[inline(always)]
fn plan_in_force<W: World>(world: &W, frontend: u32) -> Option<Plan> {
    let pair = world.plan_pair(frontend)?;
    let generation = world.generation();
    let newer = world.plan(pair.newer())?;
    let plan =
        if newer.generation <= generation { newer } else { nonzero(world.plan(pair.older()))? };
    if plan.n_routes == 0 { None } else { Some(plan) }
}

/// The plan at index 0 is reserved and has generation 0, which no policy ever has.
#[inline(always)]
fn nonzero(plan: Option<Plan>) -> Option<Plan> {
    plan.filter(|plan| plan.generation != 0)
}

/// The first route that takes the client.
#[inline(always)]
fn first_route<W: World>(world: &W, plan: &Plan) -> Option<Route> {
    if world.has_assignments() {
        // Also for the verifier, which walks what is likely first, and sees that the route made here
        // is one more of those that were read.
        core::hint::cold_path();
        if let Some(route) = assigned::find_route(world, plan) {
            return Some(route);
        }
    }
    let first = world.route(plan.routes)?;
    if first.client == 0 {
        return Some(first);
    }
    world.route(clients::search_routes(world, plan.routes, plan.n_routes, plan.asks)?)
}

/// Carries out a route's faults and its action.
#[inline(always)]
fn follow<W: World>(world: &W, plan: &Plan, route: &Route, protocol: u8) -> Decision<W::Backend> {
    let struck = if route.fault == 0 { 0 } else { world.strike(route.fault) };
    let mut decision = match struck {
        0 => act(world, plan, route, protocol),
        errno => Decision::reject(Reason::Aborted, errno),
    };
    decision.followed.fault = route.fault;
    decision.tally.route = route.counter;
    decision
}

/// Carries out a route's action.
#[inline(always)]
fn act<W: World>(world: &W, plan: &Plan, route: &Route, protocol: u8) -> Decision<W::Backend> {
    match route.action {
        action::SPLIT => split(world, plan, route, protocol),
        action::PASS => Decision::new(Verdict::Pass).because(Reason::Passed),
        action::REJECT => Decision::reject(Reason::Rejected, route.errno),
        action::NO_SUBSET => Decision::reject(Reason::NoSubset, ECONNREFUSED),
        _ => Decision::broken(),
    }
}

/// Both levels of a split: the subset, then the backend inside it.
#[inline(always)]
fn split<W: World>(world: &W, plan: &Plan, route: &Route, protocol: u8) -> Decision<W::Backend> {
    let Some(ordinal) = choose(world, route.choice, plan.subset_salt()) else {
        return Decision::broken();
    };
    let Some(subset) = world.subset(plan.subsets.wrapping_add(ordinal)) else {
        return Decision::broken();
    };
    let mut decision = match subset.conduct {
        _ if subset.n_backends == 0 => Decision::empty(&subset),
        0 => serve(world, &subset, plan.backend_salt()),
        _ => followed::serve(world, plan, route, ordinal, protocol),
    };
    decision.answer_frontend = plan.flags & plan_flag::ANSWER_FRONTEND != 0;
    decision.translates = protocol == UDP && plan.flags & plan_flag::DATAGRAMS != 0;
    decision
}

/// A backend of the chosen subset.
#[inline(always)]
fn serve<W: World>(world: &W, subset: &Subset, salt: u64) -> Decision<W::Backend> {
    let backend = choose(world, subset.choice, salt)
        .and_then(|ordinal| world.backend(subset.backends.wrapping_add(ordinal)));
    backend.map_or_else(Decision::broken, |backend| Decision::rewrite(subset, backend))
}

/// Makes one choice: the ordinal of a subset or of a backend. Clients are hashed with the salt.
#[inline(always)]
fn choose<W: World>(world: &W, choice: Choice, salt: u64) -> Option<u32> {
    match choice.pick {
        pick::ONLY => Some(u32::from(choice.only)),
        pick::THRESHOLD => below_threshold(world, choice, salt),
        pick::TICKET | pick::RANDOM | pick::LEAST | pick::CLIENT => slot(world, choice, salt),
        _ => None,
    }
}

/// The ordinal in one slot of the choice's wheel.
#[inline(always)]
fn slot<W: World>(world: &W, choice: Choice, salt: u64) -> Option<u32> {
    let wheel = world.wheel(choice.wheel)?;
    let at = match choice.pick {
        pick::TICKET => wheel.take_ticket().checked_rem(u64::from(wheel.n_slots()))? as u32,
        pick::RANDOM | pick::LEAST => scale(world.random(), wheel.n_slots()),
        _ => scale(bucket(salt, world.client(choice.client)), wheel.n_slots()),
    };
    let bits = wheel.slot_bits();
    let bit = at.wrapping_mul(bits);
    let packed = match wheel.cells() {
        0 => wheel.inline_word(bit >> 6),
        cells => world.cell(cells.wrapping_add(bit >> 6))?,
    };
    let mask = 1_u32.wrapping_shl(bits).wrapping_sub(1);
    Some(packed.wrapping_shr(bit) as u32 & mask)
}

/// The first subset whose threshold is above the client's bucket.
///
/// A cell holds a threshold above 16 bits of subset ordinal. The last subset is asked first, with
/// its share of all weights, then the one before it, with its share of the weights that are left,
/// and every subset sees another bucket of the client: so raising the last subset's weight changes
/// one threshold, and only ever moves clients to that subset. Ranges of one hash would not do: with
/// three subsets, the border between the first two moves as well. The one asked last has a share of
/// all that is left, which every bucket is below.
#[inline(always)]
fn below_threshold<W: World>(world: &W, choice: Choice, salt: u64) -> Option<u32> {
    const { assert!(AFFINITY_RANGE < 1 << 48) };
    let client = world.client(choice.client);
    let mut i = 0_u32;
    while i < MAX_SPLIT {
        let cell = world.cell(choice.wheel.wrapping_add(i))?;
        let subset = cell as u16;
        if u64::from(subset_bucket(salt, client, subset)) < cell >> 16 {
            return Some(u32::from(subset));
        }
        i = i.wrapping_add(1);
    }
    None
}
