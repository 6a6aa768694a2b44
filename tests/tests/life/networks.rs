//! Networks that lose packets, and peers that are gone without a word.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Result, ensure};
use rustix::net::sockopt::set_tcp_user_timeout;
use splitter_tests::links::Neighbour;
use splitter_tests::net::in_own_network;
use splitter_tests::shared;

use super::{BACKEND, connect, expect, policy};

/// An address that everything is lost on the way to.
const LOST: &str = "10.99.0.3";

fn policy_to(addr: &str, keys: &str) -> String {
    policy(keys).replace(BACKEND, &format!("{addr}:19001"))
}

#[test]
fn connections_into_a_black_hole_time_out_and_give_their_places_back() -> Result<()> {
    in_own_network(|| {
        let neighbour = Neighbour::new()?;
        neighbour.lose(LOST)?;
        let mut node = shared::node()?;
        node.apply(&policy_to(LOST, ", connectTimeout: 200ms, maxConnections: 2"))?;
        for round in 1..=2 {
            assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::TimedOut);
            expect(&node, &[("timed out", round)])?;
        }
        Ok(())
    })
}

#[test]
fn an_address_that_nobody_has_is_unreachable() -> Result<()> {
    in_own_network(|| {
        let _neighbour = Neighbour::new()?;
        let mut node = shared::node()?;
        node.apply(&policy_to(LOST, ", maxConnections: 1"))?;
        assert_eq!(connect().unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
        expect(&node, &[("unreachable", 1)])
    })
}

/// A connection to the neighbour, whose client has sent something that did not arrive.
fn interrupted(keys: &str, by: fn(&Neighbour) -> Result<()>) -> Result<()> {
    in_own_network(|| {
        let neighbour = Neighbour::new()?;
        let addr = format!("{}:19001", Neighbour::ADDR);
        let listener = neighbour.within(|| Ok(TcpListener::bind(addr)?))?;
        let mut node = shared::node()?;
        node.apply(&policy_to(Neighbour::ADDR, keys))?;
        let mut client = connect()?;
        let _server: TcpStream = listener.accept()?.0;
        expect(&node, &[("established", 1), ("live", 1)])?;
        by(&neighbour)?;
        // Otherwise it takes minutes; keepalive is all that an idle connection has.
        if keys.is_empty() {
            set_tcp_user_timeout(&client, 500)?;
            client.write_all(b"x")?;
        }
        let error = client.read(&mut [0]).err();
        let kinds = [
            io::ErrorKind::TimedOut,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
        ];
        let is_lost = error.as_ref().is_some_and(|error| kinds.contains(&error.kind()));
        ensure!(is_lost, "the client got {error:?}");
        expect(&node, &[("established", 1), ("lost", 1)])
    })
}

#[test]
fn a_peer_whose_packets_are_lost_is_lost() -> Result<()> {
    interrupted("", |neighbour| neighbour.lose(Neighbour::ADDR))
}

#[test]
fn a_peer_whose_device_is_down_is_lost() -> Result<()> {
    interrupted("", Neighbour::lower)
}

#[test]
fn a_peer_whose_address_is_gone_is_lost() -> Result<()> {
    interrupted("", Neighbour::leave)
}

#[test]
fn a_peer_whose_device_is_gone_is_lost() -> Result<()> {
    interrupted("", Neighbour::cut)
}

#[test]
fn a_silent_peer_is_lost_by_keepalive() -> Result<()> {
    let keys = ", keepalive: {probes: 1, time: 1s, interval: 1s}";
    interrupted(keys, |neighbour| neighbour.lose(Neighbour::ADDR))
}

#[test]
fn a_silent_peer_without_a_way_to_it_is_lost_by_keepalive() -> Result<()> {
    interrupted(", keepalive: {probes: 1, time: 1s, interval: 1s}", Neighbour::cut)
}
