//! The start of a connection that leaves something on its socket: what it dialled, where it
//! counts, the options that its subset asks for, and what is done to its packets on purpose.

use aya_ebpf::{
    Global,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_bind, bpf_setsockopt},
};
use splitter_common::{
    abi::{
        Backend, CONGESTION_LEN, Conduct, Fault, FrontendKey, SocketState, StateRef, TCP, cell,
        conduct_flag, drop_flag, phase, socket_flag,
    },
    addr::Addr,
    decide::{EADDRNOTAVAIL, Followed},
    life,
};

use crate::{
    follow, maps,
    option::{self, INET},
    state::MapState,
    tables,
};

/// Ticks of the kernel's timer per second (`CONFIG_HZ`). Set by the loader.
#[unsafe(no_mangle)]
static TICKS_PER_SECOND: Global<u32> = Global::new(0);

/// Of `errno.h`.
pub(crate) const ENOMEM: u32 = 12;

/// `AF_INET6`.
const INET6: u32 = 10;

/// Remembers what the socket dialled and, where its connection is followed, where it counts. Answers
/// 0, or the errno of a connection that cannot go on: [`EADDRNOTAVAIL`] where the source address that
/// is asked for cannot be had, `ENOMEM` where it has a place and there is no memory to tell when it
/// is given back.
///
/// Not inlined: connections that leave nothing behind have less code.
#[inline(never)]
pub(crate) fn remember(
    ctx: *mut bpf_sock_addr,
    dialled: &FrontendKey,
    backend: &Backend,
    followed: &Followed,
    flags: u8,
) -> u32 {
    let is_tcp = dialled.protocol == TCP;
    // The record at 0 asks for nothing, and nothing is asked of UDP.
    let index = if is_tcp { followed.conduct } else { 0 };
    let conduct = maps::CONDUCTS.get(index);
    let has_source = conduct.is_none_or(|asked| has_source(ctx, asked));
    // SAFETY: the context of the running hook.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    let Some(state) = follow::stored_or_new(sk) else {
        let errno = conduct.map_or(0, give_up);
        return if has_source { errno } else { u32::from(EADDRNOTAVAIL) };
    };
    state.frontend = dialled.addr;
    state.backend = backend.addr;
    state.frontend_port_be = dialled.port_be;
    state.backend_port_be = backend.port_be;
    state.phase = phase::NONE;
    state.flags = flags;
    state.drops = 0;
    if flags & socket_flag::ANSWER_FRONTEND != 0 {
        follow::tell_whole(sk, state);
    }
    if !is_tcp {
        belong(state, followed);
        return 0;
    }
    let Some(conduct) = conduct.filter(|_| index != 0) else { return 0 };
    if !has_source {
        give_up(conduct);
        return u32::from(EADDRNOTAVAIL);
    }
    begin(ctx, state, conduct, followed);
    if !hand_to_whole(sk, state) {
        return give_up(conduct);
    }
    // The rest is in place now.
    state.phase = phase::CALLED;
    0
}

/// Remembers whose a connected UDP socket is, where its service is followed.
#[inline(always)]
fn belong(state: &mut SocketState, followed: &Followed) {
    if followed.conduct == 0 {
        return;
    }
    let Some(conduct) = maps::CONDUCTS.get(followed.conduct) else { return };
    refer(state, conduct, followed);
    state.phase = phase::DATAGRAMS;
}

/// When `connect()` was called, and where what it came to counts.
#[inline(always)]
fn refer(state: &mut SocketState, conduct: &Conduct, followed: &Followed) {
    state.started_ns = follow::now_ns();
    state.conduct = followed.conduct;
    state.route = reference(followed.route);
    state.subset = reference(conduct.state);
    state.at_backend = reference(backend_state(conduct, followed.ordinal));
}

