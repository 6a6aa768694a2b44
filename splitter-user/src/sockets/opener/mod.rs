//! The process that enters network namespaces, so that the daemon need not be able to.
//!
//! A netlink socket in another namespace takes one thing to make, entering that namespace, and that
//! takes `CAP_SYS_ADMIN`; finding the namespace of another user's process takes `CAP_SYS_PTRACE`.
//! To use the socket, the daemon's own capabilities are enough. So the daemon starts this process
//! while it still may, and gives up both capabilities; the process gives up everything else,
//! forbids itself every system call but the few of its one task ([`confinement`]), and passes
//! sockets over. It never reads more than one byte, and what it hands out is of no use without
//! `CAP_NET_ADMIN`. The list of what is stored on UDP sockets is of one namespace too, and opened
//! along with its socket.
//!
//! Both sides take turns: the daemon asks for one namespace, looks at it, closes its socket, and
//! asks for the next. So no namespace is kept alive for longer than its visit.

mod confinement;

use std::io::{self, IoSlice, IoSliceMut};
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::vec::IntoIter;

use bytemuck::{Pod, Zeroable, bytes_of, bytes_of_mut};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv,
    recvmsg, send, sendmsg, shutdown, socketpair,
};
use rustix::thread::capabilities;

use super::diag::SockDiag;
use super::namespaces::{Entry, Home, Namespace, NamespaceId, Sockets, Visited, find};
use crate::kernel::open_socket_list;

/// Asks for the first namespace: look for them anew.
const FIRST: u8 = 1;
/// Asks for the one after the last.
const NEXT: u8 = 2;

/// Network namespaces cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum OpenerError {
    /// The own namespace.
    #[error("open a netlink socket in this process's own network namespace")]
    Own(#[source] io::Error),
    /// Capabilities are missing.
    #[error(
        "connections in other network namespaces cannot be closed: to enter them, the daemon must \
         be started with CAP_SYS_ADMIN and CAP_SYS_PTRACE, which only its opener process keeps"
    )]
    NotPrivileged,
    /// The process does not start.
    #[error("start the process that enters network namespaces")]
    Start(#[source] io::Error),
    /// It is gone, or does not do what it should.
    #[error("the process that enters network namespaces failed; restart the daemon for a new one")]
    Lost(#[source] io::Error),
}

/// An answer. A socket comes with it where `kind` says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Answer {
    /// [`Self::END`] or [`Self::NAMESPACE`].
    kind: u32,
    /// Processes and names so far whose namespace could not be looked at.
    hidden: u32,
    /// Of the namespace.
    inode: u64,
}

impl Answer {
    /// There are no more namespaces.
    const END: u32 = 0;
    /// Here is one.
    const NAMESPACE: u32 = 1;
}

/// The running process, seen from the daemon. It ends when this is dropped, or the daemon ends.
pub struct Opener {
    socket: OwnedFd,
    child: Child,
}

