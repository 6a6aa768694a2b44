//! Whether a client may reach what is no service of the policy.

use crate::abi::{
    EGRESS_LEVELS, EgressClient, EgressNetwork, EgressRoot, EgressRule, FrontendKey,
    MAX_PORT_RANGES, PortRange, PortRanges, egress_flag,
};
use crate::addr::Addr;

/// Read access to what clients may reach, and to the client at hand.
pub trait EgressWorld {
    /// What is said of a network, or a reference to it.
    type Ranges: core::borrow::Borrow<PortRanges>;

    /// One of the two roots.
    fn root(&self, index: u32) -> Option<EgressRoot>;
    /// The committed generation. Called after [`EgressWorld::root`].
    fn generation(&self) -> u64;
    /// The rule of a cgroup.
    fn rule(&self, client: &EgressClient) -> Option<EgressRule>;
    /// What is said of the smallest network that an address is in.
    fn ranges(&self, network: &EgressNetwork) -> Option<Self::Ranges>;
    /// Id of the client's cgroup at a depth below the v2 root; 0 where it is not that deep.
    fn ancestor_cgroup(&self, level: u32) -> u64;
}

/// A rule, and what it says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Number of the set.
    pub set: u32,
    /// Number of the rule.
    pub rule: u32,
    /// `errno` to fail with; 0 where it goes on and is only told.
    pub errno: u16,
}

/// What of a rule decides about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// What is said of a network.
    Range(PortRange),
    /// That loopback addresses are allowed.
    Loopback,
    /// Nothing names the destination: the mode does.
    Mode,
}

/// What is to be refused or told of; `None` for what is allowed.
#[inline(always)]
pub fn judge<W: EgressWorld>(world: &W, key: &FrontendKey) -> Option<Judgement> {
    let root = root_in_force(world)?;
    let EgressRule { rule, errno, flags, .. } = find_rule(world, &root)?;
    let is_set = |flag| flags & flag != 0;
    let is_refused = match find_ground(world, root.set, rule, flags, key) {
        Ground::Range(range) => range.refused != 0,
        Ground::Loopback => false,
        Ground::Mode => is_set(egress_flag::REFUSES),
    };
    let errno = if is_set(egress_flag::AUDITS) { 0 } else { errno };
    is_refused.then_some(Judgement { set: root.set, rule, errno })
}

/// The ground of a judgement by a rule with these flags.
#[inline(always)]
pub fn find_ground<W: EgressWorld>(
    world: &W,
    set: u32,
    rule: u32,
    flags: u8,
    key: &FrontendKey,
) -> Ground {
    let addr = dialled(key.addr);
    let said = world.ranges(&EgressNetwork { set, rule, addr });
    match said.and_then(|ranges| find_range(&ranges, key)) {
        Some(range) => Ground::Range(range),
        None if flags & egress_flag::LOOPBACK != 0 && is_loopback(addr) => Ground::Loopback,
        None => Ground::Mode,
    }
}

/// The root that counts.
///
/// As with plans: the root that is not in force is the only one that is ever written, and not before
/// every reader that could hold it has ended.
#[inline(always)]
pub fn root_in_force<W: EgressWorld>(world: &W) -> Option<EgressRoot> {
    let (first, second) = (world.root(0)?, world.root(1)?);
    let generation = world.generation();
    let counts = |root: &EgressRoot| root.generation != 0 && root.generation <= generation;
    match (counts(&first), counts(&second)) {
        (true, true) if second.generation > first.generation => Some(second),
        (true, _) => Some(first),
        (false, true) => Some(second),
        (false, false) => None,
    }
}

/// The rule of the deepest cgroup around the client that has one, or that for everybody.
#[inline(always)]
pub fn find_rule<W: EgressWorld>(world: &W, root: &EgressRoot) -> Option<EgressRule> {
    let mut found = root.everyone;
    let mut level = 0_u32;
    while level < EGRESS_LEVELS {
        if root.levels & 1_u32.wrapping_shl(level) != 0 {
            let cgroup = world.ancestor_cgroup(level);
            if let Some(rule) = world.rule(&EgressClient { set: root.set, pad: 0, cgroup }) {
                found = rule;
            }
        }
        level = level.wrapping_add(1);
    }
    (found.flags & egress_flag::IS_THERE != 0).then_some(found)
}

#[inline(always)]
fn find_range(
    ranges: &impl core::borrow::Borrow<PortRanges>,
    key: &FrontendKey,
) -> Option<PortRange> {
    let PortRanges { n, ranges, .. } = ranges.borrow();
    let port = key.port_be.to_host();
    let mut i = 0_usize;
    while i < MAX_PORT_RANGES && i < *n as usize {
        let range = ranges.get(i)?;
        let is_protocol = range.protocol == 0 || range.protocol == key.protocol;
        if is_protocol && range.first <= port && port <= range.last {
            return Some(*range);
        }
        i = i.wrapping_add(1);
    }
    None
}

/// The words of an address, as they are in memory: sixteen bytes held apart fill a BPF stack.
type Words = [u32; 4];

/// The third word of a v4-mapped address, and the last of `127.0.0.1` and of `::1`.
const MAPPED: u32 = u32::to_be(0xffff);
const LOOPBACK_V4: u32 = u32::to_be(0x7f00_0001);
const LOOPBACK_V6: u32 = u32::to_be(1);

/// The address that the kernel connects to: loopback where it is unspecified.
#[inline(always)]
pub fn dialled(addr: Addr) -> Addr {
    let words: Words = bytemuck::cast(addr);
    bytemuck::cast(match words {
        [0, 0, MAPPED, 0] => [0, 0, MAPPED, LOOPBACK_V4],
        [0, 0, 0, 0] => [0, 0, 0, LOOPBACK_V6],
        words => words,
    })
}

/// Whether a connection to an address stays in the client's network namespace.
#[inline(always)]
fn is_loopback(addr: Addr) -> bool {
    let words: Words = bytemuck::cast(addr);
    match words {
        [0, 0, MAPPED, v4] => u32::from_be(v4) >> 24 == 127,
        words => words == [0, 0, 0, LOOPBACK_V6],
    }
}
