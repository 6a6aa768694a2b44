//! What a round has closed so far.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tracing::info;

use super::asked::{Key, Share};
use super::balance::Closing;
use super::judge::Reason;
use super::status::{Left, SweepStatus};
use crate::daemon::requests::chain;
use crate::sockets::{Destroyed, DiagError, Protocol, SockDiag, SocketId};

/// Most services that a line of the log names.
const MOST_NAMES: usize = 16;

/// Numbers of one round.
#[derive(Default)]
pub(super) struct Tally {
    idle: u64,
    too_old: u64,
    drained: u64,
    down: u64,
    rebalanced: u64,
    /// Whose connections were closed.
    services: BTreeSet<Arc<str>>,
    /// Connections that stay for now and are to end, by the state of their backend.
    draining: HashMap<Key, Left>,
    /// When the first of those that stay may have to be closed.
    pub(super) soonest_ns: Option<u64>,
    /// What went wrong last.
    pub(super) problem: Option<String>,
}

/// A connection that is to be closed.
pub(super) struct Doomed {
    pub(super) id: SocketId,
    pub(super) service: Arc<str>,
    pub(super) reason: Reason,
}

impl Tally {
    /// A connection stays until a time; `draining` is its backend's state where that is to have no
    /// connections.
    pub(super) fn keep(&mut self, draining: Option<Key>, protocol: Protocol, until_ns: u64) {
        self.soonest_ns = self.soonest_ns.into_iter().chain([until_ns]).min();
        if let Some(state) = draining {
            let left = self.draining.entry(state).or_default();
            *match protocol {
                Protocol::Tcp => &mut left.connections,
                Protocol::Udp => &mut left.datagrams,
            } += 1;
        }
    }

    /// Closes connections. A UDP socket may be hidden behind another one of the same addresses, so
    /// those that were not found are tried again as long as others are closed.
    pub(super) fn close_all(
        &mut self,
        diag: &mut SockDiag,
        mut doomed: Vec<Doomed>,
    ) -> Result<(), DiagError> {
        loop {
            let mut hidden = Vec::new();
            let n_doomed = doomed.len();
            for it in doomed {
                if !self.close(diag, &it)? && it.id.protocol() == Protocol::Udp {
                    hidden.push(it);
                }
            }
            if hidden.is_empty() || hidden.len() == n_doomed {
                return Ok(());
            }
            doomed = hidden;
        }
    }

    /// Closes a connection. Answers whether it was there to be closed.
    fn close(&mut self, diag: &mut SockDiag, doomed: &Doomed) -> Result<bool, DiagError> {
        let destroyed = diag.destroy(&doomed.id)?;
        self.count(destroyed, doomed);
        Ok(destroyed == Destroyed::Closed)
    }

    /// Closes idle connections, each where its quota is not used up.
    pub(super) fn close_idle(
        &mut self,
        diag: &mut SockDiag,
        idle: Result<Vec<(Share, SocketId)>, DiagError>,
        closing: &Closing,
        quotas: &mut HashMap<Share, u64>,
    ) {
        let closed = idle.and_then(|idle| {
            for (at, id) in idle {
                let Some(quota) = quotas.get_mut(&at).filter(|quota| **quota > 0) else { continue };
                let Some(service) = closing.services.get(&at).map(Arc::clone) else { continue };
                let doomed = Doomed { id, service, reason: Reason::Rebalanced };
                *quota -= u64::from(self.close(diag, &doomed)?);
            }
            Ok(())
        });
        if let Err(error) = closed {
            self.fail(&error);
        }
    }

    /// The kernel could not be asked.
    pub(super) fn fail(&mut self, error: &DiagError) {
        let why = chain(error);
        self.problem = Some(format!("connections that are to end are not all closed: {why}"));
    }

    fn count(&mut self, destroyed: Destroyed, doomed: &Doomed) {
        match destroyed {
            Destroyed::Closed => {
                *match doomed.reason {
                    Reason::Idle => &mut self.idle,
                    Reason::TooOld => &mut self.too_old,
                    Reason::Drained => &mut self.drained,
                    Reason::Down => &mut self.down,
                    Reason::Rebalanced => &mut self.rebalanced,
                } += 1;
                self.services.insert(Arc::clone(&doomed.service));
            }
            Destroyed::Gone => {}
            Destroyed::Unsupported => {
                let why = "connections that are to end are not closed: this kernel was built \
                           without CONFIG_INET_DIAG_DESTROY";
                self.problem = Some(why.to_owned());
            }
            Destroyed::Refused => {
                let why = "some connections that are to end are not closed: they are in a network \
                           namespace over which the daemon has no CAP_NET_ADMIN";
                self.problem = Some(why.to_owned());
            }
        }
    }

    /// Adds it to what is told of all rounds.
    pub(super) fn add_to(self, status: &mut SweepStatus) {
        status.rounds += 1;
        status.closed_idle += self.idle;
        status.closed_too_old += self.too_old;
        status.closed_drained += self.drained;
        status.closed_down += self.down;
        status.closed_rebalanced += self.rebalanced;
        status.draining = self.draining;
    }

    /// One line, where anything was closed.
    pub(super) fn log(&self) {
        let Self { idle, too_old, drained, down, rebalanced, services, .. } = self;
        if services.is_empty() {
            return;
        }
        let mut names: Vec<&str> = services.iter().map(AsRef::as_ref).take(MOST_NAMES).collect();
        if services.len() > MOST_NAMES {
            names.push("and others");
        }
        info!(
            idle,
            too_old,
            drained,
            down,
            rebalanced,
            services = %names.join(" "),
            "connections closed"
        );
    }
}
