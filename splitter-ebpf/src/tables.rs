//! The decision's view of the maps and of the connecting task. No branches on policy.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_netns_cookie,
        bpf_get_prandom_u32,
    },
    maps::Array,
};
use splitter_common::{
    abi::{
        AssignmentKey, Backend, COMMAND_LEN, Commit, Conduct, Fault, FrontendKey, Match, Plan,
        PlanPair, PreviousKey, Route, StateRef, Subset, Wheel, client_key, commit_flag,
    },
    decide::{
        WheelRef, World,
        followed::{How, Ordinals},
    },
    hash::mix,
};

use crate::{
    atomic, effects, follow, listener, maps,
    option::{self, INET},
    parts,
    state::MapState,
};

/// The maps, as seen by the task that runs the hook.
pub(crate) struct Maps {
    /// The hook's context, for what belongs to the socket.
    pub(crate) ctx: *mut bpf_sock_addr,
    /// The record of what is committed, looked up once.
    pub(crate) commit: *const Commit,
}

/// A wheel in its map.
pub(crate) struct MapWheel(*mut Wheel);

#[inline(always)]
fn copy<T: Copy>(map: &Array<T>, index: u32) -> Option<T> {
    map.get(index).copied()
}

impl World for Maps {
    type Wheel = MapWheel;
    type Backend = &'static Backend;
    type Conduct = &'static Conduct;
    type Fault = &'static Fault;
    type State = MapState;

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        maps::FRONTENDS.get_ptr(key).map(|index| {
            // SAFETY: a live element; values never change, and elements are not reused before a
            // grace period has passed.
            unsafe { *index }
        })
    }

    #[inline(always)]
    fn plan_pair(&self, index: u32) -> Option<PlanPair> {
        maps::PLAN_PAIRS.get_ptr(index).map(|pair| {
            // SAFETY: a live array element of one aligned word. Volatile keeps this load before
            // the generation's, which is what makes a reader wait-free.
            unsafe { pair.read_volatile() }
        })
    }

    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: a live array element; one aligned word, written whole.
        unsafe { (&raw const (*self.commit).generation).read_volatile() }
    }

    #[inline(always)]
    fn plan(&self, index: u32) -> Option<Plan> {
        copy(&maps::PLANS, index)
    }

    #[inline(always)]
    fn route(&self, index: u32) -> Option<Route> {
        copy(&maps::ROUTES, index)
    }

    #[inline(always)]
    fn client_match(&self, index: u32) -> Option<Match> {
        copy(&maps::MATCHES, index)
    }

    #[inline(always)]
    fn wheel(&self, index: u32) -> Option<MapWheel> {
        maps::WHEELS.get_ptr_mut(index).map(MapWheel)
    }

    #[inline(always)]
    fn cell(&self, index: u32) -> Option<u64> {
        copy(&maps::CELLS, index)
    }

    #[inline(always)]
    fn subset(&self, index: u32) -> Option<Subset> {
        copy(&maps::SUBSETS, index)
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&'static Backend> {
        maps::BACKENDS.get(index)
    }

    #[inline(always)]
    fn conduct(&self, index: u32) -> Option<&'static Conduct> {
        maps::CONDUCTS.get(index)
    }

    #[inline(always)]
    fn fault(&self, index: u32) -> Option<&'static Fault> {
        maps::FAULTS.get(index)
    }

    #[inline(always)]
    fn two_states(&self, cell: u32) -> Option<u64> {
        self.cell(cell)
    }

    #[inline(always)]
    fn state(&self, index: u32) -> Option<MapState> {
        MapState::get(index)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        follow::now_ns()
    }

    #[inline(always)]
    fn uid_gid(&self) -> u64 {
        uid_gid()
    }

    #[inline(always)]
    fn command(&self) -> [u8; COMMAND_LEN] {
        command()
    }

    #[inline(always)]
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        // SAFETY: the helper answers 0 for a level that does not exist.
        unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        netns(self.ctx)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the socket of the running hook's context.
        unsafe { (*(*self.ctx).__bindgen_anon_1.sk).mark }
    }

    #[inline(always)]
    fn tos(&self) -> u32 {
        // SAFETY: the context of the running hook.
        let family = unsafe { (*self.ctx).family };
        option::number(self.ctx, if family == INET { option::TOS } else { option::TCLASS })
    }

    #[inline(always)]
    fn client(&self, key: u8) -> u64 {
        client(self.ctx, key)
    }

    #[inline(always)]
    fn assigned(&self, service: u64, subsets: u32, n_subsets: u32) -> u32 {
        parts::assigned(service, subsets, n_subsets)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an errno")]
    fn strike(&self, fault: u32) -> u16 {
        parts::strike(fault) as u16
    }

    #[inline(always)]
    fn admit(&self, subset: u32, salt: u64, is_tcp: bool) -> u32 {
        parts::admit(self.ctx, subset, salt, u32::from(is_tcp))
    }

    #[inline(always)]
    fn stand(&self, subset: u32, ordinal: u32) -> u32 {
        parts::stand(self.ctx, subset, ordinal)
    }

    #[inline(always)]
    fn turn_from(&self, turns: u32, ordinals: Ordinals, how: How, salt: u64) -> u32 {
        parts::turn_from(self.ctx, turns, ordinals.0, how.0, salt)
    }

    #[inline(always)]
    fn has_assignments(&self) -> bool {
        effects::has_flag(self.commit, commit_flag::ASSIGNMENTS)
    }

    #[inline(always)]
    fn assignment(&self, service: u64) -> Option<u32> {
        // SAFETY: takes nothing, reads the current task.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        maps::ASSIGNMENTS.get_ptr(AssignmentKey { cgroup, service }).map(|assignment| {
            // SAFETY: a live element of one aligned word.
            unsafe { (*assignment).subset }
        })
    }

    #[inline(always)]
    fn has_listener(&self, backend: &Backend) -> bool {
        listener::is_there(self.ctx, backend)
    }

    #[inline(always)]
    fn previous(&self, who: &PreviousKey) -> StateRef {
        maps::PREVIOUS.get_ptr(who).map_or(StateRef { index: 0, epoch: 0 }, |failed| {
            // SAFETY: a live element of two aligned words; a torn one fits no backend.
            unsafe { *failed }
        })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }
}

