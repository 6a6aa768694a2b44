//! The life of connections: what comes of them, on real sockets.
//!
//! Every test ends with gauges at exactly what stands, which is mostly nothing.

mod ejection;
mod endings;
mod faults;
mod kinds;
mod limits;
mod many;
mod networks;
mod starts;
mod times;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use splitter_common::abi::{State, cell, outcome};
use splitter_tests::node::Node;
use splitter_user::publish::CounterOwner;

const FRONTEND: &str = "127.10.0.1:80";
const BACKEND: &str = "127.0.0.1:19001";
/// What is reported of a connection is reported long before, unless it never is.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// A policy of one backend whose subset has some more keys.
fn policy(keys: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: shop}}\nspec:\n  \
         frontends: ['{FRONTEND}']\n  outcomes: true\n  subsets:\n    v1: {{backends: \
         ['{BACKEND}']{keys}}}\n  routes: [{{split: {{v1: 1}}}}]\n"
    )
}

fn frontend() -> SocketAddr {
    FRONTEND.parse().expect("an address")
}

fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(frontend())
}

/// A socket that waits for what it is asked for.
fn socket() -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Why a socket cannot connect to the frontend.
fn errno_of(socket: impl AsFd) -> Option<i32> {
    net::connect(socket, &frontend()).err().map(rustix::io::Errno::raw_os_error)
}

/// The states of the service's backends, each once.
fn backends(node: &Node) -> Result<Vec<State>> {
    of_kind(node, |owner| matches!(owner, CounterOwner::Backend(..)))
}

/// The only backend's state.
fn backend(node: &Node) -> Result<State> {
    backends(node)?.into_iter().next().context("a backend")
}

/// The only subset's state.
fn subset(node: &Node) -> Result<State> {
    let subsets = of_kind(node, |owner| matches!(owner, CounterOwner::Subset(_)))?;
    subsets.into_iter().next().context("a subset")
}

/// The only route's state.
fn route(node: &Node) -> Result<State> {
    let routes = of_kind(node, |owner| matches!(owner, CounterOwner::Route(_)))?;
    routes.into_iter().next().context("a route")
}

fn of_kind(node: &Node, is_kind: impl Fn(&CounterOwner) -> bool) -> Result<Vec<State>> {
    let states = node.states("shop")?;
    Ok(states.into_iter().filter(|(owner, _)| is_kind(owner)).map(|(_, state)| state).collect())
}

/// What is not zero of what came of connections, by name.
type Ledger = BTreeMap<&'static str, u64>;

fn outcomes(state: &State) -> Ledger {
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
    names.into_iter().map(count).filter(|(_, n)| *n > 0).collect()
}

fn gauges(state: &State) -> Ledger {
    let names = [("live", cell::LIVE), ("pending", cell::PENDING)];
    let value = |(name, at): (&'static str, usize)| (name, state.cells[at]);
    names.into_iter().map(value).filter(|(_, n)| *n > 0).collect()
}

/// Waits until exactly this came of the connections to the only backend: gauges at the backend, the
/// subset and the route, outcomes at the backend and at the route.
fn expect(node: &Node, wanted: &[(&'static str, u64)]) -> Result<()> {
    let is_gauge = |name: &str| name == "live" || name == "pending";
    let (held, came): (Ledger, Ledger) =
        wanted.iter().copied().partition(|(name, _)| is_gauge(name));
    let start = Instant::now();
    loop {
        let (backend, subset, route) = (backend(node)?, subset(node)?, route(node)?);
        let holding = [gauges(&backend), gauges(&subset), gauges(&route)];
        let coming = [outcomes(&backend), outcomes(&route)];
        if holding.iter().all(|it| *it == held) && coming.iter().all(|it| *it == came) {
            return Ok(());
        }
        let seen = (holding, coming);
        ensure!(start.elapsed() < LONGEST_WAIT, "wanted {wanted:?}, seen {seen:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Connections that the only subset counts.
fn live(node: &Node) -> Result<u64> {
    Ok(subset(node)?.cells[cell::LIVE])
}
