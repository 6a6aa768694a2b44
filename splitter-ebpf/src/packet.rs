//! Packets that leave, and those that are dropped on purpose.
//!
//! Runs for every packet of the cgroup while some route asks for it, so nothing is read of a packet
//! whose socket has nothing to drop.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes, bpf_tcp_sock},
};
use splitter_common::abi::{SocketState, TCP, drop_flag, phase};

use crate::follow;

/// Numbers of `include/net/tcp_states.h`: the states in which the client has not closed its side.
const ESTABLISHED: u32 = 1;
const CLOSE_WAIT: u32 = 8;
/// The bit of a TCP header that resets the connection.
const RST: u8 = 4;

/// Whether a packet is dropped on purpose.
#[inline(always)]
pub(crate) fn drops(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context of the running program; a socket is used after it was found to be one.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        bpf_sk_fullsock(sk)
    };
    if sk.is_null() {
        return false;
    }
    let Some(state) = follow::stored(sk) else { return false };
    match state.phase {
        _ if state.drops == 0 => false,
        phase::CONNECTING => drops_syn(state),
        phase::ESTABLISHED => stalls(skb, sk, state),
        _ => false,
    }
}

/// A packet of the handshake. The kernel sends another SYN when the timeout that the socket was
/// given is over.
#[inline(always)]
fn drops_syn(state: &mut SocketState) -> bool {
    let is_first = state.drops & drop_flag::FIRST_SYN != 0;
    state.drops &= !drop_flag::FIRST_SYN;
    is_first || state.drops & drop_flag::ALL != 0
}

/// A packet of a connection that stands. Its end may leave, by a reset or because the client closed
/// its side: the backend would keep a connection for ever that nobody has any more.
#[inline(always)]
fn stalls(skb: *mut __sk_buff, sk: *mut bpf_sock, state: &mut SocketState) -> bool {
    // SAFETY: a live socket.
    let is_open = unsafe { matches!((*sk).state, ESTABLISHED | CLOSE_WAIT) };
    if state.drops & drop_flag::STALL == 0 || !is_open {
        return false;
    }
    let is_answer = state.drops & drop_flag::ANSWERED == 0;
    let leaves = !is_due(sk, state.stall_at)
        || Segment::of(skb).is_some_and(|segment| segment.ends() || is_answer && segment.is_bare());
    if leaves {
        state.drops |= drop_flag::ANSWERED;
    }
    !leaves
}

/// Whether the client has sent everything before a sequence number.
#[inline(always)]
fn is_due(sk: *mut bpf_sock, stall_at: u32) -> bool {
    // SAFETY: a live socket; what is TCP about it is used after it was found to be TCP.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        // What is to leave now is not counted in it yet.
        !tcp.is_null() && (*tcp).snd_nxt.wrapping_sub(stall_at).cast_signed() >= 0
    }
}

/// What matters of a TCP segment.
struct Segment {
    flags: u8,
    n_bytes: u32,
}

impl Segment {
    /// Whether it resets the connection.
    #[inline(always)]
    fn ends(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether it is without data.
    #[inline(always)]
    fn is_bare(&self) -> bool {
        self.n_bytes == 0
    }

    /// Reads the headers of a packet. None where they are not as the kernel makes them.
    #[inline(always)]
    fn of(skb: *mut __sk_buff) -> Option<Self> {
        let [first] = load(skb, 0)?;
        let start = if first >> 4 == 4 {
            u32::from(first & 0xf) << 2
        } else {
            // Without extension headers, which sockets may ask for.
            let [next] = load(skb, 6)?;
            if next != TCP {
                return None;
            }
            40
        };
        let [offset, flags] = load(skb, start + 12)?;
        let payload = start + (u32::from(offset >> 4) << 2);
        // SAFETY: the context of the running program.
        let n_bytes = unsafe { (*skb).len }.saturating_sub(payload);
        Some(Self { flags, n_bytes })
    }
}

/// Bytes of a packet, counted from its IP header.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
    let length = N as u32;
    // SAFETY: the context of the running program, and room for the bytes.
    let result =
        unsafe { bpf_skb_load_bytes(skb.cast_const().cast(), at, (&raw mut bytes).cast(), length) };
    (result == 0).then_some(bytes)
}
