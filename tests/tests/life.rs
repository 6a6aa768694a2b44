//! The life of connections: what comes of them, on real sockets.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net;
use splitter_common::abi::{Reason, State, cell, outcome};
use splitter_tests::daemon::eventually;
use splitter_tests::net::{full_listener, in_own_network};
use splitter_tests::node::Node;
use splitter_tests::peers::{PortServer, ask_port};
use splitter_user::publish::CounterOwner;
use splitter_user::tables::Maps as _;

const FRONTEND: &str = "127.10.0.1:80";

/// A policy of one backend whose subset has some more keys.
fn policy(keys: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: shop}}\nspec:\n  \
         frontends: ['{FRONTEND}']\n  outcomes: true\n  subsets:\n    v1: {{backends: \
         ['127.0.0.1:19001']{keys}}}\n  routes: [{{split: {{v1: 1}}}}]\n"
    )
}

fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(FRONTEND.parse::<SocketAddr>().expect("an address"))
}

/// The only backend's state.
fn backend(node: &Node) -> Result<State> {
    let states = node.states("shop")?;
    let mut backends =
        states.iter().filter(|(owner, _)| matches!(owner, CounterOwner::Backend(..)));
    Ok(*backends.next().context("a backend")?.1)
}

fn outcomes(state: &State) -> BTreeMap<&'static str, u64> {
    let names = [
        ("established", outcome::ESTABLISHED),
        ("refused", outcome::REFUSED),
        ("timed out", outcome::TIMED_OUT),
        ("unreachable", outcome::UNREACHABLE),
        ("abandoned", outcome::ABANDONED),
        ("closed", outcome::CLOSED),
        ("reset", outcome::RESET),
        ("lost", outcome::LOST),
    ];
    let count = |(name, at): (&'static str, usize)| (name, state.cells[cell::OUTCOMES + at]);
    let mut seen: BTreeMap<_, _> = names.into_iter().map(count).filter(|(_, n)| *n > 0).collect();
    for (name, at) in [("live", cell::LIVE), ("pending", cell::PENDING)] {
        if state.cells[at] > 0 {
            seen.insert(name, state.cells[at]);
        }
    }
    seen
}

#[test]
fn connections_are_established_and_closed() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(""))?;
        let listener = TcpListener::bind("127.0.0.1:19001")?;
        let client = connect()?;
        let (server, _) = listener.accept()?;
        let seen = outcomes(&backend(&node)?);
        assert_eq!(seen, BTreeMap::from([("established", 1), ("live", 1)]));
        drop((client, server));
        let seen = outcomes(&backend(&node)?);
        assert_eq!(seen, BTreeMap::from([("closed", 1), ("established", 1)]));
        Ok(())
    })
}

#[test]
fn refused_connections_are_counted() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(""))?;
        let error = connect().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        assert_eq!(outcomes(&backend(&node)?), BTreeMap::from([("refused", 1)]));
        Ok(())
    })
}

#[test]
fn a_connection_that_nobody_answers_times_out() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(", connectTimeout: 250ms"))?;
        let _full = full_listener("127.0.0.1:19001")?;
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(outcomes(&backend(&node)?), BTreeMap::from([("timed out", 1)]));
        Ok(())
    })
}

#[test]
fn a_timeout_of_the_connect_is_none_of_the_connection() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(", connectTimeout: 100ms"))?;
        let _listener = TcpListener::bind("127.0.0.1:19001")?;
        let client = connect()?;
        assert_eq!(tcp_user_timeout(&client)?, 0);
        let own = socket()?;
        set_tcp_user_timeout(&own, 7_000)?;
        net::connect(&own, &FRONTEND.parse::<SocketAddr>()?)?;
        assert_eq!(tcp_user_timeout(&own)?, 7_000, "what the program set is put back");
        Ok(())
    })
}

#[test]
fn a_reset_is_told_from_a_close() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(""))?;
        let listener = TcpListener::bind("127.0.0.1:19001")?;
        let mut client = connect()?;
        let (server, _) = listener.accept()?;
        net::sockopt::set_socket_linger(&server, Some(Duration::ZERO))?;
        drop(server);
        assert!(client.read(&mut [0]).is_err());
        let seen = outcomes(&backend(&node)?);
        assert_eq!(seen, BTreeMap::from([("established", 1), ("reset", 1)]));
        Ok(())
    })
}

#[test]
fn a_process_that_is_killed_while_it_connects_leaves_nothing_behind() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(", maxConnections: 10"))?;
        let _full = full_listener("127.0.0.1:19001")?;
        let connecting = socket()?;
        rustix::io::ioctl_fionbio(&connecting, true)?;
        let started = net::connect(&connecting, &FRONTEND.parse::<SocketAddr>()?);
        assert_eq!(started, Err(rustix::io::Errno::INPROGRESS));
        let mut child = hand_over(connecting)?;
        eventually("the client connects", || {
            Ok(outcomes(&backend(&node)?) == BTreeMap::from([("live", 1), ("pending", 1)]))
        })?;
        child.kill()?;
        child.wait()?;
        assert_eq!(outcomes(&backend(&node)?), BTreeMap::from([("abandoned", 1)]));
        assert_eq!(subset(&node)?.cells[cell::LIVE], 0);
        assert_eq!(subset(&node)?.cells[cell::PENDING], 0);
        Ok(())
    })
}

/// A process that does nothing but to have a socket, which nobody else has.
fn hand_over(socket: OwnedFd) -> Result<Child> {
    Ok(Command::new("sleep").arg("600").stdin(socket).spawn()?)
}