/// Whether the socket has the source address that is asked for, or one of its own.
#[inline(always)]
fn has_source(ctx: *mut bpf_sock_addr, conduct: &Conduct) -> bool {
    conduct.flags & conduct_flag::SOURCE == 0 || bind(ctx, &conduct.source)
}

/// Leaves what the socket holds to the MPTCP socket that it is a part of, if it is; whether that
/// could be done.
#[inline(always)]
fn hand_to_whole(sk: *mut bpf_sock, state: &mut SocketState) -> bool {
    if state.flags & socket_flag::HELD == 0 {
        return true;
    }
    let whole = follow::whole(sk);
    if whole.is_null() {
        return true;
    }
    let Some(kept) = follow::stored_or_new(whole) else { return false };
    kept.subset = state.subset;
    kept.flags = kept.flags & socket_flag::ANSWER_FRONTEND | state.flags & socket_flag::HELD;
    kept.phase = phase::CALLED;
    state.flags = state.flags & !socket_flag::HELD | socket_flag::HELD_BY_WHOLE;
    true
}

/// Gives back what the decision took for a connection that cannot be followed.
#[inline(always)]
fn give_up(conduct: &Conduct) -> u32 {
    if conduct.max_connections == 0 && conduct.max_pending == 0 {
        return 0;
    }
    if let Some(subset) = MapState::get(conduct.state) {
        if conduct.max_connections != 0 {
            life::give_back(&subset, cell::LIVE);
        }
        if conduct.max_pending != 0 {
            life::give_back(&subset, cell::PENDING);
        }
    }
    ENOMEM
}

/// What is known of a followed connection before its first packet.
#[inline(always)]
fn begin(ctx: *mut bpf_sock_addr, state: &mut SocketState, conduct: &Conduct, followed: &Followed) {
    refer(state, conduct, followed);
    state.syn_timeout = 0;
    if conduct.max_connections != 0 {
        state.flags |= socket_flag::HOLDS_SUBSET;
    }
    if conduct.max_pending != 0 {
        state.flags |= socket_flag::HOLDS_PENDING;
    }
    if conduct.avoids != 0 {
        state.flags |= socket_flag::AVOIDS;
        state.client = tables::client(ctx, conduct.avoids);
    }
    if conduct.connect_timeout_ms != 0 {
        state.flags |= socket_flag::TIMED;
        state.user_timeout_ms = option::number(ctx, option::USER_TIMEOUT);
        option::set(ctx, option::USER_TIMEOUT, conduct.connect_timeout_ms);
        // The kernel doubles the time from one SYN to the next: the second is sent halfway, and
        // the timer that gives up runs out at the end.
        state.syn_timeout = ticks(conduct.connect_timeout_ms / 2);
    }
    if conduct.flags & conduct_flag::KEEPALIVE != 0 {
        set_keepalive(ctx, conduct);
    }
    if conduct.flags & conduct_flag::OPTIONS != 0 {
        set_options(ctx, conduct);
    }
    if followed.fault != 0
        && let Some(fault) = maps::FAULTS.get(followed.fault)
    {
        strike(ctx, state, fault);
    }
}

/// What is done on purpose to the packets of a connection. Drawn here, of those that go to a
/// backend, and not in the decision: in registers, the verifier would tell all combinations apart
/// up to the end of the program.
#[inline(always)]
fn strike(ctx: *mut bpf_sock_addr, state: &mut SocketState, fault: &Fault) {
    let Some(route) = MapState::get(fault.state) else { return };
    let is_hit = |ppm, ticket| life::is_hit(&route, fault.seed, ppm, ticket);
    if is_hit(fault.delay_ppm, cell::DELAY_TICKET) {
        state.drops |= drop_flag::FIRST_SYN;
        state.syn_timeout = ticks(fault.delay_ms);
    }
    if is_hit(fault.blackhole_ppm, cell::BLACKHOLE_TICKET) {
        state.drops |= drop_flag::ALL;
    }
    if is_hit(fault.stall_ppm, cell::STALL_TICKET) {
        state.drops |= drop_flag::STALL;
        state.stall_at = fault.stall_after;
    }
    // What is slower already stays so.
    if is_hit(fault.bandwidth_ppm, cell::BANDWIDTH_TICKET)
        && fault.bandwidth < option::number(ctx, option::MAX_PACING_RATE)
    {
        option::set(ctx, option::MAX_PACING_RATE, fault.bandwidth);
    }
}

