//! Calls on sockets of TCP: what they answer, and when a connection is decided.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, SocketFlags, SocketType, bind, connect, connect_unspec, sockopt,
};
use splitter_tests::net::dial;
use splitter_tests::node::two_versions;
use splitter_tests::peers::PortServer;
use splitter_tests::programs::output;
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, V2, addr, decided, peer, service, tcp};

const TOLD: &str = "getpeername: frontend,";

#[test]
fn getpeername_answers_the_backend_or_the_frontend_as_asked() -> Result<()> {
    with_node(|node| {
        let _server = PortServer::start(V1)?;
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        assert_eq!(dial(addr(FRONTEND))?, (addr(V1), 19001));
        node.apply(&service("shop", FRONTEND, V1, TOLD))?;
        assert_eq!(dial(addr(FRONTEND))?, (addr(FRONTEND), 19001));
        Ok(())
    })
}

#[test]
fn getpeername_answers_in_the_family_of_the_socket() -> Result<()> {
    with_node(|node| {
        let (front6, back6) = ("[::1]:8080", "[::1]:19006");
        let four = service("four", FRONTEND, V1, TOLD);
        node.apply(&format!("{four}---\n{}", service("six", front6, back6, TOLD)))?;
        let (_v1, _six) = (PortServer::start(V1)?, PortServer::start(back6)?);
        let mapped = addr("[::ffff:127.10.0.1]:8080");
        assert_eq!(dial(mapped)?, (mapped, 19001));
        assert_eq!(dial(addr(front6))?, (addr(front6), 19006));
        Ok(())
    })
}

#[test]
fn a_socket_that_dials_elsewhere_is_told_the_truth() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, TOLD))?;
        let (_v1, _v2) = (TcpListener::bind(V1)?, TcpListener::bind(V2)?);
        let client = tcp()?;
        for to in [FRONTEND, V1, FRONTEND, V2] {
            connect(&client, &addr(to))?;
            assert_eq!(peer(&client)?, addr(to));
            connect_unspec(&client)?;
            assert_eq!(net::getpeername(&client).err(), Some(Errno::NOTCONN));
        }
        assert_eq!(decided(node, "shop")?, 2);
        Ok(())
    })
}

/// Two versions, and a source address that leads to one of them only.
fn with_source_addresses() -> Result<()> {
    let add = ["address", "add", "192.0.2.1/32", "dev", "lo"];
    output(Command::new("ip").args(add)).map(drop)
}

#[test]
fn getsockname_is_the_source_address_for_the_backend() -> Result<()> {
    with_node(|node| {
        with_source_addresses()?;
        let backend = addr("192.0.2.1:19001");
        node.apply(&service("shop", FRONTEND, "192.0.2.1:19001", TOLD))?;
        let listener = TcpListener::bind(backend)?;
        let client = TcpStream::connect(FRONTEND)?;
        let (server, from) = listener.accept()?;
        assert_eq!(client.local_addr()?.ip(), backend.ip(), "not that for the frontend");
        assert_eq!(from, client.local_addr()?, "the server sees the client itself");
        assert_eq!(server.local_addr()?, backend);
        assert_eq!(server.peer_addr()?, client.local_addr()?);
        Ok(())
    })
}

#[test]
fn lists_of_sockets_have_the_backend() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, TOLD))?;
        let _server = TcpListener::bind(V1)?;
        let client = TcpStream::connect(FRONTEND)?;
        // Addresses as numbers of the machine's byte order, in hexadecimal.
        let pair = |from: u16, to: u16| format!("0100007F:{from:04X} 0100007F:{to:04X} 01");
        let line = pair(client.local_addr()?.port(), addr(V1).port());
        let list = fs::read_to_string("/proc/thread-self/net/tcp")?;
        ensure!(list.contains(&line), "{line} is not in\n{list}");
        Ok(())
    })
}

#[test]
fn so_original_dst_is_not_answered() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, TOLD))?;
        let listener = TcpListener::bind(V1)?;
        let client = TcpStream::connect(FRONTEND)?;
        let (server, _) = listener.accept()?;
        // The first where the kernel does not track connections, the other where it could.
        let refusals = [Some(Errno::NOPROTOOPT), Some(Errno::NOENT)];
        for end in [&client, &server] {
            let answer = sockopt::ip_original_dst(end);
            ensure!(refusals.contains(&answer.err()), "{answer:?}");
        }
        Ok(())
    })
}

