//! What a followed connection does where a backend or a subset is not to be chosen: it goes to
//! another, on real sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net;
use splitter_common::abi::{Reason, State, cell};
use splitter_tests::net::{full_listener, in_own_network};
use splitter_tests::node::Node;
use splitter_tests::peers::{PortServer, ask_port};
use splitter_tests::shared;
use splitter_user::compile::name_ids;
use splitter_user::publish::CounterOwner;

const FRONTEND: &str = "127.10.0.1:80";
const V1: &str = "127.0.0.1:19001";
const V2: &str = "127.0.0.1:19002";
const V3: &str = "127.0.0.1:19003";

/// Three subsets; `v1` has some more keys, and the route too.
fn policy(v1: &str, route: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{FRONTEND}']
  subsets:
    v1: {{backends: ['{V1}']{v1}}}
    v2: {{backends: ['{V2}']}}
    v3: {{backends: ['{V3}']}}
  routes: [{{{route}}}]
"
    )
}

/// One subset of two backends with some more keys.
fn pair(keys: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: shop}}
spec:
  frontends: ['{FRONTEND}']
  subsets:
    v1: {{backends: ['{V1}', '{V2}'], {keys}}}
  routes: [{{split: {{v1: 1}}}}]
"
    )
}

fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(FRONTEND.parse::<SocketAddr>().expect("an address"))
}

fn errno(result: io::Result<TcpStream>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// How many of `n` connections each port answers.
fn ports(n: u32) -> Result<[usize; 3]> {
    let mut counts = [0; 3];
    for _ in 0..n {
        let port = ask_port(FRONTEND)?;
        counts[usize::from(port - 19_001)] += 1;
    }
    Ok(counts)
}

/// The state of the subset `v1`.
fn subset(node: &Node) -> Result<State> {
    let v1 = CounterOwner::Subset(name_ids(std::iter::once("v1"))[0]);
    node.states("shop")?.get(&v1).copied().context("the subset v1")
}

/// A socket whose handshake nobody answers.
fn pending() -> Result<OwnedFd> {
    let flags = net::SocketFlags::NONBLOCK;
    let socket = net::socket_with(net::AddressFamily::INET, net::SocketType::STREAM, flags, None)?;
    let started = net::connect(&socket, &FRONTEND.parse::<SocketAddr>()?);
    match started {
        Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        other => anyhow::bail!("connect() answers {other:?}"),
    }
}

#[test]
fn a_full_subset_spills_to_the_others_by_their_weights() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let route = "split: {v1: 5, v2: 3, v3: 1}";
        node.apply(&policy(", maxConnections: 2, overLimit: spill", route))?;
        let full = TcpListener::bind(V1)?;
        let _others = (PortServer::start(V2)?, PortServer::start(V3)?);
        let mut held = Vec::new();
        while subset(&node)?.cells[cell::LIVE] < 2 {
            held.push(connect()?);
        }
        let [v1, v2, v3] = ports(900)?;
        ensure!(v1 == 0 && v2 + v3 == 900, "{v1} {v2} {v3}");
        // 300 and 100 of their own, and 500 at random in a ratio of three to one.
        ensure!((600..750).contains(&v2), "{v2}");
        assert_eq!(subset(&node)?.cells[cell::LIVE], 2);
        let refused = node.reason(Reason::OverLimit)?;
        assert_eq!(refused, 0);
        drop((full, held));
        Ok(())
    })
}

#[test]
fn a_subset_whose_backends_are_ejected_spills_where_the_route_says_so() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let eject = ", eject: {consecutiveFailures: 1, baseTime: 1h, maxPercent: 100}";
        let split = "split: {v1: 8, v2: 1, v3: 1}";
        node.apply(&policy(eject, &format!("{split}, onEmpty: spill")))?;
        let _others = (PortServer::start(V2)?, PortServer::start(V3)?);
        let failed = (0..100).filter(|_| connect().is_err()).count();
        assert_eq!(failed, 1, "the first one finds it out");
        let [v1, v2, v3] = ports(100)?;
        ensure!(v1 == 0 && v2 > 0 && v3 > 0, "{v1} {v2} {v3}");
        node.apply(&policy(eject, split))?;
        let failed = (0..100).filter(|_| connect().is_err()).count();
        assert_eq!(failed, 80, "its share is refused");
        Ok(())
    })
}

#[test]
fn two_subsets_are_passed_over_for_a_third() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let limit = ", maxConnections: 1, overLimit: spill";
        let text = policy(limit, "split: {v1: 1, v2: 1, v3: 1}");
        node.apply(&text.replace(&format!("'{V2}']"), &format!("'{V2}']{limit}")))?;
        let (_first, _second) = (TcpListener::bind(V1)?, TcpListener::bind(V2)?);
        let _third = PortServer::start(V3)?;
        let mut held = Vec::new();
        for port in [19_001_u16, 19_002] {
            let is_there = |held: &[TcpStream]| {
                held.iter().any(|socket| socket.peer_addr().is_ok_and(|peer| peer.port() == port))
            };
            while !is_there(&held) {
                held.push(connect()?);
            }
        }
        held.retain(|socket| socket.peer_addr().is_ok_and(|peer| peer.port() != 19_003));
        assert_eq!(held.len(), 2);
        assert_eq!(ports(100)?, [0, 0, 100]);
        Ok(())
    })
}

