//! Network namespaces of the test's own, and clients in them.

use std::fs;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};

use crate::peers::reset_on_close;

/// `SO_NETNS_COOKIE` of `include/uapi/asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// `SIOCOUTQNSD` of `include/uapi/linux/sockios.h`.
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Runs in a thread with a network of its own, in which every port of loopback is free.
pub fn in_own_network<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        // SAFETY: a system call on a number, for this thread, which ends after.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).context("make a network namespace");
        }
        raise_loopback().context("raise the loopback interface")?;
        // A client that is closed while its FIN is acknowledged is kept so long, in seconds.
        fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1").context("set tcp_fin_timeout")?;
        run()
    };
    thread::scope(|threads| threads.spawn(inside).join().expect("it does not panic"))
}

fn raise_loopback() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a record of numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: a live descriptor and a live record of the type that the request takes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A socket that connects or listens by MPTCP.
pub fn mptcp_socket() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::MPTCP));
    socket.context("make an MPTCP socket; the kernel needs CONFIG_MPTCP")
}

/// The kernel's number of this thread's network namespace.
pub fn network_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0_u64;
    let mut size = 8;
    // SAFETY: a live descriptor, and a value and a length that match.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Level and number of an option that is a number, as `getsockopt(2)` has them.
pub type NumberOption = (libc::c_int, libc::c_int);

/// An option that is a number.
pub fn number_option(socket: impl AsFd, (level, name): NumberOption) -> io::Result<u32> {
    let (mut value, mut size) = (0_u32, 4);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: a live descriptor, and a value and a length that match.
    let result =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option that is a number.
pub fn set_number_option(
    socket: impl AsFd,
    (level, name): NumberOption,
    value: u32,
) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: a live descriptor, and a value and a length that match.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were written to a TCP socket and have not left once.
pub fn n_unsent(socket: impl AsFd) -> io::Result<u32> {
    let mut n = 0_u32;
    // SAFETY: a live descriptor and a number, which is what the request writes.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCOUTQNSD, &raw mut n) };
    if result == 0 { Ok(n) } else { Err(io::Error::last_os_error()) }
}

/// Connects over TCP. Answers what `getpeername` says and which port answered.
pub fn dial(addr: SocketAddr) -> io::Result<(SocketAddr, u16)> {
    let mut stream = TcpStream::connect(addr)?;
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    reset_on_close(&stream)?;
    Ok((stream.peer_addr()?, u16::from_be_bytes(port)))
}

/// Listens at an address whose backlog is full: whoever connects from here on is not answered.
pub fn full_listener(addr: &str) -> Result<(OwnedFd, TcpStream)> {
    let addr: SocketAddr = addr.parse()?;
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &addr)?;
    listen(&socket, 0)?;
    // A backlog of 0 has room for one.
    Ok((socket, TcpStream::connect(addr)?))
}

/// Sets an option of a socket that is a number, by the numbers that `setsockopt` takes.
pub fn set_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_option_bytes(socket, (level, option), (&raw const value).cast(), size_of::<i32>())
}

fn set_option_bytes(
    socket: impl AsFd,
    (level, option): (i32, i32),
    value: *const libc::c_void,
    size: usize,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: a live descriptor; callers hand over a live value with its size.
    let result = unsafe { libc::setsockopt(fd, level, option, value, size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends an Ethernet frame of IPv4 through a device, by a socket that knows no protocol.
pub fn send_frame(device: &std::ffi::CStr, frame: &[u8]) -> io::Result<()> {
    let kind = (AddressFamily::PACKET, SocketType::RAW);
    let socket = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    // SAFETY: a string that outlives the call, and a record of numbers, for which zeros are a value.
    let (index, mut to) =
        unsafe { (libc::if_nametoindex(device.as_ptr()), std::mem::zeroed::<libc::sockaddr_ll>()) };
    to.sll_family = libc::AF_PACKET.try_into().map_err(io::Error::other)?;
    to.sll_protocol = u16::try_from(libc::ETH_P_IP).map_err(io::Error::other)?.to_be();
    to.sll_ifindex = index.try_into().map_err(io::Error::other)?;
    let size = size_of_val(&to).try_into().map_err(io::Error::other)?;
    let (fd, bytes) = (socket.as_raw_fd(), frame.as_ptr().cast());
    // SAFETY: a live descriptor, and bytes and an address with their sizes.
    let sent = unsafe { libc::sendto(fd, bytes, frame.len(), 0, (&raw const to).cast(), size) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Uses up the memory that the kernel gives to the options of one socket, but for some bytes, by a
/// packet filter that lets everything pass.
pub fn fill_option_memory(socket: impl AsFd) -> io::Result<()> {
    // As the kernel keeps them, some instructions take the place of several.
    let (large, small) = (0xb1_u16, 0x84_u16);
    let accepts = libc::sock_filter { code: 6, jt: 0, jf: 0, k: u32::MAX };
    let attach = |n_large: usize, n_small: usize| -> io::Result<()> {
        // Old and new filter would count together.
        let _none = set_option(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
        let step = |code| libc::sock_filter { code, jt: 0, jf: 0, k: 0 };
        let mut steps = vec![step(large); n_large];
        steps.extend(vec![step(small); n_small]);
        steps.push(accepts);
        let len = libc::c_ushort::try_from(steps.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
        let option = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
        set_option_bytes(&socket, option, (&raw const program).cast(), size_of_val(&program))
    };
    let most = |low: usize, high: usize, fits: &dyn Fn(usize) -> bool| {
        let (mut low, mut high) = (low, high);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    };
    let n_large = most(0, 4_000, &|n| attach(n, 0).is_ok());
    let n_small = most(0, 90, &|n| attach(n_large, n).is_ok());
    if attach(n_large, n_small + 1).is_ok() {
        return Err(io::Error::other("no filter is too large for this kernel"));
    }
    attach(n_large, n_small)
}

/// A process in the network namespace of the calling thread, which ends when this is dropped.
pub struct Inhabitant(Child);

impl Inhabitant {
    /// Starts it.
    pub fn new() -> Result<Self> {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self(command.spawn().context("run cat")?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
