//! Rounds through all namespaces: what is there is judged, and closed where it is to be.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytemuck::pod_read_unaligned;
use splitter_common::abi::{SocketState, phase};
use splitter_common::addr::{Addr, PortBe};
use tracing::{info, warn};

use super::Order;
use super::asked::{Asked, Terms};
use super::judge::{Reason, Seen, Verdict, judge};
use super::schedule::Schedule;
use super::status::SweepBook;
use crate::daemon::outcomes::monotonic_ns;
use crate::daemon::requests::chain;
use crate::sockets::{Destroyed, Followed, Namespaces, OpenerError, SockDiag, SocketId, Visited};

/// Most services that a line of the log names.
const MOST_NAMES: usize = 16;

/// The thread.
pub(super) struct Sweeper {
    namespaces: Namespaces,
    storage: OwnedFd,
    book: SweepBook,
    /// The daemon ends: nobody waits for the rest of a round.
    ending: Arc<AtomicBool>,
    asked: Asked,
    schedule: Schedule,
    /// Why namespaces cannot be entered any more, if so. It stays a problem.
    lost: Option<String>,
}

impl Sweeper {
    pub(super) fn new(
        namespaces: Namespaces,
        storage: OwnedFd,
        book: SweepBook,
        ending: Arc<AtomicBool>,
    ) -> Self {
        let (asked, schedule) = (Asked::default(), Schedule::default());
        Self { namespaces, storage, book, ending, asked, schedule, lost: None }
    }

    /// Goes on until nobody gives orders any more.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let received = match self.schedule.wait(monotonic_ns()) {
                Some(wait) => orders.recv_timeout(wait),
                None => orders.recv().map_err(RecvTimeoutError::from),
            };
            match received {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => self.go_round(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, order: Order) {
        if self.asked.set(order) {
            let n_services = self.asked.n_services();
            self.schedule.asked(monotonic_ns(), n_services > 0);
            self.book.open().services = n_services;
        }
    }

    fn go_round(&mut self) {
        let began = monotonic_ns();
        let Self { namespaces, asked, storage, ending, .. } = self;
        let mut tally = Tally::default();
        let visited = namespaces.visit(|_, diag| {
            if !ending.load(Ordering::Relaxed) {
                tally.visit(diag, storage.as_fd(), asked);
            }
        });
        // Connections that are not there yet end no sooner than this.
        let soonest = asked.shortest_ns().map(|shortest| began.saturating_add(shortest));
        let soonest = tally.soonest_ns.into_iter().chain(soonest).min().unwrap_or(u64::MAX);
        self.schedule.done(began, monotonic_ns(), soonest);
        self.settle(visited, &tally);
    }

    /// Tells what a round came to.
    fn settle(&mut self, visited: Result<Visited, OpenerError>, tally: &Tally) {
        let mut problem = tally.problem.clone();
        let visited = visited.map_err(|error| chain(&error));
        if let (Err(why), Namespaces::All(_)) = (&visited, &self.namespaces) {
            self.namespaces = Namespaces::Own;
            self.lost = Some(why.clone());
        }
        let mut status = self.book.open();
        status.rounds += 1;
        status.closed_idle += tally.idle;
        status.closed_too_old += tally.too_old;
        match visited {
            Ok(visited) => {
                (status.namespaces, status.hidden) = (visited.namespaces, visited.hidden);
            }
            Err(why) => problem = Some(why),
        }
        if let Some(why) = &self.lost {
            (status.opener, status.confined) = (None, Some(why.clone()));
        }
        drop(status);
        tally.log();
        self.complain(self.lost.clone().or(problem));
    }

    /// Says what is wrong once.
    fn complain(&self, problem: Option<String>) {
        if self.book.set_problem(problem.clone())
            && let Some(problem) = problem
        {
            warn!("{problem}");
        }
    }
}

/// What a round has done so far.
#[derive(Default)]
struct Tally {
    idle: u64,
    too_old: u64,
    /// Whose connections were closed.
    services: BTreeSet<Arc<str>>,
    /// When the first of those that stay may have to be closed.
    soonest_ns: Option<u64>,
    /// What went wrong last.
    problem: Option<String>,
}

