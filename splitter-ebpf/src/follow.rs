//! Following a connection: from `connect()` through the callbacks of its socket to its end.
//!
//! Only sockets that were rewritten to a followed subset have storage with a phase, and only they
//! ask for callbacks beyond those that every socket has. The phase moves under the socket's lock,
//! and each step is counted by whoever moves it, so everything is counted once.

use aya_ebpf::{
    Global,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_ops},
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_ktime_get_ns, bpf_setsockopt, bpf_sk_storage_get, bpf_skc_to_mptcp_sock,
        bpf_skc_to_tcp_sock, bpf_sock_ops_cb_flags_set,
    },
};
use splitter_common::{
    abi::{PreviousKey, SocketState, StateRef, cell, drop_flag, outcome, phase, socket_flag},
    life::{self, Cells as _},
};

use crate::{maps, state::MapState};

/// Where `sk_err` is in the kernel's `struct sock`. Set by the loader from the kernel's own types.
#[unsafe(no_mangle)]
static SK_ERR_OFFSET: Global<u32> = Global::new(0);

/// Where the first path is in the kernel's `struct mptcp_sock`; 0 where the kernel has no MPTCP. Set by
/// the loader from the kernel's own types.
#[unsafe(no_mangle)]
static MPTCP_FIRST_OFFSET: Global<u32> = Global::new(0);

/// `enum` of `include/uapi/linux/bpf.h`: callbacks.
mod op {
    pub(super) const TIMEOUT_INIT: u32 = 1;
    pub(super) const TCP_CONNECT: u32 = 3;
    pub(super) const STATE: u32 = 10;
}

/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const STATE_FLAG: i32 = 1 << 2;
/// States of sockets, of `net/tcp_states.h`: one that stands, and one that is no connection any more.
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
/// Numbers of `errno.h`.
mod errno {
    pub(super) const ECONNABORTED: u32 = 103;
    pub(super) const ECONNRESET: u32 = 104;
    pub(super) const EPIPE: u32 = 32;
    pub(super) const ETIMEDOUT: u32 = 110;
    pub(super) const ECONNREFUSED: u32 = 111;
}

/// The storage of a socket, where it has any.
#[inline(always)]
pub(crate) fn stored(sk: *mut bpf_sock) -> Option<&'static mut SocketState> {
    look_up(&raw const maps::SOCKETS, sk, 0)
}

/// The storage of a socket, made of zeros where it has none. None where there is no memory.
#[inline(always)]
pub(crate) fn stored_or_new(sk: *mut bpf_sock) -> Option<&'static mut SocketState> {
    look_up(&raw const maps::SOCKETS, sk, BPF_SK_STORAGE_GET_F_CREATE)
}

/// What a socket has in a map of storage. The map's own type has a look-up by one kind of context
/// only.
#[inline(always)]
pub(crate) fn look_up<T>(
    map: *const SkStorage<T>,
    sk: *mut bpf_sock,
    flags: u32,
) -> Option<&'static mut T> {
    let map = map.cast_mut().cast();
    // SAFETY: the caller's socket is live while the program runs, and the map's values are `T`.
    unsafe {
        let value = bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), u64::from(flags));
        value.cast::<T>().as_mut()
    }
}

/// The MPTCP socket that a TCP socket is a part of; null where it is none.
///
/// The kernel makes and ends the parts of such a socket by itself. Programs at the end of sockets are
/// run for the whole only, so that is where a place is kept that no callback would give back.
#[inline(always)]
pub(crate) fn whole(sk: *mut bpf_sock) -> *mut bpf_sock {
    if MPTCP_FIRST_OFFSET.load() == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: the caller's socket is live while the program runs.
    unsafe { bpf_skc_to_mptcp_sock(sk.cast()).cast() }
}

/// Whether a socket is one more path of an MPTCP connection that stands.
#[inline(always)]
pub(crate) fn is_further_path(sk: *mut bpf_sock) -> bool {
    let whole = whole(sk);
    if whole.is_null() {
        return false;
    }
    #[expect(clippy::cast_ptr_alignment, reason = "the offset is that of a pointer")]
    // SAFETY: a live `struct mptcp_sock`, which has a pointer there.
    let first = unsafe {
        let field = whole.cast::<u8>().add(MPTCP_FIRST_OFFSET.load() as usize);
        field.cast::<*mut bpf_sock>().read_volatile()
    };
    first != sk
}

