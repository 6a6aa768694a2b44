//! A policy in plain memory, as the kernel would have it.
//!
//! Nothing here looks at the node: cgroups and network namespaces that a policy names are imagined,
//! so that matches on them can be tried anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use splitter_common::abi::{EgressRoot, map};

use crate::compile::egress::{Compiled, EgressError, HostAddresses, Places, compile_egress};
use crate::compile::{Cgroup, ClientNames, Compiler, Ids, Note, command_bytes};
use crate::policy::model::{CgroupName, NetnsName, Policy};
use crate::publish::{Change, PublishError, Publisher};
use crate::tables::egress::MemoryEgress;
use crate::tables::memory::MemoryMaps;
use crate::tables::world::Client;
use crate::tables::{EgressTables as _, Sizes};

/// A policy that was compiled and published into memory.
pub struct Rehearsal {
    publisher: Publisher<MemoryMaps>,
    egress: MemoryEgress,
    notes: Vec<(String, Note)>,
}

/// A policy cannot be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// It does not fit the tables.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What clients may reach cannot be told to the kernel.
    #[error(transparent)]
    Egress(#[from] EgressError),
}

/// Number of the set of what clients may reach.
const SET: u32 = 1;

impl Rehearsal {
    /// Publishes a policy into tables that are large enough for it.
    pub fn new(policy: &Policy, ids: Ids) -> Result<Self, RehearsalError> {
        let places = places(policy, &ids);
        // What host names stand for is known on the node only.
        let Compiled { image, .. } =
            compile_egress(&policy.outbound, &places, &HostAddresses::new())?;
        let root = EgressRoot {
            set: SET,
            levels: image.levels,
            everyone: image.everyone,
            ..EgressRoot::default()
        };
        let root = (!policy.outbound.is_empty()).then_some(root);
        let mut egress = MemoryEgress::default();
        egress.insert(SET, &image).expect("memory does not fail");
        let mut compiler = Compiler::new(ids);
        let mut notes = Vec::new();
        let mut changes = Vec::new();
        for service in &policy.services {
            let (image, of_service) = compiler.compile(service);
            notes.extend(of_service.into_iter().map(|note| (service.name.clone(), note)));
            changes.push(Change::Put(Arc::new(image)));
        }
        let n = u32::try_from(policy.services.len()).unwrap_or(u32::MAX);
        let publisher = publish(&changes, root, Sizes::for_services(n))?;
        Ok(Self { publisher, egress, notes })
    }

    /// The publisher that has the policy in force.
    pub fn publisher(&self) -> &Publisher<MemoryMaps> {
        &self.publisher
    }

    /// The tables, for decisions.
    pub fn maps(&self) -> &MemoryMaps {
        self.publisher.maps()
    }

    /// What clients may reach, for judgements.
    pub fn egress(&self) -> &MemoryEgress {
        &self.egress
    }

    /// What is had only nearly, with the name of its service.
    pub fn notes(&self) -> &[(String, Note)] {
        &self.notes
    }
}

/// Cgroups that documents name, where they are imagined.
fn places(policy: &Policy, ids: &Ids) -> Places {
    let path_of = |cgroup: &Cgroup| {
        let known = ids.cgroups.iter().filter(|(_, known)| known.id == cgroup.id);
        known.filter_map(|(name, _)| name.path()).map(str::to_owned).next()
    };
    let place = |name: &CgroupName| {
        let cgroup = ids.cgroups.get(name)?;
        let path = name.path().map(str::to_owned).or_else(|| path_of(cgroup))?;
        Some((name.clone(), vec![(path, *cgroup)]))
    };
    policy.outbound.iter().flat_map(|said| &said.cgroups).filter_map(place).collect()
}

/// Publishes, and again with a larger map for as long as one is full.
fn publish(
    changes: &[Change],
    egress: Option<EgressRoot>,
    mut sizes: Sizes,
) -> Result<Publisher<MemoryMaps>, PublishError> {
    loop {
        let maps = MemoryMaps::new(sizes);
        let mut publisher = Publisher::adopt(maps).expect("empty tables are not damaged");
        match publisher.publish_with(changes.to_vec(), egress) {
            Err(PublishError::Full { map, wanted, .. }) => grow(&mut sizes, map, wanted),
            result => return result.map(|_| publisher),
        }
    }
}

fn grow(sizes: &mut Sizes, map: &str, wanted: u32) {
    let size = match map {
        map::FRONTENDS => &mut sizes.frontends,
        map::PLANS => &mut sizes.plans,
        map::ROUTES => &mut sizes.routes,
        map::MATCHES => &mut sizes.matches,
        map::WHEELS => &mut sizes.wheels,
        map::CELLS => &mut sizes.cells,
        map::SUBSETS => &mut sizes.subsets,
        map::BACKENDS => &mut sizes.backends,
        _ => &mut sizes.counters,
    };
    *size = size.saturating_mul(2).max(size.saturating_add(wanted));
}

