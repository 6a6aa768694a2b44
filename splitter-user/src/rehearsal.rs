//! A policy in plain memory, as the kernel would have it.
//!
//! Nothing here looks at the node: cgroups that a policy names are imagined, so that matches on
//! them can be tried anywhere.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use splitter_common::abi::map;

use crate::compile::{Cgroup, Cgroups, Compiler, Note, command_bytes};
use crate::policy::model::Policy;
use crate::publish::{Change, PublishError, Publisher};
use crate::tables::Sizes;
use crate::tables::memory::MemoryMaps;
use crate::tables::world::Client;

/// A policy that was compiled and published into memory.
pub struct Rehearsal {
    publisher: Publisher<MemoryMaps>,
    notes: Vec<(String, Note)>,
}

impl Rehearsal {
    /// Publishes a policy into tables that are large enough for it.
    pub fn new(policy: &Policy, cgroups: Cgroups) -> Result<Self, PublishError> {
        let mut compiler = Compiler::new(cgroups);
        let mut notes = Vec::new();
        let mut changes = Vec::new();
        for service in &policy.services {
            let (image, of_service) = compiler.compile(service);
            notes.extend(of_service.into_iter().map(|note| (service.name.clone(), note)));
            changes.push(Change::Put(Arc::new(image)));
        }
        let n = u32::try_from(policy.services.len()).unwrap_or(u32::MAX);
        let publisher = publish(&changes, Sizes::for_services(n))?;
        Ok(Self { publisher, notes })
    }

    /// The publisher that has the policy in force.
    pub fn publisher(&self) -> &Publisher<MemoryMaps> {
        &self.publisher
    }

    /// The tables, for decisions.
    pub fn maps(&self) -> &MemoryMaps {
        self.publisher.maps()
    }

    /// What is had only nearly, with the name of its service.
    pub fn notes(&self) -> &[(String, Note)] {
        &self.notes
    }
}

/// Publishes, and again with a larger map for as long as one is full.
fn publish(changes: &[Change], mut sizes: Sizes) -> Result<Publisher<MemoryMaps>, PublishError> {
    loop {
        let maps = MemoryMaps::new(sizes);
        let mut publisher = Publisher::adopt(maps).expect("empty tables are not damaged");
        match publisher.publish(changes.to_vec()) {
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

/// Cgroups as a policy and a client name them, and all above them, with ids made up.
pub fn imagine_cgroups(policy: &Policy, client: Option<&str>) -> Cgroups {
    let routes = policy.services.iter().flat_map(|service| &service.routes);
    let matches = routes.flat_map(|route| &route.matches);
    let paths = matches.filter_map(|wanted| wanted.cgroup.as_deref()).chain(client);
    let leveled = paths.chain(["/"]).flat_map(|path| lineage(path).into_iter().zip(0..));
    let mut cgroups: Cgroups =
        leveled.map(|(path, level)| (path, Cgroup { id: 0, level })).collect();
    for (cgroup, id) in cgroups.values_mut().zip(1..) {
        cgroup.id = id;
    }
    cgroups
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
    /// Path of the cgroup from the v2 root.
    pub cgroup: Option<String>,
    /// Process id.
    pub process: Option<u32>,
    /// Cookie of the network namespace.
    pub netns: Option<u64>,
}

/// Ids above those that [`imagine_cgroups`] hands out.
const OWN_CGROUPS: u64 = 1 << 32;

impl Role {
    /// Client number `n`, from 0: what is not given is `n`, and so the first client's cgroup is
    /// the root and its command empty.
    pub fn client(&self, n: u32, cgroups: &Cgroups) -> Client {
        let command = match (&self.command, n) {
            (Some(command), _) => command.clone(),
            (None, 0) => String::new(),
            (None, n) => format!("client-{n}"),
        };
        Client {
            uid: self.uid.unwrap_or(n),
            gid: self.gid.unwrap_or(n),
            command: command_bytes(&command),
            cgroups: self.cgroups(n, cgroups),
            process: self.process.unwrap_or(n),
            netns: self.netns.unwrap_or(u64::from(n)),
            now_ns: 0,
        }
    }

    fn cgroups(&self, n: u32, cgroups: &Cgroups) -> Vec<u64> {
        let path = self.cgroup.as_deref().unwrap_or("/");
        let known = lineage(path).into_iter().filter_map(|path| cgroups.get(&path));
        let mut ids: Vec<u64> = known.map(|cgroup| cgroup.id).collect();
        if self.cgroup.is_none() && n > 0 {
            ids.push(OWN_CGROUPS + u64::from(n));
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_come_with_all_above_them() {
        let cgroups = imagine_cgroups(&Policy::default(), Some("/a/b"));
        let levels: Vec<_> = cgroups.iter().map(|(path, c)| (path.as_str(), c.level)).collect();
        assert_eq!(levels, [("/", 0), ("/a", 1), ("/a/b", 2)]);
        let role = Role { cgroup: Some("/a/b".to_owned()), ..Role::default() };
        assert_eq!(role.client(3, &cgroups).cgroups, [1, 2, 3]);
    }

    #[test]
    fn clients_differ_in_what_is_not_given() {
        let cgroups = imagine_cgroups(&Policy::default(), None);
        let role = Role { uid: Some(7), ..Role::default() };
        let (first, second) = (role.client(0, &cgroups), role.client(1, &cgroups));
        assert_eq!((first.uid, second.uid), (7, 7));
        assert_eq!((first.gid, second.gid), (0, 1));
        assert_eq!(first.cgroups, [1]);
        assert_eq!(second.cgroups, [1, OWN_CGROUPS + 1]);
    }
}
