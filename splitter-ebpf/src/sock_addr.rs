//! From a hook's context to a question for the decision, and from its answer to writes.
//!
//! The only code that touches a context. Fields are copied one by one: the verifier refuses a
//! block copy ("dereference of modified ctx ptr").

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};
use aya_log_ebpf::debug;
use splitter_common::{
    abi::{Commit, FrontendKey, Reason, TCP, commit_flag, socket_flag},
    decide::{Decision, EADDRNOTAVAIL, Tally, decide_by_plan, find_plan},
};

use crate::{effects, follow, maps, parts, start, tables::Maps};

/// What a hook answers to let the call go on.
pub(crate) const PROCEED: i32 = 1;
/// What a hook answers to fail the call, with the errno that was set.
const FAIL: i32 = 0;

/// An address as four words in network order, which is how contexts and keys are read and
/// written: single bytes would stall the loads of whole words that follow.
pub(crate) type Words = [u32; 4];

/// The third word of a v4-mapped address.
pub(crate) const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The address fields of one socket family.
pub(crate) trait Family {
    /// The address in the context.
    ///
    /// # Safety
    ///
    /// `sa` must be the context of a running hook of this family.
    unsafe fn addr(sa: *const bpf_sock_addr) -> Words;
    /// Replaces the address in the context.
    ///
    /// # Safety
    ///
    /// As [`Family::addr`].
    unsafe fn set_addr(sa: *mut bpf_sock_addr, addr: Words);
    /// [`crate::egress::refuse`], as a part that is verified by itself.
    fn refuse(sa: *mut bpf_sock_addr) -> u32;
}

/// `AF_INET`.
pub(crate) struct V4;
/// `AF_INET6`.
pub(crate) struct V6;

impl Family for V4 {
    #[inline(always)]
    fn refuse(sa: *mut bpf_sock_addr) -> u32 {
        parts::refuse4(sa)
    }

    #[inline(always)]
    unsafe fn addr(sa: *const bpf_sock_addr) -> Words {
        // SAFETY: see the trait.
        [0, 0, MAPPED, unsafe { (*sa).user_ip4 }]
    }

    #[inline(always)]
    unsafe fn set_addr(sa: *mut bpf_sock_addr, [.., addr]: Words) {
        // SAFETY: see the trait.
        unsafe { (*sa).user_ip4 = addr };
    }
}

impl Family for V6 {
    #[inline(always)]
    fn refuse(sa: *mut bpf_sock_addr) -> u32 {
        parts::refuse6(sa)
    }

    #[inline(always)]
    unsafe fn addr(sa: *const bpf_sock_addr) -> Words {
        // SAFETY: see the trait.
        unsafe { [(*sa).user_ip6[0], (*sa).user_ip6[1], (*sa).user_ip6[2], (*sa).user_ip6[3]] }
    }

    #[inline(always)]
    unsafe fn set_addr(sa: *mut bpf_sock_addr, addr: Words) {
        // SAFETY: see the trait.
        unsafe {
            (*sa).user_ip6[0] = addr[0];
            (*sa).user_ip6[1] = addr[1];
            (*sa).user_ip6[2] = addr[2];
            (*sa).user_ip6[3] = addr[3];
        }
    }
}

/// What a socket dials, in slots of the stack that it shares with nothing: the verifier forgets a word
/// that was put aside once its neighbour in the same eight bytes is written.
#[repr(C, align(8))]
pub(crate) struct Dialled {
    pub(crate) key: FrontendKey,
}

/// Reads what the socket dials.
#[inline(always)]
pub(crate) fn dialled<F: Family>(sa: *const bpf_sock_addr) -> Dialled {
    // SAFETY: the context of the running hook.
    unsafe {
        let [a, b, c, d] = F::addr(sa);
        let port_be = (*sa).user_port & 0xffff;
        let protocol = ((*sa).protocol & 0xff) << 16;
        // The last word: port, protocol, zero, in the order of memory.
        const { assert!(cfg!(target_endian = "little")) };
        Dialled { key: bytemuck::cast([a, b, c, d, port_be | protocol]) }
    }
}

