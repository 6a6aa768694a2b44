//! The second level of a split where connections are followed: a backend that may be chosen, room
//! for one more, and another subset where there is neither.

use core::borrow::Borrow as _;

use super::{Decision, ECONNREFUSED, World, slot};
use crate::abi::{
    Conduct, Fault, Plan, PreviousKey, Reason, Route, StateRef, TCP, Turn, cell, conduct_flag,
    pick, turn,
};
use crate::hash::{scale, subset_bucket};
use crate::life::{Cells as _, epoch, give_back, is_hit, is_panic, is_usable, one_of_two, reserve};

/// Slots of the wheel that are looked at for a backend that may be chosen. A slot that is passed over
/// is used up, so what it would have got is spread over all others.
const WHEEL_STEPS: u32 = 4;
/// Backends that are looked at in all; after the slots, in the order of their ordinals.
const STEPS: u32 = 8;
/// Subsets that are turned to, one after the other.
const TURNS: u32 = 2;
/// Beside an ordinal: the backend may not be chosen.
const BLOCKED: u32 = 1 << 16;
/// Answers of [`admit`] that are no ordinal.
const NONE_USABLE: u32 = 1 << 18;
const OVER_LIMIT: u32 = 1 << 19;
const BROKEN: u32 = 1 << 20;
/// The ordinal alone.
const ORDINAL: u32 = 0xffff;
/// No subset's ordinal.
pub const NOWHERE: u32 = ORDINAL;

/// What a split asks for.
struct Wanted {
    /// First subset of the service.
    subsets: u32,
    /// Ordinal of the subset that was chosen.
    chosen: u32,
    /// The route's [`Fault`], which says where to turn to.
    turns: u32,
    /// What a client is hashed by that chooses its subset by hash; 0 where it does not.
    client: u8,
    is_tcp: bool,
    /// Salt of that hash, where a backend is chosen.
    salt: u64,
}

/// A backend of a followed subset. Of UDP, which has no connections, only the choice is made.
#[inline(always)]
pub(super) fn serve<W: World>(
    world: &W,
    plan: &Plan,
    route: &Route,
    chosen: u32,
    protocol: u8,
) -> Decision<W::Backend> {
    let is_hashed = matches!(route.choice.pick, pick::THRESHOLD | pick::CLIENT);
    let wanted = Wanted {
        subsets: plan.subsets,
        chosen,
        turns: route.fault,
        client: if is_hashed { route.choice.client } else { 0 },
        is_tcp: protocol == TCP,
        salt: plan.backend_salt(),
    };
    let settled = settle(world, &wanted);
    let admitted = settled as u32;
    let Some(subset) = world.subset(plan.subsets.wrapping_add((settled >> 32) as u32)) else {
        return Decision::broken();
    };
    if admitted > ORDINAL {
        return refuse(world, admitted, subset.conduct).of(&subset);
    }
    let Some(backend) = world.backend(subset.backends.wrapping_add(admitted)) else {
        return Decision::broken().of(&subset);
    };
    let mut decision = Decision::rewrite(&subset, backend);
    decision.followed.conduct = subset.conduct;
    decision.followed.ordinal = admitted;
    decision.followed.route = route.state;
    decision
}

#[inline(always)]
fn refuse<W: World>(world: &W, why: u32, conduct: u32) -> Decision<W::Backend> {
    match why {
        NONE_USABLE => Decision::reject(Reason::NoneUsable, ECONNREFUSED),
        OVER_LIMIT => {
            let errno = world.conduct(conduct).map_or(ECONNREFUSED, |c| c.borrow().errno);
            Decision::reject(Reason::OverLimit, errno)
        }
        _ => Decision::broken(),
    }
}

/// The subset that serves, in the high half, and in the low half what [`admit`] answers for it. Where
/// none does, that is the one that was chosen.
///
/// Not inlined, and it answers a number, so that the verifier walks the rest of the decision once
/// instead of once per way through here, and connections that are not followed have less code.
#[inline(never)]
fn settle<W: World>(world: &W, wanted: &Wanted) -> u64 {
    let (mut subset, mut before) = (wanted.chosen, NOWHERE);
    let mut first = BROKEN;
    let mut turns = 0_u32;
    while turns <= TURNS {
        let index = wanted.subsets.wrapping_add(subset);
        let admitted = world.admit(index, wanted.salt, wanted.is_tcp);
        if admitted <= ORDINAL {
            return u64::from(subset) << 32 | u64::from(admitted);
        }
        if turns == 0 {
            first = admitted;
        }
        let why = if admitted == OVER_LIMIT { turn::OVER_LIMIT } else { turn::NONE_USABLE };
        let (ordinals, how) = (Ordinals::new(subset, before), How::new(why, wanted.client));
        let next = world.turn_from(wanted.turns, ordinals, how, wanted.salt);
        if next == NOWHERE {
            break;
        }
        (before, subset) = (subset, next);
        turns = turns.wrapping_add(1);
    }
    u64::from(wanted.chosen) << 32 | u64::from(first)
}

