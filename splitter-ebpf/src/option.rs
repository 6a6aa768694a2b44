//! Options of the socket at hand that are numbers. When to read or to set one is left to others.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
};

/// An option's level and its number.
pub(crate) type SocketOption = (i32, i32);

pub(crate) const TOS: SocketOption = (0, 1);
pub(crate) const KEEPALIVE: SocketOption = (1, 9);
pub(crate) const MARK: SocketOption = (1, 36);
pub(crate) const MAX_PACING_RATE: SocketOption = (1, 47);
pub(crate) const KEEP_IDLE: SocketOption = (6, 4);
pub(crate) const KEEP_INTERVAL: SocketOption = (6, 5);
pub(crate) const KEEP_PROBES: SocketOption = (6, 6);
pub(crate) const CONGESTION: SocketOption = (6, 13);
pub(crate) const USER_TIMEOUT: SocketOption = (6, 18);
pub(crate) const TCLASS: SocketOption = (41, 67);

/// `AF_INET`.
pub(crate) const INET: u32 = 2;

/// Sets an option that is a number.
#[inline(always)]
pub(crate) fn set(ctx: *mut bpf_sock_addr, (level, option): SocketOption, value: u32) {
    let mut value = value;
    // SAFETY: the option is a number of four bytes. What the kernel refuses stays as it was.
    unsafe {
        bpf_setsockopt(ctx.cast(), level, option, (&raw mut value).cast(), 4);
    }
}

/// An option that is a number; 0 where it cannot be read.
#[inline(always)]
pub(crate) fn number(ctx: *mut bpf_sock_addr, (level, option): SocketOption) -> u32 {
    let mut value = 0_u32;
    // SAFETY: as for `set`.
    unsafe {
        bpf_getsockopt(ctx.cast(), level, option, (&raw mut value).cast(), 4);
    }
    value
}
