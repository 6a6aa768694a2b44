//! Rounds through all namespaces: what is there is judged, and closed where it is to be.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytemuck::pod_read_unaligned;
use splitter_common::abi::{SocketState, phase};
use splitter_common::addr::{Addr, PortBe};
use tracing::warn;

use super::Order;
use super::asked::{Asked, Key, Share, key};
use super::balance::{Closing, Live};
use super::judge::{Seen, Verdict, idle_from, judge};
use super::schedule::Schedule;
use super::status::SweepBook;
use super::tally::{Doomed, Tally};
use crate::daemon::outcomes::monotonic_ns;
use crate::daemon::requests::chain;
use crate::sockets::{
    DiagError, Followed, NamespaceId, Namespaces, OpenerError, Protocol, SockDiag, SocketId,
    Visited,
};

/// How often connected UDP sockets that are to end are counted.
const COUNT_NS: u64 = 5_000_000_000;

/// The thread.
pub(super) struct Sweeper {
    namespaces: Namespaces,
    storage: OwnedFd,
    /// Link of the list of UDP sockets.
    list: OwnedFd,
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
        (storage, list): (OwnedFd, OwnedFd),
        book: SweepBook,
        ending: Arc<AtomicBool>,
    ) -> Self {
        let (asked, schedule) = (Asked::default(), Schedule::default());
        Self { namespaces, storage, list, book, ending, asked, schedule, lost: None }
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
            self.schedule.asked(monotonic_ns(), self.asked.n_services() > 0);
        }
        let mut status = self.book.open();
        status.services = self.asked.n_services();
        status.unbalanced = self.asked.n_unbalanced();
    }

    fn go_round(&mut self) {
        let began = monotonic_ns();
        let mut look = Look::default();
        let asked = &self.asked;
        let (storage, ending) = (self.storage.as_fd(), &self.ending);
        let visited = self.namespaces.visit(|namespace, diag| {
            if !ending.load(Ordering::Relaxed) {
                look.visit((namespace, diag), storage, asked);
            }
        });
        let Look { mut tally, live, idle_in, .. } = look;
        let closing = self.asked.balance(&live);
        let visited = visited.and_then(|visited| {
            self.rebalance(&closing, &idle_in, &mut tally)?;
            Ok(visited)
        });
        // Connections that are not there yet end no sooner than this.
        let soonest = [tally.soonest_ns, closing.soonest_ns, self.asked.soonest_ns(began)];
        let soonest = soonest.into_iter().flatten().min().unwrap_or(u64::MAX);
        self.schedule.done(began, monotonic_ns(), soonest);
        self.settle(visited, tally);
    }

    /// Closes idle connections of subsets that have more than their share, in the namespaces where
    /// there were any. How many that are is not known before all namespaces were looked through.
    fn rebalance(
        &mut self,
        closing: &Closing,
        idle_in: &HashSet<NamespaceId>,
        tally: &mut Tally,
    ) -> Result<(), OpenerError> {
        if closing.quotas.is_empty() {
            return Ok(());
        }
        let mut quotas = closing.quotas.clone();
        let (asked, storage, ending) = (&self.asked, self.storage.as_fd(), &self.ending);
        self.namespaces.visit(|namespace, diag| {
            if idle_in.contains(&namespace) && !ending.load(Ordering::Relaxed) {
                let idle = find_idle(diag, storage, asked, &quotas);
                tally.close_idle(diag, idle, closing, &mut quotas);
            }
        })?;
        Ok(())
    }

    /// Tells what a round came to.
    fn settle(&mut self, visited: Result<Visited, OpenerError>, tally: Tally) {
        let mut problem = tally.problem.clone();
        let visited = visited.map_err(|error| chain(&error));
        if let (Err(why), Namespaces::All(_)) = (&visited, &self.namespaces) {
            self.namespaces = Namespaces::Own(self.list.try_clone().ok());
            self.lost = Some(why.clone());
        }
        tally.log();
        let mut status = self.book.open();
        tally.add_to(&mut status);
        for state in self.asked.ends() {
            status.draining.entry(state).or_default();
        }
        status.unbalanced = self.asked.n_unbalanced();
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

/// The first way through all namespaces.
#[derive(Default)]
struct Look {
    tally: Tally,
    /// Connections of routes whose live split is not known to be what it shall be.
    live: HashMap<Key, Live>,
    /// Those that were counted: a list may have one twice.
    counted: HashSet<u64>,
    /// Where some of them are idle.
    idle_in: HashSet<NamespaceId>,
}

impl Look {
    /// Judges the connections of one namespace, and then its connected UDP sockets where something is
    /// asked of those. What keeps these from being listed is no matter to the others.
    fn visit(
        &mut self,
        (namespace, diag): (NamespaceId, &mut SockDiag),
        storage: BorrowedFd<'_>,
        asked: &Asked,
    ) {
        let at = (asked, namespace);
        let is_wanted = |stored: &SocketState| asked.find(stored.at_backend).is_some();
        let mut visited = self.judge_all(diag, at, |diag, see| diag.list(storage, see));
        // After an error, the netlink socket is of no use.
        if visited.is_ok() && asked.asks_of_datagrams() {
            visited = self.judge_all(diag, at, |diag, see| diag.list_datagrams(is_wanted, see));
        }
        if let Err(error) = visited {
            self.tally.fail(&error);
        }
    }

    /// Judges what is listed. What is to be closed is closed after the list, for which the same netlink
    /// socket is in use.
    fn judge_all(
        &mut self,
        diag: &mut SockDiag,
        at: (&Asked, NamespaceId),
        list: impl FnOnce(&mut SockDiag, &mut dyn FnMut(&Followed<'_>)) -> Result<(), DiagError>,
    ) -> Result<(), DiagError> {
        let mut doomed = Vec::new();
        list(diag, &mut |followed| {
            if let Some(stored) = read_stored(followed) {
                doomed.extend(self.judge(followed, &stored, at));
            }
        })?;
        self.tally.close_all(diag, doomed)
    }

    fn judge(
        &mut self,
        followed: &Followed<'_>,
        stored: &SocketState,
        (asked, namespace): (&Asked, NamespaceId),
    ) -> Option<Doomed> {
        let asks = asked.find(stored.at_backend);
        let (now_ns, protocol) = (monotonic_ns(), followed.id.protocol());
        let ends = asks.map(|(_, terms)| (terms.until_ns, terms.down_ns));
        let (end_ns, down_ns) = ends.unwrap_or_default();
        let draining = end_ns.map(|_| key(stored.at_backend));
        let Some(seen) = look(followed, stored) else {
            // It may be established yet.
            if let Some(end_ns) = end_ns.or(down_ns).filter(|_| is_under_way(stored)) {
                self.tally.keep(draining, protocol, end_ns.max(now_ns));
            }
            return None;
        };
        if let Some((service, terms)) = asks {
            match judge(&seen, terms, now_ns) {
                Verdict::Close(reason) => {
                    let service = Arc::clone(service);
                    return Some(Doomed { id: followed.id, service, reason });
                }
                Verdict::KeepUntil(until) => {
                    // The kernel counts connections, and no sockets of datagrams.
                    let is_counted = draining.is_some() && protocol == Protocol::Udp;
                    let again = if is_counted { now_ns.saturating_add(COUNT_NS) } else { u64::MAX };
                    self.tally.keep(draining, protocol, until.min(again));
                }
            }
        }
        if let Some(idle_ms) = asked.find_unbalanced(stored.route) {
            self.count(followed.id, stored, idle_from(&seen, idle_ms, now_ns), now_ns);
            self.idle_in.insert(namespace);
        }
        None
    }

    /// Counts a connection at its route and subset. One that is ending counts no more.
    fn count(&mut self, id: SocketId, stored: &SocketState, idle: Option<u64>, now_ns: u64) {
        let Some(idle_ns) = idle else { return };
        if !self.counted.insert(id.cookie()) {
            return;
        }
        let live = self.live.entry(key(stored.route)).or_default();
        let subset = live.entry(key(stored.subset)).or_default();
        subset.live += 1;
        if idle_ns <= now_ns {
            subset.idle += 1;
        } else {
            subset.soonest_ns = subset.soonest_ns.min(idle_ns);
        }
    }
}

/// Connections of one namespace that may be closed by a quota, those first that are idle for
/// longest.
fn find_idle(
    diag: &mut SockDiag,
    storage: BorrowedFd<'_>,
    asked: &Asked,
    quotas: &HashMap<Share, u64>,
) -> Result<Vec<(Share, SocketId)>, DiagError> {
    let mut found = Vec::new();
    diag.list(storage, |followed| {
        let Some(stored) = read_stored(followed) else { return };
        let at = (key(stored.route), key(stored.subset));
        if quotas.get(&at).is_none_or(|quota| *quota == 0) {
            return;
        }
        let (seen, idle_ms) = (look(followed, &stored), asked.find_unbalanced(stored.route));
        let (Some(seen), Some(idle_ms)) = (seen, idle_ms) else { return };
        let now_ns = monotonic_ns();
        if idle_from(&seen, idle_ms, now_ns) == Some(now_ns) {
            found.push((seen.idle_ms, at, followed.id));
        }
    })?;
    found.sort_by_key(|(idle_ms, ..)| std::cmp::Reverse(*idle_ms));
    Ok(found.into_iter().map(|(_, at, id)| (at, id)).collect())
}

/// What the hooks stored on a socket; nothing where that tells of another connection: a socket may
/// have connected somewhere else since.
fn read_stored(followed: &Followed<'_>) -> Option<SocketState> {
    let bytes = followed.stored.get(..size_of::<SocketState>())?;
    let stored: SocketState = pod_read_unaligned(bytes);
    let is_peer = stored.backend == address(followed.peer.ip())
        && stored.backend_port_be == PortBe::from_host(followed.peer.port());
    is_peer.then_some(stored)
}

/// Whether a connection is not established yet.
fn is_under_way(stored: &SocketState) -> bool {
    matches!(stored.phase, phase::CALLED | phase::CONNECTING)
}

/// What there is to judge of a connection; nothing where it is not established. A UDP socket is as
/// soon as it is connected.
fn look(followed: &Followed<'_>, stored: &SocketState) -> Option<Seen> {
    if !matches!(stored.phase, phase::ESTABLISHED | phase::DATAGRAMS) {
        return None;
    }
    Some(Seen {
        state: followed.state,
        idle_ms: followed.idle_ms,
        is_quiet: followed.unread == 0 && followed.unacknowledged == 0,
        started_ns: stored.started_ns,
    })
}

/// As the maps have it: IPv4 in mapped form.
fn address(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::from_v4(addr.octets()),
        IpAddr::V6(addr) => Addr(addr.octets()),
    }
}
