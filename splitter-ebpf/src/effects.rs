//! Carries out what a decision wants done besides the rewrite: counting, failing, forgetting.

use aya_ebpf::{
    Global,
    bindings::bpf_sock,
    helpers::generated::{bpf_get_smp_processor_id, bpf_set_retval},
    programs::SockAddrContext,
};
use splitter_common::{
    abi::{Commit, Reason, commit_flag},
    decide::Tally,
};

use crate::{atomic, follow, maps};

/// Number of counters of each CPU. Set by the loader.
#[unsafe(no_mangle)]
static COUNTERS_PER_CPU: Global<u32> = Global::new(0);

/// Raises a counter of the CPU whose counters begin at `first`. Atomically: the hook can be preempted, and a torn
/// read-modify-write would lose everything that ran in between.
#[inline(always)]
fn raise(first: u32, index: u32) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(first.wrapping_add(index)) {
        // SAFETY: a live, aligned map value.
        unsafe { atomic::fetch_add(counter, 1) };
    }
}

/// Counts one connection at its route, subset and backend, and why it was not rewritten if so.
/// Cell 0 belongs to nobody: raising it is cheaper than asking.
#[inline(always)]
pub(crate) fn count(tally: &Tally) {
    // SAFETY: takes nothing. The hook stays on its CPU.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let first = cpu.wrapping_mul(COUNTERS_PER_CPU.load());
    raise(first, tally.route);
    raise(first, tally.subset);
    raise(first, tally.backend);
    if tally.reason != 0 {
        raise(first, tally.reason);
    }
}

/// Makes `connect()` fail with a positive errno.
#[inline(always)]
pub(crate) fn set_errno(errno: u32) {
    // SAFETY: takes a number. A plain refusal would be EPERM, which freezes some clients.
    unsafe { bpf_set_retval(errno.cast_signed().wrapping_neg()) };
}

/// Counts one connection that goes nowhere after all.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    // SAFETY: takes nothing. The hook stays on its CPU.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    raise(cpu.wrapping_mul(COUNTERS_PER_CPU.load()), reason as u32);
}

/// Whether any service keeps state on sockets, so that there may be some to look for.
#[inline(always)]
pub(crate) fn keeps_state(commit: *const Commit) -> bool {
    has_flag(commit, commit_flag::SOCKET_STATE)
}

/// Whether one of the [`commit_flag`] bits is set.
#[inline(always)]
pub(crate) fn has_flag(commit: *const Commit, flag: u32) -> bool {
    // SAFETY: a live array element; an aligned word, written whole.
    let flags = unsafe { (&raw const (*commit).flags).read_volatile() };
    flags & flag != 0
}

/// Gives back what an earlier connect of the same socket holds and never used, so that this connect
/// may have it, and the option that it changed, and takes back what its whole answers.
#[inline(always)]
pub(crate) fn take_up(ctx: &SockAddrContext) {
    if let Some(state) = follow::stored(socket(ctx)) {
        follow::let_go(state);
        if let Some(kept) = follow::kept_by_whole(socket(ctx), state) {
            follow::let_go(kept);
        }
        follow::silence_whole(socket(ctx), state);
        follow::put_back_timeout(ctx.sock_addr, state);
    }
}

/// Forgets what the socket dialled before.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    // SAFETY: the context's socket is live during the hook.
    unsafe {
        let _was_there = maps::SOCKETS.delete(socket(ctx));
    }
}

#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context of the running hook.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}