/// The connect hooks.
#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(commit) = maps::COMMIT.get_ptr(0) else { return PROCEED };
    let keeps_state = effects::keeps_state(commit);
    if keeps_state {
        effects::take_up(ctx);
    }
    let Dialled { key } = &dialled::<F>(ctx.sock_addr);
    let world = Maps { ctx: ctx.sock_addr, commit };
    let Some(plan) = find_plan(&world, key) else {
        if keeps_state {
            effects::forget(ctx);
        }
        return conclude(refuse::<F>(ctx, commit, key));
    };
    // It has to go where the connection is, which is nobody's choice any more.
    if is_further_path(ctx, key) {
        return PROCEED;
    }
    let decision = decide_by_plan(&world, &plan, key.protocol);
    let Tally { reason, subset, backend, .. } = decision.tally;
    debug!(
        ctx,
        "connect: reason {}, subset counter {}, backend counter {}", reason, subset, backend
    );
    effects::count(&decision.tally);
    let mut errno = u32::from(decision.errno);
    match decision.backend {
        Some(backend) if leaves_state(&decision) => {
            // A copy: a pointer into the decision would have all of it live in memory, cleared
            // and filled on every path.
            let followed = decision.followed;
            let flags = flags(decision.answer_frontend, decision.translates);
            errno = start::remember(ctx.sock_addr, key, backend, &followed, flags);
            if errno == u32::from(EADDRNOTAVAIL) {
                effects::count_reason(Reason::NoSource);
            }
        }
        // A UDP socket whose call fails stays connected to where it was.
        _ if keeps_state && errno == 0 => effects::forget(ctx),
        _ => {}
    }
    if let Some(backend) = decision.backend {
        rewrite_to::<F>(ctx, bytemuck::cast(backend.addr), u32::from(backend.port_be.0));
    }
    conclude(errno)
}

/// The errno of a call to what is no service, where its client may not reach that; else 0.
#[inline(always)]
pub(crate) fn refuse<F: Family>(
    ctx: &SockAddrContext,
    commit: *const Commit,
    key: &FrontendKey,
) -> u32 {
    let is_asked = effects::has_flag(commit, commit_flag::EGRESS);
    // A further path goes where the connection is, which was allowed.
    if !is_asked || is_further_path(ctx, key) {
        return 0;
    }
    F::refuse(ctx.sock_addr)
}

/// Whether a socket is one more path of a connection that stands. Only one of TCP can be: what a UDP
/// socket dials does not pay for the question.
#[inline(always)]
fn is_further_path(ctx: &SockAddrContext, key: &FrontendKey) -> bool {
    key.protocol == TCP && follow::is_further_path(effects::socket(ctx))
}

/// Lets the call go on, or fails it with an errno that is not 0.
#[inline(always)]
pub(crate) fn conclude(errno: u32) -> i32 {
    if errno == 0 {
        return PROCEED;
    }
    effects::set_errno(errno);
    FAIL
}

/// Whether something is to be kept on the socket: what answers bear, or whose it is.
#[inline(always)]
fn leaves_state<B>(decision: &Decision<B>) -> bool {
    decision.answer_frontend || decision.translates || decision.followed.conduct != 0
}

/// Bits of a socket's flags.
#[inline(always)]
fn flags(answers: bool, translates: bool) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(answers, socket_flag::ANSWER_FRONTEND) | flag(translates, socket_flag::TRANSLATES)
}

/// Puts another address in the place of the one that the call is about.
#[inline(always)]
pub(crate) fn rewrite_to<F: Family>(ctx: &SockAddrContext, addr: Words, port_be: u32) {
    // SAFETY: the context of the running hook.
    unsafe {
        F::set_addr(ctx.sock_addr, addr);
        (*ctx.sock_addr).user_port = port_be;
    }
}

/// The getpeername hooks: answer the dialled frontend while the peer is the stored backend.
#[inline(always)]
pub(crate) fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context of the running hook, and storage that lives as long as its socket.
    unsafe {
        let state = maps::SOCKETS.get_ptr_mut(ctx);
        if state.is_null() {
            return PROCEED;
        }
        let sa = ctx.sock_addr;
        let backend: Words = bytemuck::cast((*state).backend);
        let answers = (*state).flags & socket_flag::ANSWER_FRONTEND != 0;
        if answers
            && F::addr(sa) == backend
            && (*sa).user_port & 0xffff == u32::from((*state).backend_port_be.0)
        {
            let port_be = u32::from((*state).frontend_port_be.0);
            rewrite_to::<F>(ctx, bytemuck::cast((*state).frontend), port_be);
        }
    }
    PROCEED
}
