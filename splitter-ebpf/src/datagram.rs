//! Datagrams of sockets that never connect, and the answers to them.
//!
//! Each datagram is sent by itself, but a socket stays with the backend that it was given for a
//! frontend: whatever is spoken over UDP takes more than one datagram. The hooks run under the
//! socket's lock, so what is kept on the socket is changed by plain stores.

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, programs::SockAddrContext};
use splitter_common::{
    abi::{Datagrams, MAX_PEERS, Peer, StateRef, cell, plan_flag, socket_flag, standing},
    addr::Addr,
    decide::{Followed, decide_by_plan, find_plan},
    life::Cells as _,
};

use crate::{
    effects, follow, maps,
    sock_addr::{Dialled, Family, PROCEED, Words, conclude, dialled, refuse, rewrite_to},
    start,
    state::MapState,
    tables::Maps,
};

/// `TCP_ESTABLISHED`, which is also the state of a UDP socket that is connected.
const CONNECTED: u32 = 1;

/// The hooks of datagrams that name where they go.
#[inline(always)]
pub(crate) fn send<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(commit) = maps::COMMIT.get_ptr(0) else { return PROCEED };
    let Dialled { key } = &dialled::<F>(ctx.sock_addr);
    let world = Maps { ctx: ctx.sock_addr, commit };
    let Some(plan) = find_plan(&world, key) else {
        return conclude(refuse::<F>(ctx, commit, key));
    };
    if plan.flags & plan_flag::DATAGRAMS == 0 {
        return PROCEED;
    }
    let frontend = bytemuck::cast(*key);
    let known = stored(ctx, 0);
    if let Some(known) = &known
        && let Some(peer) = known.find(frontend)
        && serves(peer)
    {
        known.raise(peer);
        return go_on::<F>(ctx, peer);
    }
    let decision = decide_by_plan(&world, &plan, key.protocol);
    effects::count(&decision.tally);
    let Some(backend) = decision.backend else { return conclude(u32::from(decision.errno)) };
    let at = state_of(&decision.followed);
    let Some(known) = known.or_else(|| stored(ctx, BPF_SK_STORAGE_GET_F_CREATE)) else {
        // Sent without, its answers would seem to come from somebody else.
        return conclude(start::ENOMEM);
    };
    let peer = known.find(frontend).unwrap_or_else(|| known.oldest());
    let (port_be, addr) = (backend.port_be, backend.addr);
    // SAFETY: a peer of the socket at hand, whose lock is held.
    unsafe { *peer = Peer { frontend, port_be, pad: 0, backend: addr, at, sent: 0 } };
    known.raise(peer);
    go_on::<F>(ctx, peer)
}

/// Whether a datagram names the peer that its socket is connected to.
#[inline(always)]
pub(crate) fn is_to_peer(ctx: &SockAddrContext) -> bool {
    let (sa, sk) = (ctx.sock_addr, effects::socket(ctx));
    // SAFETY: the context of the running hook, and its socket.
    unsafe {
        (*sk).state == CONNECTED
            && (*sk).dst_ip4 == (*sa).user_ip4
            && u32::from((*sk).dst_port) == (*sa).user_port & 0xffff
    }
}

/// The hooks of datagrams that arrive: those of a backend bear the address that was sent to.
#[inline(always)]
pub(crate) fn receive<F: Family>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context of the running hook.
    let (addr, port) = unsafe { (F::addr(ctx.sock_addr), (*ctx.sock_addr).user_port & 0xffff) };
    if let Some(state) = follow::stored(effects::socket(ctx))
        && state.flags & socket_flag::TRANSLATES != 0
        && addr == bytemuck::cast::<Addr, Words>(state.backend)
        && port == u32::from(state.backend_port_be.0)
    {
        rewrite_to::<F>(ctx, bytemuck::cast(state.frontend), u32::from(state.frontend_port_be.0));
        return PROCEED;
    }
    if let Some(known) = stored(ctx, 0)
        && let Some([a, b, c, d, last]) = known.frontend_of(addr, port)
    {
        rewrite_to::<F>(ctx, [a, b, c, d], last & 0xffff);
    }
    PROCEED
}

