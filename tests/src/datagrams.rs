//! Servers of datagrams, and ways to send that the standard library does not have.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// How long a datagram is waited for that should be on its way.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that answers datagrams by a function of them, until it is dropped.
pub struct DatagramServer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramServer {
    /// Answers each datagram with its own port in front of it.
    pub fn echo(addr: &str) -> Result<Self> {
        let addr: SocketAddr = addr.parse()?;
        let port = addr.port().to_be_bytes();
        Self::start(addr, move |asked| [&port, asked].concat())
    }

    /// Answers by a function.
    pub fn start(
        addr: SocketAddr,
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        let socket = UdpSocket::bind(addr).with_context(|| format!("bind {addr}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut asked = [0; 2_048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut asked) {
                    // A client that is gone misses nothing.
                    let _sent = socket.send_to(&answer(&asked[..n]), from);
                }
            }
        });
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for DatagramServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// A socket that waits for what it receives, but not for ever.
pub fn datagram_socket(addr: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A connected socket that shares its own address with others, and does not wait.
pub fn sharing_socket(own: &str, to: &str) -> Result<UdpSocket> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &own.parse::<SocketAddr>()?)?;
    let socket = UdpSocket::from(socket);
    socket.connect(to)?;
    Ok(socket)
}

/// Sends a datagram without connecting. Answers from where the answer seems to come, and which port
/// [`DatagramServer::echo`] says that it has.
pub fn exchange(socket: &UdpSocket, to: SocketAddr) -> io::Result<(SocketAddr, u16)> {
    socket.send_to(b"?", to)?;
    receive(socket)
}

/// An answer of [`DatagramServer::echo`].
pub fn receive(socket: &UdpSocket) -> io::Result<(SocketAddr, u16)> {
    let mut answer = [0; 64];
    let (n, from) = socket.recv_from(&mut answer)?;
    match answer[..n] {
        [high, low, ..] => Ok((from, u16::from_be_bytes([high, low]))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a datagram of one byte to each of some addresses, by one `sendmmsg(2)`. Answers how many
/// were sent.
pub fn send_many(socket: &UdpSocket, to: &[SocketAddrV4]) -> io::Result<usize> {
    let address = |to: &SocketAddrV4| libc::sockaddr_in {
        sin_family: libc::AF_INET.try_into().expect("2"),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let mut addresses: Vec<libc::sockaddr_in> = to.iter().map(address).collect();
    let mut byte = *b"?";
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let message = |address: &mut libc::sockaddr_in| {
        // SAFETY: a record of numbers and pointers, for which zeros are a value.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
        message.msg_hdr.msg_namelen =
            size_of::<libc::sockaddr_in>().try_into().expect("it is small");
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    let mut messages: Vec<libc::mmsghdr> = addresses.iter_mut().map(message).collect();
    let n = u32::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: a live descriptor, and records that point to what outlives the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), n, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
