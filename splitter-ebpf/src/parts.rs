//! Parts of the decision that the verifier walks by themselves.
//!
//! A function with a symbol of its own, whose arguments are numbers and the context, is verified
//! once, for any numbers (`BTF_FUNC_GLOBAL`; Documentation/bpf/verifier.rst). Any other function is
//! walked again at each call and in each round of a loop, with what the caller knows.

use aya_ebpf::bindings::bpf_sock_addr;
use splitter_common::decide::{
    assigned,
    followed::{self, How, Ordinals},
};

use crate::{
    egress,
    sock_addr::{V4, V6},
    tables::Maps,
};

/// The maps, where the generation is known already.
#[inline(always)]
const fn maps(ctx: *mut bpf_sock_addr) -> Maps {
    Maps { ctx, commit: core::ptr::null() }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn assigned(service: u64, subsets: u32, n_subsets: u32) -> u32 {
    assigned::find_subset(&maps(core::ptr::null_mut()), service, subsets, n_subsets)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn strike(fault: u32) -> u32 {
    // A context that is handed over and never used would be one that callers leave undefined.
    u32::from(followed::strike(&maps(core::ptr::null_mut()), fault))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn admit(
    ctx: *mut bpf_sock_addr,
    subset: u32,
    salt: u64,
    is_tcp: u32,
) -> u32 {
    followed::admit(&maps(ctx), subset, salt, is_tcp != 0)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn stand(ctx: *mut bpf_sock_addr, subset: u32, ordinal: u32) -> u32 {
    followed::stand(&maps(ctx), subset, ordinal)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn turn_from(
    ctx: *mut bpf_sock_addr,
    turns: u32,
    ordinals: u32,
    how: u32,
    salt: u64,
) -> u32 {
    followed::turn_from(&maps(ctx), turns, Ordinals(ordinals), How(how), salt)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn refuse4(ctx: *mut bpf_sock_addr) -> u32 {
    egress::refuse::<V4>(ctx)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn refuse6(ctx: *mut bpf_sock_addr) -> u32 {
    egress::refuse::<V6>(ctx)
}