/// The subset that does not serve and the one before it, as one number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Ordinals(pub u32);

impl Ordinals {
    #[inline(always)]
    const fn new(from: u32, before: u32) -> Self {
        Self(before << 16 | from & ORDINAL)
    }

    #[inline(always)]
    const fn has(self, ordinal: u32) -> bool {
        self.0 & ORDINAL == ordinal || self.0 >> 16 == ordinal
    }
}

/// Why a subset does not serve, a [`turn`] bit, and what a client is hashed by, if at all.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct How(pub u32);

impl How {
    #[inline(always)]
    const fn new(why: u8, client: u8) -> Self {
        Self((client as u32) << 8 | why as u32)
    }
}

/// Ordinal of the subset to turn to from one that does not serve, by the weights of those but it and
/// the one before it; or [`NOWHERE`].
///
/// There is no list of those that were tried: the verifier would walk the loops once for every one
/// that there could be.
#[inline(always)]
pub fn turn_from<W: World>(
    world: &W,
    turns: u32,
    ordinals: Ordinals,
    How(how): How,
    salt: u64,
) -> u32 {
    let Some(fault) = world.fault(turns) else { return NOWHERE };
    let fault: &Fault = fault.borrow();
    let from = ordinals.0 & ORDINAL;
    let weight = |turn: &Turn| if ordinals.has(turn.ordinal()) { 0 } else { turn.weight() };
    let (mut leaves, mut total) = (0, 0_u32);
    for turn in &fault.turns {
        if turn.ordinal() == from {
            leaves |= turn.leaves();
        }
        total = total.wrapping_add(weight(turn));
    }
    let why = how & 0xff;
    if leaves & why == 0 || total == 0 {
        return NOWHERE;
    }
    let random = match (how >> 8) as u8 {
        0 => world.random(),
        // As always, for a client that chooses by its hash.
        key => subset_bucket(salt.rotate_left(32), world.client(key), from as u16),
    };
    let mut at = scale(random, total);
    for turn in &fault.turns {
        let weight = weight(turn);
        if at < weight {
            return turn.ordinal();
        }
        at = at.wrapping_sub(weight);
    }
    NOWHERE
}

/// Ordinal of a backend, with what the subset limits taken; or why there is none.
///
#[inline(always)]
pub fn admit<W: World>(world: &W, index: u32, salt: u64, is_tcp: bool) -> u32 {
    let avoid = find_previous(world, index);
    let (mut last, mut avoided) = (BLOCKED, NONE_USABLE);
    let mut step = 0_u32;
    while step < STEPS {
        last = probe(world, index, salt, step, last);
        if last & BLOCKED == 0 {
            if avoid == 0 || state_of(world, index, last) != avoid {
                break;
            }
            // What the client avoids is better than nothing.
            avoided = last;
            last |= BLOCKED;
        }
        step = step.wrapping_add(1);
    }
    let found = if last & BLOCKED == 0 { last } else { avoided };
    if found <= ORDINAL && is_tcp { take_room(world, index, found) } else { found }
}

/// Index of the state of the backend that the client failed to reach last, where its subset wants
/// another; else 0.
#[inline(never)]
fn find_previous<W: World>(world: &W, index: u32) -> u32 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    let Some(conduct) = conduct else { return 0 };
    let conduct: &Conduct = conduct.borrow();
    if conduct.avoids == 0 {
        return 0;
    }
    let Some(own) = world.state(conduct.state) else { return 0 };
    let subset = StateRef { index: conduct.state, epoch: epoch(&own) };
    let failed = world.previous(&PreviousKey { client: world.client(conduct.avoids), subset });
    match world.state(failed.index) {
        Some(state) if epoch(&state) == failed.epoch => failed.index,
        _ => 0,
    }
}

/// Index of the state of a backend.
#[inline(never)]
fn state_of<W: World>(world: &W, index: u32, ordinal: u32) -> u32 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    conduct.map_or(0, |conduct| state_index(world, conduct.borrow(), ordinal))
}

/// The ordinal, or why the subset takes no more connections.
#[inline(always)]
fn take_room<W: World>(world: &W, index: u32, ordinal: u32) -> u32 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    let Some(conduct) = conduct else { return BROKEN };
    let conduct: &Conduct = conduct.borrow();
    let Some(own) = world.state(conduct.state) else { return BROKEN };
    let (most, most_pending) = (conduct.max_connections, conduct.max_pending);
    if most != 0 && !reserve(&own, cell::LIVE, most) {
        return OVER_LIMIT;
    }
    if most_pending != 0 && !reserve(&own, cell::PENDING, most_pending) {
        if most != 0 {
            give_back(&own, cell::LIVE);
        }
        return OVER_LIMIT;
    }
    ordinal
}

