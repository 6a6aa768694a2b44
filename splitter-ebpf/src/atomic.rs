//! Atomic operations on map values.
//!
//! `core::sync::atomic` has no read-modify-write on the BPF target, so the compiler's intrinsics are
//! used. They must be sequentially consistent and compiled with `-C target-cpu=v3`: anything weaker
//! becomes a `lock +=` whose fetched value is garbage. A test checks the disassembly.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

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

/// Stores `new` into a shared word that holds `old`; whether it did.
///
/// # Safety
///
/// As [`fetch_add`].
#[inline(always)]
pub(crate) unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller vouches for the pointer.
    let (before, _) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    before == old
}