/// The client as [`client_key`] `key` sees it.
#[inline(always)]
pub(crate) fn client(ctx: *mut bpf_sock_addr, key: u8) -> u64 {
    match key {
        client_key::UID => uid_gid() & 0xffff_ffff,
        client_key::GID => uid_gid() >> 32,
        client_key::COMMAND => {
            let [low, high]: [u64; 2] = bytemuck::cast(command());
            mix(low, high)
        }
        // SAFETY: takes nothing, reads the current task.
        client_key::CGROUP => unsafe { bpf_get_current_cgroup_id() },
        // SAFETY: as above.
        client_key::PROCESS => unsafe { bpf_get_current_pid_tgid() >> 32 },
        _ => netns(ctx),
    }
}

#[inline(always)]
pub(crate) fn netns(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: reads the socket of the running hook's context.
    unsafe { bpf_get_netns_cookie(ctx.cast()) }
}

#[inline(always)]
pub(crate) fn uid_gid() -> u64 {
    // SAFETY: takes nothing, reads the current task.
    unsafe { bpf_get_current_uid_gid() }
}

#[inline(always)]
pub(crate) fn command() -> [u8; COMMAND_LEN] {
    let mut name = MaybeUninit::<[u64; COMMAND_LEN / 8]>::uninit();
    let words = name.as_mut_ptr().cast::<u64>();
    #[expect(clippy::cast_possible_truncation, reason = "16")]
    let length = COMMAND_LEN as u32;
    // SAFETY: both words are inside `name`, and the helper writes no more than both. Linux 6.1
    // leaves what is behind the name as it was, so it is cleared; by volatile stores, because
    // plain ones become a call that clears byte by byte.
    unsafe {
        words.write_volatile(0);
        words.add(1).write_volatile(0);
        bpf_get_current_comm(words.cast(), length);
        bytemuck::cast(name.assume_init())
    }
}

impl WheelRef for MapWheel {
    #[inline(always)]
    fn n_slots(&self) -> u32 {
        // SAFETY: a live array element; only its ticket ever changes.
        unsafe { u32::from((*self.0).len) }
    }

    #[inline(always)]
    fn slot_bits(&self) -> u32 {
        // SAFETY: as above.
        unsafe { u32::from((*self.0).slot_bits) }
    }

    #[inline(always)]
    fn cells(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).cells }
    }

    #[inline(always)]
    fn inline_word(&self, word: u32) -> u64 {
        // A mask instead of a comparison: the compiler moves comparisons to where the verifier
        // no longer connects them with the access, and a mask is always seen.
        const { assert!(size_of::<Wheel>() / size_of::<u64>() == 8) };
        let at = (offset_of!(Wheel, words) / size_of::<u64>() + word as usize) & 7;
        // SAFETY: a word inside the record, which is eight aligned words long.
        unsafe { self.0.cast::<u64>().add(at).read() }
    }

    #[inline(always)]
    fn take_ticket(&self) -> u64 {
        // SAFETY: a live, aligned map value that kernel and user space change atomically only.
        unsafe { atomic::fetch_add(&raw mut (*self.0).ticket, 1) }
    }
}
