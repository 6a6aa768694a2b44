//! Active health checks: probes of backends, again and again, and what they say.
//!
//! A thread of its own probes, so that neither many probes nor a long change of the policy hold
//! the other up. It is told the checks of a service whenever they may be others, and tells each
//! change of a backend's health as a [`Verdict`]. What a verdict does to connections is not
//! decided here.

mod checks;
mod probe;
mod record;
mod schedule;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use checks::checks_of;
pub(crate) use status::{HealthCounts, HealthStatus, HealthSummary, ServiceHealth};

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::policy::model::HealthCheck;
use probe::Network;
use schedule::{Entry, Scheduler};

/// A backend of a subset of a service. Others of the same address are probed by themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    /// Name of the service.
    pub(crate) service: Arc<str>,
    /// Name of the subset.
    pub(crate) subset: Arc<str>,
    /// Address of the backend, whatever is probed.
    pub(crate) addr: SocketAddr,
}

/// A backend and how it is checked. What is known of a backend outlives changes of the policy for
/// as long as this stays equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What is checked.
    pub(crate) target: Target,
    /// How.
    pub(crate) how: Arc<HealthCheck>,
    /// Whether the daemon's own connections to the probed address are split, so that a probe would
    /// tell of another backend. Such a check is not carried out.
    pub(crate) is_caught: bool,
}

impl Check {
    /// Where it is probed.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.target.addr.ip(), self.how.port.unwrap_or(self.target.addr.port()))
    }
}

/// A change of a backend's health.
///
/// Every backend counts as healthy before its first verdict. Whoever applies all verdicts in their
/// order to an empty set of unhealthy backends always has that set: a check that starts unhealthy
/// begins with a verdict, and one that goes while its backend is unhealthy ends with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The backend.
    pub(crate) target: Target,
    /// What it is now.
    pub(crate) is_healthy: bool,
    /// Why, for people.
    pub(crate) why: String,
}

/// The checks of one service, all of them.
struct Order {
    service: Arc<str>,
    checks: Vec<Check>,
}

/// What is known of every checked backend, by service.
type Entries = BTreeMap<Arc<str>, BTreeMap<Target, Entry>>;

/// What is known of every checked backend. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct HealthBook(Arc<Mutex<Entries>>);

impl HealthBook {
    /// Entries are whole even where a thread died while it held them.
    fn open(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running checks. They end when this is dropped.
pub(crate) struct Health {
    /// `None` only while this is dropped.
    orders: Option<UnboundedSender<Order>>,
    verdicts: UnboundedReceiver<Verdict>,
    book: HealthBook,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    /// Starts the thread, which inherits what the calling one may do.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (sender, verdicts) = mpsc::unbounded_channel();
        let book = HealthBook::default();
        let scheduler = Scheduler::new(Network::default(), book.clone(), sender);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name("splitter-health".to_owned())
            .spawn(move || runtime.block_on(scheduler.run(receiver)))?;
        Ok(Self { orders: Some(orders), verdicts, book, thread: Some(thread) })
    }

    /// Makes these the checks of a service; none where it is gone.
    pub(crate) fn follow(&self, service: &str, checks: Vec<Check>) {
        let order = Order { service: service.into(), checks };
        // Without a receiver the thread is gone, which `verdict` tells.
        let _gone = self.orders.as_ref().map(|orders| orders.send(order));
    }

    /// Waits for the next change. `None` where the checks ended by themselves, which is a fault.
    /// Nothing is lost where this is given up.
    pub(crate) async fn verdict(&mut self) -> Option<Verdict> {
        self.verdicts.recv().await
    }

    /// What is known.
    pub(crate) fn book(&self) -> HealthBook {
        self.book.clone()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // Ends the thread, which kills commands that still run.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _panic = thread.join();
        }
    }
}
