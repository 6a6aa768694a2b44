//! The decision: what happens to one connection.
//!
//! [`decide`] is the only implementation of the policy. It reads a [`World`], takes at most two
//! tickets, and returns what is to be done as data. It has no unbounded loop and nothing in it can
//! panic, because one of its callers is the kernel.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use crate::abi::{
    AFFINITY_RANGE, Backend, COMMAND_LEN, FrontendKey, MAX_ROUTES, MAX_SPLIT, Match, Plan,
    PlanPair, Reason, Route, Subset, action, match_flag, pick, plan_flag,
};
use crate::hash::{mix, scale};

/// `ECONNREFUSED`: nothing serves here. `errno.h` of every Linux architecture that splitter runs on.
pub const ECONNREFUSED: u16 = 111;
/// `EHOSTUNREACH`: the policy in the kernel is broken.
pub const EHOSTUNREACH: u16 = 113;

/// Read access to one node's policy and to the client at hand.
///
/// Every method is a constant-time look-up. `None` for an index means that the record does not
/// exist, which a sound policy never asks for.
pub trait World {
    /// A handle on one wheel.
    type Wheel: WheelRef;

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
    fn backend(&self, index: u32) -> Option<Backend>;

    /// Effective user id of the client in the low half, group id in the high half.
    fn uid_gid(&self) -> u64;
    /// Command name of the client, zero-padded.
    fn command(&self) -> [u8; COMMAND_LEN];
    /// Id of the client's cgroup at a depth below the v2 root; 0 where it is not that deep.
    fn ancestor_cgroup(&self, level: u32) -> u64;
    /// The client as [`crate::abi::client_key`] `key` sees it.
    fn client(&self, key: u8) -> u64;
    /// A random number.
    fn random(&self) -> u32;
}

/// One wheel, looked up once.
pub trait WheelRef {
    /// Number of slots.
    fn len(&self) -> u32;
    /// First cell of a long wheel; 0 where the slots are inline.
    fn cells(&self) -> u32;
    /// Ordinal in an inline slot.
    fn inline_slot(&self, slot: u32) -> Option<u16>;
    /// Advances the ticket and returns its value before.
    fn take_ticket(&self) -> u64;
}

/// Indices of the counters to raise by one; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counter of the route that took the connection.
    pub route: u32,
    /// Counter of the chosen subset.
    pub subset: u32,
    /// Counter of the chosen backend.
    pub backend: u32,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No policy knows the address: leave it alone and count nothing.
    Miss,
    /// Leave the address alone.
    Pass(Reason, Tally),
    /// Fail `connect()` with a positive errno.
    Reject(Reason, u16, Tally),
    /// Connect to the backend instead.
    Rewrite {
        /// Where to.
        backend: Backend,
        /// Whether `getpeername` is to answer the dialled address, which needs per-socket state.
        answer_frontend: bool,
        /// What to count.
        tally: Tally,
    },
}

