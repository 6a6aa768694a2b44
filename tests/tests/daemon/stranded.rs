//! Connected UDP sockets whose backend goes, is drained, or does not serve: exactly those that are
//! ours are closed, where the policy or a command says so.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use splitter_tests::daemon::{Daemon, Site, eventually};
use splitter_tests::datagrams::{DatagramServer, datagram_socket, exchange, sharing_socket};
use splitter_tests::net::{Inhabitant, in_own_network};

use crate::sweep::closed;

const V1: &str = "127.0.0.1:19001";
const V2: &str = "127.0.0.1:19002";
const SHOP: &str = "127.10.0.1:8080";
const OTHER: &str = "127.10.0.2:8080";

/// A service of UDP whose first subset has some backends; `v2` has weight 0.
fn service(name: &str, frontend: &str, asked: &str, v1: &[&str]) -> String {
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{frontend}/udp']
  {asked}
  subsets:
    v1: {{backends: {v1:?}}}
    v2: {{backends: ['{V2}']}}
  routes:
    - {{name: all, split: {{v1: 1, v2: 0}}}}
"
    )
}

/// The same of IPv6.
fn service6(asked: &str, backends: &[&str]) -> String {
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: six}}
spec:
  frontends: ['[::1]:18080/udp']
  {asked}
  subsets: {{v1: {{backends: {backends:?}}}}}
  routes: [{{split: {{v1: 1}}}}]
"
    )
}

fn run(site: &Site, policy: &str) -> Result<Daemon> {
    let policy = site.write("policy.yaml", policy)?;
    site.run(&["--policy", &policy])
}

/// A socket that is connected.
struct Client(UdpSocket);

impl Client {
    fn new(to: &str) -> Result<Self> {
        let to: SocketAddr = to.parse()?;
        let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let client = Self(UdpSocket::bind(any)?);
        client.0.set_nonblocking(true)?;
        client.connect(&to.to_string())?;
        Ok(client)
    }

    fn connect(&self, to: &str) -> Result<()> {
        self.0.connect(to).with_context(|| format!("connect to {to}"))
    }

    fn peer(&self) -> Result<String> {
        Ok(self.0.peer_addr()?.to_string())
    }

    /// Whether it is told that it was closed.
    fn is_closed(&self) -> Result<bool> {
        match self.0.recv(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(true),
            other => anyhow::bail!("the client got {other:?}"),
        }
    }

    fn ensure_open(&self, why: &str) -> Result<()> {
        ensure!(!self.is_closed()? && self.peer().is_ok(), "closed: {why}");
        Ok(())
    }
}

/// Sockets that are connected to a frontend, each at the backend of its place.
fn clients<const N: usize>(frontend: &str, backends: [&str; N]) -> Result<[Client; N]> {
    let mut found = backends.map(|_| None);
    for _ in 0..N {
        let client = Client::new(frontend)?;
        let peer = client.peer()?;
        let at = backends.iter().position(|backend| *backend == peer);
        found[at.with_context(|| peer)?] = Some(client);
    }
    let found: Option<Vec<Client>> = found.into_iter().collect();
    found.and_then(|all| all.try_into().ok()).context("every backend has one")
}

/// What drains, as `status` has it.
fn draining(site: &Site) -> Result<Vec<Value>> {
    Ok(site.status()?["draining"].as_array().context("what drains")?.clone())
}

#[test]
fn sockets_of_a_removed_backend_are_closed_where_the_policy_says_so() -> Result<()> {
    const DRAIN: &str = "oldConnections: {drain: {deadline: 1s}}";
    let (first, second, first6, second6) = (V1, "127.0.0.2:19001", "[::1]:19006", "[::1]:19007");
    let policy = |v1: &[&str], v6: &[&str]| {
        let leaves = service("other", OTHER, "oldConnections: leave", v1);
        service("shop", SHOP, DRAIN, v1) + &leaves + &service6(DRAIN, v6)
    };
    let site = Site::new()?;
    let daemon = run(&site, &policy(&[first, second], &[first6, second6]))?;
    let [stays, goes] = clients(SHOP, [first, second])?;
    let [stays6, goes6] = clients("[::1]:18080", [first6, second6])?;
    let [left, also_left] = clients(OTHER, [first, second])?;
    let (direct, direct6) = (Client::new(second)?, Client::new(second6)?);
    // A call that fails leaves the socket where it is.
    site.replace(
        "policy.yaml",
        policy(&[first, second], &[first6, second6])
            .replace("split: {v1: 1, v2: 0}", "reject: EACCES"),
    )?;
    eventually("it is rejected", || Ok(Client::new(SHOP).is_err()))?;
    ensure!(goes.connect(SHOP).is_err() && goes.peer()? == second);
    site.replace("policy.yaml", policy(&[first], &[first6]))?;
    for gone in [&goes, &goes6] {
        eventually("it is closed", || gone.is_closed())?;
        ensure!(gone.peer().is_err(), "it is not connected any more");
    }
    for open in [&stays, &stays6, &left, &also_left, &direct, &direct6] {
        open.ensure_open("it is another's")?;
    }
    eventually("they are counted", || Ok(closed(&site, "closed_drained")? == 2))?;
    goes.connect(SHOP)?;
    assert_eq!(goes.peer()?, first);
    let log = daemon.terminate()?;
    ensure!(log.contains("connections closed") && log.contains("services=shop"), "{log}");
    Ok(())
}

