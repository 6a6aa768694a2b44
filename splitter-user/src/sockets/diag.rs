//! One network namespace: its followed sockets, and closing them.
//!
//! Needs `CAP_BPF` to see what is stored on sockets and `CAP_NET_ADMIN` to close them, and of the
//! kernel `CONFIG_INET_DIAG`, `CONFIG_INET_DIAG_DESTROY` (both in every distribution's) and Linux
//! 5.8 or newer. A netlink socket belongs to the namespace in which it was made, whoever holds it,
//! and keeps that namespace alive: hold it no longer than a visit takes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use bytemuck::{Pod, Zeroable as _};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send,
    socket_with,
};

use super::wire::{
    self, ACKNOWLEDGE, Attributes, DESTROY, DONE, DUMP, DestroyRequest, ERROR, Header, INFO, LIST,
    ListRequest, MAP_VALUE, Malformed, Messages, RawId, Record, STORAGE, STORAGES, TcpInfo,
};
use crate::kernel::netns_cookie;

/// The kernel fills datagrams of up to 32 KiB when it sees that they are taken.
const DATAGRAM: usize = 32 << 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `AF_INET`.
const IPV4: u8 = 2;
/// One bit per state that has a name in [`State`].
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// The kernel could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// No netlink socket.
    #[error("open a netlink socket to ask for TCP sockets")]
    Open(#[source] io::Error),
    /// Nobody answers for TCP.
    #[error("this kernel does not tell about TCP sockets; load the modules inet_diag and tcp_diag")]
    NoDiag,
    /// Not allowed.
    #[error("the kernel does not let this process {what}: it needs {capability}")]
    NotAllowed {
        /// What was asked for.
        what: &'static str,
        /// What is missing.
        capability: &'static str,
    },
    /// Anything else.
    #[error("ask the kernel to {what}")]
    Failed {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        error: io::Error,
    },
    /// An answer of the kernel makes no sense.
    #[error(
        "the kernel's answer about TCP sockets is malformed, which newer splitters may understand"
    )]
    Malformed,
}

impl From<Malformed> for DiagError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What names one socket of a namespace for as long as the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    family: u8,
    raw: RawId,
}

impl SocketId {
    /// The number that the kernel gave the socket, as `SO_COOKIE` says it. Never given twice.
    pub fn cookie(&self) -> u64 {
        let [low, high] = self.raw.cookie.map(u64::from);
        high << 32 | low
    }
}

/// Where a TCP connection is in its life. Sockets without stored values, such as listening ones and
/// those in `TIME_WAIT`, have no place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first packet is out.
    SynSent,
    /// Both sides may send.
    Established,
    /// This side has closed, in one of the states up to the end.
    Closing,
    /// The other side has closed, and this one may still send.
    CloseWait,
}

impl State {
    /// From `include/net/tcp_states.h`.
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Established),
            2 => Some(Self::SynSent),
            4 | 5 | 9 | 11 => Some(Self::Closing),
            8 => Some(Self::CloseWait),
            _ => None,
        }
    }
}

/// A socket with a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed<'a> {
    /// What [`SockDiag::destroy`] takes.
    pub id: SocketId,
    /// Where in its life.
    pub state: State,
    /// The client's own address; IPv4 in mapped form where the socket is an IPv6 one.
    pub local: SocketAddr,
    /// The backend, in the same form.
    pub peer: SocketAddr,
    /// Milliseconds since data last went either way; acknowledgements and keepalive probes do not
    /// count. Nothing before the connection is established. Starts anew after 49 days.
    pub idle_ms: Option<u32>,
    /// Smoothed round-trip time in microseconds; 0 before the first sample.
    pub rtt_us: u32,
    /// Bytes that arrived and the client has not read.
    pub unread: u32,
    /// Bytes that the client wrote and the backend has not acknowledged.
    pub unacknowledged: u32,
    /// The map's value. Not aligned to anything: read it with `bytemuck::pod_read_unaligned`.
    pub stored: &'a [u8],
}

