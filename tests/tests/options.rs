//! Options of sockets that a subset asks for, read back from connected sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use splitter_common::abi::{Reason, cell};
use splitter_tests::net::{NumberOption, in_own_network, number_option, set_number_option};
use splitter_tests::node::Node;
use splitter_tests::shared;
use splitter_user::publish::CounterOwner;

const FRONTEND: &str = "127.10.0.1:80";
const BACKEND: &str = "127.0.0.1:19001";

const MARK: NumberOption = (libc::SOL_SOCKET, libc::SO_MARK);
const PACING_RATE: NumberOption = (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE);
const ADDRESS_WITHOUT_PORT: NumberOption = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);

/// A policy of one backend whose subset has some more keys.
fn policy(keys: &str) -> String {
    policy_of(FRONTEND, BACKEND, keys)
}

fn policy_of(frontend: &str, backend: &str, keys: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: shop}}\nspec:\n  \
         frontends: ['{frontend}']\n  subsets:\n    v1: {{backends: ['{backend}'], {keys}}}\n  \
         split: {{v1: 1}}\n"
    )
}

/// Runs with a node and a listening backend, in a network of its own.
fn with_backend(
    keys: &str,
    run: impl FnOnce(&mut Node, &TcpListener) -> Result<()> + Send,
) -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        node.apply(&policy(keys))?;
        run(&mut node, &TcpListener::bind(BACKEND)?)
    })
}

fn connect(to: &str) -> io::Result<TcpStream> {
    TcpStream::connect(to.parse::<SocketAddr>().map_err(io::Error::other)?)
}

fn congestion(socket: &TcpStream) -> Result<String> {
    Ok(sockopt::tcp_congestion(socket)?)
}

#[test]
fn the_congestion_control_is_that_of_the_subset() -> Result<()> {
    with_backend("congestionControl: reno", |node, _listener| {
        let default = congestion(&connect(BACKEND)?)?;
        assert_eq!(congestion(&connect(FRONTEND)?)?, "reno");
        node.apply(&policy("congestionControl: cubic"))?;
        assert_eq!(congestion(&connect(FRONTEND)?)?, "cubic");
        node.apply(&policy("congestionControl: nobody-has-it"))?;
        assert_eq!(congestion(&connect(FRONTEND)?)?, default, "it connects all the same");
        Ok(())
    })
}

#[test]
fn the_pacing_rate_is_that_of_the_subset() -> Result<()> {
    with_backend("pacingRate: 8Mbit/s", |node, _listener| {
        let rate = |to| -> Result<u32> { Ok(number_option(connect(to)?, PACING_RATE)?) };
        assert_eq!(rate(FRONTEND)?, 1_000_000);
        assert_eq!(rate(BACKEND)?, u32::MAX, "there is no limit where nobody asks for one");
        node.apply(&policy("pacingRate: 4294967294B/s"))?;
        assert_eq!(rate(FRONTEND)?, u32::MAX - 1);
        Ok(())
    })
}

#[test]
fn the_mark_is_that_of_the_subset() -> Result<()> {
    with_backend("mark: 0x2a", |node, _listener| {
        let mark = |to| -> Result<u32> { Ok(number_option(connect(to)?, MARK)?) };
        assert_eq!(mark(FRONTEND)?, 42);
        assert_eq!(mark(BACKEND)?, 0);
        node.apply(&policy("mark: 4294967295, pacingRate: 1GB/s, congestionControl: reno"))?;
        let client = connect(FRONTEND)?;
        assert_eq!(number_option(&client, MARK)?, u32::MAX);
        assert_eq!(number_option(&client, PACING_RATE)?, 1_000_000_000);
        assert_eq!(congestion(&client)?, "reno");
        Ok(())
    })
}

#[test]
fn connections_come_from_the_source_address() -> Result<()> {
    with_backend("source: 127.0.0.9", |_node, listener| {
        let source: IpAddr = "127.0.0.9".parse()?;
        let clients = [connect(FRONTEND)?, connect(FRONTEND)?];
        for client in &clients {
            let local = client.local_addr()?;
            assert_eq!(local.ip(), source);
            assert_eq!(listener.accept()?.1, local, "the server sees it too");
        }
        ensure!(clients[0].local_addr()? != clients[1].local_addr()?, "ports are the kernel's");
        assert_eq!(connect(BACKEND)?.local_addr()?.ip(), IpAddr::from([127, 0, 0, 1]));
        Ok(())
    })
}

fn run_ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("run ip")?;
    ensure!(status.success(), "ip {arguments:?}: {status}");
    Ok(())
}

#[test]
fn the_source_address_may_be_ipv6() -> Result<()> {
    in_own_network(|| {
        run_ip(&["address", "add", "fd00::9/128", "dev", "lo", "nodad"])?;
        let mut node = shared::node()?;
        node.apply(&policy_of("[fd00::1]:80", "[::1]:19001", "source: 'fd00::9'"))?;
        let listener = TcpListener::bind("[::1]:19001")?;
        let client = connect("[fd00::1]:80")?;
        assert_eq!(client.local_addr()?.ip(), "fd00::9".parse::<IpAddr>()?);
        assert_eq!(listener.accept()?.1, client.local_addr()?);
        Ok(())
    })
}

#[test]
fn a_socket_of_ipv6_that_dials_ipv4_has_the_source_address_too() -> Result<()> {
    with_backend("source: 127.0.0.9", |_node, listener| {
        let client = connect("[::ffff:127.10.0.1]:80")?;
        assert_eq!(client.local_addr()?.ip().to_canonical(), IpAddr::from([127, 0, 0, 9]));
        assert_eq!(listener.accept()?.1.ip(), IpAddr::from([127, 0, 0, 9]));
        Ok(())
    })
}

fn socket() -> io::Result<OwnedFd> {
    Ok(net::socket(AddressFamily::INET, SocketType::STREAM, None)?)
}

#[test]
fn a_socket_that_is_bound_already_keeps_its_address() -> Result<()> {
    with_backend("source: 127.0.0.9", |_node, listener| {
        let to: SocketAddr = FRONTEND.parse()?;
        for (own, without_port) in [("127.0.0.7:0", 0), ("127.0.0.7:0", 1), ("0.0.0.0:0", 0)] {
            let client = socket()?;
            set_number_option(&client, ADDRESS_WITHOUT_PORT, without_port)?;
            net::bind(&client, &own.parse::<SocketAddr>()?)?;
            net::connect(&client, &to)?;
            let expected = if own.starts_with('0') { [127, 0, 0, 1] } else { [127, 0, 0, 7] };
            assert_eq!(listener.accept()?.1.ip(), IpAddr::from(expected), "{own} {without_port}");
        }
        Ok(())
    })
}

#[test]
fn a_source_address_that_cannot_be_had_fails_the_connection() -> Result<()> {
    with_backend("source: 192.0.2.1, maxConnections: 1", |node, listener| {
        for _ in 0..3 {
            let error = connect(FRONTEND).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        }
        listener.set_nonblocking(true)?;
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(node.reason(Reason::NoSource)?, 3);
        assert_eq!(node.reason(Reason::OverLimit)?, 0);
        let states = node.states("shop")?;
        ensure!(states.values().all(|state| state.cells[cell::LIVE] == 0), "nothing is held");
        let subsets = states.keys().filter(|owner| matches!(owner, CounterOwner::Subset(_)));
        assert_eq!(subsets.count(), 1);
        Ok(())
    })
}