/// Decides one connection to `key`.
#[inline(always)]
pub fn decide<W: World>(world: &W, key: &FrontendKey) -> Decision {
    let Some(frontend) = world.frontend(key) else { return Decision::Miss };
    let Some(plan) = plan_in_force(world, frontend) else { return Decision::Miss };
    match first_route(world, &plan) {
        Some(route) => follow(world, &plan, &route),
        None => Decision::Pass(Reason::NoRoute, Tally::default()),
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
    let mut i = 0_u32;
    while i < MAX_ROUTES && i < u32::from(plan.n_routes) {
        let route = world.route(plan.routes.wrapping_add(i))?;
        if route.client == 0 || takes(world, route.client) {
            return Some(route);
        }
        i = i.wrapping_add(1);
    }
    None
}

/// Whether the client fits a match: every field that the match names is equal.
#[inline(always)]
fn takes<W: World>(world: &W, index: u32) -> bool {
    let Some(wanted) = world.client_match(index) else { return false };
    let names = |flag: u32| wanted.flags & flag != 0;
    if names(match_flag::NEVER) {
        return false;
    }
    let ids = world.uid_gid();
    if names(match_flag::UID) && ids as u32 != wanted.uid {
        return false;
    }
    if names(match_flag::GID) && (ids >> 32) as u32 != wanted.gid {
        return false;
    }
    if names(match_flag::COMMAND) && !same_command(&world.command(), &wanted.command) {
        return false;
    }
    !names(match_flag::CGROUP) || world.ancestor_cgroup(wanted.cgroup_level) == wanted.cgroup
}

/// Two command names as two words each: a byte-wise comparison would be a loop or a call.
#[inline(always)]
fn same_command(a: &[u8; COMMAND_LEN], b: &[u8; COMMAND_LEN]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// Carries out a route's action.
#[inline(always)]
fn follow<W: World>(world: &W, plan: &Plan, route: &Route) -> Decision {
    let tally = Tally { route: route.counter, ..Tally::default() };
    match route.action {
        action::PASS => Decision::Pass(Reason::Passed, tally),
        action::REJECT => Decision::Reject(Reason::Rejected, route.errno, tally),
        action::SPLIT => split(world, plan, route, tally),
        _ => broken(tally),
    }
}

/// Both levels of a split: the subset, then the backend inside it.
#[inline(always)]
fn split<W: World>(world: &W, plan: &Plan, route: &Route, tally: Tally) -> Decision {
    let Some(ordinal) = pick_subset(world, route) else { return broken(tally) };
    let Some(subset) = world.subset(plan.subsets.wrapping_add(u32::from(ordinal))) else {
        return broken(tally);
    };
    let tally = Tally { subset: subset.counter, ..tally };
    if subset.n_backends == 0 {
        return Decision::Reject(Reason::EmptySubset, ECONNREFUSED, tally);
    }
    let Some(ordinal) = pick_backend(world, &subset, route.salt) else { return broken(tally) };
    let Some(backend) = world.backend(subset.backends.wrapping_add(u32::from(ordinal))) else {
        return broken(tally);
    };
    Decision::Rewrite {
        backend,
        answer_frontend: plan.flags & plan_flag::ANSWER_FRONTEND != 0,
        tally: Tally { backend: backend.counter, ..tally },
    }
}

#[inline(always)]
fn broken(tally: Tally) -> Decision {
    Decision::Reject(Reason::Broken, EHOSTUNREACH, tally)
}

/// Level one: the ordinal of a subset.
#[inline(always)]
fn pick_subset<W: World>(world: &W, route: &Route) -> Option<u16> {
    match route.pick {
        pick::ONLY => Some(route.only),
        pick::TICKET => next_slot(world, route.wheel),
        pick::RANDOM => hashed_slot(world, route.wheel, world.random()),
        pick::CLIENT => {
            let hash = mix(route.salt, world.client(route.affinity));
            below_threshold(world, route, (hash >> 32) as u32)
        }
        _ => None,
    }
}

/// Level two: the ordinal of a backend. The hash is salted differently from level one's, or the
/// clients of one subset would all share a few buckets of the next.
#[inline(always)]
fn pick_backend<W: World>(world: &W, subset: &Subset, salt: u64) -> Option<u16> {
    match subset.pick {
        pick::ONLY => Some(subset.only),
        pick::TICKET => next_slot(world, subset.wheel),
        pick::RANDOM => hashed_slot(world, subset.wheel, world.random()),
        pick::CLIENT => {
            let hash = mix(!salt, world.client(subset.affinity));
            hashed_slot(world, subset.wheel, (hash >> 32) as u32)
        }
        _ => None,
    }
}

/// The slot under the wheel's next ticket.
#[inline(always)]
fn next_slot<W: World>(world: &W, index: u32) -> Option<u16> {
    let wheel = world.wheel(index)?;
    let len = u64::from(wheel.len());
    if len == 0 {
        return None;
    }
    let slot = wheel.take_ticket().checked_rem(len)?;
    slot_of(world, &wheel, slot as u32)
}

/// The slot at a place given by 32 evenly spread bits.
#[inline(always)]
fn hashed_slot<W: World>(world: &W, index: u32, bits: u32) -> Option<u16> {
    let wheel = world.wheel(index)?;
    let slot = scale(bits, wheel.len());
    slot_of(world, &wheel, slot)
}

#[inline(always)]
fn slot_of<W: World>(world: &W, wheel: &W::Wheel, slot: u32) -> Option<u16> {
    match wheel.cells() {
        0 => wheel.inline_slot(slot),
        first => {
            let cell = world.cell(first.wrapping_add(slot >> 2))?;
            Some((cell >> ((slot & 3) << 4)) as u16)
        }
    }
}

/// The subset whose range of the hash the client falls into. A cell holds the end of a range,
/// exclusive, above 16 bits of subset ordinal, so raising the last subset's weight only ever moves
/// clients to it.
#[inline(always)]
fn below_threshold<W: World>(world: &W, route: &Route, hash: u32) -> Option<u16> {
    const { assert!(AFFINITY_RANGE < 1 << 48) };
    let mut i = 0_u32;
    while i < MAX_SPLIT && i < u32::from(route.n_thresholds) {
        let cell = world.cell(route.wheel.wrapping_add(i))?;
        if u64::from(hash) < cell >> 16 {
            return Some(cell as u16);
        }
        i = i.wrapping_add(1);
    }
    None
}
