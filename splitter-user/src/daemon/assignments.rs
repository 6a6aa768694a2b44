//! Commands that run as clients of chosen subsets, as `splitter exec` has it.
//!
//! Such a command is in a cgroup of its own, and the kernel gives each of its connections what was
//! chosen. Known here is which cgroups there are; what was chosen is forgotten when nobody is left in
//! one. The command line makes and removes them, because a daemon may have no right to. They are the
//! only trace of a command: another daemon finds them, and what was chosen in the kernel's map.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use splitter_common::abi::{Assignment, AssignmentKey};
use tracing::{debug, warn};

use super::clients::CgroupTree;
use super::engine::ChangeError;
use super::requests::KernelEngine;
use crate::compile::image::ServiceId;
use crate::kernel::AssignmentMap;

/// Names of commands' cgroups begin so.
pub(crate) const CGROUP_PREFIX: &str = "splitter-exec-";

/// A command, as the command line describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Path of its cgroup from the v2 root.
    pub(crate) cgroup: String,
    /// Id of the cgroup, which tells whether both ends mean the same hierarchy.
    pub(crate) id: u64,
    /// Services and the subset of each.
    pub(crate) subsets: Vec<(String, String)>,
}

/// How many commands are clients of one subset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignmentStatus {
    /// Name of the service.
    pub(crate) service: String,
    /// Name of the subset; `None` where the service does not have it any more.
    pub(crate) subset: Option<String>,
    /// Number of commands.
    pub(crate) commands: usize,
}

/// Commands that run.
pub(super) struct Assignments {
    map: AssignmentMap,
    cgroups: CgroupTree,
    /// By id of the cgroup.
    running: BTreeMap<u64, Running>,
    /// Names of the services that were chosen: the policy may lose one before its command ends.
    names: BTreeMap<ServiceId, String>,
}

struct Running {
    /// Path of the cgroup from the v2 root.
    path: String,
    chosen: BTreeMap<ServiceId, u32>,
}

impl Assignments {
    /// Takes over the commands that an earlier daemon knew.
    pub(super) fn take_over(
        engine: &KernelEngine,
        map: AssignmentMap,
        cgroups: CgroupTree,
    ) -> io::Result<Self> {
        let known = map.all()?;
        let mut running = BTreeMap::new();
        if !known.is_empty() {
            let found = cgroups.find_named(CGROUP_PREFIX);
            let command = |(path, id)| (id, Running { path, chosen: BTreeMap::new() });
            running.extend(found.into_iter().map(command));
        }
        for (key, assignment) in known {
            match running.get_mut(&key.cgroup) {
                Some(command) => {
                    command.chosen.insert(ServiceId(key.service), assignment.subset);
                }
                None => map.remove(key)?,
            }
        }
        running.retain(|_, command| !command.chosen.is_empty());
        let chosen = running.values().flat_map(|command: &Running| command.chosen.keys());
        let chosen: BTreeSet<&ServiceId> = chosen.collect();
        let name =
            |service: &ServiceId| Some((*service, engine.name_service(*service)?.to_owned()));
        let names = chosen.into_iter().filter_map(name).collect();
        Ok(Self { map, cgroups, running, names })
    }

    /// Whether no command runs.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Makes the clients of a cgroup those of chosen subsets. A command that runs inside another one
    /// has what that one chose too.
    pub(super) fn assign(
        &mut self,
        engine: &mut KernelEngine,
        command: &Command,
    ) -> Result<(), ChangeError> {
        let Command { cgroup, id, subsets } = command;
        self.check_cgroup(engine.hooks().cgroup(), cgroup, *id).map_err(ChangeError::Impossible)?;
        let mut chosen = self.inherited(cgroup);
        let own = find_all(engine, subsets)?;
        chosen.extend(own.iter().map(|(service, (subset, _))| (*service, *subset)));
        self.write(engine, *id, &chosen).map_err(|error| {
            ChangeError::Impossible(format!("assign subsets to the cgroup {cgroup}: {error}"))
        })?;
        self.names.extend(own.into_iter().map(|(service, (_, name))| (service, name)));
        debug!(cgroup, ?subsets, "a command is a client of chosen subsets");
        self.running.insert(*id, Running { path: cgroup.clone(), chosen });
        Ok(())
    }