/// Sends the datagram to a peer.
#[inline(always)]
fn go_on<F: Family>(ctx: &SockAddrContext, peer: *mut Peer) -> i32 {
    // SAFETY: a peer of the socket at hand, whose lock is held.
    let (addr, port_be) = unsafe { ((*peer).backend, (*peer).port_be) };
    rewrite_to::<F>(ctx, bytemuck::cast(addr), u32::from(port_be.0));
    PROCEED
}

/// Whether the backend is still in the policy, and nothing is known against it.
#[inline(always)]
fn serves(peer: *mut Peer) -> bool {
    // SAFETY: a peer of the socket at hand, whose lock is held.
    let at = unsafe { (*peer).at };
    MapState::resolve(at).is_some_and(|backend| backend.load(cell::STANDING) & standing::LEFT == 0)
}

/// Where the chosen backend counts.
#[inline(always)]
fn state_of(followed: &Followed) -> StateRef {
    let conduct = maps::CONDUCTS.get(followed.conduct);
    conduct.map_or(StateRef { index: 0, epoch: 0 }, |conduct| {
        start::reference(start::backend_state(conduct, followed.ordinal))
    })
}

/// What is kept on a socket.
#[derive(Clone, Copy)]
struct Known(*mut Datagrams);

#[inline(always)]
fn stored(ctx: &SockAddrContext, flags: u32) -> Option<Known> {
    let known = follow::look_up(&raw const maps::DATAGRAMS, effects::socket(ctx), flags);
    known.map(|known| Known(known))
}

impl Known {
    #[inline(always)]
    fn peer(self, i: u32) -> *mut Peer {
        const { assert!(MAX_PEERS.is_power_of_two()) };
        // SAFETY: inside the record.
        unsafe { self.0.cast::<Peer>().add((i & (MAX_PEERS - 1)) as usize) }
    }

    /// The peer for a frontend.
    #[inline(always)]
    fn find(self, frontend: [u32; 5]) -> Option<*mut Peer> {
        let mut i = 0;
        while i < MAX_PEERS {
            let peer = self.peer(i);
            // SAFETY: a peer of the socket at hand, whose lock is held.
            if unsafe { (*peer).sent != 0 && (*peer).frontend == frontend } {
                return Some(peer);
            }
            i += 1;
        }
        None
    }

    /// The peer that was sent to least recently, or none yet.
    #[inline(always)]
    fn oldest(self) -> *mut Peer {
        let (mut at, mut least, mut i) = (0, u64::MAX, 0);
        while i < MAX_PEERS {
            // SAFETY: as above.
            let sent = unsafe { (*self.peer(i)).sent };
            if sent < least {
                (at, least) = (i, sent);
            }
            i += 1;
        }
        self.peer(at)
    }

    /// The frontend that a backend answers for: of several, the one that was sent to last.
    #[inline(always)]
    fn frontend_of(self, addr: Words, port: u32) -> Option<[u32; 5]> {
        let (mut found, mut most, mut i) = (None, 0, 0);
        while i < MAX_PEERS {
            let peer = self.peer(i);
            // SAFETY: as above.
            unsafe {
                let backend: Words = bytemuck::cast((*peer).backend);
                if (*peer).sent > most && u32::from((*peer).port_be.0) == port && backend == addr {
                    (found, most) = (Some((*peer).frontend), (*peer).sent);
                }
            }
            i += 1;
        }
        found
    }

    /// Notes that a datagram is sent to a peer.
    #[inline(always)]
    fn raise(self, peer: *mut Peer) {
        // SAFETY: as above.
        unsafe {
            (*self.0).turn = (*self.0).turn.wrapping_add(1);
            (*peer).sent = (*self.0).turn;
        }
    }
}
