//! Connections that are closed because they are idle for too long, too old, at a backend that takes
//! no more or is known not to serve, or at a subset that has more than its share. Connected UDP
//! sockets are among them, for all but idleness and shares.
//!
//! A thread of its own lists the followed sockets of every network namespace, because that takes
//! its time where there are many of either, and because it blocks. It is told what a service asks
//! of its connections whenever that may be something else. While no service asks, it sleeps.
//!
//! A connection is known by the state that its backend counts at. One whose backend left the
//! policy is nobody's, unless an order names the state that the backend had.

mod asked;
mod balance;
mod judge;
mod round;
mod schedule;
mod status;
mod tally;

pub(crate) use asked::{Asking, Terms};
pub(crate) use balance::{Balance, Shares};
pub(crate) use status::{Left, SweepBook, SweepStatus};

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use tracing::{error, warn};

use super::requests::chain;
use crate::sockets::{Namespaces, Opener};
use round::Sweeper;

/// This very program, also where its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

/// What one service asks of its connections.
struct Order {
    service: Arc<str>,
    asking: Asking,
}

/// The namespaces that will be reached, and why not all, if so.
pub(crate) struct Reach {
    namespaces: Namespaces,
    confined: Option<String>,
}

impl Reach {
    /// Starts the process that enters namespaces, for which the capabilities that are about to be
    /// dropped are needed. Whether a service will ever ask is not known by then.
    ///
    /// `list` is the link of the list of UDP sockets. The other namespaces are for who looks for those
    /// that the policy names.
    pub(crate) fn open(list: &OwnedFd) -> io::Result<(Self, Namespaces)> {
        let link = Some(list.try_clone()?);
        Ok(match Opener::start(Path::new(PROGRAM), Some(list)) {
            Ok([first, second]) => {
                let reach = Self { namespaces: Namespaces::All(first), confined: None };
                (reach, Namespaces::All(second))
            }
            Err(error) => {
                let why = chain(&error);
                warn!("{why}");
                let reach = Self { namespaces: Namespaces::Own(link), confined: Some(why) };
                (reach, Namespaces::Own(None))
            }
        })
    }

    /// Id of the process that enters namespaces.
    fn opener(&self) -> Option<u32> {
        match &self.namespaces {
            Namespaces::All(opener) => Some(opener.pid()),
            Namespaces::Own(_) => None,
        }
    }
}

/// The running thread. It ends when this is dropped.
pub(crate) struct Sweep {
    /// `None` only while this is dropped.
    orders: Option<Sender<Order>>,
    ending: Arc<AtomicBool>,
    book: SweepBook,
    thread: Option<JoinHandle<()>>,
}

impl Sweep {
    /// Starts the thread, which inherits what the calling one may do. `stored` is the map of
    /// [`splitter_common::abi::SocketState`], and the link of the list of those of UDP sockets.
    pub(crate) fn start(reach: Reach, stored: (OwnedFd, OwnedFd)) -> io::Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let ending = Arc::new(AtomicBool::new(false));
        let book = SweepBook::new(reach.opener(), reach.confined);
        let sweeper = Sweeper::new(reach.namespaces, stored, book.clone(), Arc::clone(&ending));
        let thread = thread::Builder::new()
            .name("splitter-sweep".to_owned())
            .spawn(move || sweeper.run(&receiver))?;
        Ok(Self { orders: Some(orders), ending, book, thread: Some(thread) })
    }

    /// Makes this what a service asks of its connections; nothing where it is gone.
    pub(crate) fn follow(&self, service: &str, asking: Asking) {
        if asking.balance.is_some() {
            // Until the thread says how many there are.
            let mut status = self.book.open();
            status.unbalanced = status.unbalanced.max(1);
        }
        let order = Order { service: service.into(), asking };
        if self.orders.as_ref().is_some_and(|orders| orders.send(order).is_err()) {
            let problem = "the thread that closes connections ended by itself; \
                           restart the daemon";
            error!("{problem}");
            self.book.set_problem(Some(problem.to_owned()));
        }
    }

    /// Whether live splits are on their way to what weights ask for.
    pub(crate) fn is_balancing(&self) -> bool {
        self.book.open().unbalanced > 0
    }

    /// What was closed, and what keeps others from being closed.
    pub(crate) fn book(&self) -> SweepBook {
        self.book.clone()
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        // A round that is under way skips what is left of it.
        self.ending.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _panic = thread.join();
        }
    }
}