/// What the whole keeps for a part, which asks for it once.
#[inline(always)]
pub(crate) fn kept_by_whole(
    sk: *mut bpf_sock,
    state: &mut SocketState,
) -> Option<&'static mut SocketState> {
    if state.flags & socket_flag::HELD_BY_WHOLE == 0 {
        return None;
    }
    state.flags &= !socket_flag::HELD_BY_WHOLE;
    let whole = whole(sk);
    if whole.is_null() { None } else { stored(whole) }
}

/// Has the MPTCP socket that this one is a part of, if it is, answer what was dialled: it is the whole
/// that programs ask.
#[inline(always)]
pub(crate) fn tell_whole(sk: *mut bpf_sock, state: &SocketState) {
    let whole = whole(sk);
    if whole.is_null() {
        return;
    }
    if let Some(kept) = stored_or_new(whole) {
        kept.frontend = state.frontend;
        kept.backend = state.backend;
        kept.frontend_port_be = state.frontend_port_be;
        kept.backend_port_be = state.backend_port_be;
        kept.flags |= socket_flag::ANSWER_FRONTEND;
    }
}

/// Takes back what [`tell_whole`] did.
#[inline(always)]
pub(crate) fn silence_whole(sk: *mut bpf_sock, state: &SocketState) {
    if state.flags & socket_flag::ANSWER_FRONTEND == 0 {
        return;
    }
    let whole = whole(sk);
    if !whole.is_null()
        && let Some(kept) = stored(whole)
    {
        kept.flags &= !socket_flag::ANSWER_FRONTEND;
    }
}

/// A callback of any socket in the cgroup.
#[inline(always)]
pub(crate) fn callback(ops: *mut bpf_sock_ops) {
    // SAFETY: the context of the running program, read field by field.
    let (op, sk) = unsafe { ((*ops).op, (*ops).__bindgen_anon_2.sk) };
    let is_step = match op {
        op::TIMEOUT_INIT | op::TCP_CONNECT => true,
        op::STATE => matches!(new_state(ops), TCP_ESTABLISHED | TCP_CLOSE),
        _ => false,
    };
    if !is_step || sk.is_null() {
        return;
    }
    let Some(state) = stored(sk) else { return };
    match op {
        op::TCP_CONNECT => begin(ops, sk, state),
        op::TIMEOUT_INIT => time_first_syn(ops, state),
        _ if new_state(ops) == TCP_ESTABLISHED => establish(ops, state),
        _ => end(ops, sk, state),
    }
}

/// The state that a socket changes to.
///
/// That it stands is learned here rather than from the callback for it: there is another one where
/// both ends open at the same time, and these run for sockets that asked only.
#[inline(always)]
fn new_state(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: the context of the running program. The second argument is the new state.
    unsafe { (*ops).__bindgen_anon_1.args[1] }
}

/// The SYN is about to leave: from here on, the socket's way to its end is reported.
#[inline(always)]
fn begin(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, state: &mut SocketState) {
    if state.phase != phase::CALLED {
        return;
    }
    // SAFETY: the context of the running program.
    unsafe { bpf_sock_ops_cb_flags_set(ops, STATE_FLAG) };
    state.phase = phase::CONNECTING;
    if let Some(kept) = kept_by_whole(sk, state)
        && kept.phase == phase::CALLED
    {
        kept.phase = phase::ENDED;
        state.flags |= kept.flags & socket_flag::HELD;
    }
    enter(state.at_backend);
    enter(state.route);
    if let Some(subset) = MapState::resolve(state.subset) {
        hold(state, &subset, socket_flag::HOLDS_SUBSET, cell::LIVE);
        hold(state, &subset, socket_flag::HOLDS_PENDING, cell::PENDING);
    }
}

/// Counts a socket at its backend or its route.
#[inline(always)]
fn enter(at: StateRef) {
    if let Some(place) = MapState::resolve(at) {
        place.add(cell::LIVE, 1);
        place.add(cell::PENDING, 1);
    }
}

