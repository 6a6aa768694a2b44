//! One network namespace: its followed sockets, and closing them.
//!
//! Needs `CAP_BPF` to see what is stored on sockets and `CAP_NET_ADMIN` to close them, and of the
//! kernel `CONFIG_INET_DIAG`, `CONFIG_INET_DIAG_DESTROY` (both in every distribution's) and Linux
//! 5.8 or newer. A netlink socket belongs to the namespace in which it was made, whoever holds it,
//! and keeps that namespace alive: hold it no longer than a visit takes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use bytemuck::{Pod, Zeroable as _, bytes_of};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send,
    socket_with,
};
use splitter_common::abi::SocketState;

use crate::kernel::open_socket_list;

use super::stored;
use super::wire::{
    self, ACKNOWLEDGE, Attributes, DESTROY, DONE, DUMP, ERROR, FamilyRequest, Header, INFO, LIST,
    LIST_FAMILY, ListRequest, MAP_VALUE, Malformed, Messages, RawId, Record, STORAGE, STORAGES,
    TcpInfo,
};
use crate::kernel::netns_cookie;

/// The kernel fills datagrams of up to 32 KiB when it sees that they are taken.
const DATAGRAM: usize = 32 << 10;
/// `AF_INET` and `AF_INET6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// One bit per state that has a name in [`State`].
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// The state of UDP sockets that are connected.
const CONNECTED: u32 = 1 << 1;

/// What closing is in messages.
const CLOSE: &str = "close a socket";

/// The kernel could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// No netlink socket.
    #[error("open a netlink socket to ask for sockets")]
    Open(#[source] io::Error),
    /// Nobody answers for a protocol.
    #[error("this kernel does not tell about {name} sockets; load the modules inet_diag and {module}",
        name = .0.name(), module = .0.module())]
    NoDiag(Protocol),
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
    /// What is stored on UDP sockets.
    #[error("ask the kernel for what is stored on UDP sockets")]
    Stored(#[source] io::Error),
    /// Nor where it is.
    #[error("the list of what is stored on UDP sockets was not opened in their network namespace")]
    NoList,
    /// An answer of the kernel makes no sense.
    #[error("the kernel's answer about sockets is malformed, which newer splitters may understand")]
    Malformed,
}

impl From<Malformed> for DiagError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What sockets speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// What answers for it.
    const fn module(self) -> &'static str {
        match self {
            Self::Tcp => "tcp_diag",
            Self::Udp => "udp_diag",
        }
    }
}

/// What names one socket of a namespace for as long as the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    protocol: Protocol,
    family: u8,
    raw: RawId,
}

impl SocketId {
    /// The number that the kernel gave the socket, as `SO_COOKIE` says it. Never given twice.
    pub fn cookie(&self) -> u64 {
        self.raw.cookie()
    }

    /// What the socket speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

/// Where a TCP connection is in its life; a UDP socket that is connected is established. Sockets
/// without stored values, such as listening ones and those in `TIME_WAIT`, have no place here.
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
    /// count. Nothing before the connection is established, and of UDP, of which the kernel does not
    /// know. Starts anew after 49 days.
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
    /// the client had closed it, and the kernel forgot what it still remembered (`TIME_WAIT`). A UDP
    /// socket is not connected any more, and its peer is told nothing.
    Closed,
    /// It was closed already. Another socket may have its addresses; that one was not touched.
    /// The kernel answers the same of a UDP socket that shares its addresses with one that it
    /// finds first (`SO_REUSEPORT`).
    Gone,
    /// This kernel closes no sockets (`CONFIG_INET_DIAG_DESTROY` is not set).
    Unsupported,
    /// The namespace belongs to somebody over whom this process has no `CAP_NET_ADMIN`.
    Refused,
}

