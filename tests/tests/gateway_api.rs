//! The acceptance of weighted routes that the Gateway API's conformance suite asks for
//! (`conformance/utils/weight`): 500 connections by 10 clients at once, shares of 70, 30 and 0 to
//! within 0.05, nothing to the backend without weight. There, ten tries are allowed; here the first
//! one has to be exact.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context as _, Result};
use splitter_tests::files::read_policy;
use splitter_tests::net::{dial, in_own_network};
use splitter_tests::peers::{PortServer, UdpClient};
use splitter_tests::shared;

/// Connections in all.
const CONNECTIONS: usize = 500;
/// Clients at once.
const CLIENTS: usize = 10;
/// Port of each version and the connections that it is to get.
const SHARES: [(u16, usize); 3] = [(9001, 350), (9002, 150), (9003, 0)];

/// The registry of the examples and a route for one of its ports.
fn policy(kind: &str, parent_port: u16, backend_port: u16) -> Result<String> {
    let registry = read_policy("../policies/gateway-api/registry.yaml")?;
    let backend = |(version, weight): (&str, u32)| {
        format!("{{name: purchase-history-{version}, port: {backend_port}, weight: {weight}}}")
    };
    let backends = [("v1", 70), ("v2", 30), ("v3", 0)].map(backend).join(", ");
    Ok(format!(
        "{registry}
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: weighted, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: purchase-history, port: {parent_port}}}]
  rules:
    - backendRefs: [{backends}]
"
    ))
}

/// Makes the connections, each client its part, and counts who answered.
fn count(client: impl Fn(usize) -> io::Result<Vec<u16>> + Sync) -> Result<BTreeMap<u16, usize>> {
    let client = &client;
    let answers = thread::scope(|threads| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| threads.spawn(move || client(CONNECTIONS / CLIENTS))).collect();
        let join = |client: thread::ScopedJoinHandle<'_, _>| client.join().expect("no panic");
        clients.into_iter().map(join).collect::<io::Result<Vec<_>>>()
    })?;
    let mut counts = BTreeMap::new();
    for port in answers.into_iter().flatten() {
        *counts.entry(port).or_insert(0) += 1;
    }
    Ok(counts)
}

fn expected() -> BTreeMap<u16, usize> {
    SHARES.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn over_tcp(kind: &str, port: u16) -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&policy(kind, port, 8080)?)?;
    let frontend = SocketAddr::from(([127, 10, 0, 1], port));
    let counts = in_own_network(|| {
        let servers =
            SHARES.iter().map(|(port, _)| PortServer::start(&format!("127.0.0.1:{port}")));
        let _servers = servers.collect::<Result<Vec<_>>>()?;
        count(|n| (0..n).map(|_| dial(frontend).map(|(_, port)| port)).collect())
    });
    assert_eq!(counts.context(kind.to_owned())?, expected(), "{kind}");
    Ok(())
}

#[test]
fn weights_of_a_tcp_route_are_kept_exactly() -> Result<()> {
    over_tcp("TCPRoute", 8082)
}

#[test]
fn weights_of_an_http_route_are_kept_exactly() -> Result<()> {
    over_tcp("HTTPRoute", 8081)
}

#[test]
fn weights_of_a_udp_route_are_kept_exactly() -> Result<()> {
    let mut node = shared::node()?;
    node.apply(&policy("UDPRoute", 8053, 8053)?)?;
    let each = |n: usize| {
        let client = UdpClient::new("127.10.0.1:8053").map_err(io::Error::other)?;
        (0..n).map(|_| client.connect_port()).collect()
    };
    assert_eq!(count(each)?, expected());
    Ok(())
}

/// A reference that is not good keeps its share, and that is refused.
#[test]
fn the_share_of_a_reference_to_nothing_is_refused() -> Result<()> {
    let mut node = shared::node()?;
    let text = policy("TCPRoute", 8082, 8080)?.replace("purchase-history-v2,", "gone,");
    node.apply(&text)?;
    let frontend = SocketAddr::from(([127, 10, 0, 1], 8082));
    let counts = in_own_network(|| {
        let _server = PortServer::start("127.0.0.1:9001")?;
        count(|n| {
            let ask = |_| match dial(frontend) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
                answer => answer.map(|(_, port)| port),
            };
            (0..n).map(ask).collect()
        })
    })?;
    assert_eq!(counts, BTreeMap::from([(0, 150), (9001, 350)]));
    Ok(())
}
