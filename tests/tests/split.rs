//! The split itself, on the running kernel: exactness, families, outcomes, clients.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use anyhow::Result;
use splitter_tests::net::in_own_network;
use splitter_tests::node::two_versions;
use splitter_tests::peers::{PortServer, UdpClient, ask_port};
use splitter_tests::{scale, shared};

#[test]
fn twenty_tcp_connections_are_sixteen_and_four() -> Result<()> {
    in_own_network(|| {
        let mut node = shared::node()?;
        let _v1 = PortServer::start("127.0.0.1:19001")?;
        let _v2 = PortServer::start("127.0.0.1:19002")?;
        for run in 0..20 {
            node.apply(&two_versions("tcp", 80, 20))?;
            let mut counts = BTreeMap::new();
            for _ in 0..20 {
                *counts.entry(ask_port("127.10.0.1:8080")?).or_insert(0) += 1;
            }
            assert_eq!(counts, BTreeMap::from([(19001, 16), (19002, 4)]), "run {run}");
        }
        Ok(())
    })
}

#[test]
fn every_prefix_of_one_client_is_within_one() -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&two_versions("udp", 80, 20))?;
    let client = UdpClient::new("127.10.0.1:8080")?;
    let mut v2 = 0_u64;
    for n in 1..=1_000_000 / scale() {
        v2 += u64::from(client.connect_port()? == 19002);
        // |v2 - n / 5| < 1, in fifths.
        assert!((v2 * 5).abs_diff(n) < 5, "{v2} of {n}");
    }
    Ok(())
}

#[test]
fn totals_of_two_cpus_at_once_are_within_one() -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&two_versions("udp", 80, 20))?;
    let each = 500_000 / scale();
    let count = move || -> io::Result<u64> {
        let client = UdpClient::new("127.10.0.1:8080").map_err(io::Error::other)?;
        let mut v2 = 0;
        for _ in 0..each {
            v2 += u64::from(client.connect_port()? == 19002);
        }
        Ok(v2)
    };
    let clients = [thread::spawn(count), thread::spawn(count)];
    let mut v2 = 0;
    for client in clients {
        v2 += client.join().expect("the client does not panic")?;
    }
    assert!((v2 * 5).abs_diff(2 * each) < 5, "{v2} of {}", 2 * each);
    Ok(())
}

#[test]
fn the_address_of_a_server_is_split_between_it_and_others() -> Result<()> {
    in_own_network(|| {
        // Dropped after the node, since a server is told to end by a connection to its own address.
        let _v1 = PortServer::start("127.0.0.1:19001")?;
        let _v2 = PortServer::start("127.0.0.1:19002")?;
        let mut node = shared::node()?;
        let policy = two_versions("tcp", 50, 50).replace("127.10.0.1:8080", "127.0.0.1:19001");
        node.apply(&policy)?;
        let mut counts = BTreeMap::new();
        for n in 1..=40_u32 {
            *counts.entry(ask_port("127.0.0.1:19001")?).or_insert(0_u32) += 1;
            let v1 = counts.get(&19001).copied().unwrap_or_default();
            assert!((v1 * 2).abs_diff(n) < 2, "{v1} of {n}");
        }
        assert_eq!(counts, BTreeMap::from([(19001, 20), (19002, 20)]));
        Ok(())
    })
}
