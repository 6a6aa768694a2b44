//! Very many connections at a time.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::{fs, thread};

use anyhow::{Context as _, Result};
use rustix::net::{bind, listen};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use splitter_tests::net::in_own_network;
use splitter_tests::scale;
use splitter_tests::shared;

use super::{BACKEND, expect, frontend, policy, socket};

/// Lets this process have so many connections.
fn raise_descriptors(connections: u64) -> Result<()> {
    let needed = connections + 1_000;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.map(|current| current.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).context("raise RLIMIT_NOFILE")
}

/// From one of many addresses, each of which has ports of its own.
fn connect_from(number: u64) -> Result<TcpStream> {
    let last = u8::try_from(1 + number % 100)?;
    let socket = socket()?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0)))?;
    rustix::net::connect(&socket, &frontend())?;
    Ok(TcpStream::from(socket))
}

/// Connections from two threads.
fn connect_all(n: u64) -> Result<Vec<TcpStream>> {
    thread::scope(|threads| {
        let part = |from: u64| (from..n).step_by(2).map(connect_from).collect::<Result<Vec<_>>>();
        let halves = [threads.spawn(move || part(0)), threads.spawn(move || part(1))];
        let mut clients = Vec::new();
        for half in halves {
            clients.extend(half.join().expect("it does not panic")?);
        }
        Ok(clients)
    })
}

#[test]
fn ten_thousand_connections_stand_and_end() -> Result<()> {
    in_own_network(|| {
        let n = 10_000 / scale();
        raise_descriptors(n)?;
        let mut node = shared::node()?;
        node.apply(&policy(&format!(", maxConnections: {n}")))?;
        // They stay in the backlog, where they need no descriptor of ours.
        fs::write("/proc/sys/net/core/somaxconn", "16384")?;
        let listener = socket()?;
        bind(&listener, &BACKEND.parse::<SocketAddr>()?)?;
        listen(&listener, 16_384)?;
        let mut clients = connect_all(n)?;
        expect(&node, &[("established", n), ("live", n)])?;
        let (closed, left) = (n / 2, n - n / 2);
        clients.truncate(usize::try_from(left)?);
        expect(&node, &[("closed", closed), ("established", n), ("live", left)])?;
        // Whom it never took, the kernel resets.
        drop(listener);
        let ended = [("closed", closed), ("established", n), ("reset", left)];
        expect(&node, &ended)?;
        let told = clients.iter_mut().filter_map(|client| client.read(&mut [0]).err()).count();
        assert_eq!(u64::try_from(told)?, left);
        drop(clients);
        expect(&node, &ended)
    })
}
