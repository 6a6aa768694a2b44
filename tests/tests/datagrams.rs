//! UDP on the running kernel: sockets that never connect, and answers that bear the address that
//! was sent to.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use splitter_common::abi::{MAX_PEERS, standing};
use splitter_tests::datagrams::{DatagramServer, datagram_socket, exchange, receive, send_many};
use splitter_tests::net::in_own_network;
use splitter_tests::node::{Node, two_versions};
use splitter_tests::scale;
use splitter_user::compile::service_id;
use splitter_user::publish::CounterOwner;

const V1: &str = "127.0.0.1:19001";
const V2: &str = "127.0.0.1:19002";
const SHOP: &str = "127.10.0.1:8080";

fn shop() -> SocketAddr {
    SHOP.parse().expect("an address")
}

/// A service with one subset of one backend, `v1`, and one route.
fn service(name: &str, frontends: &str, v1: &str, route: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec: {{frontends: \
         [{frontends}], subsets: {{v1: {{backends: ['{v1}']}}}}, routes: [{{{route}}}]}}\n"
    )
}

/// Both versions answer, in a network of their own.
fn served<T: Send>(run: impl FnOnce(&mut Node) -> Result<T> + Send) -> Result<T> {
    in_own_network(|| {
        let mut node = Node::whole()?;
        let _v1 = DatagramServer::echo(V1)?;
        let _v2 = DatagramServer::echo(V2)?;
        run(&mut node)
    })
}

#[test]
fn each_socket_is_given_a_backend_and_stays_with_it() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 80, 20))?;
        let mut counts = BTreeMap::new();
        let mut sockets = Vec::new();
        for n in 1..=100_u32 {
            let socket = datagram_socket("127.0.0.1:0")?;
            let (_, port) = exchange(&socket, shop())?;
            *counts.entry(port).or_insert(0_u32) += 1;
            let v2 = counts.get(&19002).copied().unwrap_or_default();
            ensure!((v2 * 5).abs_diff(n) < 5, "{v2} of {n}");
            sockets.push((socket, port));
        }
        assert_eq!(counts, BTreeMap::from([(19001, 80), (19002, 20)]));
        for (socket, port) in &sockets {
            for _ in 0..3 {
                assert_eq!(exchange(socket, shop())?, (shop(), *port));
            }
        }
        let counted: u64 = node.counts("shop")?.values().sum();
        assert_eq!(counted, 300, "each socket once, at its route, subset and backend");
        Ok(())
    })
}

#[test]
fn answers_bear_the_address_that_was_sent_to_in_every_family() -> Result<()> {
    served(|node| {
        let six = service("six", "'[::1]:18080/udp'", "[::1]:19006", "split: {v1: 1}");
        node.apply(&format!("{}---\n{six}", two_versions("udp", 1, 0)))?;
        let _six = DatagramServer::echo("[::1]:19006")?;
        let socket = datagram_socket("[::]:0")?;
        let mapped: SocketAddr = "[::ffff:127.10.0.1]:8080".parse()?;
        assert_eq!(exchange(&socket, mapped)?, (mapped, 19001));
        let six: SocketAddr = "[::1]:18080".parse()?;
        assert_eq!(exchange(&socket, six)?, (six, 19006));
        Ok(())
    })
}

#[test]
fn answers_to_connected_sockets_bear_it_too() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 0, 1))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        socket.connect(shop())?;
        socket.send(b"?")?;
        assert_eq!(receive(&socket)?, (shop(), 19002));
        assert_eq!(socket.peer_addr()?, V2.parse()?, "getpeername is another matter");
        socket.connect(V1)?;
        socket.send(b"?")?;
        assert_eq!(receive(&socket)?, (V1.parse()?, 19001), "it dialled the backend itself");
        Ok(())
    })
}

/// Whose every datagram names its peer to the kernel, as if it were not connected.
#[test]
fn a_connected_socket_of_a_mapped_address_is_split_once() -> Result<()> {
    served(|node| {
        // The peer is a frontend itself, which would be split again.
        let own = format!("127.10.0.1:8080/udp\", \"{V1}/udp");
        node.apply(&two_versions("udp", 1, 1).replace("127.10.0.1:8080/udp", &own))?;
        let sockets: Vec<UdpSocket> = (0..4)
            .map(|_| {
                let socket = UdpSocket::bind("[::]:0")?;
                socket.connect(format!("[::ffff:{}]:{}", shop().ip(), shop().port()))?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        for _ in 0..3 {
            for (n, socket) in sockets.iter().enumerate() {
                socket.send(b"?")?;
                let (_, port) = receive(socket)?;
                assert_eq!(port, [19_001, 19_002][n % 2]);
            }
        }
        Ok(())
    })
}

#[test]
fn many_datagrams_of_one_call_are_split_each() -> Result<()> {
    served(|node| {
        let other = service("other", "'127.10.0.2:8080/udp'", V2, "split: {v1: 1}");
        node.apply(&format!("{}---\n{other}", two_versions("udp", 1, 0)))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        let to = ["127.10.0.1:8080", "127.10.0.2:8080", V2, "127.10.0.1:8080"];
        let to: Vec<SocketAddrV4> = to.iter().map(|to| to.parse()).collect::<Result<_, _>>()?;
        assert_eq!(send_many(&socket, &to)?, 4);
        let mut answers = (0..4).map(|_| receive(&socket)).collect::<io::Result<Vec<_>>>()?;
        answers.sort();
        // What the backend answers to who sent to itself seems to come from the frontend: it is one
        // address for the socket.
        let other = "127.10.0.2:8080".parse()?;
        let expected = vec![(shop(), 19001), (shop(), 19001), (other, 19002), (other, 19002)];
        assert_eq!(answers, expected);
        Ok(())
    })
}

#[test]
fn a_socket_moves_when_its_backend_goes_and_not_before() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 1, 0))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        assert_eq!(exchange(&socket, shop())?, (shop(), 19001));
        node.apply(&two_versions("udp", 0, 1))?;
        assert_eq!(exchange(&socket, shop())?, (shop(), 19001), "weights are for new sockets");
        let new = datagram_socket("127.0.0.1:0")?;
        assert_eq!(exchange(&new, shop())?, (shop(), 19002));
        node.apply(&two_versions("udp", 0, 1).replace(V1, "127.0.0.1:19003"))?;
        assert_eq!(exchange(&socket, shop())?, (shop(), 19002));
        node.apply(&two_versions("udp", 1, 1))?;
        assert_eq!(exchange(&socket, shop())?, (shop(), 19002), "it does not go back");
        Ok(())
    })
}

