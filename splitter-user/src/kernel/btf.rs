//! Where the running kernel has a member of one of its structures, from its own description of its
//! types (BTF, `Documentation/bpf/btf.rst`).

use std::fs;
use std::io;

/// Where the kernel describes its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// `BTF_MAGIC`.
const MAGIC: u16 = 0xeb9f;
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;

/// Offset in bytes of a member of a structure of the running kernel.
pub(super) fn member_offset(structure: &str, member: &str) -> io::Result<u32> {
    let bytes = fs::read(VMLINUX)?;
    let found = Types::new(&bytes).and_then(|types| types.member_offset(structure, member));
    found.ok_or_else(|| io::Error::other(format!("{VMLINUX} has no {structure}.{member}")))
}

/// The types and the strings that their names are in.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Types<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header = word(bytes, 4)? as usize;
        let part = |offset: usize| {
            let start = header + word(bytes, offset)? as usize;
            bytes.get(start..start + word(bytes, offset + 4)? as usize)
        };
        (magic == MAGIC).then_some(Self { types: part(8)?, strings: part(16)? })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut at = 0;
        while at < self.types.len() {
            let info = word(self.types, at + 4)?;
            let (kind, n) = (info >> 24 & 0x1f, info & 0xffff);
            let members = at + 12;
            if kind == STRUCT && self.name(word(self.types, at)?) == structure.as_bytes() {
                let found = (0..n as usize).map(|i| members + i * 12);
                let is_it = |at: &usize| {
                    word(self.types, *at).is_some_and(|name| self.name(name) == member.as_bytes())
                };
                // With the flag, the upper byte is the size of a bit field.
                let bits = word(self.types, found.into_iter().find(is_it)? + 8)? & 0x00ff_ffff;
                return Some(bits / 8);
            }
            at = members + extra_bytes(kind, n)?;
        }
        None
    }
}

/// Bytes behind the three words that every type has.
fn extra_bytes(kind: u32, n: u32) -> Option<usize> {
    let n = n as usize;
    Some(match kind {
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => n * 12,
        // ENUM, FUNC_PROTO.
        6 | 13 => n * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer, and a structure `ab` of two members `a` and `b` at 0 and 4 bytes.
    fn described() -> Vec<u8> {
        let strings = b"\0ab\0a\0b\0";
        let types: Vec<u32> = vec![0, 1 << 24, 4, 32, 1, 4 << 24 | 2, 8, 4, 1, 0, 6, 1, 32];
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = [24, 0, types.len(), types.len(), strings.len()];
        bytes.extend(header.into_iter().flat_map(|n| u32::try_from(n).unwrap().to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_by_name() {
        let bytes = described();
        let types = Types::new(&bytes).unwrap();
        assert_eq!(types.member_offset("ab", "b"), Some(4));
        assert_eq!(types.member_offset("ab", "c"), None);
        assert_eq!(types.member_offset("a", "b"), None);
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bytes = described();
        for end in 0..bytes.len() {
            let found = Types::new(&bytes[..end]).and_then(|types| types.member_offset("ab", "b"));
            assert!(found.is_none(), "{end}");
        }
    }

    #[test]
    fn the_running_kernel_is_described() {
        assert!(member_offset("sock", "sk_err").unwrap() > 0);
    }
}
