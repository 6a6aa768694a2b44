//! Which route takes a client.

use super::World;
use crate::abi::{COMMAND_LEN, DSCP, MAX_ROUTES, Match, match_flag};

/// Index of the first route that takes the client, of a service that looks at its clients.
///
/// Not inlined, and it returns a number rather than a record, so that the verifier walks the rest
/// of the decision once instead of once per route.
#[inline(never)]
pub(super) fn search_routes<W: World>(
    world: &W,
    routes: u32,
    n_routes: u16,
    asks: u16,
) -> Option<u32> {
    let client = Client::look_up(world, u32::from(asks));
    let mut i = 0_u32;
    while i < MAX_ROUTES && i < u32::from(n_routes) {
        let index = routes.wrapping_add(i);
        let wanted = world.route(index)?.client;
        if wanted == 0 || takes(world, &client, &world.client_match(wanted)?) {
            return Some(index);
        }
        i = i.wrapping_add(1);
    }
    None
}

/// What a client is matched by, looked up once, and zeros for what no route of the service asks.
///
/// The cgroup is not in here: which of those above the client's is meant differs between matches.
struct Client {
    ids: u64,
    command: [u8; COMMAND_LEN],
    netns: u64,
    mark: u32,
    tos: u32,
}

impl Client {
    #[inline(always)]
    fn look_up<W: World>(world: &W, asks: u32) -> Self {
        let asks_any = |flags: u32| asks & flags != 0;
        Self {
            ids: if asks_any(match_flag::UID | match_flag::GID) { world.uid_gid() } else { 0 },
            command: if asks_any(match_flag::COMMAND) { world.command() } else { [0; COMMAND_LEN] },
            netns: if asks_any(match_flag::NETNS) { world.netns() } else { 0 },
            mark: if asks_any(match_flag::MARK) { world.mark() } else { 0 },
            tos: if asks_any(match_flag::TOS) { world.tos() } else { 0 },
        }
    }
}

/// Whether the client fits a match: every field that the match names is equal.
///
/// Differences are gathered in one word rather than branched on: the verifier would follow every
/// combination of branches, in every round of the loop.
#[inline(always)]
fn takes<W: World>(world: &W, client: &Client, wanted: &Match) -> bool {
    let named = |flag: u32| u64::from(wanted.flags & flag != 0).wrapping_neg();
    let command = u128::from_ne_bytes(client.command) ^ u128::from_ne_bytes(wanted.command);
    let mut differs = named(match_flag::NEVER);
    differs |= named(match_flag::UID) & u64::from(client.ids as u32 ^ wanted.uid);
    differs |= named(match_flag::GID) & u64::from((client.ids >> 32) as u32 ^ wanted.gid);
    differs |= named(match_flag::COMMAND) & (command as u64 | (command >> 64) as u64);
    differs |= named(match_flag::NETNS) & (client.netns ^ wanted.netns);
    differs |= named(match_flag::MARK) & u64::from((client.mark ^ wanted.mark) & wanted.mark_mask);
    differs |= named(match_flag::TOS) & u64::from((client.tos ^ wanted.tos) & DSCP);
    if wanted.flags & match_flag::CGROUP != 0 {
        differs |= world.ancestor_cgroup(wanted.cgroup_level) ^ wanted.cgroup;
    }
    differs == 0
}
