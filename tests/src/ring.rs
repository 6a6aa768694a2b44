//! Calls through `io_uring`, one at a time.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, bail};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

/// Who carries out what is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executor {
    /// The thread that submits, as far as it need not wait.
    Submitter,
    /// A worker thread of the kernel's (`IOSQE_ASYNC`).
    Worker,
    /// The kernel's thread that looks for submissions (`IORING_SETUP_SQPOLL`).
    Poller,
}

impl Executor {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Submitter, Self::Worker, Self::Poller];
}

/// A ring that one call at a time goes through.
pub struct Ring {
    ring: IoUring,
    executor: Executor,
}

impl Ring {
    /// Makes a ring, by the calling thread and for its user.
    pub fn new(executor: Executor) -> Result<Self> {
        let mut builder = IoUring::builder();
        if executor == Executor::Poller {
            builder.setup_sqpoll(1_000);
        }
        match builder.build(8) {
            Ok(ring) => Ok(Self { ring, executor }),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                bail!("io_uring is switched off here: `sysctl kernel.io_uring_disabled=0`")
            }
            Err(error) => Err(error).context("make a ring; the kernel needs CONFIG_IO_URING"),
        }
    }

    /// `IORING_OP_SOCKET`, which makes a TCP socket of IPv4.
    pub fn socket(&mut self) -> io::Result<OwnedFd> {
        let fd = self.call(&opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build())?;
        // SAFETY: the call answered a new descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `IORING_OP_CONNECT`.
    pub fn connect(&mut self, socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
        let name = Name::new(to)?;
        let (name, len) = name.as_arguments();
        let fd = Fd(socket.as_fd().as_raw_fd());
        self.call(&opcode::Connect::new(fd, name, len).build()).map(drop)
    }

    /// `IORING_OP_SENDMSG` to an address, from a socket that need not be connected.
    pub fn send_to(&mut self, socket: impl AsFd, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let name = Name::new(to)?;
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message = message(&mut part);
        let (pointer, len) = name.as_arguments();
        message.msg_name = pointer.cast_mut().cast();
        message.msg_namelen = len;
        let fd = Fd(socket.as_fd().as_raw_fd());
        self.call(&opcode::SendMsg::new(fd, &raw const message).build()).map(drop)
    }

    /// `IORING_OP_RECVMSG`, of a socket of IPv4. Answers how much came and where from.
    pub fn receive(
        &mut self,
        socket: impl AsFd,
        into: &mut [u8],
    ) -> io::Result<(usize, SocketAddr)> {
        let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let mut message = message(&mut part);
        // SAFETY: a record of numbers, for which zeros are a value.
        let mut from: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = name_len::<libc::sockaddr_in>();
        let fd = Fd(socket.as_fd().as_raw_fd());
        let n = self.call(&opcode::RecvMsg::new(fd, &raw mut message).build())?;
        let ip = u32::from_be(from.sin_addr.s_addr).into();
        let from = SocketAddrV4::new(ip, u16::from_be(from.sin_port));
        Ok((usize::try_from(n).map_err(io::Error::other)?, from.into()))
    }

    /// Submits a call and waits until it is done. What it points to outlives this function.
    fn call(&mut self, entry: &Entry) -> io::Result<RawFd> {
        let flags = match self.executor {
            Executor::Worker => Flags::ASYNC,
            Executor::Submitter | Executor::Poller => Flags::empty(),
        };
        // SAFETY: what the entry points to belongs to the callers, which wait as this does.
        unsafe { self.ring.submission().push(&entry.clone().flags(flags)) }
            .map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        match done.result() {
            result @ 0.. => Ok(result),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

/// A message of one part, to or from nobody yet.
fn message(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a record of numbers and pointers, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = std::ptr::from_mut(part);
    message.msg_iovlen = 1;
    message
}

/// An address as the kernel reads it.
enum Name {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Name {
    fn new(addr: SocketAddr) -> io::Result<Self> {
        let family = |family: i32| family.try_into().map_err(io::Error::other);
        Ok(match addr {
            SocketAddr::V4(addr) => Self::V4(libc::sockaddr_in {
                sin_family: family(libc::AF_INET)?,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(addr) => Self::V6(libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6)?,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: 0,
            }),
        })
    }

    fn as_arguments(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::V4(name) => (std::ptr::from_ref(name).cast(), name_len::<libc::sockaddr_in>()),
            Self::V6(name) => (std::ptr::from_ref(name).cast(), name_len::<libc::sockaddr_in6>()),
        }
    }
}

fn name_len<T>() -> libc::socklen_t {
    size_of::<T>().try_into().expect("it is small")
}