/// Index of a backend's state.
#[inline(always)]
pub(crate) fn backend_state(conduct: &Conduct, ordinal: u32) -> u32 {
    let cell = maps::CELLS.get(conduct.states.wrapping_add(ordinal >> 1)).copied().unwrap_or(0);
    life::one_of_two(cell, ordinal)
}

#[inline(always)]
pub(crate) fn reference(index: u32) -> StateRef {
    let epoch = MapState::get(index).map_or(0, |state| life::epoch(&state));
    StateRef { index, epoch }
}

/// Milliseconds in ticks, at least one.
#[inline(always)]
fn ticks(ms: u32) -> u32 {
    let ticks = u64::from(ms) * u64::from(TICKS_PER_SECOND.load()) / 1_000;
    u32::try_from(ticks).map_or(u32::MAX, |ticks| if ticks == 0 { 1 } else { ticks })
}

/// TCP keepalive, for the whole connection.
#[inline(always)]
fn set_keepalive(ctx: *mut bpf_sock_addr, conduct: &Conduct) {
    let set_some = |option, value: u32| {
        if value != 0 {
            option::set(ctx, option, value);
        }
    };
    option::set(ctx, option::KEEPALIVE, 1);
    set_some(option::KEEP_IDLE, u32::from(conduct.keep_idle_s));
    set_some(option::KEEP_INTERVAL, u32::from(conduct.keep_interval_s));
    set_some(option::KEEP_PROBES, u32::from(conduct.keep_probes));
}

/// Options of the whole connection.
#[inline(always)]
fn set_options(ctx: *mut bpf_sock_addr, conduct: &Conduct) {
    if conduct.pacing_rate != 0 {
        option::set(ctx, option::MAX_PACING_RATE, conduct.pacing_rate);
    }
    if conduct.mark != 0 {
        option::set(ctx, option::MARK, conduct.mark);
    }
    let [first, ..] = conduct.congestion;
    if first != 0 {
        let name = (&raw const conduct.congestion).cast_mut();
        let (level, option) = option::CONGESTION;
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "16")]
        let length = CONGESTION_LEN as i32;
        // SAFETY: the kernel reads the name's bytes. One that it does not have changes nothing.
        unsafe { bpf_setsockopt(ctx.cast(), level, option, name.cast(), length) };
    }
}

/// Binds a socket that is not bound yet to an address, and leaves the port to `connect()`. Whether
/// the socket has an address now.
#[inline(always)]
fn bind(ctx: *mut bpf_sock_addr, source: &Addr) -> bool {
    // Words in network order, as everywhere else.
    let [a, b, c, d]: [u32; 4] = bytemuck::cast(*source);
    // SAFETY: the context of the running hook, its socket, and addresses of the given sizes, which
    // the helper reads.
    unsafe {
        let sk = (*ctx).__bindgen_anon_1.sk;
        if (*ctx).family == INET {
            let mut to = [INET, d, 0, 0];
            return (*sk).src_ip4 != 0
                || (*sk).src_port != 0
                || bpf_bind(ctx, (&raw mut to).cast(), 16) == 0;
        }
        // Word by word: the verifier refuses loads of two at once.
        let word = |i: usize| (&raw const (*sk).src_ip6[i]).read_volatile();
        let bound = word(0) | word(1) | word(2) | word(3);
        let mut to = [INET6, 0, a, b, c, d, 0];
        bound != 0 || (*sk).src_port != 0 || bpf_bind(ctx, (&raw mut to).cast(), 28) == 0
    }
}
