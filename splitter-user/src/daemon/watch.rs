//! Notices that policy files changed.
//!
//! Directories are watched, not files: files are replaced by renames, and sets of files by
//! swapping a symbolic link. A burst of events is one change, and a change that left the files as
//! they were is none.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::files::{Fingerprint, PolicyFiles};

/// The files have to be quiet for so long.
const QUIET: Duration = Duration::from_millis(50);
/// A burst that does not end is looked at after so long.
const LONGEST_BURST: Duration = Duration::from_millis(500);

/// How often it is looked in a row for directories that came while it was looked: deeper than any
/// path to a policy is.
const MOST_LOOKS: usize = 32;

/// A watch on the directories of policy files.
pub(crate) struct Watch {
    files: PolicyFiles,
    watcher: RecommendedWatcher,
    /// Directories and their inodes: one that was replaced has to be watched anew.
    watched: BTreeMap<PathBuf, u64>,
    seen: Fingerprint,
    bursts: mpsc::Receiver<()>,
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn new(files: PolicyFiles) -> notify::Result<Self> {
        let event = Arc::new(Notify::new());
        let (sender, bursts) = mpsc::channel(1);
        tokio::spawn(gather_bursts(Arc::clone(&event), sender));
        let watcher = notify::recommended_watcher(move |result: notify::Result<Event>| {
            if result.map_or(true, |event| is_change(event.kind)) {
                event.notify_one();
            }
        })?;
        let seen = files.fingerprint();
        let mut watch = Self { files, watcher, watched: BTreeMap::new(), seen, bursts };
        watch.follow_directories();
        Ok(watch)
    }

    /// Waits for the next change. Nothing is lost where this is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            if self.bursts.recv().await.is_none() {
                return std::future::pending().await;
            }
            if self.look() {
                return;
            }
        }
    }

    /// Remembers the files as they are. Answers whether they are different.
    pub(crate) fn look(&mut self) -> bool {
        // In a new directory there may be others, made before it was watched.
        for _ in 0..MOST_LOOKS {
            if !self.follow_directories() {
                break;
            }
        }
        let now = self.files.fingerprint();
        std::mem::replace(&mut self.seen, now) != self.seen
    }

    /// Symbolic links may lead elsewhere than before. Answers whether any directory is new.
    fn follow_directories(&mut self) -> bool {
        let wanted = self.files.directories();
        for (gone, _) in self.watched.iter().filter(|(path, id)| wanted.get(*path) != Some(*id)) {
            // A directory that was removed is not watched any more.
            let _not_watched = self.watcher.unwatch(gone);
        }
        let new = wanted.iter().filter(|(path, id)| self.watched.get(*path) != Some(*id));
        let new: Vec<&PathBuf> = new.map(|(path, _)| path).collect();
        for new in &new {
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!("watch {}: {error}; send SIGHUP after changes there", new.display());
            }
        }
        let is_news = !new.is_empty();
        self.watched = wanted;
        is_news
    }
}

/// Reading is no change, and it is what the daemon itself does.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

async fn gather_bursts(event: Arc<Notify>, bursts: mpsc::Sender<()>) {
    loop {
        event.notified().await;
        let last = Instant::now() + LONGEST_BURST;
        loop {
            // Slept through, not woken up by each event: other files in the directory may change
            // all the time.
            sleep(QUIET).await;
            let quiet = timeout(Duration::ZERO, event.notified()).await.is_err();
            if quiet || Instant::now() >= last {
                break;
            }
        }
        if bursts.send(()).await.is_err() {
            return;
        }
    }
}
