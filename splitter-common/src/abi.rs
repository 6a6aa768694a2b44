//! Everything that user space and the kernel programs share: map names, keys, values, limits and
//! numbers.
//!
//! Rules. Fields are fixed-width integers and byte arrays; padding is a named `pad` field that is
//! always zero. Each field has one meaning. Numbers are explicit and never reused. Any change here
//! changes [`ABI_VERSION`], and with it the directory of pins, so that a daemon never adopts maps
//! of another layout. `docs/maps.md` explains every map; `cargo xtask tidy` keeps the two together.
//!
//! Index 0 of every arena is reserved and means "none", so a zeroed record refers to nothing.

mod egress;
mod life;
mod reason;

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, PortBe};

pub use egress::*;
pub use life::*;
pub use reason::Reason;

/// Number of this layout. Raised with every change of this file's types or meanings.
pub const ABI_VERSION: u32 = 6;

/// Names of the maps, as they stand in the object, in pins and in `bpftool map`.
///
/// The kernel cuts names at 15 characters (`BPF_OBJ_NAME_LEN`).
pub mod map {
    /// Array, one [`super::Commit`], mmap-able: the word whose store commits a policy.
    pub const COMMIT: &str = "COMMIT";
    /// Hash, [`super::FrontendKey`] to index into [`PLAN_PAIRS`].
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Array of [`super::PlanPair`], mmap-able.
    pub const PLAN_PAIRS: &str = "PLAN_PAIRS";
    /// Array of [`super::Plan`], mmap-able.
    pub const PLANS: &str = "PLANS";
    /// Array of [`super::Route`], mmap-able.
    pub const ROUTES: &str = "ROUTES";
    /// Array of [`super::Match`], mmap-able.
    pub const MATCHES: &str = "MATCHES";
    /// Array of [`super::Wheel`], mmap-able.
    pub const WHEELS: &str = "WHEELS";
    /// Array of eight-byte cells, mmap-able: words of slots of long wheels, affinity thresholds.
    pub const CELLS: &str = "CELLS";
    /// Array of [`super::Subset`], mmap-able.
    pub const SUBSETS: &str = "SUBSETS";
    /// Array of [`super::Backend`], mmap-able.
    pub const BACKENDS: &str = "BACKENDS";
    /// Array of `u64`, mmap-able: for each CPU in turn, [`super::Reason`] numbers first, then
    /// allocated counters. Not a per-CPU map: user space reads it without system calls, and the
    /// kernel takes half the memory for it.
    pub const COUNTERS: &str = "COUNTERS";
    /// Array of [`super::Conduct`], mmap-able.
    pub const CONDUCTS: &str = "CONDUCTS";
    /// Array of [`super::Fault`], mmap-able.
    pub const FAULTS: &str = "FAULTS";
    /// Array of [`super::State`], mmap-able.
    pub const STATES: &str = "STATES";
    /// Socket storage, [`super::SocketState`]: of sockets that are followed, or that answer
    /// `getpeername()` with what they dialled.
    pub const SOCKETS: &str = "SOCKETS";
    /// Socket storage, [`super::Datagrams`]: of sockets that send to frontends without connecting.
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// Hash that forgets what was used least, [`super::PreviousKey`] to the [`super::StateRef`] of the
    /// backend that the client failed to reach last.
    pub const PREVIOUS: &str = "PREVIOUS";
    /// Hash, [`super::AssignmentKey`] to [`super::Assignment`].
    pub const ASSIGNMENTS: &str = "ASSIGNMENTS";
    /// Array of two [`super::EgressRoot`], mmap-able.
    pub const EGRESS_ROOTS: &str = "EGRESS_ROOTS";
    /// Array of [`super::EgressCounts`], mmap-able.
    pub const EGRESS_COUNTS: &str = "EGRESS_COUNTS";
    /// Hash, [`super::EgressClient`] to [`super::EgressRule`].
    pub const EGRESS_CLIENTS: &str = "EGRESS_CLIENTS";
    /// Trie of prefixes, [`super::EgressNetwork`] to [`super::PortRanges`].
    pub const EGRESS_NETWORKS: &str = "EGRESS_NETWORKS";
    /// Ring of [`super::EgressEvent`].
    pub const EGRESS_EVENTS: &str = "EGRESS_EVENTS";
}

