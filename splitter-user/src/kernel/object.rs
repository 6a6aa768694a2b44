//! The kernel programs, embedded in this binary.
//!
//! The build script finds the object; see `cargo xtask build`. This module gives its bytes away and
//! does not look into them.

/// Aligned for reading ELF records in place.
#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/splitter.o")));

/// The ELF object, aligned to 32 bytes; `None` in a binary that was built without it, that is, by
/// plain `cargo build` where `cargo xtask build` never ran.
pub fn embedded() -> Option<&'static [u8]> {
    (!OBJECT.0.is_empty()).then_some(&OBJECT.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_aligned_and_is_elf_where_it_exists() {
        assert_eq!(OBJECT.0.as_ptr().align_offset(32), 0);
        assert!(embedded().is_none_or(|object| object.starts_with(b"\x7fELF")));
    }
}