impl Opener {
    /// Starts `program namespaces`, where `program` is this very program: `/proc/self/exe` is it also
    /// where its file was replaced. With the link of the list of UDP sockets, it opens that too. To be
    /// called before capabilities are dropped; not possible where they are missing already.
    pub fn start(program: &Path, link: Option<OwnedFd>) -> Result<Self, OpenerError> {
        let start = |errno: rustix::io::Errno| OpenerError::Start(errno.into());
        let permitted = capabilities(None).map_err(start)?.permitted;
        if !permitted.contains(confinement::NEEDED) {
            return Err(OpenerError::NotPrivileged);
        }
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (socket, theirs) =
            socketpair(family, kind, SocketFlags::CLOEXEC, None).map_err(start)?;
        let child = Command::new(program)
            .arg0("splitter")
            .arg("namespaces")
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            // It has nothing to print, and one more file to be given.
            .stdout(link.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .map_err(OpenerError::Start)?;
        Ok(Self { socket, child })
    }

    /// Process id, for `status`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Calls `see` once for every namespace. Blocks.
    pub(super) fn visit(
        &mut self,
        mut see: impl FnMut(NamespaceId, &mut SockDiag),
    ) -> Result<Visited, OpenerError> {
        let mut question = FIRST;
        let mut namespaces = 0;
        loop {
            let (answer, sockets) = self.ask(question).map_err(OpenerError::Lost)?;
            let Some(Sockets { netlink, stored }) = sockets else {
                return Ok(Visited { namespaces, hidden: answer.hidden as usize });
            };
            see(NamespaceId(answer.inode), &mut SockDiag::new(netlink, stored));
            namespaces += 1;
            question = NEXT;
        }
    }

    fn ask(&self, question: u8) -> io::Result<(Answer, Option<Sockets>)> {
        retry_on_intr(|| send(&self.socket, &[question], SendFlags::NOSIGNAL))?;
        let (answer, sockets) = receive_answer(&self.socket)?;
        match (answer.kind, &sockets) {
            (Answer::END, None) | (Answer::NAMESPACE, Some(_)) => Ok((answer, sockets)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        // It ends when nobody can ask it any more. Should either fail, it is gone already.
        let _closed = shutdown(&self.socket, Shutdown::Both);
        let _status = self.child.wait();
    }
}

fn receive_answer(socket: &OwnedFd) -> io::Result<(Answer, Option<Sockets>)> {
    let mut answer = Answer::zeroed();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = {
        let bytes = bytes_of_mut(&mut answer);
        let mut parts = [IoSliceMut::new(bytes)];
        retry_on_intr(|| recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?
    };
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let mut files = files.flatten();
    let sockets = files.next().map(|netlink| Sockets { netlink, stored: files.next() });
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Without a free descriptor, the kernel leaves the socket out and says so.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok((answer, sockets))
}

/// The process itself: answers questions on `socket` until the other end is closed. `link` is that of
/// the list of UDP sockets, or something else where there is none.
pub fn serve(socket: &OwnedFd, link: OwnedFd) -> Result<(), OpenerError> {
    let link = open_socket_list(&link).is_ok().then_some(link);
    confinement::keep_capabilities().map_err(OpenerError::Start)?;
    let home = Home::new().map_err(OpenerError::Own)?;
    confinement::forbid_system_calls().map_err(OpenerError::Start)?;
    Walk::new(home, link).serve(socket).map_err(OpenerError::Lost)
}

/// Where the process is on its way through the namespaces.
struct Walk {
    home: Home,
    link: Option<OwnedFd>,
    ahead: IntoIter<Namespace>,
    hidden: usize,
}

impl Walk {
    fn new(home: Home, link: Option<OwnedFd>) -> Self {
        Self { home, link, ahead: Vec::new().into_iter(), hidden: 0 }
    }

    fn serve(&mut self, socket: &OwnedFd) -> io::Result<()> {
        loop {
            let mut question = [0];
            let (_, length) = retry_on_intr(|| recv(socket, &mut question, RecvFlags::empty()))?;
            match (length, question[0]) {
                (0, _) => return Ok(()),
                (_, FIRST) => self.begin()?,
                (_, NEXT) => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
            let next = self.next()?;
            self.answer(socket, next.as_ref())?;
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let found = find()?;
        self.hidden = found.hidden;
        self.ahead = found.namespaces.into_iter();
        Ok(())
    }

    /// The next namespace that can be entered.
    fn next(&mut self) -> io::Result<Option<(NamespaceId, Sockets)>> {
        for namespace in self.ahead.by_ref() {
            match self.home.open_in(&namespace, self.link.as_ref())? {
                Entry::Open(sockets) => return Ok(Some((namespace.id, sockets))),
                Entry::Gone => {}
                Entry::Hidden => self.hidden += 1,
            }
        }
        Ok(None)
    }

    fn answer(&self, socket: &OwnedFd, next: Option<&(NamespaceId, Sockets)>) -> io::Result<()> {
        let hidden = u32::try_from(self.hidden).unwrap_or(u32::MAX);
        let answer = match next {
            None => Answer { kind: Answer::END, hidden, inode: 0 },
            Some((id, _)) => Answer { kind: Answer::NAMESPACE, hidden, inode: id.0 },
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets = next.map(|(_, sockets)| sockets);
        let files = sockets.map(|it| iter::once(&it.netlink).chain(&it.stored));
        let files: Vec<_> = files.into_iter().flatten().map(AsFd::as_fd).collect();
        if !files.is_empty() {
            // The space is for exactly this.
            let _fits = ancillary.push(SendAncillaryMessage::ScmRights(&files));
        }
        let parts = [IoSlice::new(bytes_of(&answer))];
        retry_on_intr(|| sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }
}
