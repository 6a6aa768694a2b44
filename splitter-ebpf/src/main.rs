//! The kernel half: cgroup hooks that ask the decision and apply its answer.
//!
//! Adapters only. [`sock_addr`] turns a hook's context into a question and the answer into writes,
//! [`tables`] lets the decision read the [`maps`], [`parts`] has what is verified by itself,
//! [`effects`] counts and remembers, [`egress`] is for what is no service, [`listener`] looks for
//! other sockets, [`start`] and [`follow`] keep up with followed connections, [`option`] reads and sets
//! options of sockets, [`packet`] drops packets of theirs, [`datagram`] is for sockets that never
//! connect, and [`sockets`] tells the daemon which ones are connected by UDP.
//! No choice is made here; all of them are made by `splitter_common::decide`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only fetch-and-add that exists on the BPF target")]
#![expect(clippy::needless_pass_by_value, reason = "the macros hand contexts over by value")]

mod atomic;
mod datagram;
mod effects;
mod egress;
mod follow;
mod listener;
mod maps;
mod option;
mod packet;
mod parts;
mod sock_addr;
mod sockets;
mod start;
mod state;
mod tables;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, sock_ops},
    programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext},
};
use sock_addr::{V4, V6};

/// `connect(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(connect4)]
pub(crate) fn split_connect4(ctx: SockAddrContext) -> i32 {
    sock_addr::connect::<V4>(&ctx)
}

/// `connect(2)` on an `AF_INET6` socket, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub(crate) fn split_connect6(ctx: SockAddrContext) -> i32 {
    sock_addr::connect::<V6>(&ctx)
}

/// `getpeername(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn split_peername4(ctx: SockAddrContext) -> i32 {
    sock_addr::getpeername::<V4>(&ctx)
}

/// `getpeername(2)` on an `AF_INET6` socket.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn split_peername6(ctx: SockAddrContext) -> i32 {
    sock_addr::getpeername::<V6>(&ctx)
}

/// `sendto(2)` and its kin on a socket that sends IPv4 and names where.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn split_sendmsg4(ctx: SockAddrContext) -> i32 {
    // An IPv6 socket that is connected to an IPv4 address names its peer with each datagram
    // (`udpv6_sendmsg` in net/ipv6/udp.c): `connect()` was where that was decided.
    if datagram::is_to_peer(&ctx) { sock_addr::PROCEED } else { datagram::send::<V4>(&ctx) }
}

/// The same for IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn split_sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::send::<V6>(&ctx)
}

/// `recvfrom(2)` and its kin on an `AF_INET` socket of datagrams.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn answer_recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::receive::<V4>(&ctx)
}

/// The same on an `AF_INET6` socket, whose IPv4 datagrams have v4-mapped addresses.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn answer_recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::receive::<V6>(&ctx)
}

/// Callbacks of TCP sockets.
#[sock_ops]
pub(crate) fn follow_sockets(ctx: SockOpsContext) -> u32 {
    follow::callback(ctx.ops);
    1
}

/// `close(2)`, and the end of a process, of any socket.
#[cgroup_sock(sock_release)]
pub(crate) fn release_sockets(ctx: SockContext) -> i32 {
    if let Some(state) = follow::stored(ctx.sock) {
        follow::let_go(state);
    }
    1
}

/// Packets that leave.
#[cgroup_skb(egress)]
pub(crate) fn drop_packets(ctx: SkBuffContext) -> i32 {
    i32::from(!packet::drops(ctx.skb.skb))
}

/// A UDP socket, for a reader of all of them. Not a hook: it runs when it is read. The macros have none
/// for it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub(crate) extern "C" fn list_sockets(visit: *const sockets::Visit) -> i32 {
    sockets::tell(visit);
    0
}

/// Unreachable: nothing in the programs can panic, and a test looks for panic symbols.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Socket storage and `bpf_set_retval` are GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
