//! Carries out what a decision wants done besides the rewrite: counting and remembering.

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_get_smp_processor_id, bpf_set_retval},
    programs::SockAddrContext,
};
use splitter_common::{
    abi::{Backend, FrontendKey, SocketState, commit_flag},
    decide::Tally,
};

use crate::{atomic, maps};

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

/// Remembers what the socket dialled.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, dialled: &FrontendKey, backend: &Backend) {
    let mut state = SocketState {
        frontend: dialled.addr,
        backend: backend.addr,
        frontend_port_be: dialled.port_be,
        backend_port_be: backend.port_be,
        pad: 0,
    };
    // SAFETY: the context's socket is live during the hook; the helper copies `state` when it
    // creates the storage.
    unsafe {
        let stored = maps::SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut state));
        if !stored.is_null() {
            // An older connect of the same socket left its state.
            *stored = state;
        }
    }
}

/// Forgets what the socket dialled before, where any service keeps state at all.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    let Some(commit) = maps::COMMIT.get(0) else { return };
    if commit.flags & commit_flag::SOCKET_STATE != 0 {
        // SAFETY: the context's socket is live during the hook; having no state is no error.
        unsafe {
            let _nothing_stored = maps::SOCKETS.delete((*ctx.sock_addr).__bindgen_anon_1.sk);
        }
    }
}
