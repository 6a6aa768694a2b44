//! The server's side: answers every request with the address that it was sent to.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::{set_socket_linger, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::protocol::MESSAGE;
use super::work::name_tag;

/// Connections that wait to be accepted. The kernel allows 4,096 unless told otherwise.
const BACKLOG: i32 = 4_096;
/// Connections of one listener that are served at a time: more than any bench has clients, so that
/// none waits for another to be closed.
const SERVERS: usize = 32;
/// A drained backlog never fills: a client makes fewer than 200 connections in this time.
const DRAIN_INTERVAL: Duration = Duration::from_millis(1);
/// A server's thread needs little, and there are many.
const STACK: usize = 64 << 10;

/// A listener with the longest backlog, whose connections are reset when they are closed.
pub fn listen_on(addr: SocketAddr) -> Result<TcpListener> {
    let make = || -> io::Result<TcpListener> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_reuseaddr(&socket, true)?;
        // Accepted sockets inherit it, which spares a system call for each.
        set_socket_linger(&socket, Some(Duration::ZERO))?;
        bind(&socket, &addr)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    };
    make().with_context(|| format!("listen on {addr}"))
}

/// Serves requests, in threads that end with the process.
pub fn serve_requests(listener: &TcpListener) -> Result<()> {
    for _ in 0..SERVERS {
        let listener = listener.try_clone().context("share a listener")?;
        start(move || {
            loop {
                if let Ok((stream, _)) = listener.accept() {
                    // A client that goes away is none of the server's business.
                    let _ = answer_all(stream);
                }
            }
        })?;
    }
    Ok(())
}

/// Answers datagrams, in a thread that ends with the process. Answers where.
pub fn serve_datagrams(addr: SocketAddr) -> Result<SocketAddr> {
    let socket = UdpSocket::bind(addr).with_context(|| format!("receive at {addr}"))?;
    let addr = socket.local_addr().context("look where a server is")?;
    let name = name_tag(addr);
    start(move || {
        let mut message = [0; MESSAGE];
        loop {
            if let Ok((_, from)) = socket.recv_from(&mut message) {
                // A client that goes away is none of the server's business.
                let _ = socket.send_to(&name, from);
            }
        }
    })?;
    Ok(addr)
}

/// Accepts now and then and closes at once: a server that costs the client nothing but the
/// kernel's part.
pub fn drain(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true).context("poll a listener")?;
    start(move || {
        loop {
            while listener.accept().is_ok() {}
            thread::sleep(DRAIN_INTERVAL);
        }
    })
}

fn start(run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(run).context("start a server's thread")?;
    Ok(())
}

/// Answers requests until the client closes.
fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    // The socket's own view: where somebody rewrote the destination, the backend.
    let name = name_tag(stream.local_addr()?);
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&name)?;
    }
}