/// A connection that is to be closed.
struct Doomed {
    id: SocketId,
    service: Arc<str>,
    reason: Reason,
}

impl Tally {
    /// Judges the connections of one namespace. Those that are to be closed are closed after the
    /// list, for which the same netlink socket is in use.
    fn visit(&mut self, diag: &mut SockDiag, storage: BorrowedFd<'_>, asked: &Asked) {
        let mut doomed = Vec::new();
        let listed = diag.list(storage, |followed| {
            doomed.extend(self.judge(followed, asked));
        });
        // After an error, the netlink socket is of no use.
        let closed = listed.and_then(|()| {
            doomed.into_iter().try_for_each(|Doomed { id, service, reason }| {
                let destroyed = diag.destroy(&id)?;
                self.count(destroyed, service, reason);
                Ok(())
            })
        });
        if let Err(error) = closed {
            let why = chain(&error);
            self.problem = Some(format!("idle and old connections are not all closed: {why}"));
        }
    }

    fn judge(&mut self, followed: &Followed<'_>, asked: &Asked) -> Option<Doomed> {
        let (seen, (service, terms)) = look(followed, asked)?;
        match judge(&seen, terms, monotonic_ns()) {
            Verdict::Close(reason) => {
                Some(Doomed { id: followed.id, service: Arc::clone(service), reason })
            }
            Verdict::KeepUntil(until) => {
                self.soonest_ns = Some(self.soonest_ns.map_or(until, |soonest| soonest.min(until)));
                None
            }
        }
    }

    fn count(&mut self, destroyed: Destroyed, service: Arc<str>, reason: Reason) {
        match destroyed {
            Destroyed::Closed => {
                *match reason {
                    Reason::Idle => &mut self.idle,
                    Reason::TooOld => &mut self.too_old,
                } += 1;
                self.services.insert(service);
            }
            Destroyed::Gone => {}
            Destroyed::Unsupported => {
                let why = "idle and old connections are not closed: this kernel was built without \
                           CONFIG_INET_DIAG_DESTROY";
                self.problem = Some(why.to_owned());
            }
            Destroyed::Refused => {
                let why = "some idle and old connections are not closed: they are in a network \
                           namespace over which the daemon has no CAP_NET_ADMIN";
                self.problem = Some(why.to_owned());
            }
        }
    }

    /// One line, where anything was closed.
    fn log(&self) {
        let Self { idle, too_old, services, .. } = self;
        if services.is_empty() {
            return;
        }
        let mut names: Vec<&str> = services.iter().map(AsRef::as_ref).take(MOST_NAMES).collect();
        if services.len() > MOST_NAMES {
            names.push("and others");
        }
        info!(idle, too_old, services = %names.join(" "), "connections closed");
    }
}

/// What there is to judge of a connection; nothing where it is not established yet, where it is
/// another one than its state tells of, or where nobody asks.
fn look<'a>(followed: &Followed<'_>, asked: &'a Asked) -> Option<(Seen, &'a (Arc<str>, Terms))> {
    if followed.stored.len() < size_of::<SocketState>() {
        return None;
    }
    let stored: SocketState = pod_read_unaligned(&followed.stored[..size_of::<SocketState>()]);
    // A socket may have connected somewhere else since.
    let is_peer = stored.backend == address(followed.peer.ip())
        && stored.backend_port_be == PortBe::from_host(followed.peer.port());
    if stored.phase != phase::ESTABLISHED || !is_peer {
        return None;
    }
    let seen = Seen {
        state: followed.state,
        idle_ms: followed.idle_ms?,
        is_quiet: followed.unread == 0 && followed.unacknowledged == 0,
        started_ns: stored.started_ns,
    };
    Some((seen, asked.find(stored.at_backend)?))
}

/// As the maps have it: IPv4 in mapped form.
fn address(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::from_v4(addr.octets()),
        IpAddr::V6(addr) => Addr(addr.octets()),
    }
}