/// How an attempt to close a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// It is closed: the peer got a reset, and the client's next call fails with `ECONNABORTED`. Or
    /// the client had closed it, and the kernel forgot what it still remembered (`TIME_WAIT`).
    Closed,
    /// It was closed already. Another socket may have its addresses; that one was not touched.
    Gone,
    /// This kernel closes no sockets (`CONFIG_INET_DIAG_DESTROY` is not set).
    Unsupported,
    /// The namespace belongs to somebody over whom this process has no `CAP_NET_ADMIN`.
    Refused,
}

/// A netlink socket to ask for TCP sockets.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    datagram: Vec<u8>,
    sequence: u32,
}

/// Makes a netlink socket in the network namespace of the calling thread. Needs no privilege.
pub(super) fn open_socket() -> io::Result<OwnedFd> {
    let family = AddressFamily::NETLINK;
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // Who rules a namespace may send to the netlink sockets in it; to a connected one, only the
    // kernel may.
    connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

impl SockDiag {
    /// Asks within the network namespace of the calling thread.
    pub fn open() -> Result<Self, DiagError> {
        open_socket().map(Self::from_socket).map_err(DiagError::Open)
    }

    /// Asks within the namespace in which [`open_socket`] was called.
    pub(super) fn from_socket(socket: OwnedFd) -> Self {
        Self { socket, datagram: vec![0; DATAGRAM], sequence: 0 }
    }

    /// The cookie of the namespace, which the kernel gives once and never again.
    pub fn namespace_cookie(&self) -> io::Result<u64> {
        netns_cookie(&self.socket)
    }

    /// Calls `see` for every TCP socket that has a value in a socket storage map.
    ///
    /// Memory does not grow with the number of sockets, time does: the kernel walks through its
    /// table of the TCP sockets of all namespaces. The table changes meanwhile, and a socket may be
    /// missed, or seen twice. After an error, take a new [`SockDiag`].
    pub fn list(
        &mut self,
        storage: BorrowedFd<'_>,
        mut see: impl FnMut(&Followed<'_>),
    ) -> Result<(), DiagError> {
        let extensions = 1 << (INFO - 1);
        let request = ListRequest { extensions, states: STATES, ..ListRequest::zeroed() };
        let map = storage.as_raw_fd().cast_unsigned();
        self.ask((LIST, DUMP), &request, Some(map)).map_err(list_error)?;
        loop {
            let datagram = self.receive()?;
            for message in Messages::new(&self.datagram[..datagram]) {
                let (header, body) = message?;
                if header.sequence != self.sequence {
                    continue;
                }
                if let Some(end) = read_end(header, body)? {
                    return end.map_err(list_error);
                }
                if let Some(followed) = read_followed(body)? {
                    see(&followed);
                }
            }
        }
    }

    /// Closes exactly this socket: the kernel compares its cookie.
    pub fn destroy(&mut self, id: &SocketId) -> Result<Destroyed, DiagError> {
        match self.try_destroy(id)? {
            Ok(()) => Ok(Destroyed::Closed),
            Err(errno) => match errno.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(Destroyed::Gone),
                Some(libc::EPERM | libc::EACCES) => Ok(Destroyed::Refused),
                Some(libc::EOPNOTSUPP) => self.why_unsupported(),
                _ => Err(DiagError::Failed { what: "close a TCP socket", error: errno }),
            },
        }
    }

    /// Kernels without the feature say so whatever is asked for. Older ones with it say the same
    /// of a socket in `TIME_WAIT`, but not of one that cannot be.
    fn why_unsupported(&mut self) -> Result<Destroyed, DiagError> {
        // No socket has the cookie 0.
        let nobody = SocketId { family: IPV4, raw: RawId::zeroed() };
        match self.try_destroy(&nobody)? {
            Err(errno) if errno.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(Destroyed::Unsupported)
            }
            _ => Ok(Destroyed::Gone),
        }
    }

    /// What the kernel says to closing a socket.
    fn try_destroy(&mut self, id: &SocketId) -> Result<io::Result<()>, DiagError> {
        let (family, id) = (id.family, id.raw);
        let request = DestroyRequest { family, protocol: TCP, id, ..DestroyRequest::zeroed() };
        let error = |error| DiagError::Failed { what: "close a TCP socket", error };
        self.ask((DESTROY, ACKNOWLEDGE), &request, None).map_err(error)?;
        loop {
            let datagram = self.receive()?;
            for message in Messages::new(&self.datagram[..datagram]) {
                let (header, body) = message?;
                if header.sequence != self.sequence {
                    continue;
                }
                if let Some(end) = read_end(header, body)? {
                    return Ok(end);
                }
            }
        }
    }

    fn ask(
        &mut self,
        (kind, flags): (u16, u16),
        request: &impl Pod,
        map: Option<u32>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = wire::write_request((kind, flags, self.sequence), request, map);
        send(self.socket.as_fd(), &message, SendFlags::empty())?;
        Ok(())
    }

    /// Receives a datagram. Answers its length.
    fn receive(&mut self) -> Result<usize, DiagError> {
        let datagram = &mut self.datagram[..];
        let received = retry_on_intr(|| recv(&self.socket, &mut *datagram, RecvFlags::TRUNC));
        let error = |errno: Errno| DiagError::Failed { what: "answer", error: errno.into() };
        let (_, length) = received.map_err(error)?;
        // A longer one than any kernel makes was cut off.
        if length <= self.datagram.len() { Ok(length) } else { Err(DiagError::Malformed) }
    }
}