#[test]
fn a_socket_leaves_a_backend_that_is_down_or_drained() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 1, 1))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        let (_, first) = exchange(&socket, shop())?;
        let owners = node.states("shop")?.into_keys();
        let is_first = |owner: &CounterOwner| matches!(owner, CounterOwner::Backend(_, backend) if backend.port_be.to_host() == first);
        let owner = owners.into_iter().find(is_first).context("the state of a backend")?;
        let id = service_id("shop");
        assert!(node.publisher.set_standing(id, owner, standing::DRAINING, true)?);
        let failed = exchange(&socket, shop());
        let ports = match failed {
            // The split may choose the subset whose only backend is drained: its share is refused.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
                exchange(&socket, shop())?.1
            }
            Ok((_, port)) => port,
        };
        assert_ne!(ports, first);
        Ok(())
    })
}

#[test]
fn what_no_policy_knows_is_left_alone() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 1, 0))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        assert_eq!(exchange(&socket, V2.parse()?)?, (V2.parse()?, 19002));
        assert_eq!(exchange(&socket, shop())?, (shop(), 19001));
        assert_eq!(exchange(&socket, V2.parse()?)?, (V2.parse()?, 19002));
        Ok(())
    })
}

#[test]
fn a_route_that_rejects_fails_the_send_with_its_errno() -> Result<()> {
    served(|node| {
        node.apply(&service("shop", "'127.10.0.1:8080/udp'", V1, "reject: EACCES"))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        let error = socket.send_to(b"?", shop()).expect_err("it is rejected");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        Ok(())
    })
}

#[test]
fn only_connected_sockets_are_split_where_that_is_asked() -> Result<()> {
    served(|node| {
        let policy =
            two_versions("udp", 1, 0).replace("spec:\n", "spec:\n  datagrams: connected\n");
        node.apply(&policy)?;
        let _itself = DatagramServer::echo(SHOP)?;
        let socket = datagram_socket("127.0.0.1:0")?;
        assert_eq!(exchange(&socket, shop())?, (shop(), 8080));
        socket.connect(shop())?;
        socket.send(b"?")?;
        assert_eq!(receive(&socket)?, (V1.parse()?, 19001));
        Ok(())
    })
}

#[test]
fn a_socket_knows_its_backends_for_as_many_frontends_as_it_has_room_for() -> Result<()> {
    served(|node| {
        let frontends: Vec<SocketAddr> = (1..=MAX_PEERS + 1)
            .map(|n| format!("127.10.1.{n}:53").parse())
            .collect::<Result<_, _>>()?;
        let list = frontends.iter().map(|it| format!("'{it}/udp'")).collect::<Vec<_>>().join(", ");
        node.apply(&two_versions("udp", 1, 1).replace("\"127.10.0.1:8080/udp\"", &list))?;
        let socket = datagram_socket("127.0.0.1:0")?;
        let (known, one_more) = frontends.split_at(frontends.len() - 1);
        let ask = |to: &SocketAddr| -> Result<u16> {
            let (from, port) = exchange(&socket, *to)?;
            // Several frontends have one backend: the last that was sent to is meant.
            ensure!(from == *to, "{from} answers for {to}");
            Ok(port)
        };
        let first = known.iter().map(ask).collect::<Result<Vec<_>>>()?;
        assert_eq!(first, known.iter().map(ask).collect::<Result<Vec<_>>>()?);
        // One more takes the place of the one that was sent to least recently, and no other.
        ask(&one_more[0])?;
        let second = known[1..].iter().map(ask).collect::<Result<Vec<_>>>()?;
        assert_eq!(first[1..], second);
        Ok(())
    })
}

#[test]
fn none_of_a_flood_is_lost_or_answered_from_elsewhere() -> Result<()> {
    served(|node| {
        node.apply(&two_versions("udp", 90, 10))?;
        let sockets =
            (0..100).map(|_| datagram_socket("127.0.0.1:0")).collect::<Result<Vec<UdpSocket>>>()?;
        let rounds = 10_000 / scale();
        let mut counts = BTreeMap::new();
        for _ in 0..rounds {
            for socket in &sockets {
                socket.send_to(b"?", shop())?;
            }
            for socket in &sockets {
                let (from, port) = receive(socket)?;
                assert_eq!(from, shop());
                *counts.entry(port).or_insert(0) += 1;
            }
        }
        assert_eq!(counts, BTreeMap::from([(19001, 90 * rounds), (19002, 10 * rounds)]));
        Ok(())
    })
}
