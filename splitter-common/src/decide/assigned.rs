//! Clients that are assigned a subset: they get it whatever the routes and weights say.

use super::World;
use crate::abi::{Choice, MAX_ASSIGNABLE, Plan, Route, action, pick};

/// The client is assigned nothing.
const FREE: u32 = u32::MAX;
/// The subset that the client is assigned is not there.
const GONE: u32 = FREE - 1;

/// The route of an assigned client, made for it alone: all to the subset, no faults, nowhere to turn
/// to, and nothing is counted at any route of the policy.
#[inline(always)]
pub(super) fn find_route<W: World>(world: &W, plan: &Plan) -> Option<Route> {
    let ordinal = world.assigned(plan.service, plan.subsets, u32::from(plan.n_subsets));
    if ordinal == FREE {
        return None;
    }
    let only = Choice { wheel: 0, only: ordinal as u16, pick: pick::ONLY, client: 0 };
    let action = if ordinal == GONE { action::NO_SUBSET } else { action::SPLIT };
    Some(Route { choice: only, action, ..Route::default() })
}

/// Ordinal of the subset that the client is assigned; or, above all ordinals, that it is assigned none,
/// or one that is not there.
#[inline(always)]
pub fn find_subset<W: World>(world: &W, service: u64, subsets: u32, n_subsets: u32) -> u32 {
    let Some(id) = world.assignment(service) else { return FREE };
    let mut ordinal = 0_u32;
    while ordinal < MAX_ASSIGNABLE && ordinal < n_subsets {
        let subset = world.subset(subsets.wrapping_add(ordinal));
        if subset.is_some_and(|subset| subset.id == id) {
            return ordinal;
        }
        ordinal = ordinal.wrapping_add(1);
    }
    GONE
}