/// How a request ended, if this message ends it.
fn read_end(header: Header, body: &[u8]) -> Result<Option<io::Result<()>>, DiagError> {
    match header.kind {
        ERROR | DONE => Ok(Some(match wire::read::<i32>(body)? {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(()),
        })),
        _ => Ok(None),
    }
}

fn list_error(error: io::Error) -> DiagError {
    let what = "list TCP sockets with what is stored on them";
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOENT) => DiagError::NoDiag,
        Some(libc::EPERM) => DiagError::NotAllowed { what, capability: "CAP_BPF" },
        _ => DiagError::Failed { what, error },
    }
}

/// Nothing where the socket has no stored value.
fn read_followed(body: &[u8]) -> Result<Option<Followed<'_>>, DiagError> {
    let record: Record = wire::read(body)?;
    let attributes = || Attributes::new(body.get(size_of::<Record>()..).unwrap_or(&[]));
    let Some(stored) = read_stored(attributes())? else { return Ok(None) };
    // It may have closed since the kernel looked whether its state was asked for.
    let Some(state) = State::from_number(record.state) else { return Ok(None) };
    let info: TcpInfo = wire::read(attributes().find(INFO)?.ok_or(DiagError::Malformed)?)?;
    let id = SocketId { family: record.family, raw: record.id };
    let (local, peer) = record.id.ends(record.family).ok_or(DiagError::Malformed)?;
    let idle_ms = info.last_data_sent.min(info.last_data_received);
    Ok(Some(Followed {
        id,
        state,
        local,
        peer,
        idle_ms: (state != State::SynSent).then_some(idle_ms),
        rtt_us: info.rtt,
        unread: record.unread,
        unacknowledged: record.unacknowledged,
        stored,
    }))
}

fn read_stored(attributes: Attributes<'_>) -> Result<Option<&[u8]>, Malformed> {
    let Some(storages) = attributes.find(STORAGES)? else { return Ok(None) };
    let Some(storage) = Attributes::new(storages).find(STORAGE)? else { return Ok(None) };
    Attributes::new(storage).find(MAP_VALUE)
}
