//! The directory on bpffs in which everything is pinned, and the lock that one daemon holds on it.
//!
//! ```text
//! /sys/fs/bpf/splitter/          0700, this user's
//!     maps-<layout>/COMMIT ...   one directory per layout: ABI version and sizes
//!     links/connect4 ...
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};
use splitter_common::abi::ABI_VERSION;

use super::attach::Hook;
use super::sys;
use crate::tables::{Arena, Sizes};

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not on a bpffs.
    #[error("{} is not on a BPF file system; mount one with: mount -t bpf bpf /sys/fs/bpf", .0.display())]
    NotBpffs(PathBuf),
    /// BPF file systems keep names with dots for themselves.
    #[error("{} has a dot in its name, which BPF file systems refuse; choose another --pin-dir", .0.display())]
    Dotted(PathBuf),
    /// Somebody else could put pins there.
    #[error("{} belongs to user {owner} with mode {mode:o}; it must be this user's with mode 700; move it away or remove it", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory holds something that no daemon makes.
    #[error("{} was not pinned by splitter, so nothing was removed; move it away, or check --pin-dir", .0.display())]
    Stranger(PathBuf),
    /// Another daemon holds the lock.
    #[error("another splitter daemon runs with the pins in {}; stop it first, or choose another --pin-dir", .0.display())]
    Busy(PathBuf),
    /// A path could not be accessed.
    #[error("access {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

impl PinError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |error| Self::Io { path: path.to_owned(), error }
    }
}

/// The pin directory, locked.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    /// Holds the lock. It ends with the process, however that ends.
    _lock: File,
}

impl PinDir {
    /// Makes the directory if need be, checks that it is ours alone, and locks it.
    pub fn open(path: &Path) -> Result<Self, PinError> {
        let parent = path.parent().unwrap_or(path);
        let file_system = statfs(parent).map_err(|errno| PinError::io(parent)(errno.into()))?;
        if file_system.f_type.cast_unsigned() != BPF_FS_MAGIC {
            return Err(PinError::NotBpffs(path.to_owned()));
        }
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'.')) {
            return Err(PinError::Dotted(path.to_owned()));
        }
        make_private(path)?;
        let lock = File::open(path).map_err(PinError::io(path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Busy(path.to_owned())),
            Err(errno) => Err(PinError::io(path)(errno.into())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the maps of this layout are pinned.
    pub(super) fn maps(&self, sizes: &Sizes) -> Result<PathBuf, PinError> {
        let path = self.path.join(layout_name(sizes));
        make_private(&path)?;
        Ok(path)
    }

    /// Where the links are pinned.
    pub(super) fn links(&self) -> Result<PathBuf, PinError> {
        let path = self.path.join("links");
        make_private(&path)?;
        Ok(path)
    }

    /// Unpins the maps of every other layout: no program uses them any more.
    pub fn remove_other_layouts(&self, sizes: &Sizes) -> Result<(), PinError> {
        let keep = layout_name(sizes);
        for entry in fs::read_dir(&self.path).map_err(PinError::io(&self.path))? {
            let entry = entry.map_err(PinError::io(&self.path))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("maps-") && name != keep {
                fs::remove_dir_all(entry.path()).map_err(PinError::io(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// Detaches every link, then unpins everything: maps are freed as soon as nobody holds them.
    ///
    /// Removes nothing where the directory holds anything that no daemon makes.
    pub fn remove(self) -> Result<(), PinError> {
        let links = self.path.join("links");
        let pinned = entries(&self.path, |name| name == "links" || name.starts_with("maps-v"))?;
        let is_hook = |name: &str| Hook::ALL.iter().any(|hook| hook.name() == name);
        let linked = if links.exists() { entries(&links, is_hook)? } else { Vec::new() };
        // Links first: a program must not outlive its policy.
        for link in linked {
            remove_link(&link).map_err(PinError::io(&link))?;
        }
        for path in pinned {
            fs::remove_dir_all(&path).map_err(PinError::io(&path))?;
        }
        fs::remove_dir(&self.path).map_err(PinError::io(&self.path))
    }
}

/// The entries of a directory, all of which must bear a name that a daemon gives.
fn entries(directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, PinError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(PinError::io(directory))? {
        let entry = entry.map_err(PinError::io(directory))?;
        if !entry.file_name().to_str().is_some_and(&is_ours) {
            return Err(PinError::Stranger(entry.path()));
        }
        paths.push(entry.path());
    }
    Ok(paths)
}

/// Detaches a pinned link and unpins it. Unpinning alone would leave the program at its hook until
/// the kernel has freed the link, which is later.
pub(super) fn remove_link(pin: &Path) -> io::Result<()> {
    sys::link_detach(&sys::open_pinned(pin)?)?;
    fs::remove_file(pin)
}

/// Maps of another layout must never be taken for these, so the layout is their name.
fn layout_name(sizes: &Sizes) -> String {
    let arenas = Arena::ALL.map(|arena| sizes.records(arena));
    let all = arenas.into_iter().chain([sizes.frontends, sizes.counters]);
    let hash = all.fold(u64::from(ABI_VERSION), |hash, size| {
        splitter_common::hash::mix(hash, u64::from(size))
    });
    format!("maps-v{ABI_VERSION}-{hash:016x}")
}

fn make_private(path: &Path) -> Result<(), PinError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PinError::io(path)(error));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(PinError::io(path))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    let ours = owner == rustix::process::geteuid().as_raw() && mode & 0o077 == 0;
    if metadata.is_dir() && ours {
        Ok(())
    } else {
        Err(PinError::Foreign { path: path.to_owned(), owner, mode })
    }
}
