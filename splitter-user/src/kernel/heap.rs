//! The heap, after the work of a start.

/// Gives memory back that a start took and freed. Parsing the object, the kernel's own types and
/// the policy takes megabytes more than the daemon uses afterwards, which the allocator would keep.
pub fn give_back_memory() {
    // SAFETY: glibc's allocator may be asked to trim itself at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
