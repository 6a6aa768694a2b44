//! Whether somebody listens where a connection would go.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_addr, bpf_sock_tuple},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use splitter_common::{
    abi::{Backend, TCP},
    addr::Addr,
};

use crate::sock_addr::MAPPED;

/// The last word of `::1`.
const ONE: u32 = u32::from_ne_bytes([0, 0, 0, 1]);

/// Words of `struct bpf_sock_tuple` of either family: source, destination, then both ports.
type TupleV4 = [u32; 3];
type TupleV6 = [u32; 9];

/// False where a TCP socket is about to connect to a loopback address at which nobody listens, in
/// its own network namespace. Of other addresses it is not known here whose they are.
#[inline(always)]
pub(crate) fn is_there(ctx: *mut bpf_sock_addr, backend: &Backend) -> bool {
    // SAFETY: the context of the running hook.
    if unsafe { (*ctx).protocol } != u32::from(TCP) {
        return true;
    }
    // The source port is 0, so no connection is found, and the destination's is in the high half.
    let ports = u32::from(backend.port_be.0) << 16;
    match words(backend.addr) {
        [0, 0, MAPPED, addr] if addr.to_ne_bytes()[0] == 127 => {
            let tuple: TupleV4 = [addr, addr, ports];
            finds(ctx, (&raw const tuple).cast(), size_of::<TupleV4>())
        }
        [0, 0, 0, ONE] => {
            let tuple: TupleV6 = [0, 0, 0, ONE, 0, 0, 0, ONE, ports];
            finds(ctx, (&raw const tuple).cast(), size_of::<TupleV6>())
        }
        _ => true,
    }
}

#[inline(always)]
fn words(addr: Addr) -> [u32; 4] {
    bytemuck::cast(addr)
}

/// Whether the kernel finds a socket for packets of a tuple.
#[inline(always)]
fn finds(ctx: *mut bpf_sock_addr, tuple: *const bpf_sock_tuple, size: usize) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "12 or 36")]
    let size = size as u32;
    // SAFETY: the context of the running hook, and a tuple of that size on the stack. A socket that
    // was found is released.
    unsafe {
        let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
        let sk = bpf_skc_lookup_tcp(ctx.cast(), tuple.cast_mut(), size, netns, 0);
        if sk.is_null() {
            return false;
        }
        bpf_sk_release(sk.cast());
        true
    }
}
