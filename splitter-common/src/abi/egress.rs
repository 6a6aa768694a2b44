//! What clients may reach besides the services of the policy.

use bytemuck::{Pod, Zeroable};

use super::{COMMAND_LEN, layout};
use crate::addr::{Addr, PortBe};

/// Levels of the cgroup tree, from the root's 0, at which clients can be told apart.
pub const EGRESS_LEVELS: u32 = 16;
/// Most rules.
pub const MAX_EGRESS_RULES: u32 = 256;
/// Most networks of a set. The map has room for two: the one before is removed later.
pub const MAX_EGRESS_NETWORKS: u32 = 32_768;
/// Most ranges of ports of one network.
pub const MAX_PORT_RANGES: usize = 16;

/// What is in force, in one of two records of [`super::map::EGRESS_ROOTS`]: the one with the higher
/// generation that is committed. All others of its entries bear the number of its set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EgressRoot {
    /// The generation from which this counts; 0 is none.
    pub generation: u64,
    /// Number of the set of entries.
    pub set: u32,
    /// Bit `n` is set where [`super::map::EGRESS_CLIENTS`] has a cgroup at level `n`.
    pub levels: u32,
    /// The rule for clients of no cgroup that has one.
    pub everyone: EgressRule,
}
layout!(EgressRoot, size 24, { generation @ 0: 8, set @ 8: 4, levels @ 12: 4, everyone @ 16: 8 });

/// What some clients may reach.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EgressRule {
    /// Its number, also the index into [`super::map::EGRESS_COUNTS`].
    pub rule: u32,
    /// `errno` of what is refused, positive.
    pub errno: u16,
    /// [`egress_flag`] bits.
    pub flags: u8,
    /// Always zero.
    pub pad: u8,
}
layout!(EgressRule, size 8, { rule @ 0: 4, errno @ 4: 2, flags @ 6: 1, pad @ 7: 1 });

/// Bits of [`EgressRule::flags`].
pub mod egress_flag {
    /// There is a rule.
    pub const IS_THERE: u8 = 1;
    /// What nothing else allows is refused.
    pub const REFUSES: u8 = 2;
    /// What is refused is told and goes on.
    pub const AUDITS: u8 = 4;
    /// Loopback addresses are allowed.
    pub const LOOPBACK: u8 = 8;
    /// Of the root alone: all of it is there to hold clients until there is a policy.
    pub const HOLDS: u8 = 16;
}

/// Key of [`super::map::EGRESS_CLIENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct EgressClient {
    /// Number of the set.
    pub set: u32,
    /// Always zero.
    pub pad: u32,
    /// Id of a cgroup: the rule is for the clients in it and below it, down to the next that has one.
    pub cgroup: u64,
}
layout!(EgressClient, size 16, { set @ 0: 4, pad @ 4: 4, cgroup @ 8: 8 });

/// Data of a key of [`super::map::EGRESS_NETWORKS`], of which the first [`NETWORK_BITS`] and the prefix
/// of the address count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct EgressNetwork {
    /// Number of the set.
    pub set: u32,
    /// Number of the rule.
    pub rule: u32,
    /// Address of the network.
    pub addr: Addr,
}
layout!(EgressNetwork, size 24, { set @ 0: 4, rule @ 4: 4, addr @ 8: 16 });

/// Bits of an [`EgressNetwork`] before its address.
pub const NETWORK_BITS: u32 = 64;

/// What is said of the addresses of a network: the first range that a port is in counts. What is said of
/// larger networks around it is in here too, since the longest prefix is all that is found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PortRanges {
    /// Number of ranges.
    pub n: u32,
    /// Always zero.
    pub pad: u32,
    /// The ranges.
    pub ranges: [PortRange; MAX_PORT_RANGES],
}
layout!(PortRanges, size 136, { n @ 0: 4, pad @ 4: 4, ranges @ 8: 128 });

/// Ports of a protocol, and whether they may be reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortRange {
    /// The first port, in host order.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// [`super::TCP`], [`super::UDP`], or 0 for both.
    pub protocol: u8,
    /// 1 where they are refused.
    pub refused: u8,
    /// Always zero.
    pub pad: u16,
}
layout!(PortRange, size 8, {
    first @ 0: 2, last @ 2: 2, protocol @ 4: 1, refused @ 5: 1, pad @ 6: 2,
});

/// What came of a rule, in [`super::map::EGRESS_COUNTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EgressCounts {
    /// Connections and datagrams that were refused.
    pub refused: u64,
    /// Those that would have been, were it not for [`egress_flag::AUDITS`].
    pub audited: u64,
    /// Those of both that no event tells of, because nobody took the ones before in time.
    pub untold: u64,
    /// Always zero.
    pub pad: u64,
}
layout!(EgressCounts, size 32, { refused @ 0: 8, audited @ 8: 8, untold @ 16: 8, pad @ 24: 8 });

/// One connection or datagram that was refused, or would have been, in [`super::map::EGRESS_EVENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EgressEvent {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Id of the client's cgroup.
    pub cgroup: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// Process id.
    pub process: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Number of the set.
    pub set: u32,
    /// Number of the rule.
    pub rule: u32,
    /// Port that was dialled.
    pub port_be: PortBe,
    /// [`super::TCP`] or [`super::UDP`].
    pub protocol: u8,
    /// 1 where it went on all the same.
    pub audited: u8,
    /// Address that was dialled.
    pub addr: Addr,
    /// Command name, zero-padded.
    pub command: [u8; COMMAND_LEN],
}
layout!(EgressEvent, size 80, {
    at_ns @ 0: 8, cgroup @ 8: 8, netns @ 16: 8, process @ 24: 4, uid @ 28: 4, gid @ 32: 4,
    set @ 36: 4, rule @ 40: 4, port_be @ 44: 2, protocol @ 46: 1, audited @ 47: 1, addr @ 48: 16,
    command @ 64: 16,
});
