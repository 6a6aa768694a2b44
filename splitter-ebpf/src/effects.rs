//! Carries out what a decision wants done besides the rewrite: counting, failing, forgetting.

use aya_ebpf::{
    Global,
    bindings::bpf_sock,
    helpers::generated::{bpf_get_smp_processor_id, bpf_set_retval},
    programs::SockAddrContext,
};
use splitter_common::{
    abi::{SocketState, commit_flag},
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
pub(crate) fn set_errno(errno: u16) {
    // SAFETY: takes a number. A plain refusal would be EPERM, which freezes some clients.
    unsafe { bpf_set_retval(-i32::from(errno)) };
}

/// Gives back what an earlier connect of the same socket holds and never used, so that this connect
/// may have it.
#[inline(always)]
pub(crate) fn take_up(ctx: &SockAddrContext) {
    if let Some((_, state)) = left_behind(ctx) {
        follow::let_go(state);
    }
}

/// Forgets what the socket dialled before, where any service keeps state at all.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    if let Some((sk, _)) = left_behind(ctx) {
        // SAFETY: the context's socket is live during the hook.
        unsafe {
            let _was_there = maps::SOCKETS.delete(sk);
        }
    }
}

/// The socket and what an earlier connect left on it.
#[inline(always)]
fn left_behind(ctx: &SockAddrContext) -> Option<(*mut bpf_sock, &'static mut SocketState)> {
    if maps::COMMIT.get(0)?.flags & commit_flag::SOCKET_STATE == 0 {
        return None;
    }
    // SAFETY: the context of the running hook.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    follow::stored(sk).map(|state| (sk, state))
}