#[test]
fn a_socket_that_went_elsewhere_is_not_taken_for_what_it_was() -> Result<()> {
    let site = Site::new()?;
    let policy = service("shop", SHOP, "oldConnections: {drain: {deadline: 2s}}", &[V1]);
    let _daemon = run(&site, &policy)?;
    let (goes, elsewhere) = (Client::new(SHOP)?, Client::new(SHOP)?);
    site.replace("policy.yaml", "# Nothing.\n")?;
    eventually("the service is gone", || Ok(site.status()?["n_services"] == 0))?;
    // By now no service keeps anything on sockets.
    elsewhere.connect(V1)?;
    eventually("one is closed", || goes.is_closed())?;
    elsewhere.ensure_open("it dialled the backend itself")
}

#[test]
fn sockets_of_a_backend_that_fails_its_checks_are_closed_where_the_policy_says_so() -> Result<()> {
    const HEALTH: &str =
        "health: {tcp: {}, interval: 10ms, healthyThreshold: 1, unhealthyThreshold: 1}";
    let (first, second) = (V1, "127.0.0.2:19001");
    let checked = |name, frontend, asked| {
        service(name, frontend, asked, &[first, second])
            .replace("\"]}", &format!("\"], {HEALTH}}}"))
    };
    let policy = checked("shop", SHOP, "onBackendDown: close") + &checked("other", OTHER, "");
    let site = Site::new()?;
    let _first = TcpListener::bind(first)?;
    let listener = TcpListener::bind(second)?;
    let _daemon = run(&site, &policy)?;
    let [stays, goes] = clients(SHOP, [first, second])?;
    let [left, also_left] = clients(OTHER, [first, second])?;
    let direct = Client::new(second)?;
    drop(listener);
    eventually("it is closed", || goes.is_closed())?;
    eventually("it is counted", || Ok(closed(&site, "closed_down")? == 1))?;
    for open in [&stays, &left, &also_left, &direct] {
        open.ensure_open("it is another's")?;
    }
    goes.connect(SHOP)?;
    assert_eq!(goes.peer()?, first, "it is told to go elsewhere");
    let _listener = TcpListener::bind(second)?;
    let back = || -> Result<Client> {
        loop {
            let client = Client::new(SHOP)?;
            if client.peer()? == second {
                return Ok(client);
            }
        }
    };
    let back = back()?;
    let rounds = closed(&site, "rounds")?;
    site.splitter(&["drain", "shop", "--backend", first])?.success()?;
    eventually("a round passes", || Ok(closed(&site, "rounds")? > rounds))?;
    back.ensure_open("it came after")
}

#[test]
fn sockets_of_a_backend_that_is_ejected_are_closed_where_the_policy_says_so() -> Result<()> {
    let (first, second) = (V1, "127.0.0.2:19001");
    let eject = "eject: {consecutiveFailures: 1, baseTime: 1h, maxPercent: 50}";
    let policy = service("shop", SHOP, "onBackendDown: close", &[first, second])
        .replace("\"]}", &format!("\"], {eject}}}"))
        .replace("/udp'", "/udp', '127.10.0.1:8080'");
    let site = Site::new()?;
    let _daemon = run(&site, &policy)?;
    let [stays, goes] = clients(SHOP, [first, second])?;
    let direct = Client::new(second)?;
    let listener = TcpListener::bind(first)?;
    let established = TcpStream::connect(SHOP)?;
    let _accepted = listener.accept()?;
    // Nobody listens at the second.
    ensure!(TcpStream::connect(SHOP).is_err(), "it is refused");
    eventually("it is closed", || goes.is_closed())?;
    for open in [&stays, &direct] {
        open.ensure_open("it is another's")?;
    }
    assert_eq!(established.take_error()?.map(|error| error.kind()), None);
    eventually("it is counted", || Ok(closed(&site, "closed_down")? == 1))
}

#[test]
fn old_sockets_are_closed_and_so_are_those_that_hide_each_other() -> Result<()> {
    let site = Site::new()?;
    let lifetime =
        |asked: &str| service("shop", SHOP, "", &[V1]).replace("\"]}", &format!("\"]{asked}}}"));
    let _daemon = run(&site, &lifetime(""))?;
    let own = "127.0.0.1:12345";
    let [goes, also_goes, direct] = [SHOP, SHOP, V1].map(|to| sharing_socket(own, to).map(Client));
    let (goes, also_goes, direct) = (goes?, also_goes?, direct?);
    site.replace("policy.yaml", lifetime(", maxLifetime: 1ms"))?;
    // The kernel finds one of the three by their addresses. While that is none of ours, ours stay.
    eventually("they are looked at", || Ok(closed(&site, "rounds")? > 1))?;
    direct.ensure_open("it dialled the backend itself")?;
    drop(direct);
    for gone in [&goes, &also_goes] {
        eventually("it is closed", || gone.is_closed())?;
    }
    eventually("both are counted", || Ok(closed(&site, "closed_too_old")? == 2))
}