/// A socket that does not wait, after its first `connect()`.
fn begun() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    assert_eq!(connect(&client, &addr(FRONTEND)), Err(Errno::INPROGRESS));
    Ok(client)
}

#[test]
fn a_connect_that_is_asked_after_is_decided_once() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        // Nobody answers, so it goes on.
        let full = splitter_tests::net::full_listener(V1)?;
        let client = begun()?;
        assert_eq!(connect(&client, &addr(FRONTEND)), Err(Errno::ALREADY));
        drop((client, full));
        let _server = PortServer::start(V1)?;
        let client = begun()?;
        let mut fds = [PollFd::new(&client, PollFlags::OUT)];
        assert_eq!(poll(&mut fds, Some(&Duration::from_mins(1).try_into()?))?, 1);
        // Some programs ask by connecting again, others by SO_ERROR.
        assert_eq!(connect(&client, &addr(FRONTEND)), Ok(()));
        assert_eq!(connect(&client, &addr(FRONTEND)), Err(Errno::ISCONN));
        assert_eq!(sockopt::socket_error(&client)?, Ok(()));
        assert_eq!(decided(node, "shop")?, 2);
        Ok(())
    })
}

#[test]
fn connects_that_do_not_wait_are_split() -> Result<()> {
    with_node(|node| {
        node.apply(&two_versions("tcp", 80, 20))?;
        let (_v1, _v2) = (PortServer::start(V1)?, PortServer::start(V2)?);
        let clients = (0..10).map(|_| begun()).collect::<Result<Vec<_>>>()?;
        let mut of_v2 = 0;
        for client in clients {
            let mut fds = [PollFd::new(&client, PollFlags::OUT)];
            assert_eq!(poll(&mut fds, Some(&Duration::from_mins(1).try_into()?))?, 1);
            assert_eq!(sockopt::socket_error(&client)?, Ok(()));
            of_v2 += u32::from(peer(&client)? == addr(V2));
        }
        assert_eq!(of_v2, 2);
        Ok(())
    })
}

/// A socket that is bound to a port which others may share.
fn bound(from: SocketAddr) -> Result<OwnedFd> {
    let client = tcp()?;
    sockopt::set_socket_reuseaddr(&client, true)?;
    bind(&client, &from)?;
    Ok(client)
}

#[test]
fn a_bound_source_is_kept() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let listener = TcpListener::bind(V1)?;
        for from in ["127.0.0.9:12345", "127.0.0.9:0"] {
            let client = bound(addr(from))?;
            connect(&client, &addr(FRONTEND))?;
            let (_, seen) = listener.accept()?;
            assert_eq!(seen.ip(), addr(from).ip());
            ensure!(addr(from).port() == 0 || seen.port() == 12_345, "{seen}");
        }
        Ok(())
    })
}

/// A connection is its four numbers on the wire, where the backend's stand for the frontend's.
#[test]
fn one_source_port_has_one_connection_to_a_backend() -> Result<()> {
    with_node(|node| {
        let other = "127.10.0.2:8080";
        let third = "127.10.0.3:8080";
        let services = [(FRONTEND, V1), (other, V1), (third, V2)];
        let policy = services.map(|(to, at)| service(&format!("s{}", addr(to).ip()), to, at, ""));
        node.apply(&policy.join("---\n").replace("s127.10.0.", "s"))?;
        let (_v1, _v2) = (PortServer::start(V1)?, PortServer::start(V2)?);
        let dial = |to| -> Result<_> {
            let client = bound(addr("127.0.0.9:12345"))?;
            Ok((connect(&client, &addr(to)), client))
        };
        let (first, _kept) = dial(FRONTEND)?;
        assert_eq!(first, Ok(()));
        assert_eq!(dial(other)?.0, Err(Errno::ADDRNOTAVAIL), "the same backend");
        assert_eq!(dial(third)?.0, Ok(()), "another one");
        Ok(())
    })
}

#[test]
fn what_the_backend_refuses_is_refused() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        // Somebody listens where the client dials, and nobody where it is sent.
        let _itself = TcpListener::bind(FRONTEND)?;
        assert_eq!(connect(tcp()?, &addr(FRONTEND)), Err(Errno::CONNREFUSED));
        let _server = PortServer::start(V1)?;
        let mut port = [0; 2];
        TcpStream::connect(FRONTEND)?.read_exact(&mut port)?;
        assert_eq!(u16::from_be_bytes(port), 19001);
        Ok(())
    })
}
