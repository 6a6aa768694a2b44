//! Notices that cgroups and names of network namespaces come and go.
//!
//! Directories are watched in which one that the policy names may appear. A new directory may hold
//! others before it is watched itself: whoever is woken looks again until nothing new is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, read};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::CgroupTree;
use crate::compile::ClientNames;
use crate::policy::model::NETNS_NAMES;

/// Bytes of events that are thrown away at once.
const EVENTS: usize = 4096;
/// How often it is looked in a row for what came while it was looked: deeper than any new tree is.
/// What comes later still is an event.
const MOST_LOOKS: usize = 32;

/// A watch on directories. Nothing wakes the daemon where there are none.
pub(crate) struct ClientWatch {
    inotify: AsyncFd<OwnedFd>,
    watched: BTreeMap<PathBuf, i32>,
    is_complete: bool,
}

impl ClientWatch {
    /// Watches nothing. Needs an event loop.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "the replacement is unsafe; what it asks for holds: this keeps one descriptor"
        )]
        let inotify = AsyncFd::with_interest(inotify, Interest::READABLE)?;
        Ok(Self { inotify, watched: BTreeMap::new(), is_complete: true })
    }

    /// Whether all that is to be watched is.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Watches these directories and no others. Answers whether any is new.
    pub(crate) fn follow(&mut self, wanted: &BTreeSet<PathBuf>) -> bool {
        let mut watched = BTreeMap::new();
        let mut failure = None;
        for directory in wanted {
            match self.watch(directory) {
                Ok(number) => drop(watched.insert(directory.clone(), number)),
                // Gone, which is an event of the one above it.
                Err(Errno::NOENT) => {}
                Err(error) => failure = Some(error),
            }
        }
        // The same path is another directory where the number is another.
        let is_news = watched.iter().any(|it| self.watched.get(it.0) != Some(it.1));
        let kept: BTreeSet<i32> = watched.values().copied().collect();
        for number in self.watched.values().filter(|number| !kept.contains(number)) {
            // One whose directory is gone is gone too.
            let _gone = inotify::remove_watch(self.inotify.get_ref(), *number);
        }
        self.watched = watched;
        self.settle(failure);
        is_news
    }

    fn watch(&self, directory: &Path) -> Result<i32, Errno> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(self.inotify.get_ref(), directory, flags)
    }

    /// Says once that some cannot be watched.
    fn settle(&mut self, failure: Option<Errno>) {
        if let Some(error) = failure
            && self.is_complete
        {
            warn!(
                "not all directories are watched in which clients of the policy may appear ({error}; \
                 fs.inotify.max_user_watches?): they are looked for every second"
            );
        }
        self.is_complete = failure.is_none();
    }

    /// Waits until something came or went. Nothing is lost where this is given up.
    pub(crate) async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return std::future::pending().await;
            };
            let taken = ready.try_io(|inotify| Ok(take_events(inotify.get_ref())?));
            if let Ok(taken) = taken {
                if let Err(error) = taken {
                    warn!("read what came or went among clients: {error}");
                }
                return;
            }
        }
    }
}

/// Watches where clients of these names may appear.
pub(crate) fn watch_places(tree: &CgroupTree, names: &ClientNames, watch: &mut ClientWatch) {
    for _ in 0..MOST_LOOKS {
        let mut wanted = tree.survey(&names.cgroups).directories;
        let networks = Path::new(NETNS_NAMES);
        if !names.networks.is_empty() && networks.is_dir() {
            wanted.insert(networks.to_owned());
        }
        if !watch.follow(&wanted) {
            return;
        }
    }
}

/// Reads all events that wait; what they say is looked up anyway. Fails with `WouldBlock` where there
/// are none.
fn take_events(inotify: &OwnedFd) -> Result<(), Errno> {
    let mut events = [MaybeUninit::uninit(); EVENTS];
    read(inotify.as_fd(), &mut events)?;
    while read(inotify.as_fd(), &mut events).is_ok() {}
    Ok(())
}