#[test]
fn sockets_in_other_network_namespaces_are_closed() -> Result<()> {
    let (first, second) = (V1, "127.0.0.2:19001");
    let site = Site::new()?;
    let _daemon = run(&site, &service("shop", SHOP, "outcomes: true", &[first, second]))?;
    let (([stays, goes], direct), _inhabitant) = in_own_network(|| {
        let sockets = (clients(SHOP, [first, second])?, Client::new(second)?);
        Ok((sockets, Inhabitant::new()?))
    })?;
    site.splitter(&["drain", "shop", "--backend", second, "--deadline", "0s"])?.success()?;
    eventually("it is closed", || goes.is_closed())?;
    stays.ensure_open("its backend serves")?;
    direct.ensure_open("it is nobody's")
}

#[test]
fn a_subset_is_drained_of_all_its_sockets_and_back() -> Result<()> {
    let site = Site::new()?;
    let _servers = [DatagramServer::echo(V1)?, DatagramServer::echo(V2)?];
    let policy = service("shop", SHOP, "", &[V1]).replace("v1: 1, v2: 0", "v1: 0, v2: 1");
    let daemon = run(&site, &policy)?;
    let goes = Client::new(SHOP)?;
    let (moves, shop) = (datagram_socket("127.0.0.1:0")?, SHOP.parse()?);
    assert_eq!(exchange(&moves, shop)?, (shop, 19002));
    site.replace("policy.yaml", policy.replace("v1: 0, v2: 1", "v1: 1, v2: 1"))?;
    eventually("both get some", || {
        let out = site.json(&["status", "shop"])?;
        Ok(out["services"][0]["routes"][0]["weights"][0][1] == 1)
    })?;
    assert_eq!(exchange(&moves, shop)?, (shop, 19002), "weights are for others");
    let out = site.splitter(&["drain", "shop/v2", "--deadline", "1h"])?.success()?;
    let told = format!("shop/v2 {V2}: connected UDP sockets, closed in 3600 s\n");
    ensure!(out.contains(&told) && out.contains("elsewhere with their next datagram"), "{out}");
    ensure!(!out.contains("connections"), "{out}");
    assert_eq!(exchange(&moves, shop)?, (shop, 19001));
    eventually("it is counted", || Ok(draining(&site)?[0]["sockets"] == 1))?;
    let out = site.splitter(&["status"])?.success()?;
    ensure!(out.contains(": 1 connected UDP socket left, closed in"), "{out}");
    ensure!(!out.contains("established"), "nothing is known of outcomes: {out}");
    daemon.kill()?;
    let _daemon = site.run(&["--policy", &site.path("policy.yaml").display().to_string()])?;
    goes.ensure_open("it has an hour")?;
    site.splitter(&["drain", "shop/v2", "--deadline", "0s"])?.success()?;
    eventually("it is closed", || goes.is_closed())?;
    let over =
        "nothing left, by command; `splitter drain --undo shop/v2` has connections come again";
    eventually("it is over", || Ok(site.splitter(&["status"])?.success()?.contains(over)))?;
    site.splitter(&["drain", "--undo", "shop/v2"])?.success()?;
    // The one at the first stays, and new ones are shared out.
    assert_eq!(exchange(&moves, shop)?, (shop, 19001));
    assert_eq!(ports_of_four(shop)?, [19001, 19001, 19002, 19002]);
    Ok(())
}

/// Where four sockets that never connect send what they send to a frontend, each twice.
fn ports_of_four(frontend: SocketAddr) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for _ in 0..4 {
        let socket = datagram_socket("127.0.0.1:0")?;
        let (_, port) = exchange(&socket, frontend)?;
        assert_eq!(exchange(&socket, frontend)?, (frontend, port), "it stays where it is");
        ports.push(port);
    }
    ports.sort_unstable();
    Ok(ports)
}

#[test]
fn sockets_that_connect_are_drained_where_no_others_are_split() -> Result<()> {
    let site = Site::new()?;
    let policy =
        |asked: &str| service("shop", SHOP, &format!("datagrams: connected\n  {asked}"), &[V1]);
    let swapped = |asked: &str| policy(asked).replace("v1: 1, v2: 0", "v1: 1, v2: 1");
    let _daemon = run(&site, &swapped(""))?;
    let drain = ["drain", "shop/v1", "--deadline", "0s"];
    let refused = site.splitter(&drain)?.refusal()?;
    ensure!(refused.contains("write `outcomes: true` into its policy"), "{refused}");
    let before = site.generation()?;
    site.replace("policy.yaml", swapped("outcomes: true"))?;
    eventually("it is followed", || Ok(site.generation()? > before))?;
    let [goes, stays] = clients(SHOP, [V1, V2])?;
    let out = site.splitter(&drain)?.success()?;
    ensure!(!out.contains("never connect"), "{out}");
    eventually("it is closed", || goes.is_closed())?;
    stays.ensure_open("its subset serves")
}
