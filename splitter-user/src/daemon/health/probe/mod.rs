//! One probe of one backend.
//!
//! A probe ends within the check's timeout whatever the other side does: the time counts from its
//! beginning, not from the last byte.

mod command;
mod http;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::Check;
use crate::policy::model::Probe;

/// Connections that probe at a time. Together with what else the daemon has open, this is below
/// the 1024 descriptors that a process mostly may have.
const MOST_CONNECTIONS: usize = 512;
/// Commands that run at a time.
const MOST_COMMANDS: usize = 32;

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Why it failed, if it did.
    pub(super) failure: Option<String>,
    /// How long it took, without the wait for its turn.
    pub(super) took: Duration,
}

/// Probes backends.
pub(super) trait Prober {
    /// Probes once. What it began ends when the future is dropped.
    fn probe(&self, check: &Check) -> impl Future<Output = Outcome> + Send + 'static;
}

/// Probes by connecting, and by running commands.
pub(super) struct Network {
    connections: Arc<Semaphore>,
    commands: Arc<Semaphore>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            commands: Arc::new(Semaphore::new(MOST_COMMANDS)),
        }
    }
}

impl Prober for Network {
    fn probe(&self, check: &Check) -> impl Future<Output = Outcome> + Send + 'static {
        let (addr, how) = (check.addr(), Arc::clone(&check.how));
        let turns = match how.probe {
            Probe::Tcp | Probe::Http { .. } => Arc::clone(&self.connections),
            Probe::Command { .. } => Arc::clone(&self.commands),
        };
        async move {
            // It is never closed; if it were, there would be no bound to wait for.
            let _turn = turns.acquire().await;
            let begun = Instant::now();
            let limit = Limit::new(begun, Duration::from_millis(how.timeout_ms.into()));
            let result = match &how.probe {
                Probe::Tcp => dial(addr, &limit).await.map(drop),
                Probe::Http { path, host, statuses } => {
                    http::get(addr, path, host.as_deref(), statuses, &limit).await
                }
                Probe::Command { program, arguments } => {
                    command::run(program, arguments, addr, &limit).await
                }
            };
            Outcome { failure: result.err(), took: begun.elapsed() }
        }
    }
}

/// When a probe has to be over.
pub(super) struct Limit {
    at: Instant,
    length: Duration,
}

impl Limit {
    pub(super) fn new(begun: Instant, length: Duration) -> Self {
        Self { at: begun + length, length }
    }

    /// Waits for what a probe waits for, but not longer than it may take.
    async fn hold<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at, step).await.ok()
    }

    /// The same for what can fail; `what` was tried.
    async fn hold_io<T>(
        &self,
        what: &str,
        step: impl Future<Output = io::Result<T>>,
    ) -> Result<T, String> {
        match self.hold(step).await {
            Some(result) => result.map_err(|error| format!("{what}: {error}")),
            None => Err(format!("{what}: not done within {:?}", self.length)),
        }
    }
}

/// Connects to an address as it is.
///
/// Every connection of a probe is made here. Where the daemon runs in a cgroup whose connections
/// are split, the hooks see this one too; callers leave out addresses at which that would show.
async fn dial(addr: SocketAddr, limit: &Limit) -> Result<TcpStream, String> {
    let connect = async {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Ends by a reset, so that thousands of probes leave no ports in TIME_WAIT.
        socket.set_zero_linger()?;
        socket.connect(addr).await
    };
    limit.hold_io(&format!("connect to {addr}"), connect).await
}
