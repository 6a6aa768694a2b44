//! The maps. `splitter_common::abi` describes their contents and `docs/maps.md` their lives.
//!
//! Sizes here are placeholders; the loader sets each from the daemon's options.

use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, RingBuf},
};
use splitter_common::abi::{
    Assignment, AssignmentKey, Backend, Commit, Conduct, Datagrams, EgressClient, EgressCounts,
    EgressNetwork, EgressRoot, EgressRule, Fault, FrontendKey, Match, Plan, PlanPair, PortRanges,
    PreviousKey, Route, SocketState, State, StateRef, Subset, Wheel,
};

/// `BPF_F_MMAPABLE`: user space writes these arrays through a mapping, without a system call.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: elements take memory only while they are there.
const NO_PREALLOC: u32 = 1;

/// The word whose store commits a policy.
#[map]
pub(crate) static COMMIT: Array<Commit> = Array::with_max_entries(1, MMAPABLE);
/// Dialled address to the index of its plan pair.
#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(1, 0);
/// The plan in force and its successor, one word per frontend.
#[map]
pub(crate) static PLAN_PAIRS: Array<PlanPair> = Array::with_max_entries(1, MMAPABLE);
/// One service in one generation.
#[map]
pub(crate) static PLANS: Array<Plan> = Array::with_max_entries(1, MMAPABLE);
/// Compiled routes.
#[map]
pub(crate) static ROUTES: Array<Route> = Array::with_max_entries(1, MMAPABLE);
/// Client matches.
#[map]
pub(crate) static MATCHES: Array<Match> = Array::with_max_entries(1, MMAPABLE);
/// Wheels and their tickets.
#[map]
pub(crate) static WHEELS: Array<Wheel> = Array::with_max_entries(1, MMAPABLE);
/// Slots of long wheels and affinity thresholds.
#[map]
pub(crate) static CELLS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// Subsets.
#[map]
pub(crate) static SUBSETS: Array<Subset> = Array::with_max_entries(1, MMAPABLE);
/// Backends.
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::with_max_entries(1, MMAPABLE);
/// What followed subsets ask of their connections.
#[map]
pub(crate) static CONDUCTS: Array<Conduct> = Array::with_max_entries(1, MMAPABLE);
/// Failures that routes make on purpose.
#[map]
pub(crate) static FAULTS: Array<Fault> = Array::with_max_entries(1, MMAPABLE);
/// What goes on at followed subsets, backends and routes.
#[map]
pub(crate) static STATES: Array<State> = Array::with_max_entries(1, MMAPABLE);
/// What happened: the counters of the first CPU, then of the second, and so on.
#[map]
pub(crate) static COUNTERS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// What is known of sockets that are followed or answer what they dialled. Freed with the socket.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();
/// Where sockets that never connect send their datagrams. Freed with the socket.
#[btf_map]
pub(crate) static DATAGRAMS: SkStorage<Datagrams> = SkStorage::new();
/// Who failed to reach which backend last, for those that are to avoid it.
#[map]
pub(crate) static PREVIOUS: LruHashMap<PreviousKey, StateRef> = LruHashMap::with_max_entries(1, 0);
/// Subsets that clients of single cgroups get.
#[map]
pub(crate) static ASSIGNMENTS: HashMap<AssignmentKey, Assignment> =
    HashMap::with_max_entries(1, NO_PREALLOC);
/// What clients may reach besides services: what is in force, and what was or will be.
#[map]
pub(crate) static EGRESS_ROOTS: Array<EgressRoot> = Array::with_max_entries(1, MMAPABLE);
/// What came of each rule of that.
#[map]
pub(crate) static EGRESS_COUNTS: Array<EgressCounts> = Array::with_max_entries(1, MMAPABLE);
/// Rules of single cgroups.
#[map]
pub(crate) static EGRESS_CLIENTS: HashMap<EgressClient, EgressRule> =
    HashMap::with_max_entries(1, NO_PREALLOC);
/// Ports of networks.
#[map]
pub(crate) static EGRESS_NETWORKS: LpmTrie<EgressNetwork, PortRanges> =
    LpmTrie::with_max_entries(1, 0);
/// What was refused.
#[map]
pub(crate) static EGRESS_EVENTS: RingBuf = RingBuf::with_byte_size(4_096, 0);
