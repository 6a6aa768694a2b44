//! Addresses of hosts that only a resolver knows.
//!
//! One task per name asks again and again, and tells when the answer is another. What that means
//! for the policy is the engine's affair. A lookup that fails leaves the last answer in force.

mod lookup;
#[cfg(test)]
mod tests;

pub(crate) use lookup::Upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{info, warn};

use lookup::Found;

/// Answers that wait for the event loop.
const WAITING_ANSWERS: usize = 64;

/// Addresses by host name, each list sorted.
pub(crate) type Answers = BTreeMap<String, Vec<IpAddr>>;

/// How often a name is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Least time that an answer stands.
    shortest: Duration,
    /// Most time that an answer stands.
    longest: Duration,
    /// Time after the first failure; it doubles with each that follows.
    first_retry: Duration,
    /// Most time after a failure.
    last_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            longest: Duration::from_mins(5),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_mins(1),
        }
    }
}

/// What the lookups came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsStatus {
    /// Names that are followed.
    pub(crate) names: usize,
    /// Lookups that were made.
    pub(crate) lookups: u64,
    /// Lookups that gave no address.
    pub(crate) failures: u64,
    /// Answers that were other than the one before.
    pub(crate) changed_answers: u64,
    /// Names that failed and never had an answer, with the last reason.
    pub(crate) unresolved: BTreeMap<String, String>,
}

/// Follows names.
pub(crate) struct Resolver {
    upstream: Arc<Upstream>,
    pace: Pace,
    tasks: BTreeMap<String, AbortHandle>,
    /// The last answers of the names that are followed.
    known: Answers,
    sender: mpsc::Sender<Answer>,
    receiver: mpsc::Receiver<Answer>,
    book: Arc<Mutex<Book>>,
}

/// A new answer.
struct Answer {
    name: String,
    addresses: Vec<IpAddr>,
}

/// What tasks write down.
#[derive(Default)]
struct Book {
    lookups: u64,
    failures: u64,
    changed_answers: u64,
    /// Why the last lookup of a name failed, if it did.
    failing: BTreeMap<String, String>,
}

impl Resolver {
    /// A resolver that follows nothing yet, and knows the answers of an earlier one.
    pub(crate) fn new(upstream: Upstream, pace: Pace, known: Answers) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_ANSWERS);
        Self {
            upstream: Arc::new(upstream),
            pace,
            tasks: BTreeMap::new(),
            known,
            sender,
            receiver,
            book: Arc::default(),
        }
    }

    /// Follows these names and no others. Must be called in a runtime.
    pub(crate) fn follow(&mut self, names: &[String]) {
        let wanted: BTreeSet<&String> = names.iter().collect();
        self.known.retain(|name, _| wanted.contains(name));
        open(&self.book).failing.retain(|name, _| wanted.contains(name));
        self.tasks.retain(|name, task| {
            let stays = wanted.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in wanted {
            if !self.tasks.contains_key(name) {
                let task = self.ask(name.clone());
                self.tasks.insert(name.clone(), tokio::spawn(task).abort_handle());
            }
        }
    }

    /// Waits until answers are others than before. Nothing is lost where this is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Some(first) = self.receiver.recv().await else {
                return std::future::pending().await;
            };
            let mut is_new = self.take(first);
            // Many names that answer at once are one change.
            while let Ok(answer) = self.receiver.try_recv() {
                is_new |= self.take(answer);
            }
            if is_new {
                return;
            }
        }
    }

    /// The last answers of the names that are followed.
    pub(crate) fn known(&self) -> &Answers {
        &self.known
    }

    /// What the lookups came to.
    pub(crate) fn status(&self) -> DnsStatus {
        let book = open(&self.book);
        let unresolved = book.failing.iter().filter(|(name, _)| !self.known.contains_key(*name));
        DnsStatus {
            names: self.tasks.len(),
            lookups: book.lookups,
            failures: book.failures,
            changed_answers: book.changed_answers,
            unresolved: unresolved.map(|(name, why)| (name.clone(), why.clone())).collect(),
        }
    }

    /// Remembers an answer, and says whether it is another than before.
    fn take(&mut self, Answer { name, addresses }: Answer) -> bool {
        if !self.tasks.contains_key(&name) || self.known.get(&name) == Some(&addresses) {
            return false;
        }
        info!(name, ?addresses, "resolved");
        if self.known.insert(name, addresses).is_some() {
            open(&self.book).changed_answers += 1;
        }
        true
    }

    /// Asks for a name for as long as somebody wants the answers.
    fn ask(&self, name: String) -> impl Future<Output = ()> + Send + use<> {
        let (upstream, pace) = (Arc::clone(&self.upstream), self.pace);
        let (sender, book) = (self.sender.clone(), Arc::clone(&self.book));
        async move {
            let mut last = Vec::new();
            let mut retry = pace.first_retry;
            loop {
                let result = upstream.look_up(&name).await;
                open(&book).write(&name, &result);
                let wait = if let Ok(Found { addresses, valid }) = result {
                    retry = pace.first_retry;
                    if addresses != last {
                        last.clone_from(&addresses);
                        let answer = Answer { name: name.clone(), addresses };
                        if sender.send(answer).await.is_err() {
                            return;
                        }
                    }
                    valid.clamp(pace.shortest, pace.longest)
                } else {
                    let doubled = (retry * 2).min(pace.last_retry);
                    std::mem::replace(&mut retry, doubled)
                };
                sleep(wait).await;
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

impl Book {
    fn write(&mut self, name: &str, result: &Result<Found, String>) {
        self.lookups += 1;
        match result {
            Ok(_) => {
                self.failing.remove(name);
            }
            Err(error) => {
                self.failures += 1;
                if self.failing.insert(name.to_owned(), error.clone()).is_none() {
                    warn!(name, "not resolved: {error}");
                }
            }
        }
    }
}

/// Counts are whole even where a task died while it held them.
fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