/// Counts a socket no longer that [`enter`] counted.
#[inline(always)]
fn leave(place: &MapState, is_pending: bool) {
    life::give_back(place, cell::LIVE);
    if is_pending {
        life::give_back(place, cell::PENDING);
    }
}

/// Counts a socket at its subset, unless `connect()` reserved the place.
#[inline(always)]
fn hold(state: &mut SocketState, subset: &MapState, flag: u8, at: usize) {
    if state.flags & flag == 0 {
        state.flags |= flag;
        subset.add(at, 1);
    }
}

/// How long the first SYN is waited for.
#[inline(always)]
fn time_first_syn(ops: *mut bpf_sock_ops, state: &SocketState) {
    if state.phase == phase::CONNECTING && state.syn_timeout != 0 {
        // SAFETY: the context of the running program.
        unsafe { (*ops).__bindgen_anon_1.reply = state.syn_timeout };
    }
}

/// The handshake is complete.
#[inline(always)]
fn establish(ops: *mut bpf_sock_ops, state: &mut SocketState) {
    if state.phase != phase::CONNECTING {
        return;
    }
    state.phase = phase::ESTABLISHED;
    if state.drops & drop_flag::STALL != 0 {
        // SAFETY: the context of the running program.
        let next = unsafe { (*ops).snd_nxt };
        state.stall_at = state.stall_at.wrapping_add(next);
    }
    let bucket = life::latency_bucket(now_ns().wrapping_sub(state.started_ns));
    if let Some(backend) = MapState::resolve(state.at_backend) {
        life::succeed(&backend);
        life::give_back(&backend, cell::PENDING);
        count(&backend, outcome::ESTABLISHED);
        count_bucket(&backend, bucket);
    }
    if let Some(route) = MapState::resolve(state.route) {
        life::give_back(&route, cell::PENDING);
        count(&route, outcome::ESTABLISHED);
        count_bucket(&route, bucket);
    }
    give_back_pending(state);
    if state.flags & socket_flag::AVOIDS != 0 {
        // Nothing is to be avoided any more, if anything was.
        let _was_there = maps::PREVIOUS.remove(previous_key(state));
    }
    put_back_timeout(ops, state);
}

/// The connection is over, whether it ever stood or not.
#[inline(always)]
fn end(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, state: &mut SocketState) {
    let was = state.phase;
    if was != phase::CONNECTING && was != phase::ESTABLISHED {
        return;
    }
    state.phase = phase::ENDED;
    let error = socket_error(sk);
    let is_failure = was == phase::CONNECTING;
    let what = if is_failure { failure(error) } else { ending(error) };
    if let Some(backend) = &MapState::resolve(state.at_backend) {
        leave(backend, is_failure);
        count_end(ops, backend, what);
        // Of what was made to fail, the backend knows nothing.
        if is_failure && what != outcome::ABANDONED && state.drops & drop_flag::ALL == 0 {
            blame(state, backend);
            avoid(state);
        }
    }
    if let Some(route) = &MapState::resolve(state.route) {
        leave(route, is_failure);
        count_end(ops, route, what);
    }
    if is_failure {
        give_back_pending(state);
        put_back_timeout(ops, state);
    }
    give_back_subset(state);
}

/// What a connection that was never established came to.
#[inline(always)]
fn failure(error: u32) -> usize {
    match error {
        0 => outcome::ABANDONED,
        errno::ECONNREFUSED => outcome::REFUSED,
        errno::ETIMEDOUT => outcome::TIMED_OUT,
        _ => outcome::UNREACHABLE,
    }
}

/// What a connection that was established came to.
#[inline(always)]
fn ending(error: u32) -> usize {
    match error {
        // Of a connection that the node's administrator or the daemon ends.
        0 | errno::ECONNABORTED => outcome::CLOSED,
        errno::ECONNRESET | errno::EPIPE => outcome::RESET,
        // What stood when the kernel gave up: nobody answered, or there was no way any more.
        _ => outcome::LOST,
    }
}

/// Counts a failure against the backend, which may eject it.
#[inline(always)]
fn blame(state: &SocketState, backend: &MapState) {
    let Some(subset) = MapState::resolve(state.subset) else { return };
    let Some(conduct) = maps::CONDUCTS.get(state.conduct) else { return };
    // The record may have become another subset's since.
    if conduct.state == state.subset.index {
        life::fail(conduct, backend, &subset, (state.started_ns, now_ns()));
    }
}