#[test]
fn an_inherited_socket_counts_until_the_last_of_its_owners_closes_it() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(""))?;
        let listener = TcpListener::bind("127.0.0.1:19001")?;
        let client = connect()?;
        drop(listener.accept()?);
        let mut child = hand_over(client.into())?;
        let seen = outcomes(&backend(&node)?);
        assert_eq!(seen, BTreeMap::from([("established", 1), ("live", 1)]));
        child.kill()?;
        child.wait()?;
        eventually("the connection ends", || {
            Ok(outcomes(&backend(&node)?) == BTreeMap::from([("closed", 1), ("established", 1)]))
        })
    })
}

#[test]
fn connections_beyond_the_limit_are_refused() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        node.apply(&policy(", maxConnections: 3"))?;
        let listener = TcpListener::bind("127.0.0.1:19001")?;
        let mut clients: Vec<TcpStream> = (0..3).map(|_| connect()).collect::<io::Result<_>>()?;
        for _ in 0..5 {
            assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        }
        assert_eq!(subset(&node)?.cells[cell::LIVE], 3);
        // Both ends, or the connection would linger half closed.
        clients.pop();
        drop(listener.accept()?);
        drop(listener.accept()?);
        drop(listener.accept()?);
        eventually("there is room again", || Ok(connect().is_ok()))?;
        let broken = node.publisher.maps().counters()?[Reason::OverLimit as usize];
        assert!(broken >= 5, "{broken}");
        Ok(())
    })
}

#[test]
fn what_was_reserved_is_given_back_where_no_packet_ever_left() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        // There is no way to the backend, so connect() fails after the hook.
        let policy = policy(", maxConnections: 1").replace("127.0.0.1:19001", "192.0.2.1:1");
        node.apply(&policy)?;
        let held = socket()?;
        let to: SocketAddr = FRONTEND.parse()?;
        let unreachable = Some(libc::ENETUNREACH);
        let errno = |socket: &OwnedFd| net::connect(socket, &to).unwrap_err().raw_os_error();
        assert_eq!(Some(errno(&held)), unreachable);
        assert_eq!(subset(&node)?.cells[cell::LIVE], 1);
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        assert_eq!(Some(errno(&held)), unreachable, "a socket that tries again has its place");
        assert_eq!(subset(&node)?.cells[cell::LIVE], 1);
        drop(held);
        assert_eq!(subset(&node)?.cells[cell::LIVE], 0);
        Ok(())
    })
}

#[test]
fn a_backend_that_fails_is_avoided_and_comes_back() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        let policy = policy(", eject: {consecutiveFailures: 3, baseTime: 2s, maxPercent: 50}");
        node.apply(
            &policy.replace("['127.0.0.1:19001']", "['127.0.0.1:19001', '127.0.0.1:19002']"),
        )?;
        let _serving = PortServer::start("127.0.0.1:19001")?;
        let refused = |n: u32| (0..n).filter(|_| connect().is_err()).count();
        assert_eq!(refused(200), 3, "no more than the failures in a row that eject");
        let _other = PortServer::start("127.0.0.1:19002")?;
        thread::sleep(Duration::from_millis(2_100));
        let ports: Result<Vec<u16>> = (0..100).map(|_| Ok(ask_port(FRONTEND)?)).collect();
        let back = ports?.into_iter().filter(|port| *port == 19_002).count();
        assert_eq!(back, 50, "its share is exact again");
        Ok(())
    })
}

#[test]
fn aborts_are_an_exact_share() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        let fault = "split: {v1: 1}, fault: {abort: {percent: 30, errno: EHOSTUNREACH}}";
        node.apply(&policy("").replace("split: {v1: 1}", fault))?;
        let _serving = PortServer::start("127.0.0.1:19001")?;
        let aborted =
            |_: &u32| connect().err().and_then(|e| e.raw_os_error()) == Some(libc::EHOSTUNREACH);
        assert_eq!((0..1_000).filter(aborted).count(), 300);
        Ok(())
    })
}

#[test]
fn a_delayed_connection_is_established_later() -> Result<()> {
    in_own_network(|| {
        let mut node = Node::new()?;
        let fault = "split: {v1: 1}, fault: {delay: {percent: 50, time: 100ms}}";
        node.apply(&policy("").replace("split: {v1: 1}", fault))?;
        let _serving = PortServer::start("127.0.0.1:19001")?;
        let mut late = 0;
        for _ in 0..10 {
            let start = Instant::now();
            connect()?;
            // No more than telling the two kinds apart.
            late += u32::from(start.elapsed() > Duration::from_millis(90));
        }
        assert_eq!(late, 5);
        Ok(())
    })
}

fn socket() -> io::Result<OwnedFd> {
    Ok(net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?)
}

fn tcp_user_timeout(socket: impl AsFd) -> io::Result<u32> {
    Ok(net::sockopt::tcp_user_timeout(socket)?)
}

fn set_tcp_user_timeout(socket: impl AsFd, ms: u32) -> io::Result<()> {
    Ok(net::sockopt::set_tcp_user_timeout(socket, ms)?)
}

/// The only subset's state.
fn subset(node: &Node) -> Result<State> {
    let states = node.states("shop")?;
    let mut subsets = states.iter().filter(|(owner, _)| matches!(owner, CounterOwner::Subset(_)));
    Ok(*subsets.next().context("a subset")?.1)
}
