//! Matches of clients, by the ids that their names have on a node.

use std::collections::{BTreeMap, BTreeSet};

use splitter_common::abi::{Match, match_flag};

use super::{Note, command_bytes};
use crate::policy::model::{CgroupName, ClientMatch, NetnsName, Service};

/// Where a cgroup is in the v2 hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id, as `bpf_get_current_cgroup_id` answers it.
    pub id: u64,
    /// Its depth; the root's is 0.
    pub level: u32,
}

/// Cgroups by their names.
pub type Cgroups = BTreeMap<CgroupName, Cgroup>;

/// What names of a policy are on one node. Those that are in here nowhere are nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The only cgroup that has the name.
    pub cgroups: Cgroups,
    /// How many cgroups have the name, where several have.
    pub ambiguous: BTreeMap<CgroupName, usize>,
    /// Cookies of network namespaces.
    pub networks: BTreeMap<NetnsName, u64>,
}

/// Names of a policy that only a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNames {
    /// Of cgroups.
    pub cgroups: BTreeSet<CgroupName>,
    /// Of network namespaces.
    pub networks: BTreeSet<NetnsName>,
}

impl ClientNames {
    /// The names in services.
    pub fn of<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut names = Self::default();
        let routes = services.into_iter().flat_map(|service| &service.routes);
        for wanted in routes.flat_map(|route| &route.matches) {
            names.cgroups.extend(wanted.cgroup.clone());
            names.networks.extend(wanted.netns.clone());
        }
        names
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cgroups.is_empty() && self.networks.is_empty()
    }
}

impl Ids {
    /// Those of some names.
    #[must_use]
    pub fn of(&self, names: &ClientNames) -> Self {
        Self {
            cgroups: select(&self.cgroups, &names.cgroups),
            ambiguous: select(&self.ambiguous, &names.cgroups),
            networks: select(&self.networks, &names.networks),
        }
    }
}

fn select<K: Ord + Clone, V: Copy>(all: &BTreeMap<K, V>, wanted: &BTreeSet<K>) -> BTreeMap<K, V> {
    let found = wanted.iter().filter_map(|key| all.get_key_value(key));
    found.map(|(key, value)| (key.clone(), *value)).collect()
}

/// Compiles a match of a route.
pub(super) fn compile(
    wanted: &ClientMatch,
    ids: &Ids,
    route: &str,
    notes: &mut Vec<Note>,
) -> Match {
    let mut image = compile_values(wanted);
    let mut missing = |why| {
        notes.push(Note::NoClient { place: route.to_owned(), why });
        match_flag::NEVER
    };
    image.flags |= match wanted.cgroup.as_ref().map(|name| (name, ids.cgroups.get(name))) {
        None => 0,
        Some((_, Some(cgroup))) => {
            (image.cgroup, image.cgroup_level) = (cgroup.id, cgroup.level);
            match_flag::CGROUP
        }
        Some((name, None)) => missing(describe_missing(name, ids)),
    };
    image.flags |= match wanted.netns.as_ref().map(|name| (name, ids.networks.get(name))) {
        None => 0,
        Some((_, Some(cookie))) => {
            image.netns = *cookie;
            match_flag::NETNS
        }
        Some((name, None)) => missing(format!("the network namespace {name} is not found now")),
    };
    image
}

/// What is the same on every node.
fn compile_values(wanted: &ClientMatch) -> Match {
    let flag = |is_given, flag| if is_given { flag } else { 0 };
    let flags = flag(wanted.uid.is_some(), match_flag::UID)
        | flag(wanted.gid.is_some(), match_flag::GID)
        | flag(wanted.command.is_some(), match_flag::COMMAND)
        | flag(wanted.mark.is_some(), match_flag::MARK)
        | flag(wanted.tos.is_some(), match_flag::TOS);
    let (mark, mark_mask) = wanted.mark.map_or((0, 0), |mark| (mark.value, mark.mask));
    Match {
        flags,
        uid: wanted.uid.unwrap_or(0),
        gid: wanted.gid.unwrap_or(0),
        command: command_bytes(wanted.command.as_deref().unwrap_or("")),
        mark,
        mark_mask,
        tos: wanted.tos.map_or(0, u32::from),
        ..Match::default()
    }
}

fn describe_missing(name: &CgroupName, ids: &Ids) -> String {
    match ids.ambiguous.get(name) {
        Some(n) => format!("{n} cgroups are the {name}"),
        None => format!("the {name} does not exist now"),
    }
}