/// A netlink socket to ask for sockets.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    /// What is stored on UDP sockets, if that may be asked for.
    stored: Option<File>,
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
        open_socket().map(|socket| Self::new(socket, None)).map_err(DiagError::Open)
    }

    /// The same, for UDP too, by the link of the list of its sockets.
    pub fn open_with(link: &impl AsFd) -> Result<Self, DiagError> {
        let list = open_socket_list(link).map_err(DiagError::Stored)?;
        open_socket().map(|socket| Self::new(socket, Some(list))).map_err(DiagError::Open)
    }

    /// Asks within the namespace in which [`open_socket`] was called, and `stored` opened.
    pub(super) fn new(socket: OwnedFd, stored: Option<OwnedFd>) -> Self {
        let stored = stored.map(File::from);
        Self { socket, stored, datagram: vec![0; DATAGRAM], sequence: 0 }
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
        self.dump((LIST, &request), Protocol::Tcp, Some(storage), |body| {
            if let Some(followed) = read_followed(body)? {
                see(&followed);
            }
            Ok(())
        })
    }

    /// Calls `see` for every connected UDP socket whose stored value is wanted: of UDP, the kernel does
    /// not tell what is stored along with the rest. Where none is, nothing more is asked.
    ///
    /// The list of what is stored is read once, so this is for one call. As [`Self::list`] otherwise.
    pub fn list_datagrams(
        &mut self,
        is_wanted: impl Fn(&SocketState) -> bool,
        mut see: impl FnMut(&Followed<'_>),
    ) -> Result<(), DiagError> {
        let list = self.stored.as_mut().ok_or(DiagError::NoList)?;
        let stored = stored::read(list, is_wanted).map_err(DiagError::Stored)?;
        let protocol = Protocol::Udp.number();
        for family in [IPV4, IPV6].into_iter().filter(|_| !stored.is_empty()) {
            let states = CONNECTED;
            let request = FamilyRequest { family, protocol, states, ..FamilyRequest::zeroed() };
            self.dump((LIST_FAMILY, &request), Protocol::Udp, None, |body| {
                if let Some(followed) = read_datagrams(body, &stored)? {
                    see(&followed);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Calls `see` for every socket of an answer.
    fn dump(
        &mut self,
        (kind, request): (u16, &impl Pod),
        protocol: Protocol,
        storage: Option<BorrowedFd<'_>>,
        mut see: impl FnMut(&[u8]) -> Result<(), DiagError>,
    ) -> Result<(), DiagError> {
        let map = storage.map(|map| map.as_raw_fd().cast_unsigned());
        let failed = |error| list_error(error, protocol);
        self.ask((kind, DUMP), request, map).map_err(failed)?;
        loop {
            let datagram = self.receive()?;
            for message in Messages::new(&self.datagram[..datagram]) {
                let (header, body) = message?;
                if header.sequence != self.sequence {
                    continue;
                }
                if let Some(end) = read_end(header, body)? {
                    return end.map_err(failed);
                }
                see(body)?;
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
                Some(libc::EOPNOTSUPP) => self.why_unsupported(id.protocol),
                _ => Err(DiagError::Failed { what: CLOSE, error: errno }),
            },
        }
    }

    /// Kernels without the feature say so whatever is asked for. Older ones with it say the same
    /// of a socket in `TIME_WAIT`, but not of one that cannot be.
    fn why_unsupported(&mut self, protocol: Protocol) -> Result<Destroyed, DiagError> {
        // No socket has the cookie 0.
        let nobody = SocketId { protocol, family: IPV4, raw: RawId::zeroed() };
        match self.try_destroy(&nobody)? {
            Err(errno) if errno.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(Destroyed::Unsupported)
            }
            _ => Ok(Destroyed::Gone),
        }
    }

    /// What the kernel says to closing a socket.
    fn try_destroy(&mut self, id: &SocketId) -> Result<io::Result<()>, DiagError> {
        let (family, protocol, id) = (id.family, id.protocol.number(), id.raw);
        let request = FamilyRequest { family, protocol, id, ..FamilyRequest::zeroed() };
        let error = |error| DiagError::Failed { what: CLOSE, error };
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

fn list_error(error: io::Error, protocol: Protocol) -> DiagError {
    let what = "list sockets with what is stored on them";
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOENT) => DiagError::NoDiag(protocol),
        Some(libc::EPERM) => DiagError::NotAllowed { what, capability: "CAP_BPF" },
        _ => DiagError::Failed { what, error },
    }
}

/// A TCP socket; nothing where it has no stored value.
fn read_followed(body: &[u8]) -> Result<Option<Followed<'_>>, DiagError> {
    let record: Record = wire::read(body)?;
    let attributes = || Attributes::new(body.get(size_of::<Record>()..).unwrap_or(&[]));
    let Some(stored) = read_stored(attributes())? else { return Ok(None) };
    let Some(followed) = Followed::new(&record, Protocol::Tcp, stored)? else { return Ok(None) };
    let info: TcpInfo = wire::read(attributes().find(INFO)?.ok_or(DiagError::Malformed)?)?;
    let idle_ms = info.last_data_sent.min(info.last_data_received);
    let idle_ms = (followed.state != State::SynSent).then_some(idle_ms);
    Ok(Some(Followed { idle_ms, rtt_us: info.rtt, ..followed }))
}

/// A UDP socket; nothing where it has no stored value.
fn read_datagrams<'a>(
    body: &[u8],
    stored: &'a HashMap<u64, SocketState>,
) -> Result<Option<Followed<'a>>, DiagError> {
    let record: Record = wire::read(body)?;
    match stored.get(&record.id.cookie()) {
        Some(stored) => Followed::new(&record, Protocol::Udp, bytes_of(stored)),
        None => Ok(None),
    }
}

impl<'a> Followed<'a> {
    /// What every protocol has. Nothing where the socket has closed since the kernel looked whether
    /// its state was asked for.
    fn new(
        record: &Record,
        protocol: Protocol,
        stored: &'a [u8],
    ) -> Result<Option<Self>, DiagError> {
        let Some(state) = State::from_number(record.state) else { return Ok(None) };
        let (local, peer) = record.id.ends(record.family).ok_or(DiagError::Malformed)?;
        Ok(Some(Self {
            id: SocketId { protocol, family: record.family, raw: record.id },
            state,
            local,
            peer,
            idle_ms: None,
            rtt_us: 0,
            unread: record.unread,
            unacknowledged: record.unacknowledged,
            stored,
        }))
    }
}

fn read_stored(attributes: Attributes<'_>) -> Result<Option<&[u8]>, Malformed> {
    let Some(storages) = attributes.find(STORAGES)? else { return Ok(None) };
    let Some(storage) = Attributes::new(storages).find(STORAGE)? else { return Ok(None) };
    Attributes::new(storage).find(MAP_VALUE)
}
