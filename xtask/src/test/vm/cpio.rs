//! The archive that the kernel unpacks as its first file system: cpio, "new ASCII" format.
//!
//! See `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel. Written here
//! rather than by `cpio`, because that would need a copy of every file and root for the console.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR_FILE: u32 = 0o100_000;

/// An archive that grows. All of it belongs to root.
#[derive(Clone, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a directory and the ones above it, unless they are there.
    pub(super) fn directory(&mut self, path: &Path) {
        let above: Vec<_> = path.ancestors().map(name).filter(|name| !name.is_empty()).collect();
        for name in above.into_iter().rev() {
            if self.directories.insert(name.clone()) {
                self.entry(&name, DIRECTORY, (0, 0), &[]);
            }
        }
    }

    /// Adds a file with these permissions.
    pub(super) fn file(&mut self, path: &Path, permissions: u32, content: &[u8]) {
        self.parent(path);
        self.entry(&name(path), REGULAR_FILE | permissions, (0, 0), content);
    }

    /// Adds a character device of this major and minor number.
    pub(super) fn device(&mut self, path: &Path, number: (u32, u32)) {
        self.parent(path);
        self.entry(&name(path), CHARACTER_DEVICE, number, &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    /// A header of eight-digit numbers, the name with a final zero, the content; name and content
    /// are each filled up to a multiple of four bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("files of an image are below 4 GiB");
        let name_size = u32::try_from(name.len()).expect("paths are short") + 1;
        let (uid, gid, links, time, checksum) = (0, 0, 1, 0, 0);
        let (major, minor) = device;
        let about_file = [self.inode, mode, uid, gid, links, time, size];
        let about_devices = [0, 0, major, minor];
        self.bytes.extend_from_slice(b"070701");
        let fields = about_file.into_iter().chain(about_devices);
        for field in fields.chain([name_size, checksum]) {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Names in the archive are relative to the root.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.entry("ab", REGULAR_FILE | 0o644, (0, 0), b"xyz");
        let expected = "070701\
             00000001000081a400000000000000000000000100000000000000030000000000000000\
             000000000000000000000003\
             00000000ab\0\0\0\0xyz\0";
        assert_eq!(String::from_utf8(archive.bytes).unwrap(), expected);
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/c"), 0o644, b"");
        archive.file(Path::new("/a/b/d"), 0o644, b"");
        let text = String::from_utf8(archive.finish()).unwrap();
        let names: Vec<_> = ["a\0", "a/b\0", "a/b/c\0", "a/b/d\0", "TRAILER!!!\0"]
            .map(|name| text.match_indices(name).map(|(at, _)| at).collect::<Vec<_>>())
            .concat();
        assert!(names.is_sorted());
        assert_eq!(text.matches("070701").count(), 5);
    }
}