    /// All assignments of a command, or none of them.
    fn write(
        &self,
        engine: &mut KernelEngine,
        cgroup: u64,
        chosen: &BTreeMap<ServiceId, u32>,
    ) -> io::Result<()> {
        engine.publisher_mut().set_assignments(true)?;
        for (service, subset) in chosen {
            let key = AssignmentKey { cgroup, service: service.0 };
            let written = self.map.insert(key, Assignment { subset: *subset, pad: 0 });
            if let Err(error) = written {
                self.remove(cgroup, chosen)?;
                engine.publisher_mut().set_assignments(!self.is_empty())?;
                return Err(match error.raw_os_error() {
                    Some(libc::E2BIG) => io::Error::other("too many commands run already"),
                    _ => error,
                });
            }
        }
        Ok(())
    }

    fn remove(&self, cgroup: u64, chosen: &BTreeMap<ServiceId, u32>) -> io::Result<()> {
        let key = |service: &ServiceId| AssignmentKey { cgroup, service: service.0 };
        chosen.keys().try_for_each(|service| self.map.remove(key(service)))
    }

    fn check_cgroup(&self, hooked: &Path, cgroup: &str, id: u64) -> Result<(), String> {
        let name = cgroup.rsplit('/').next().unwrap_or_default();
        if !name.starts_with(CGROUP_PREFIX) {
            return Err(format!("the cgroup {cgroup} was not made for a command"));
        }
        if self.cgroups.at(cgroup).is_none_or(|found| found.id != id) {
            return Err(format!(
                "there is no cgroup {cgroup} where the daemon is: a command in a container, with \
                 a cgroup namespace, cannot be given subsets; run `splitter exec` on the node"
            ));
        }
        if !self.cgroups.path_of(cgroup).starts_with(hooked) {
            return Err(format!(
                "connections of the cgroup {cgroup} are not split, only those below {}: say \
                 with --cgroup where the command shall run",
                super::show(hooked)
            ));
        }
        Ok(())
    }

    /// What the commands chose that a cgroup is inside of, the innermost last.
    fn inherited(&self, cgroup: &str) -> BTreeMap<ServiceId, u32> {
        let is_above = |other: &&Running| Path::new(cgroup).starts_with(&other.path);
        let mut above: Vec<&Running> = self.running.values().filter(is_above).collect();
        above.sort_by_key(|command| command.path.len());
        above.into_iter().flat_map(|command| command.chosen.clone()).collect()
    }

    /// Forgets the commands that ended.
    pub(super) fn forget_ended(&mut self, engine: &mut KernelEngine) {
        let ended: Vec<u64> = self
            .running
            .iter()
            .filter(|(id, command)| !self.is_alive(**id, command))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            let Some(command) = self.running.remove(&id) else { continue };
            if let Err(error) = self.remove(id, &command.chosen) {
                // Nobody is left whom it could concern; the next round tries again.
                warn!(cgroup = command.path, "forget a command that ended: {error}");
                self.running.insert(id, command);
            }
        }
        let chosen = || self.running.values().flat_map(|command| command.chosen.keys());
        self.names.retain(|service, _| chosen().any(|it| it == service));
        if self.is_empty()
            && let Err(error) = engine.publisher_mut().set_assignments(false)
        {
            warn!("have connections no longer look for assignments: {error}");
        }
    }

    fn is_alive(&self, id: u64, command: &Running) -> bool {
        self.cgroups.is_populated(&command.path, id)
    }

    /// How many commands that did not end are clients of which subsets.
    pub(super) fn status(&self, engine: &KernelEngine) -> Vec<AssignmentStatus> {
        let mut counts = BTreeMap::new();
        let alive = self.running.iter().filter(|(id, command)| self.is_alive(**id, command));
        for chosen in alive.flat_map(|(_, command)| &command.chosen) {
            *counts.entry(chosen).or_insert(0) += 1;
        }
        let status = |((service, subset), commands): ((&ServiceId, &u32), usize)| {
            let known = engine.name_service(*service);
            let name = known.or_else(|| self.names.get(service).map(String::as_str));
            AssignmentStatus {
                // A service that no daemon since the one that was told of the command has had.
                service: name.map_or_else(|| format!("{:#x}", service.0), str::to_owned),
                subset: engine.name_subset(*service, *subset),
                commands,
            }
        };
        counts.into_iter().map(status).collect()
    }
}

/// The subsets that a command chooses, with their services' names. One service may be given by two.
fn find_all(
    engine: &KernelEngine,
    subsets: &[(String, String)],
) -> Result<BTreeMap<ServiceId, (u32, String)>, ChangeError> {
    let mut found = BTreeMap::new();
    for (name, subset) in subsets {
        let (service, subset) = engine.find_assignable(name, subset)?;
        let full = engine.find(name)?.service.name.clone();
        if found.insert(service, (subset, full)).is_some() {
            return Err(ChangeError::Impossible(format!(
                "the service `{name}` is given twice: a command is a client of one subset of it"
            )));
        }
    }
    Ok(found)
}
