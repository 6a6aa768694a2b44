//! The list of connected UDP sockets with what is stored on them, for whoever reads it.
//!
//! What is stored on a TCP socket the kernel tells along with all else that it tells about it
//! (`sock_diag(7)`), and of UDP it does not.

use aya_ebpf::{
    bindings::{bpf_sock, seq_file},
    cty::c_void,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write},
};
use splitter_common::abi::phase;

use crate::follow;

/// `struct bpf_iter__udp`.
#[repr(C)]
pub(crate) struct Visit {
    meta: *const Meta,
    sk: *mut bpf_sock,
}

/// The beginning of `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// Writes one [`splitter_common::abi::StoredSocket`], or nothing. Where there is no room for it, the
/// kernel takes back what there is of it, and comes again.
#[inline(always)]
pub(crate) fn tell(visit: *const Visit) {
    // SAFETY: the context of the running program. The socket is live while it runs.
    unsafe {
        let sk = (*visit).sk;
        if sk.is_null() {
            return;
        }
        let Some(state) = follow::stored(sk).filter(|it| it.phase == phase::DATAGRAMS) else {
            return;
        };
        let seq = (*(*visit).meta).seq;
        let cookie = bpf_get_socket_cookie(sk.cast());
        write(seq, &cookie);
        write(seq, state);
    }
}

/// Writes a record.
///
/// # Safety
///
/// `seq` must be that of the running program.
#[inline(always)]
unsafe fn write<T>(seq: *mut seq_file, record: &T) {
    #[expect(clippy::cast_possible_truncation, reason = "records are small")]
    let length = const { size_of::<T>() as u32 };
    // SAFETY: as above. The kernel reads the record's bytes.
    unsafe { bpf_seq_write(seq, (&raw const *record).cast::<c_void>(), length) };
}