/// Has the client's next connection go elsewhere, where its subset wants that.
#[inline(always)]
fn avoid(state: &SocketState) {
    if state.flags & socket_flag::AVOIDS != 0 {
        // Where there is no memory, the next connection may meet the same backend.
        let _inserted = maps::PREVIOUS.insert(previous_key(state), state.at_backend, 0);
    }
}

#[inline(always)]
fn previous_key(state: &SocketState) -> PreviousKey {
    PreviousKey { client: state.client, subset: state.subset }
}

/// Gives back what a socket holds that called `connect()` and never sent a SYN.
#[inline(always)]
pub(crate) fn let_go(state: &mut SocketState) {
    if state.phase == phase::CALLED {
        state.phase = phase::ENDED;
        give_back_pending(state);
        give_back_subset(state);
    }
}

#[inline(always)]
fn give_back_pending(state: &mut SocketState) {
    if state.flags & socket_flag::HOLDS_PENDING != 0 {
        state.flags &= !socket_flag::HOLDS_PENDING;
        if let Some(subset) = MapState::resolve(state.subset) {
            life::give_back(&subset, cell::PENDING);
        }
    }
}

#[inline(always)]
fn give_back_subset(state: &mut SocketState) {
    if state.flags & socket_flag::HOLDS_SUBSET != 0 {
        state.flags &= !socket_flag::HOLDS_SUBSET;
        if let Some(subset) = MapState::resolve(state.subset) {
            life::give_back(&subset, cell::LIVE);
        }
    }
}

#[inline(always)]
fn count(state: &MapState, what: usize) {
    state.add(cell::OUTCOMES + what, 1);
}

#[inline(always)]
fn count_bucket(state: &MapState, bucket: usize) {
    state.add(cell::OUTCOMES + outcome::LATENCY + bucket, 1);
}

/// Counts how a connection ended, and what the kernel knows of it by then.
#[inline(always)]
fn count_end(ops: *mut bpf_sock_ops, state: &MapState, what: usize) {
    // SAFETY: the context of the running program, read field by field.
    let (rtt, again, sent, received) = unsafe {
        ((*ops).srtt_us >> 3, (*ops).total_retrans, (*ops).bytes_acked, (*ops).bytes_received)
    };
    count(state, what);
    let sums = [
        (outcome::RTT_US, u64::from(rtt)),
        (outcome::RETRANSMITS, u64::from(again)),
        (outcome::BYTES_SENT, sent),
        (outcome::BYTES_RECEIVED, received),
    ];
    for (cell, n) in sums {
        if n != 0 {
            state.add(cell::OUTCOMES + cell, n);
        }
    }
}

/// `sk_err`: why the socket's connection is over; 0 where the client closed it.
#[inline(always)]
fn socket_error(sk: *mut bpf_sock) -> u32 {
    // SAFETY: the context's socket, seen as the kernel's own type, whose members may be read.
    unsafe {
        let sk = bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>();
        if sk.is_null() {
            return 0;
        }
        #[expect(clippy::cast_ptr_alignment, reason = "the offset is that of an int")]
        sk.add(SK_ERR_OFFSET.load() as usize).cast::<u32>().read_volatile()
    }
}

/// Puts the program's own `TCP_USER_TIMEOUT` back, in a hook of any kind: for a connection that
/// stands, and for the next one of a socket that failed.
#[inline(always)]
pub(crate) fn put_back_timeout<C>(ctx: *mut C, state: &mut SocketState) {
    const IPPROTO_TCP: i32 = 6;
    const TCP_USER_TIMEOUT: i32 = 18;
    if state.flags & socket_flag::TIMED == 0 {
        return;
    }
    state.flags &= !socket_flag::TIMED;
    let mut ms = state.user_timeout_ms;
    // SAFETY: the hook's own context, and an option that is a number of four bytes.
    unsafe { bpf_setsockopt(ctx.cast(), IPPROTO_TCP, TCP_USER_TIMEOUT, (&raw mut ms).cast(), 4) };
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}
