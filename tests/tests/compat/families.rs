//! Sockets of IPv6 that speak IPv4, may not, or cannot.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, connect, sendto, sockopt};
use splitter_tests::datagrams::{DatagramServer, receive};
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, addr, decided, peer, service, socket};

const MAPPED: &str = "[::ffff:127.10.0.1]:8080";
const MAPPED_V1: &str = "[::ffff:127.0.0.1]:19001";

#[test]
fn a_socket_of_ipv6_only_is_split_by_ipv6_only() -> Result<()> {
    with_node(|node| {
        let (front, back) = ("[::1]:8080", "[::1]:19006");
        let six = service("six", front, back, "");
        node.apply(&format!("{}---\n{six}", service("four", FRONTEND, V1, "")))?;
        let _servers = (TcpListener::bind(V1)?, TcpListener::bind(back)?);
        let only = || -> Result<OwnedFd> {
            let socket = socket(AddressFamily::INET6, SocketType::STREAM)?;
            sockopt::set_ipv6_v6only(&socket, true)?;
            Ok(socket)
        };
        let client = only()?;
        connect(&client, &addr(front))?;
        assert_eq!(peer(&client)?, addr(back));
        // As the kernel answers for an address that no policy knows.
        for to in ["[::ffff:127.10.9.9]:8080", MAPPED] {
            assert_eq!(connect(only()?, &addr(to)), Err(Errno::NETUNREACH));
        }
        assert_eq!(decided(node, "four")?, 1, "it is decided before the kernel refuses it");
        Ok(())
    })
}

/// A socket of IPv6 may be told an address in the form of IPv4, by `connect()` and by `sendto()`.
#[test]
fn a_datagram_socket_of_ipv6_takes_addresses_of_ipv4() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, "getpeername: frontend,"))?;
        let _server = DatagramServer::echo(V1)?;
        let client = || socket(AddressFamily::INET6, SocketType::DGRAM);
        let named = client()?;
        sendto(&named, b"?", SendFlags::empty(), &addr(FRONTEND))?;
        assert_eq!(receive(&named.into())?, (addr(MAPPED), 19001));
        let connected = client()?;
        connect(&connected, &addr(FRONTEND))?;
        assert_eq!(peer(&connected)?, addr(MAPPED));
        Ok(())
    })
}

#[test]
fn a_mapped_peer_is_told_in_mapped_form() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", FRONTEND, V1, ""))?;
        let _server = TcpListener::bind(V1)?;
        let client = socket(AddressFamily::INET6, SocketType::STREAM)?;
        connect(&client, &addr(MAPPED))?;
        assert_eq!(peer(&client)?, addr(MAPPED_V1));
        let own: SocketAddr = rustix::net::getsockname(&client)?.try_into()?;
        assert_eq!(own.ip().to_string(), "::ffff:127.0.0.1");
        Ok(())
    })
}
