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
//!
//! Two parts of the daemon ask, each by a line of its own and at its own pace: who closes
//! connections may be in the middle of a long round when the policy names a namespace.

mod confinement;

use std::io::{self, IoSlice, IoSliceMut};
use std::iter;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::vec::IntoIter;

use bytemuck::{Pod, Zeroable, bytes_of, bytes_of_mut};
use rustix::event::{PollFd, PollFlags, poll};
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

/// The running process, seen from one of the two that ask it. It ends when both are dropped, or the
/// daemon ends.
pub struct Opener {
    line: Line,
    process: Arc<Process>,
}

/// Closed when dropped, so that the process knows that nobody can ask on it any more.
struct Line(OwnedFd);

impl Drop for Line {
    fn drop(&mut self) {
        // Should it fail, the process is gone already.
        let _closed = shutdown(&self.0, Shutdown::Both);
    }
}

/// Waited for when nobody can ask it any more.
struct Process(Mutex<Child>);

impl Drop for Process {
    fn drop(&mut self) {
        // Should it fail, somebody else has waited.
        let _status = self.0.get_mut().map(Child::wait);
    }
}

impl Opener {
    /// Starts `program namespaces`, where `program` is this very program: `/proc/self/exe` is it also
    /// where its file was replaced. With `list`, the link of the list of UDP sockets, it opens that too. To be
    /// called before capabilities are dropped; not possible where they are missing already.
    pub fn start(program: &Path, list: Option<&OwnedFd>) -> Result<[Self; 2], OpenerError> {
        let start = |errno: rustix::io::Errno| OpenerError::Start(errno.into());
        let permitted = capabilities(None).map_err(start)?.permitted;
        if !permitted.contains(confinement::NEEDED) {
            return Err(OpenerError::NotPrivileged);
        }
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (first, its_first) =
            socketpair(family, kind, SocketFlags::CLOEXEC, None).map_err(start)?;
        let (second, its_second) =
            socketpair(family, kind, SocketFlags::CLOEXEC, None).map_err(start)?;
        let child = Command::new(program)
            .arg0("splitter")
            .arg("namespaces")
            .env_clear()
            .current_dir("/")
            .stdin(its_first)
            .stdout(Stdio::null())
            .spawn()
            .map_err(OpenerError::Start)?;
        // It is given one file with its start, and the others by that.
        let files = iter::once(&its_second).chain(list).map(AsFd::as_fd);
        send_files(&first, &[0], &files.collect::<Vec<_>>()).map_err(OpenerError::Start)?;
        let process = Arc::new(Process(Mutex::new(child)));
        let opener = |socket| Self { line: Line(socket), process: Arc::clone(&process) };
        Ok([first, second].map(opener))
    }

    /// Process id, for `status`.
    pub fn pid(&self) -> u32 {
        self.process.0.lock().unwrap_or_else(PoisonError::into_inner).id()
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
        retry_on_intr(|| send(&self.line.0, &[question], SendFlags::NOSIGNAL))?;
        let mut answer = Answer::zeroed();
        let mut files = receive_files(&self.line.0, bytes_of_mut(&mut answer))?.into_iter();
        let sockets = files.next().map(|netlink| Sockets { netlink, stored: files.next() });
        match (answer.kind, &sockets) {
            (Answer::END, None) | (Answer::NAMESPACE, Some(_)) => Ok((answer, sockets)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Sends bytes, and with them at most two files.
fn send_files(socket: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        // The space is for exactly this.
        let _fits = ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    let parts = [IoSlice::new(bytes)];
    retry_on_intr(|| sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives bytes, and the files that come with them.
fn receive_files(socket: &OwnedFd, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = {
        let mut parts = [IoSliceMut::new(bytes)];
        retry_on_intr(|| recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?
    };
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<OwnedFd> = files.flatten().collect();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Without a free descriptor, the kernel leaves files out and says so.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(files)
}

/// The process itself: answers questions on the line that it is given, and on the one that comes on it
/// first, until the other ends are closed. The link of the list of UDP sockets comes along, if there
/// is one.
pub fn serve(first: OwnedFd) -> Result<(), OpenerError> {
    let mut files = receive_files(&first, &mut [0]).map_err(OpenerError::Start)?.into_iter();
    let lines = [Some(first), files.next()];
    let list = files.next().filter(|list| open_socket_list(list).is_ok());
    confinement::keep_capabilities().map_err(OpenerError::Start)?;
    let home = Home::new().map_err(OpenerError::Own)?;
    confinement::forbid_system_calls().map_err(OpenerError::Start)?;
    let walk = |line| Walk::new(&home, list.as_ref(), line);
    let mut walks: Vec<Walk<'_>> = lines.into_iter().flatten().map(walk).collect();
    while !walks.is_empty() {
        let asking = wait(&walks).map_err(OpenerError::Lost)?;
        // From the last on, so that those that end do not move the others.
        for index in asking.into_iter().rev() {
            if walks[index].serve_one().map_err(OpenerError::Lost)?.is_break() {
                walks.remove(index);
            }
        }
    }
    Ok(())
}

/// Waits for questions. Answers on which lines there are some.
fn wait(walks: &[Walk<'_>]) -> io::Result<Vec<usize>> {
    let mut lines: Vec<PollFd<'_>> =
        walks.iter().map(|walk| PollFd::new(&walk.line, PollFlags::IN)).collect();
    retry_on_intr(|| poll(&mut lines, None))?;
    let lines = lines.iter().enumerate();
    Ok(lines.filter(|(_, line)| !line.revents().is_empty()).map(|(index, _)| index).collect())
}

/// Where who asks on one line is on the way through the namespaces.
struct Walk<'a> {
    home: &'a Home,
    list: Option<&'a OwnedFd>,
    line: OwnedFd,
    ahead: IntoIter<Namespace>,
    hidden: usize,
}

impl<'a> Walk<'a> {
    fn new(home: &'a Home, list: Option<&'a OwnedFd>, line: OwnedFd) -> Self {
        Self { home, list, line, ahead: Vec::new().into_iter(), hidden: 0 }
    }

    /// Answers one question, which is there. Breaks where nobody asks any more.
    fn serve_one(&mut self) -> io::Result<ControlFlow<()>> {
        let mut question = [0];
        let (_, length) = retry_on_intr(|| recv(&self.line, &mut question, RecvFlags::empty()))?;
        match (length, question[0]) {
            (0, _) => return Ok(ControlFlow::Break(())),
            (_, FIRST) => self.begin()?,
            (_, NEXT) => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        let next = self.next()?;
        match self.answer(next.as_ref()) {
            // Who asked is gone, and the other one may be there still.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            answered => answered.map(ControlFlow::Continue),
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
            match self.home.open_in(&namespace, self.list)? {
                Entry::Open(sockets) => return Ok(Some((namespace.id, sockets))),
                Entry::Gone => {}
                Entry::Hidden => self.hidden += 1,
            }
        }
        Ok(None)
    }

    fn answer(&self, next: Option<&(NamespaceId, Sockets)>) -> io::Result<()> {
        let hidden = u32::try_from(self.hidden).unwrap_or(u32::MAX);
        let answer = match next {
            None => Answer { kind: Answer::END, hidden, inode: 0 },
            Some((id, _)) => Answer { kind: Answer::NAMESPACE, hidden, inode: id.0 },
        };
        let sockets = next.map(|(_, sockets)| sockets);
        let files = sockets.map(|it| iter::once(&it.netlink).chain(&it.stored));
        let files: Vec<_> = files.into_iter().flatten().map(AsFd::as_fd).collect();
        send_files(&self.line, bytes_of(&answer), &files)
    }
}
