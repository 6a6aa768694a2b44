//! The daemon and its commands, as people run them, on the running kernel.
//!
//! Every test starts the real binary: see [`splitter_tests::daemon`].

mod agreement;
mod detach;
mod documents;
mod drain;
mod egress;
mod egress_hosts;
mod exec;
mod files;
mod health;
mod hold;
mod needs;
mod refusals;
mod restarts;
mod rights;
mod sizes;
mod socket;
mod stranded;
mod sweep;
mod weights;

use anyhow::{Result, ensure};
use splitter_tests::peers::UdpClient;

/// What every test's `shop` is dialled at.
const SHOP: &str = "127.10.0.1:8080";

/// The policy of one service that gives three of five connections to `port` and two to the next.
fn shop(port: u16) -> String {
    service("shop", SHOP, port)
}

/// A service of the same split.
fn service(name: &str, frontend: &str, port: u16) -> String {
    format!(
        "---
apiVersion: splitter.dev/v1
kind: Split
metadata: {{name: {name}}}
spec:
  frontends: ['{frontend}/udp']
  subsets:
    v1: {{backends: ['127.0.0.1:{port}']}}
    v2: {{backends: ['127.0.0.1:{}']}}
  routes:
    - {{name: all, split: {{v1: 3, v2: 2}}}}
",
        port + 1
    )
}

/// Where a connection to an address goes.
fn port_of(frontend: &str) -> Result<u16> {
    Ok(UdpClient::new(frontend)?.connect_port()?)
}

/// The only client of a 3:2 split, which holds every prefix of what it gets to the exact shares.
struct ExactClient {
    client: UdpClient,
    v1: u16,
    connects: u64,
    to_v2: u64,
}

impl ExactClient {
    /// A client of a service whose first port is `v1`.
    fn new(frontend: &str, v1: u16) -> Result<Self> {
        Ok(Self { client: UdpClient::new(frontend)?, v1, connects: 0, to_v2: 0 })
    }

    /// Connects once and compares with what the weights ask for.
    fn connect(&mut self) -> Result<()> {
        let port = self.client.connect_port()?;
        ensure!(port == self.v1 || port == self.v1 + 1, "port {port} after {}", self.connects);
        self.connects += 1;
        self.to_v2 += u64::from(port != self.v1);
        let error = (self.to_v2 * 5).abs_diff(self.connects * 2);
        ensure!(error < 5, "{} of {} to v2", self.to_v2, self.connects);
        Ok(())
    }

    /// Connects many times.
    fn connect_times(&mut self, times: u32) -> Result<()> {
        (0..times).try_for_each(|_| self.connect())
    }
}