/// The next backend to look at after `last`, with [`BLOCKED`] where it may not be chosen.
///
/// Not inlined, nor are its parts, and each looks everything up anew, so that the verifier learns
/// nothing in one of them that it would carry into the next: the ways through all of them would
/// multiply.
#[inline(never)]
fn probe<W: World>(world: &W, index: u32, salt: u64, step: u32, last: u32) -> u32 {
    let ordinal = candidate(world, index, salt, step, last & ORDINAL);
    if ordinal == BROKEN { ordinal } else { ordinal | world.stand(index, ordinal) }
}

/// The choice's own next, for as long as it makes others, then the one after the last; or
/// [`BROKEN`].
#[inline(always)]
fn candidate<W: World>(world: &W, index: u32, salt: u64, step: u32, last: u32) -> u32 {
    let Some(subset) = world.subset(index) else { return BROKEN };
    let makes_others = matches!(subset.choice.pick, pick::TICKET | pick::RANDOM | pick::LEAST);
    if step != 0 && (step >= WHEEL_STEPS || !makes_others) {
        let next = last.wrapping_add(1).checked_rem(u32::from(subset.n_backends));
        return next.unwrap_or(BROKEN);
    }
    let first = draw(world, index, salt);
    if subset.choice.pick != pick::LEAST || first == BROKEN {
        return first;
    }
    // Of two, the one with fewer live connections (Mitzenmacher: The Power of Two Choices, 2001).
    let second = draw(world, index, salt);
    let is_less = second != BROKEN && live(world, index, second) < live(world, index, first);
    if is_less { second } else { first }
}

/// The choice of a subset, made anew; or [`BROKEN`].
#[inline(never)]
fn draw<W: World>(world: &W, index: u32, salt: u64) -> u32 {
    let Some(choice) = world.subset(index).map(|subset| subset.choice) else { return BROKEN };
    // Backends are never chosen by thresholds.
    match choice.pick {
        pick::ONLY => u32::from(choice.only),
        _ => slot(world, choice, salt).map_or(BROKEN, |ordinal| ordinal & ORDINAL),
    }
}

/// Live connections of a backend.
#[inline(never)]
fn live<W: World>(world: &W, index: u32, ordinal: u32) -> u64 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    let state = conduct.and_then(|c| world.state(state_index(world, c.borrow(), ordinal)));
    state.map_or(u64::MAX, |state| state.load(cell::LIVE))
}

/// Whether a backend may be chosen: 0, or a bit above all ordinals.
#[inline(always)]
pub fn stand<W: World>(world: &W, index: u32, ordinal: u32) -> u32 {
    let Some(subset) = world.subset(index) else { return BLOCKED };
    let Some(conduct) = world.conduct(subset.conduct) else { return BLOCKED };
    let conduct: &Conduct = conduct.borrow();
    let (Some(own), Some(state)) =
        (world.state(conduct.state), world.state(state_index(world, conduct, ordinal)))
    else {
        return BLOCKED;
    };
    let is_panic = is_panic(conduct, u32::from(subset.n_backends), &own);
    if !is_usable(&state, &own, is_panic, || world.now_ns()) {
        return BLOCKED;
    }
    if conduct.flags & conduct_flag::LISTENER != 0 {
        let backend = world.backend(subset.backends.wrapping_add(ordinal));
        if backend.is_none_or(|backend| !world.has_listener(backend.borrow())) {
            state.add(cell::UNHEARD, 1);
            return BLOCKED;
        }
    }
    0
}

/// Index of a backend's state; 0, which is nobody's, where there is none.
#[inline(always)]
fn state_index<W: World>(world: &W, conduct: &Conduct, ordinal: u32) -> u32 {
    let cell = world.two_states(conduct.states.wrapping_add(ordinal >> 1)).unwrap_or(0);
    one_of_two(cell, ordinal)
}

/// The errno that a route fails a connection with on purpose; 0 for none.
///
#[inline(always)]
pub fn strike<W: World>(world: &W, fault: u32) -> u16 {
    let Some(fault) = world.fault(fault) else { return 0 };
    let fault: &Fault = fault.borrow();
    let Some(route) = world.state(fault.state) else { return 0 };
    let is_hit = is_hit(&route, fault.seed, fault.abort_ppm, cell::ABORT_TICKET);
    if is_hit { fault.errno } else { 0 }
}