/// Largest number of slots of a wheel. Larger reduced weight sums are apportioned onto it.
pub const MAX_WHEEL: u32 = 10_000;
/// Most compiled routes of one service. A route with several matches counts once per match.
pub const MAX_ROUTES: u32 = 16;
/// Most subsets that one route may split between.
pub const MAX_SPLIT: u32 = 16;
/// Most subsets of one service.
pub const MAX_SUBSETS: u32 = 255;
/// Subsets of a service, from its first, that clients can be assigned: the verifier walks the search
/// for one step by step.
pub const MAX_ASSIGNABLE: u32 = 64;
/// Most backends of one subset.
pub const MAX_BACKENDS: u32 = 4_096;
/// Words of slots that fit into the wheel's own record; longer wheels use [`map::CELLS`].
pub const INLINE_WORDS: usize = 6;
/// Bytes of a task's command name with its terminating zero (`TASK_COMM_LEN`).
pub const COMMAND_LEN: usize = 16;
/// Counters below this index are reasons; above, they are allocated to routes, subsets, backends.
pub const FIRST_COUNTER: u32 = 16;
/// Bits of a socket's type of service that are matched. The other two are for notices of congestion,
/// which the kernel sets by itself.
pub const DSCP: u32 = 0xfc;
/// Fixed point of affinity thresholds: the whole range of a 32-bit hash.
pub const AFFINITY_RANGE: u64 = 1 << 32;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// Asserts at compile time that a type has the size, and each field the offset, that the other
/// side relies on, and that no byte of it is hidden padding.
macro_rules! layout {
    ($type:ty, size $size:literal, { $($field:ident @ $offset:literal : $bytes:literal),+ $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size, "size");
            assert!(0 $(+ $bytes)+ == $size, "hidden padding");
            $(assert!(core::mem::offset_of!($type, $field) == $offset, stringify!($field));)+
        };
    };
}

use layout;

/// What a client dials. Key of [`map::FRONTENDS`]; compared by its bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FrontendKey {
    /// Dialled address.
    pub addr: Addr,
    /// Dialled port.
    pub port_be: PortBe,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}
layout!(FrontendKey, size 20, { addr @ 0: 16, port_be @ 16: 2, protocol @ 18: 1, pad @ 19: 1 });

/// The committed state. The store to `generation` is what commits a policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Commit {
    /// Number of the committed policy; plans with a higher number do not count yet.
    pub generation: u64,
    /// [`commit_flag`] bits. Hints that are set before and cleared after the commit they serve.
    pub flags: u32,
    /// [`ABI_VERSION`] of the maps.
    pub abi_version: u32,
}
layout!(Commit, size 16, { generation @ 0: 8, flags @ 8: 4, abi_version @ 12: 4 });

/// Bits of [`Commit::flags`].
pub mod commit_flag {
    /// Some service keeps per-socket state, so stale state must be cleared on a missed connect.
    pub const SOCKET_STATE: u32 = 1;
    /// Clients of some cgroup are assigned a subset, so every connection to a service has to look
    /// whether its client is.
    pub const ASSIGNMENTS: u32 = 2;
    /// Some clients may not reach everything, so a connection to what is no service has to look.
    pub const EGRESS: u32 = 4;
}

/// Clients of a cgroup, and not of those below it, at one service. Key of [`map::ASSIGNMENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct AssignmentKey {
    /// Id of the cgroup.
    pub cgroup: u64,
    /// [`Plan::service`].
    pub service: u64,
}
layout!(AssignmentKey, size 16, { cgroup @ 0: 8, service @ 8: 8 });

/// The subset that clients get whatever the routes say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Assignment {
    /// [`Subset::id`]: ordinals change with the policy.
    pub subset: u32,
    /// Always zero.
    pub pad: u32,
}
layout!(Assignment, size 8, { subset @ 0: 4, pad @ 4: 4 });

/// The plan in force and its successor, in one word that is read and written whole.
///
/// Readers load the pair first and the committed generation second. Every pair holds at least one
/// plan that was in force when the pair was loaded, so a reader always finds one, without retries.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PlanPair(pub u64);

impl PlanPair {
    /// A pair of indices into [`map::PLANS`].
    #[inline(always)]
    #[must_use]
    pub const fn new(older: u32, newer: u32) -> Self {
        Self((newer as u64) << 32 | older as u64)
    }

    /// The plan that counts until the newer one is committed; 0 passes connections through.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half of the word")]
    pub const fn older(self) -> u32 {
        self.0 as u32
    }