#[test]
fn a_client_that_chooses_by_affinity_spills_to_one_other() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let route = "split: {v1: 1, v2: 1, v3: 1}, affinity: uid";
        let limit = "maxConnections: 1, overLimit: spill";
        let text = policy(&format!(", {limit}"), route)
            .replace(&format!("'{V2}']"), &format!("'{V2}'], {limit}"))
            .replace(&format!("'{V3}']"), &format!("'{V3}'], {limit}"));
        node.apply(&text)?;
        let listeners = [V1, V2, V3].map(TcpListener::bind);
        let first = connect()?;
        let second = connect()?;
        let spilled = second.peer_addr()?;
        assert_ne!(first.peer_addr()?, spilled);
        net::sockopt::set_socket_linger(&second, Some(Duration::ZERO))?;
        drop(second);
        assert_eq!(connect()?.peer_addr()?, spilled);
        drop(listeners);
        Ok(())
    })
}

#[test]
fn handshakes_have_a_limit_of_their_own() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let limit = ", maxPending: 2, maxConnections: 9, overLimit: EHOSTUNREACH";
        node.apply(&policy(limit, "split: {v1: 1}"))?;
        let full = full_listener(V1)?;
        let held = [pending()?, pending()?];
        assert_eq!(errno(connect()), Some(libc::EHOSTUNREACH));
        let cells = subset(&node)?.cells;
        assert_eq!((cells[cell::PENDING], cells[cell::LIVE]), (2, 2));
        drop(held);
        let cells = subset(&node)?.cells;
        assert_eq!((cells[cell::PENDING], cells[cell::LIVE]), (0, 0));
        drop(full);
        let _serving = TcpListener::bind(V1)?;
        let established: Vec<TcpStream> =
            (0..9).map(|_| connect()).collect::<io::Result<_>>().context("what is established")?;
        assert_eq!(errno(connect()), Some(libc::EHOSTUNREACH), "the other limit");
        let cells = subset(&node)?.cells;
        assert_eq!((cells[cell::PENDING], cells[cell::LIVE]), (0, 9));
        drop(established);
        Ok(())
    })
}

#[test]
fn a_client_does_not_come_back_to_what_failed() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&pair("avoidPrevious: process"))?;
        let _serving = PortServer::start(V2)?;
        for _ in 0..50 {
            // Whichever comes first, a try after a failure succeeds.
            if connect().is_err() {
                connect().context("the try after a failure")?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_client_comes_back_where_there_is_no_other() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&pair("avoidPrevious: process").replace(&format!(", '{V2}'"), ""))?;
        assert_eq!(errno(connect()), Some(libc::ECONNREFUSED));
        assert_eq!(errno(connect()), Some(libc::ECONNREFUSED));
        let refused = node.reason(Reason::NoneUsable)?;
        assert_eq!(refused, 0, "the backend was asked");
        let _serving = PortServer::start(V1)?;
        connect().context("it serves again")?;
        Ok(())
    })
}

#[test]
fn backends_without_a_listener_are_stepped_over() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&pair("requireListener: true"))?;
        assert_eq!(errno(connect()), Some(libc::ECONNREFUSED));
        let refused = node.reason(Reason::NoneUsable)?;
        assert_eq!(refused, 1);
        let second = PortServer::start(V2)?;
        assert_eq!(ports(20)?, [0, 20, 0]);
        let first = PortServer::start(V1)?;
        assert_eq!(ports(20)?, [10, 10, 0]);
        drop(second);
        assert_eq!(ports(20)?, [20, 0, 0]);
        drop(first);
        Ok(())
    })
}

#[test]
fn listeners_are_looked_for_in_both_families() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let text = pair("requireListener: true")
            .replace(FRONTEND, "[::1]:80")
            .replace(V1, "[::1]:19001")
            .replace(V2, "[::1]:19002");
        node.apply(&text)?;
        let connect = || TcpStream::connect("[::1]:80").map(|socket| socket.peer_addr());
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        let _listener = TcpListener::bind("[::1]:19002")?;
        for _ in 0..4 {
            assert_eq!(connect()??.port(), 19_002);
        }
        Ok(())
    })
}

#[test]
fn a_backend_without_weight_stands_in_for_nobody() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let backends = format!("{{address: '{V2}', weight: 0}}, '{V1}'");
        let text = pair("eject: {consecutiveFailures: 1, baseTime: 1h, maxPercent: 100}");
        node.apply(&text.replace(&format!("'{V1}', '{V2}'"), &backends))?;
        let _serving = PortServer::start(V2)?;
        for _ in 0..10 {
            assert_eq!(errno(connect()), Some(libc::ECONNREFUSED));
        }
        let refused = node.reason(Reason::NoneUsable)?;
        assert_eq!(refused, 9, "all but the one that found it out");
        Ok(())
    })
}
