//! What programs see of the splits, call by call: the rows of `docs/compatibility.md` that no other
//! test is about.
//!
//! All tests share one node, because loading one takes longer than all of them.

mod calls;
mod cgroups;
mod datagrams;
mod families;
mod kinds;
mod mptcp;
mod names;
mod programs;
mod rings;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use splitter_tests::node::Node;
use splitter_user::publish::CounterOwner;

const FRONTEND: &str = "127.10.0.1:8080";
const V1: &str = "127.0.0.1:19001";
const V2: &str = "127.0.0.1:19002";

/// A service of one backend with some more keys, each with a comma behind it.
fn service(name: &str, frontend: &str, backend: &str, keys: &str) -> String {
    format!(
        "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec: {{{keys} \
         frontends: ['{frontend}'], subsets: {{v1: {{backends: ['{backend}']}}}}, routes: \
         [{{split: {{v1: 1}}}}]}}\n"
    )
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd> {
    Ok(net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// A TCP socket of IPv4.
fn tcp() -> Result<OwnedFd> {
    socket(AddressFamily::INET, SocketType::STREAM)
}

fn peer(socket: impl AsFd) -> Result<SocketAddr> {
    Ok(net::getpeername(socket)?.expect("it is bound").try_into()?)
}

/// Connections that were decided for the only route of a service.
fn decided(node: &Node, service: &str) -> Result<u64> {
    let counts = node.counts(service)?;
    let of_routes = counts.iter().filter(|(owner, _)| matches!(owner, CounterOwner::Route(_)));
    Ok(of_routes.map(|(_, count)| count).sum())
}