/// Cgroups and network namespaces as a policy and its clients name them, with ids made up, and all
/// cgroups above them.
///
/// A cgroup that is named by anything but its path is where one of that kind usually is, unless a
/// client's own path has it.
pub fn imagine_ids(policy: &Policy, roles: &[Role]) -> Ids {
    let mut names = ClientNames::of(&policy.services);
    names.cgroups.extend(policy.outbound.iter().flat_map(|said| said.cgroups.clone()));
    let clients = roles.iter().filter_map(|role| role.cgroup.as_ref());
    let clients: Vec<String> = clients.map(CgroupName::usual_path).collect();
    let own: Vec<String> = clients.iter().flat_map(|path| lineage(path)).collect();
    let place = |name: &CgroupName| {
        let own = own.iter().find(|path| name.is_at(path));
        own.cloned().unwrap_or_else(|| name.usual_path())
    };
    let placed: Vec<(String, CgroupName)> =
        names.cgroups.into_iter().map(|name| (place(&name), name)).collect();
    let paths = placed.iter().map(|(path, _)| path.as_str()).chain(["/"]).flat_map(lineage);
    let paths: BTreeSet<String> = paths.chain(own).collect();
    let mut ids = Ids::default();
    for (path, id) in paths.into_iter().zip(1..) {
        let level = u32::try_from(lineage(&path).len() - 1).expect("paths have at most 4095 bytes");
        let is_here = placed.iter().filter(|(other, _)| *other == path);
        let names = is_here.map(|(_, name)| name.clone());
        let cgroup = Cgroup { id, level };
        ids.cgroups.extend(names.chain([CgroupName::Path(path.clone())]).map(|it| (it, cgroup)));
    }
    let networks = roles.iter().filter_map(|role| role.netns_name.clone());
    let networks: BTreeSet<NetnsName> = networks.chain(names.networks).collect();
    ids.networks = networks.into_iter().zip(OWN_IDS + 1..).collect();
    ids
}

/// The path of a cgroup and of all above it, the root first: each is at the level of its position.
pub fn lineage(path: &str) -> Vec<String> {
    let names = path.split('/').filter(|name| !name.is_empty());
    let below = names.scan(String::new(), |path, name| {
        path.push('/');
        path.push_str(name);
        Some(path.clone())
    });
    std::iter::once("/".to_owned()).chain(below).collect()
}

/// A client as the user describes it. What is not given differs from client to client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Effective user id.
    pub uid: Option<u32>,
    /// Effective group id.
    pub gid: Option<u32>,
    /// Command name.
    pub command: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<CgroupName>,
    /// Process id.
    pub process: Option<u32>,
    /// Cookie of the network namespace.
    pub netns: Option<u64>,
    /// Name of the network namespace, where its cookie is not given.
    pub netns_name: Option<NetnsName>,
    /// `SO_MARK` of the socket.
    pub mark: Option<u32>,
    /// Type of service of the socket.
    pub tos: Option<u8>,
}

/// Ids that clients have by their number are below, or for cgroups above, those that
/// [`imagine_ids`] hands out.
const OWN_IDS: u64 = 1 << 32;

impl Role {
    /// Client number `n`, from 0: what is not given is `n`, and so the first client's cgroup is
    /// the root and its command empty.
    pub fn client(&self, n: u32, ids: &Ids) -> Client {
        let command = match (&self.command, n) {
            (Some(command), _) => command.clone(),
            (None, 0) => String::new(),
            (None, n) => format!("client-{n}"),
        };
        let named = self.netns_name.as_ref().and_then(|name| ids.networks.get(name)).copied();
        Client {
            uid: self.uid.unwrap_or(n),
            gid: self.gid.unwrap_or(n),
            command: command_bytes(&command),
            cgroups: self.cgroups(n, ids),
            process: self.process.unwrap_or(n),
            netns: self.netns.or(named).unwrap_or(u64::from(n)),
            // Sockets have none unless somebody gives them one.
            mark: self.mark.unwrap_or(0),
            tos: u32::from(self.tos.unwrap_or(0)),
            now_ns: 0,
        }
    }

    fn cgroups(&self, n: u32, ids: &Ids) -> Vec<u64> {
        let path = self.cgroup.as_ref().map_or_else(|| "/".to_owned(), CgroupName::usual_path);
        let known = lineage(&path).into_iter().map(CgroupName::Path);
        let known = known.filter_map(|name| ids.cgroups.get(&name));
        let mut own: Vec<u64> = known.map(|cgroup| cgroup.id).collect();
        if self.cgroup.is_none() && n > 0 {
            own.push(OWN_IDS + u64::from(n));
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_come_with_all_above_them() {
        let cgroup = Some(CgroupName::Path("/a/b".to_owned()));
        let role = Role { cgroup, ..Role::default() };
        let ids = imagine_ids(&Policy::default(), std::slice::from_ref(&role));
        let levels: Vec<_> = ids.cgroups.iter().map(|(name, c)| (name.value(), c.level)).collect();
        assert_eq!(levels, [("/", 0), ("/a", 1), ("/a/b", 2)]);
        assert_eq!(role.client(3, &ids).cgroups, [1, 2, 3]);
    }

    #[test]
    fn clients_differ_in_what_is_not_given() {
        let role = Role { uid: Some(7), ..Role::default() };
        let ids = imagine_ids(&Policy::default(), std::slice::from_ref(&role));
        let (first, second) = (role.client(0, &ids), role.client(1, &ids));
        assert_eq!((first.uid, second.uid), (7, 7));
        assert_eq!((first.gid, second.gid), (0, 1));
        assert_eq!(first.cgroups, [1]);
        assert_eq!(second.cgroups, [1, OWN_IDS + 1]);
        assert_eq!((second.netns, second.mark, second.tos), (1, 0, 0));
    }
}
