//! Real servers and clients on loopback.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};

/// A server that answers every connection with its own port, and ends when it is dropped.
pub struct PortServer {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PortServer {
    /// Listens on an address.
    pub fn start(addr: &str) -> Result<Self> {
        let listener = TcpListener::bind(addr).with_context(|| format!("listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&listener, &stopped));
        Ok(Self { addr, stop, thread: Some(thread) })
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        // The socket's own view: on a wildcard listener, the address that was connected to.
        let port = stream.local_addr().map_or(0, |addr| addr.port());
        let _ = stream.write_all(&port.to_be_bytes());
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects over TCP and asks which port answered. The connection is reset, so that no port is
/// left in `TIME_WAIT`.
pub fn ask_port(addr: &str) -> io::Result<u16> {
    let addr: SocketAddr = addr.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(addr)?;
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    reset_on_close(&stream)?;
    Ok(u16::from_be_bytes(port))
}

/// Makes the kernel reset the connection when its socket is closed.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap_or(0);
    // SAFETY: a live descriptor and an option value of its type and size.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A UDP socket that connects again and again: nothing but the hook decides where it ends up, and
/// no server is needed.
pub struct UdpClient {
    socket: UdpSocket,
    frontend: SocketAddr,
}

impl UdpClient {
    /// A client of one frontend.
    pub fn new(frontend: &str) -> Result<Self> {
        let frontend: SocketAddr = frontend.parse().context("frontend")?;
        let local = if frontend.is_ipv4() { "127.0.0.1:0" } else { "[::]:0" };
        Ok(Self { socket: UdpSocket::bind(local)?, frontend })
    }

    /// Connects and answers where to.
    pub fn connect(&self) -> io::Result<SocketAddr> {
        self.socket.connect(self.frontend)?;
        self.socket.peer_addr()
    }

    /// Connects and answers to which port.
    pub fn connect_port(&self) -> io::Result<u16> {
        self.connect().map(|addr| addr.port())
    }
}