    /// The plan that counts as soon as the committed generation reaches its own.
    #[inline(always)]
    #[must_use]
    pub const fn newer(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// One service in one generation. Never changed while a [`PlanPair`] refers to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Plan {
    /// The generation from which this plan counts.
    pub generation: u64,
    /// Identity of the service: hash of its name.
    pub service: u64,
    /// First of `n_routes` consecutive records in [`map::ROUTES`].
    pub routes: u32,
    /// Number of routes; 0 passes every connection through, which is how a frontend is retired.
    pub n_routes: u16,
    /// [`plan_flag`] bits.
    pub flags: u16,
    /// First of `n_subsets` consecutive records in [`map::SUBSETS`].
    pub subsets: u32,
    /// Number of subsets of the service.
    pub n_subsets: u16,
    /// The [`match_flag`] bits that any match of the routes has: what is looked up of a client.
    pub asks: u16,
}
layout!(Plan, size 32, {
    generation @ 0: 8, service @ 8: 8, routes @ 16: 4, n_routes @ 20: 2, flags @ 22: 2,
    subsets @ 24: 4, n_subsets @ 28: 2, asks @ 30: 2,
});

impl Plan {
    /// Salt of a client's hash where it chooses a subset, so that services do not share buckets.
    #[inline(always)]
    #[must_use]
    pub const fn subset_salt(&self) -> u64 {
        self.service
    }

    /// Salt of a client's hash where it chooses a backend: another, or the clients of one subset
    /// would all share a few of its backends.
    #[inline(always)]
    #[must_use]
    pub const fn backend_salt(&self) -> u64 {
        !self.service
    }
}

/// Bits of [`Plan::flags`].
pub mod plan_flag {
    /// `getpeername` answers the dialled frontend, which needs per-socket state.
    pub const ANSWER_FRONTEND: u16 = 1;
    /// Datagrams of sockets that never connect are split too, and answers bear the address that was
    /// sent to, which needs per-socket state.
    pub const DATAGRAMS: u16 = 2;
}

/// How one ordinal is chosen: a subset of a route, or a backend of a subset.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Choice {
    /// Index into [`map::WHEELS`]; with [`pick::THRESHOLD`] the first of at most [`MAX_SPLIT`] cells
    /// in [`map::CELLS`], of which the last has the threshold [`AFFINITY_RANGE`]; 0 with
    /// [`pick::ONLY`].
    pub wheel: u32,
    /// The ordinal of [`pick::ONLY`].
    pub only: u16,
    /// [`pick`] number in force.
    pub pick: u8,
    /// [`client_key`] number that is hashed.
    pub client: u8,
}
layout!(Choice, size 8, { wheel @ 0: 4, only @ 4: 2, pick @ 6: 1, client @ 7: 1 });

/// One compiled route: which clients it takes and what happens to their connections.
///
/// A power of two in size, so that no record lies on two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Route {
    /// Subset of [`action::SPLIT`].
    pub choice: Choice,
    /// Identity within the service: hash of the route's name.
    pub id: u32,
    /// Index into [`map::MATCHES`]; 0 takes every client.
    pub client: u32,
    /// Index into [`map::COUNTERS`].
    pub counter: u32,
    /// `errno` of [`action::REJECT`], positive.
    pub errno: u16,
    /// [`action`] number.
    pub action: u8,
    /// Always zero.
    pub pad: u8,
    /// Index into [`map::FAULTS`]; 0 where the route makes none.
    pub fault: u32,
    /// Index into [`map::STATES`]; 0 where connections are not followed.
    pub state: u32,
}
layout!(Route, size 32, {
    choice @ 0: 8, id @ 8: 4, client @ 12: 4, counter @ 16: 4, errno @ 20: 2, action @ 22: 1,
    pad @ 23: 1, fault @ 24: 4, state @ 28: 4,
});

/// What a route does with a connection.
pub mod action {
    /// Leave the dialled address alone.
    pub const PASS: u8 = 1;
    /// Fail `connect()` with the route's errno.
    pub const REJECT: u8 = 2;
    /// Choose a subset, then a backend of it.
    pub const SPLIT: u8 = 3;
    /// Fail `connect()`, because the client is assigned a subset that is not there. No record has
    /// this; the decision makes such a route.
    pub const NO_SUBSET: u8 = 4;
}

/// How an ordinal is chosen, at either level.
pub mod pick {
    /// There is only one choice.
    pub const ONLY: u8 = 1;
    /// The slot under the wheel's ticket: exact.
    pub const TICKET: u8 = 2;
    /// A random slot of the wheel.
    pub const RANDOM: u8 = 3;
    /// The slot of the wheel at the client's hash.
    pub const CLIENT: u8 = 4;
    /// The first subset, from the last one on, whose threshold is above the client's hash.
    pub const THRESHOLD: u8 = 5;
    /// Of two random slots of the wheel, the backend with fewer live connections.
    pub const LEAST: u8 = 6;
}

/// What stands for the client in an affinity hash.
pub mod client_key {
    /// Effective user id of the connecting task.
    pub const UID: u8 = 1;
    /// Effective group id of the connecting task.
    pub const GID: u8 = 2;
    /// Command name of the connecting thread.
    pub const COMMAND: u8 = 3;
    /// Id of the task's cgroup (v2).
    pub const CGROUP: u8 = 4;
    /// Process id (thread group).
    pub const PROCESS: u8 = 5;
    /// Cookie of the socket's network namespace.
    pub const NETNS: u8 = 6;
}

