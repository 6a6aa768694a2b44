//! Who the clients of the policy are on this node: the cgroups and network namespaces that it names.
//!
//! Names are looked up when a service is compiled, and again when something came or went. What a
//! name means is the policy's ([`CgroupName::is_at`]); who is in a cgroup, the kernel knows.

mod cgroups;
mod networks;
mod watch;

pub(crate) use cgroups::{CgroupTree, own_cgroup};
pub(super) use networks::Networks;
pub(super) use watch::{ClientWatch, watch_places};

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::compile::egress::Places;
use crate::compile::{Cgroup, ClientNames, Ids};
use crate::policy::model::CgroupName;

/// Answers what names mean on a node.
pub(crate) trait ClientSource {
    /// The cgroup at a path from the v2 root.
    fn cgroup(&self, path: &str) -> Option<Cgroup>;
    /// All cgroups that have one of the names, by name. All names at once, because each look may go
    /// through the whole hierarchy.
    fn places(&self, names: &BTreeSet<CgroupName>) -> Places;
    /// The ids of names.
    fn find(&self, names: &ClientNames) -> Ids;
}

/// This node.
pub(super) struct NodeClients {
    tree: CgroupTree,
    networks: RefCell<Networks>,
}

impl NodeClients {
    pub(super) fn new(tree: CgroupTree, networks: Networks) -> Self {
        Self { tree, networks: RefCell::new(networks) }
    }
}

impl ClientSource for NodeClients {
    fn cgroup(&self, path: &str) -> Option<Cgroup> {
        self.tree.at(path)
    }

    fn places(&self, names: &BTreeSet<CgroupName>) -> Places {
        let mut by_name = Places::new();
        for (name, place) in self.tree.survey(names).found {
            by_name.entry(name).or_default().push((place.path, place.cgroup));
        }
        by_name
    }

    fn find(&self, names: &ClientNames) -> Ids {
        let mut ids = Ids::default();
        for (name, places) in self.places(&names.cgroups) {
            match places[..] {
                [(_, only)] => drop(ids.cgroups.insert(name, only)),
                _ => drop(ids.ambiguous.insert(name, places.len())),
            }
        }
        if !names.networks.is_empty() {
            ids.networks = self.networks.borrow_mut().find(&names.networks);
        }
        ids
    }
}
