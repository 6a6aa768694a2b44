//! The second level of a split where connections are followed: a backend that may be chosen, and
//! room for one more.

use core::borrow::Borrow as _;

use super::{Decision, ECONNREFUSED, Verdict, World, slot};
use crate::abi::{Conduct, Reason, Subset, TCP, cell, pick};
use crate::life::{Cells as _, is_hit, is_panic, is_usable, one_of_two, reserve};

/// Slots of the wheel that are looked at for a backend that may be chosen. A slot that is passed over
/// is used up, so what it would have got is spread over all others.
const WHEEL_STEPS: u32 = 4;
/// Backends that are looked at in all; after the slots, in the order of their ordinals.
const STEPS: u32 = 8;
/// Beside an ordinal: the backend may not be chosen.
const BLOCKED: u32 = 1 << 16;
/// Answers of [`admit`] that are no ordinal.
const NONE_USABLE: u32 = 1 << 17;
const OVER_LIMIT: u32 = 1 << 18;
const BROKEN: u32 = 1 << 19;

/// A backend of a followed subset, whose index is handed along. Of UDP, which has no connections,
/// only the choice is made.
#[inline(always)]
pub(super) fn serve<W: World>(
    world: &W,
    (subset, index): (&Subset, u32),
    salt: u64,
    protocol: u8,
) -> Decision<W::Backend> {
    let is_tcp = protocol == TCP;
    let ordinal = match admit(world, index, salt, is_tcp) {
        NONE_USABLE => return Decision::reject(Reason::NoneUsable, ECONNREFUSED),
        OVER_LIMIT => {
            let errno = world.conduct(subset.conduct).map_or(ECONNREFUSED, |c| c.borrow().errno);
            return Decision::reject(Reason::OverLimit, errno);
        }
        BROKEN => return Decision::broken(),
        ordinal => ordinal,
    };
    let Some(backend) = world.backend(subset.backends.wrapping_add(ordinal)) else {
        return Decision::broken();
    };
    let mut decision = Decision::new(Verdict::Rewrite);
    decision.backend = Some(backend);
    decision.tally.backend = backend.borrow().counter;
    if is_tcp {
        decision.followed.conduct = subset.conduct;
        decision.followed.ordinal = ordinal;
    }
    decision
}

/// Ordinal of a backend, with what the subset limits taken; or why there is none.
///
/// Not inlined, and it answers a number, so that the verifier walks the rest of the decision once
/// instead of once per way through here, and connections that are not followed have less code.
#[inline(never)]
fn admit<W: World>(world: &W, index: u32, salt: u64, is_tcp: bool) -> u32 {
    let mut last = BLOCKED;
    let mut step = 0_u32;
    while step < STEPS {
        last = probe(world, index, salt, step, last);
        if last & BLOCKED == 0 {
            break;
        }
        step = step.wrapping_add(1);
    }
    match last {
        BROKEN => BROKEN,
        blocked if blocked & BLOCKED != 0 => NONE_USABLE,
        ordinal if is_tcp => take_room(world, index, ordinal),
        ordinal => ordinal,
    }
}

/// The ordinal, or why the subset takes no more connections.
#[inline(always)]
fn take_room<W: World>(world: &W, index: u32, ordinal: u32) -> u32 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    let Some(conduct) = conduct else { return BROKEN };
    let conduct: &Conduct = conduct.borrow();
    let Some(own) = world.state(conduct.state) else { return BROKEN };
    let has_room =
        conduct.max_connections == 0 || reserve(&own, cell::LIVE, conduct.max_connections);
    if has_room { ordinal } else { OVER_LIMIT }
}

/// The next backend to look at after `last`, with [`BLOCKED`] where it may not be chosen.
///
/// Not inlined, nor are its parts, and each looks everything up anew, so that the verifier learns
/// nothing in one of them that it would carry into the next: the ways through all of them would
/// multiply.
#[inline(never)]
fn probe<W: World>(world: &W, index: u32, salt: u64, step: u32, last: u32) -> u32 {
    let ordinal = candidate(world, index, salt, step, last & !BLOCKED);
    if ordinal == BROKEN || is_good(world, index, ordinal) { ordinal } else { ordinal | BLOCKED }
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
        _ => slot(world, choice, salt).map_or(BROKEN, |ordinal| ordinal & 0xffff),
    }
}

/// Live connections of a backend.
#[inline(never)]
fn live<W: World>(world: &W, index: u32, ordinal: u32) -> u64 {
    let conduct = world.subset(index).and_then(|subset| world.conduct(subset.conduct));
    let state = conduct.and_then(|c| world.state(state_index(world, c.borrow(), ordinal)));
    state.map_or(u64::MAX, |state| state.load(cell::LIVE))
}

/// Whether a backend may be chosen.
#[inline(never)]
fn is_good<W: World>(world: &W, index: u32, ordinal: u32) -> bool {
    let Some(subset) = world.subset(index) else { return false };
    let Some(conduct) = world.conduct(subset.conduct) else { return false };
    let conduct: &Conduct = conduct.borrow();
    let (Some(own), Some(state)) =
        (world.state(conduct.state), world.state(state_index(world, conduct, ordinal)))
    else {
        return false;
    };
    let is_panic = is_panic(conduct, u32::from(subset.n_backends), &own);
    is_usable(&state, &own, is_panic, || world.now_ns())
}

/// Index of a backend's state; 0, which is nobody's, where there is none.
#[inline(always)]
fn state_index<W: World>(world: &W, conduct: &Conduct, ordinal: u32) -> u32 {
    let cell = world.two_states(conduct.states.wrapping_add(ordinal >> 1)).unwrap_or(0);
    one_of_two(cell, ordinal)
}

/// The errno that a route fails a connection with on purpose; 0 for none.
///
/// Not inlined, for the verifier's sake, as [`admit`].
#[inline(never)]
pub(super) fn strike<W: World>(world: &W, fault: u32) -> u16 {
    let Some(fault) = world.fault(fault) else { return 0 };
    let Some(route) = world.state(fault.state) else { return 0 };
    let is_hit = is_hit(&route, fault.seed, fault.abort_ppm, cell::ABORT_TICKET);
    if is_hit { fault.errno } else { 0 }
}