/// Which clients a route takes: every field whose bit is set must be equal.
///
/// A power of two in size, so that no record lies on two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Match {
    /// [`match_flag`] bits.
    pub flags: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Depth of `cgroup` below the cgroup v2 root, whose depth is 0.
    pub cgroup_level: u32,
    /// Id of the cgroup at the root of the subtree.
    pub cgroup: u64,
    /// Command name, zero-padded.
    pub command: [u8; COMMAND_LEN],
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// `SO_MARK` of the socket, in the bits of `mark_mask`.
    pub mark: u32,
    /// Bits of the mark that are compared.
    pub mark_mask: u32,
    /// `IP_TOS` of the socket, `IPV6_TCLASS` of one of IPv6.
    pub tos: u32,
    /// Always zero.
    pub pad: u32,
}
layout!(Match, size 64, {
    flags @ 0: 4, uid @ 4: 4, gid @ 8: 4, cgroup_level @ 12: 4, cgroup @ 16: 8, command @ 24: 16,
    netns @ 40: 8, mark @ 48: 4, mark_mask @ 52: 4, tos @ 56: 4, pad @ 60: 4,
});

/// Bits of [`Match::flags`].
pub mod match_flag {
    /// Compare the user id.
    pub const UID: u32 = 1;
    /// Compare the group id.
    pub const GID: u32 = 2;
    /// Compare the command name.
    pub const COMMAND: u32 = 4;
    /// Compare the task's ancestor cgroup.
    pub const CGROUP: u32 = 8;
    /// Nobody: the cgroup or the network namespace that the policy names does not exist.
    pub const NEVER: u32 = 16;
    /// Compare the socket's network namespace.
    pub const NETNS: u32 = 32;
    /// Compare the socket's mark.
    pub const MARK: u32 = 64;
    /// Compare the socket's type of service.
    pub const TOS: u32 = 128;
}

/// A fixed order of slots and the ticket that walks it, alone on one 64-byte cache line.
///
/// The ticket is the only part that changes after it was published. A wheel whose slots are the
/// same in the next policy keeps its record, and so its place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Wheel {
    /// Number of picks so far; the next pick is slot `ticket % len`.
    pub ticket: u64,
    /// Number of slots.
    pub len: u16,
    /// Bits of a slot: the least of 1, 2, 4, 8, 16 that every ordinal fits into. Slots fill words
    /// from the low end, and none lies in two words.
    pub slot_bits: u16,
    /// First of the cells that hold the words of slots; 0 where these are inline.
    pub cells: u32,
    /// The words of slots of a short wheel.
    pub words: [u64; INLINE_WORDS],
}
layout!(Wheel, size 64, {
    ticket @ 0: 8, len @ 8: 2, slot_bits @ 10: 2, cells @ 12: 4, words @ 16: 48,
});

/// A named group of backends.
///
/// A power of two in size, so that no record lies on two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Subset {
    /// Backend of the subset.
    pub choice: Choice,
    /// Identity within the service: hash of the subset's name.
    pub id: u32,
    /// First of `n_backends` consecutive records in [`map::BACKENDS`].
    pub backends: u32,
    /// Index into [`map::COUNTERS`].
    pub counter: u32,
    /// Number of backends that may be chosen, which come first; 0 rejects the subset's share.
    pub n_backends: u16,
    /// Number of records at `backends`, those included that have no weight.
    pub n_listed: u16,
    /// Index into [`map::CONDUCTS`]; 0 where connections are not followed.
    pub conduct: u32,
    /// Always zero.
    pub pad: u32,
}
layout!(Subset, size 32, {
    choice @ 0: 8, id @ 8: 4, backends @ 12: 4, counter @ 16: 4, n_backends @ 20: 2,
    n_listed @ 22: 2, conduct @ 24: 4, pad @ 28: 4,
});

/// Where a connection goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Backend {
    /// Address, of the same family as the frontends of its service.
    pub addr: Addr,
    /// Port.
    pub port_be: PortBe,
    /// Always zero.
    pub pad: u16,
    /// Index into [`map::COUNTERS`].
    pub counter: u32,
}
layout!(Backend, size 24, { addr @ 0: 16, port_be @ 16: 2, pad @ 18: 2, counter @ 20: 4 });

const _: () = assert!(Reason::ALL.len() < FIRST_COUNTER as usize);
const _: () = assert!(MAX_WHEEL <= u16::MAX as u32, "lengths of wheels are 16 bits");
const _: () = assert!(MAX_BACKENDS <= 1 << 16, "slots are at most 16 bits");
