//! Sockets that no hook sees, or whose protocol no policy names.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use rustix::net::{
    self, AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
};
use splitter_tests::datagrams::datagram_socket;
use splitter_tests::net::send_frame;
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, addr, decided, peer, service};

/// Nothing that is waited for takes so long unless it never comes.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A server of the address that clients dial, where nothing may be rewritten.
fn frontends_own() -> Result<UdpSocket> {
    datagram_socket(FRONTEND)
}

/// A datagram of UDP from 127.0.0.1 to the frontend, without a checksum.
fn udp_datagram() -> Vec<u8> {
    let (from, to) = (40_000_u16.to_be_bytes(), addr(FRONTEND).port().to_be_bytes());
    [from, to, 9_u16.to_be_bytes(), [0, 0]].concat().into_iter().chain(*b"?").collect()
}

#[test]
fn raw_sockets_are_left_alone() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        let server = frontends_own()?;
        let (family, kind) = (AddressFamily::INET, SocketType::RAW);
        let raw = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::UDP))?;
        net::sendto(&raw, &udp_datagram(), SendFlags::empty(), &addr(FRONTEND))?;
        assert_eq!(server.recv_from(&mut [0; 8])?, (1, addr("127.0.0.1:40000")));
        connect(&raw, &addr("127.10.0.1:0"))?;
        net::send(&raw, &udp_datagram(), SendFlags::empty())?;
        assert_eq!(server.recv_from(&mut [0; 8])?, (1, addr("127.0.0.1:40000")));
        assert_eq!(decided(node, "shop")?, 0);
        Ok(())
    })
}

/// A packet of IPv4 in a frame of loopback.
fn frame_of(datagram: &[u8]) -> Vec<u8> {
    let length = u8::try_from(20 + datagram.len()).expect("it is small");
    // Version and length of the header, total length, no fragments, 64 hops, UDP, both addresses.
    let mut header = [0x45, 0, 0, length, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 10, 0, 1];
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    [header[10], header[11]] = u16::try_from(sum).expect("two bytes").to_be_bytes();
    [&[0; 12][..], &[8, 0], &header, datagram].concat()
}

#[test]
fn packet_sockets_are_left_alone() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        // It is received as if from outside, from where loopback's own addresses are not believed.
        for rule in ["route_localnet", "accept_local"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/all/{rule}"), "1")?;
        }
        let server = frontends_own()?;
        send_frame(c"lo", &frame_of(&udp_datagram()))?;
        assert_eq!(server.recv_from(&mut [0; 8])?, (1, addr("127.0.0.1:40000")));
        Ok(())
    })
}

#[test]
fn udp_lite_is_left_alone() -> Result<()> {
    with_node(|node| {
        let udp = service("shop", &format!("{FRONTEND}/udp"), V1, "");
        node.apply(&udp)?;
        let lite = || -> Result<OwnedFd> {
            let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
            Ok(socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::UDPLITE))?)
        };
        let (server, client) = (lite()?, lite()?);
        bind(&server, &addr(FRONTEND))?;
        let server = UdpSocket::from(server);
        server.set_read_timeout(Some(LONGEST_WAIT))?;
        net::sendto(&client, b"?", SendFlags::empty(), &addr(FRONTEND))?;
        assert_eq!(server.recv(&mut [0; 8])?, 1);
        connect(&client, &addr(FRONTEND))?;
        assert_eq!(peer(&client)?, addr(FRONTEND));
        assert_eq!(decided(node, "shop")?, 0);
        Ok(())
    })
}

/// `SOCK_DGRAM` of ICMP, by which `ping` works without privilege.
#[test]
fn ping_sockets_are_left_alone() -> Result<()> {
    with_node(|node| {
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
        let ping = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMP))?;
        connect(&ping, &addr(FRONTEND))?;
        assert_eq!(peer(&ping)?.ip(), addr(FRONTEND).ip());
        assert_eq!(decided(node, "shop")?, 0);
        Ok(())
    })
}
