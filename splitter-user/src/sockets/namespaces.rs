//! Network namespaces: which there are, and a netlink socket in each.
//!
//! A namespace counts if a process is in it or if it has a name below `/run/netns`. One that only a
//! thread is in, or that an open file alone keeps alive, is not found, and neither is one whose
//! processes are outside the PID namespace of who looks.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::diag::{SockDiag, open_socket};
use super::opener::{Opener, OpenerError};
use crate::kernel::open_socket_list;

/// Where the calling thread's is.
const OWN: &str = "/proc/thread-self/ns/net";
/// Where `ip netns` and container runtimes name theirs.
const NAMED: &str = "/run/netns";

/// The inode number of a network namespace, as `readlink /proc/PID/ns/net` shows it. The kernel
/// gives it again when the namespace is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId(pub u64);

/// What a visit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// Namespaces that were seen.
    pub namespaces: usize,
    /// Processes and names whose namespace could not be looked at.
    pub hidden: usize,
}

/// The network namespaces that sockets can be reached in.
pub enum Namespaces {
    /// That of this process, with the link of the list of its UDP sockets where they are wanted too.
    Own(Option<OwnedFd>),
    /// All that there are, by a process that may enter them.
    All(Opener),
}

impl Namespaces {
    /// Calls `see` once for every namespace. Blocks.
    pub fn visit(
        &mut self,
        mut see: impl FnMut(NamespaceId, &mut SockDiag),
    ) -> Result<Visited, OpenerError> {
        match self {
            Self::All(opener) => opener.visit(see),
            Self::Own(link) => {
                let id = read_id(Path::new(OWN)).map_err(OpenerError::Own)?;
                let Sockets { netlink, stored } =
                    Sockets::open(link.as_ref()).map_err(OpenerError::Own)?;
                let mut diag = SockDiag::new(netlink, stored);
                see(id, &mut diag);
                Ok(Visited { namespaces: 1, hidden: 0 })
            }
        }
    }
}

/// A namespace and a path at which it was.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) id: NamespaceId,
    path: PathBuf,
}

/// Namespaces, each once.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) namespaces: Vec<Namespace>,
    pub(super) hidden: usize,
    seen: HashSet<NamespaceId>,
}

/// Looks for namespaces. The caller's own is the first.
pub(super) fn find() -> io::Result<Found> {
    let mut found = Found::default();
    let device = fs::metadata(OWN)?.dev();
    found.add(device, OWN.into());
    for entry in list(Path::new(NAMED))? {
        found.add(device, entry);
    }
    let is_process = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    for entry in list(Path::new("/proc"))? {
        if entry.file_name().is_some_and(is_process) {
            found.add(device, entry.join("ns/net"));
        }
    }
    Ok(found)
}

fn list(directory: &Path) -> io::Result<impl Iterator<Item = PathBuf> + use<>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries?),
    };
    Ok(entries.into_iter().flatten().flatten().map(|entry| entry.path()))
}

impl Found {
    /// All namespaces are files of one device, so what is of another is none: a name whose
    /// namespace was unmounted, or something else that lies there.
    fn add(&mut self, device: u64, path: PathBuf) {
        match fs::metadata(&path) {
            Ok(metadata) => {
                let id = NamespaceId(metadata.ino());
                if metadata.dev() == device && self.seen.insert(id) {
                    self.namespaces.push(Namespace { id, path });
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(_) => self.hidden += 1,
        }
    }
}

/// Processes and names go at any time.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn read_id(path: &Path) -> io::Result<NamespaceId> {
    fs::metadata(path).map(|metadata| NamespaceId(metadata.ino()))
}

/// What one namespace is asked by.
pub(super) struct Sockets {
    /// A netlink socket.
    pub(super) netlink: OwnedFd,
    /// The list of what is stored on UDP sockets, where there is a link to open it by.
    pub(super) stored: Option<OwnedFd>,
}

impl Sockets {
    /// Of the namespace of the calling thread.
    fn open(link: Option<&OwnedFd>) -> io::Result<Self> {
        let stored = link.map(open_socket_list).transpose()?;
        Ok(Self { netlink: open_socket()?, stored })
    }
}

/// What came of entering a namespace.
pub(super) enum Entry {
    /// What it is asked by.
    Open(Sockets),
    /// It is gone.
    Gone,
    /// It may not be entered.
    Hidden,
}

/// The namespace to come back to.
pub(super) struct Home {
    file: File,
    id: NamespaceId,
}

impl Home {
    /// The calling thread's own namespace.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: File::open(OWN)?, id: read_id(Path::new(OWN))? })
    }

    /// Goes into a namespace, opens what it is asked by, and comes back. Fails where the thread could
    /// not come back, which must then end.
    ///
    /// Moves the calling thread, whose process should have no other.
    pub(super) fn open_in(
        &self,
        namespace: &Namespace,
        link: Option<&OwnedFd>,
    ) -> io::Result<Entry> {
        if namespace.id == self.id {
            return Ok(Sockets::open(link).map_or(Entry::Hidden, Entry::Open));
        }
        let target = match namespace.open() {
            Ok(Some(target)) => target,
            Ok(None) => return Ok(Entry::Gone),
            Err(_) => return Ok(Entry::Hidden),
        };
        if enter(&target).is_err() {
            return Ok(Entry::Hidden);
        }
        let sockets = Sockets::open(link);
        enter(&self.file)?;
        Ok(sockets.map_or(Entry::Hidden, Entry::Open))
    }
}

impl Namespace {
    /// Nothing where another one, or none, is at the path by now.
    fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Err(error) if is_gone(&error) => Ok(None),
            file => {
                let file = file?;
                let is_same = file.metadata()?.ino() == self.id.0;
                Ok(is_same.then_some(file))
            }
        }
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}
