//! Cookies of the network namespaces that a policy names.
//!
//! A hook knows a namespace by its cookie, which only a socket in the namespace tells. The process
//! that enters namespaces makes one in each, and the daemon asks it. That takes longer than a look
//! at a file, so it is done only for what is not known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::daemon::requests::chain;
use crate::policy::model::NetnsName;
use crate::sockets::{NamespaceId, Namespaces};

/// An inode number alone does not tell a namespace from one that came after it, so those that are
/// named by it are looked for again after so long.
const LIFE_OF_NUMBERS: Duration = Duration::from_secs(5);

/// What tells namespaces apart at one path: the inode, which the kernel gives again, and when it was
/// made, in seconds and nanoseconds.
type Identity = (u64, i64, i64);

/// What is known of namespaces.
pub(crate) struct Networks {
    namespaces: Namespaces,
    /// Cookies of all that could be entered at the last visit, and when that was.
    visited: Option<(Instant, BTreeMap<u64, u64>)>,
    /// Cookies of files that stood for a namespace at the last look; `None` where it could not be
    /// entered.
    files: BTreeMap<Identity, Option<u64>>,
}

impl Networks {
    /// Reaches these namespaces.
    pub(crate) fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, visited: None, files: BTreeMap::new() }
    }

    /// The cookies of those that exist and can be entered.
    pub(super) fn find(&mut self, names: &BTreeSet<NetnsName>) -> BTreeMap<NetnsName, u64> {
        let identified = names.iter().map(|name| (name, identify(name)));
        let identified: Vec<_> = identified.collect();
        if identified.iter().any(|(name, identity)| self.is_news(name, *identity)) {
            self.visit();
        }
        let known = identified.iter().filter_map(|(_, identity)| *identity);
        self.files = known.map(|it| (it, self.cookie(it))).collect();
        let cookie = |name: &NetnsName, identity: Option<Identity>| match name {
            NetnsName::Path(_) => self.cookie(identity?),
            NetnsName::Inode(inode) => self.visited.as_ref()?.1.get(inode).copied(),
        };
        let found = identified.iter();
        found
            .filter_map(|(name, identity)| Some(((*name).clone(), cookie(name, *identity)?)))
            .collect()
    }

    fn is_news(&self, name: &NetnsName, identity: Option<Identity>) -> bool {
        match name {
            NetnsName::Path(_) => identity.is_some_and(|it| !self.files.contains_key(&it)),
            NetnsName::Inode(_) => {
                self.visited.as_ref().is_none_or(|(when, _)| when.elapsed() >= LIFE_OF_NUMBERS)
            }
        }
    }

    /// That of a file, which was known before the last visit or is found by it.
    fn cookie(&self, identity: Identity) -> Option<u64> {
        let visited = || self.visited.as_ref()?.1.get(&identity.0).copied();
        self.files.get(&identity).copied().unwrap_or_else(visited)
    }

    fn visit(&mut self) {
        let mut cookies = BTreeMap::new();
        let visited = self.namespaces.visit(|NamespaceId(inode), diag| {
            cookies.extend(diag.namespace_cookie().ok().map(|cookie| (inode, cookie)));
        });
        if let Err(error) = visited {
            warn!("network namespaces that matches name are not found: {}", chain(&error));
        }
        self.visited = Some((Instant::now(), cookies));
    }
}

fn identify(name: &NetnsName) -> Option<Identity> {
    let NetnsName::Path(path) = name else { return None };
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}
