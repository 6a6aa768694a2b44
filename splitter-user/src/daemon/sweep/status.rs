//! What was closed, for people and programs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What closing connections came to since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SweepStatus {
    /// Services that ask for connections to be closed.
    pub(crate) services: usize,
    /// Connections that were closed because no data went either way for too long.
    pub(crate) closed_idle: u64,
    /// Connections that were closed because they began too long ago.
    pub(crate) closed_too_old: u64,
    /// Connections that were closed because their backend takes no more.
    #[serde(default)]
    pub(crate) closed_drained: u64,
    /// Connections that were closed because their backend was known not to serve.
    #[serde(default)]
    pub(crate) closed_down: u64,
    /// Connections that were closed because their subset had more than its share.
    #[serde(default)]
    pub(crate) closed_rebalanced: u64,
    /// Routes whose live split is not known to be what their weights ask for, and is to be.
    #[serde(default)]
    pub(crate) unbalanced: usize,
    /// How often connections were looked at.
    pub(crate) rounds: u64,
    /// Network namespaces that the last round saw.
    pub(crate) namespaces: usize,
    /// Processes and names whose namespace it could not look at.
    pub(crate) hidden: usize,
    /// Process that enters network namespaces.
    pub(crate) opener: Option<u32>,
    /// Why only connections in the daemon's own network namespace are closed, if so.
    pub(crate) confined: Option<String>,
    /// What went wrong in the last round. In an answer, it is among the problems instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// What the last round saw that is to end, by index and epoch of the state of its backend.
    #[serde(skip)]
    pub(crate) draining: HashMap<(u32, u32), Left>,
}

/// What is left at one backend whose connections are to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// TCP connections.
    pub(crate) connections: u64,
    /// Connected UDP sockets.
    pub(crate) datagrams: u64,
}

/// The status, where the thread writes it. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct SweepBook(Arc<Mutex<SweepStatus>>);

impl SweepBook {
    /// Nothing was closed yet.
    pub(super) fn new(opener: Option<u32>, confined: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(SweepStatus { opener, confined, ..SweepStatus::default() })))
    }

    /// Numbers are whole even where a thread died while it held them.
    pub(super) fn open(&self) -> MutexGuard<'_, SweepStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what went wrong. Answers whether that is something else than before.
    pub(super) fn set_problem(&self, problem: Option<String>) -> bool {
        let mut status = self.open();
        let is_other = status.problem != problem;
        status.problem = problem;
        is_other
    }

    /// What is known now.
    pub(crate) fn read(&self) -> SweepStatus {
        self.open().clone()
    }
}
