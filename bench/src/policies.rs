//! Policies to measure with: services of one ordinary shape.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::Result;
use splitter_tests::node::parse;
use splitter_user::compile::{Compiler, Ids};
use splitter_user::policy::model::Policy;
use splitter_user::publish::Change;

/// First address of the table's frontends: below it, there is room for what a bench dials.
const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// A service of two subsets.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Name of the service.
    pub name: String,
    /// Its frontend, as policies write it.
    pub frontend: String,
    /// Backends of each subset.
    pub backends: u32,
    /// Weights of `v1` and `v2`.
    pub weights: [u32; 2],
    /// Whether each connection leaves state on its socket.
    pub keeps_state: bool,
    /// Which datagrams are split, where the frontend is one of UDP. Only of sockets that connect,
    /// unless asked otherwise: where nothing is kept on a socket, a bench measures the decision alone.
    pub datagrams: &'static str,
}

impl Shape {
    /// A service with two backends in each subset and a wheel of 100 slots.
    pub fn new(name: impl Into<String>, frontend: impl Into<String>) -> Self {
        let (name, frontend) = (name.into(), frontend.into());
        let (weights, datagrams) = ([81, 19], "connected");
        Self { name, frontend, backends: 2, weights, keeps_state: false, datagrams }
    }

    /// One of the services of a table, by its number, with a TCP frontend.
    pub fn of_table(number: u32) -> Self {
        Self::new(format!("s{number}"), frontend(number).to_string())
    }

    /// The same with other weights.
    #[must_use]
    pub fn weighing(self, v1: u32, v2: u32) -> Self {
        Self { weights: [v1, v2], ..self }
    }

    /// The same with so many backends in each subset.
    #[must_use]
    pub fn with_backends(self, backends: u32) -> Self {
        Self { backends, ..self }
    }

    /// The same with datagrams of sockets that never connect, which leave state too.
    #[must_use]
    pub fn splitting_datagrams(self) -> Self {
        Self { datagrams: "all", ..self }
    }

    /// The same with state on each socket.
    #[must_use]
    pub fn keeping_state(self) -> Self {
        Self { keeps_state: true, ..self }
    }

    /// The policy document.
    pub fn to_yaml(&self) -> String {
        let Self { name, frontend, weights: [v1, v2], .. } = self;
        let state = if self.keeps_state { "\n  getpeername: frontend" } else { "" };
        let datagrams = match self.datagrams {
            which if frontend.ends_with("/udp") => format!("\n  datagrams: {which}"),
            _ => String::new(),
        };
        let (b1, b2) = (self.backends_of(1), self.backends_of(2));
        format!(
            "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:{state}{datagrams}
  frontends: ['{frontend}']
  subsets:
    v1: {{backends: [{b1}]}}
    v2: {{backends: [{b2}]}}
  routes:
    - split: {{v1: {v1}, v2: {v2}}}
"
        )
    }

    /// The backends of `v1` are at 19001, 19011, ..., those of `v2` at 19002, 19012, ...
    fn backends_of(&self, version: u32) -> String {
        let backend = |n: u32| format!("'127.0.0.1:{}'", 19_000 + version + 10 * n);
        (0..self.backends).map(backend).collect::<Vec<_>>().join(", ")
    }
}

/// The frontend of a service of a table.
pub fn frontend(number: u32) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::from_bits(FIRST + number), 80).into()
}

/// A policy of so many services with so many backends in each subset.
pub fn table(services: u32, backends: u32) -> String {
    let mut text = String::new();
    for number in 0..services {
        let service = Shape::of_table(number).with_backends(backends);
        let _ = write!(text, "{}", service.to_yaml());
    }
    text
}

/// The changes that put the services of a policy where they are.
pub fn puts(yaml: &str) -> Result<Vec<Change>> {
    Ok(compile(&parse(yaml)?))
}

/// The same of a policy that was read. Services that name cgroups match nothing.
pub fn compile(policy: &Policy) -> Vec<Change> {
    let mut compiler = Compiler::new(Ids::default());
    let images = policy.services.iter().map(|service| compiler.compile(service).0);
    images.map(|image| Change::Put(Arc::new(image))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_policy() {
        let stateful = Shape::new("a", "127.10.0.1:80/udp").with_backends(5).keeping_state();
        assert_eq!(puts(&stateful.to_yaml()).unwrap().len(), 1);
        assert_eq!(puts(&table(300, 1)).unwrap().len(), 300);
    }

    #[test]
    fn tables_are_inside_loopback() {
        assert!(frontend(999_999).ip().is_loopback());
        assert_eq!(frontend(256).to_string(), "127.64.1.0:80");
    }
}
