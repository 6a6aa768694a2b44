//! Atomic read-modify-write on map values.
//!
//! `core::sync::atomic` has no such operation on the BPF target, so the compiler's intrinsic is
//! used. It must be sequentially consistent and compiled with `-C target-cpu=v3`: anything weaker
//! becomes a `lock +=` whose fetched value is garbage. A test checks the disassembly.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds to a shared word and returns its value before.
///
/// # Safety
///
/// `word` must point to an aligned, live map value.
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, n) }
}
