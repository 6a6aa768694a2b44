//! Sockets of another kind: MPTCP, TCP Fast Open, and one that meets itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::net::{self, SendFlags, bind, listen};
use splitter_tests::net::{in_own_network, mptcp_socket, set_option};
use splitter_tests::node::Node;
use splitter_tests::shared;

use super::{BACKEND, errno_of, expect, frontend, live, policy, socket};

/// Talks over a connection and ends it, and looks at what is counted.
fn live_a_life(node: &Node, client: OwnedFd, listener: &TcpListener) -> Result<()> {
    assert_eq!(errno_of(&client), None);
    let mut client = TcpStream::from(client);
    let (mut server, _) = listener.accept()?;
    expect(node, &[("established", 1), ("live", 1)])?;
    client.write_all(b"ask")?;
    server.read_exact(&mut [0; 3])?;
    drop(server);
    assert_eq!(client.read(&mut [0])?, 0);
    drop(client);
    expect(node, &[("closed", 1), ("established", 1)])
}

#[test]
fn an_mptcp_connection_to_a_tcp_server_is_one() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1, connectTimeout: 500ms"))?;
        let listener = TcpListener::bind(BACKEND)?;
        live_a_life(&node, mptcp_socket()?, &listener)
    })
}

#[test]
fn an_mptcp_connection_counts_once() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1, connectTimeout: 500ms"))?;
        let listening = mptcp_socket()?;
        bind(&listening, &BACKEND.parse::<SocketAddr>()?)?;
        listen(&listening, 16)?;
        live_a_life(&node, mptcp_socket()?, &TcpListener::from(listening))
    })
}

#[test]
fn refused_mptcp_connections_leave_nothing_behind() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        for refused in 1..=3 {
            assert_eq!(errno_of(mptcp_socket()?), Some(libc::ECONNREFUSED));
            expect(&node, &[("refused", refused)])?;
        }
        Ok(())
    })
}

#[test]
fn the_place_of_an_mptcp_connection_that_never_began_is_given_back() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1").replace(BACKEND, "192.0.2.1:1"))?;
        for _ in 0..3 {
            assert_eq!(errno_of(mptcp_socket()?), Some(libc::ENETUNREACH));
            expect(&node, &[])?;
        }
        Ok(())
    })
}

/// Has every listener of this network take data in the first packet, and clients send it there
/// without asking beforehand: `tcp_fastopen` in the kernel's `ip-sysctl.rst`.
fn allow_fast_open() -> Result<()> {
    Ok(fs::write("/proc/sys/net/ipv4/tcp_fastopen", (0x1 | 0x2 | 0x4 | 0x200 | 0x400).to_string())?)
}

/// `TCP_FASTOPEN_CONNECT`: the SYN waits for the first data.
const TCP_FASTOPEN_CONNECT: i32 = 30;

#[test]
fn a_connection_opened_by_data_is_one() -> Result<()> {
    in_own_network(|| {
        allow_fast_open()?;
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1, connectTimeout: 500ms"))?;
        let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
        let refused = net::sendto(&socket()?, b"ask", fast_open, &frontend());
        assert_eq!(refused, Err(rustix::io::Errno::CONNREFUSED));
        expect(&node, &[("refused", 1)])?;
        let listener = TcpListener::bind(BACKEND)?;
        let client = socket()?;
        assert_eq!(net::sendto(&client, b"ask", fast_open, &frontend())?, 3);
        let (mut server, _) = listener.accept()?;
        server.read_exact(&mut [0; 3])?;
        expect(&node, &[("established", 1), ("live", 1), ("refused", 1)])?;
        drop((client, server));
        expect(&node, &[("closed", 1), ("established", 1), ("refused", 1)])
    })
}

#[test]
fn a_connection_that_waits_for_data_has_its_place_from_connect_on() -> Result<()> {
    in_own_network(|| {
        allow_fast_open()?;
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1"))?;
        let listener = TcpListener::bind(BACKEND)?;
        let deferred = || -> Result<OwnedFd> {
            let socket = socket()?;
            set_option(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
            assert_eq!(errno_of(&socket), None, "nothing is sent yet");
            assert_eq!(live(&node)?, 1);
            Ok(socket)
        };
        drop(deferred()?);
        expect(&node, &[])?;
        let mut client = TcpStream::from(deferred()?);
        client.write_all(b"ask")?;
        let (mut server, _) = listener.accept()?;
        server.read_exact(&mut [0; 3])?;
        expect(&node, &[("established", 1), ("live", 1)])?;
        drop((client, server));
        expect(&node, &[("closed", 1), ("established", 1)])
    })
}

#[test]
fn a_socket_that_connects_to_itself_is_established() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(", maxConnections: 1, connectTimeout: 500ms"))?;
        let own = socket()?;
        // The backend's address is the socket's own: both ends open at the same time.
        bind(&own, &BACKEND.parse::<SocketAddr>()?)?;
        assert_eq!(errno_of(&own), None);
        expect(&node, &[("established", 1), ("live", 1)])?;
        let mut own = TcpStream::from(own);
        own.write_all(b"echo")?;
        own.read_exact(&mut [0; 4])?;
        drop(own);
        expect(&node, &[("closed", 1), ("established", 1)])
    })
}
