//! The running policy and every way to change it.
//!
//! Two layers make the policy: the services of the policy files, and over them what was applied or
//! reweighted by command. The last writer wins: a command overrides a file until the file's
//! document changes. Foreign documents have two layers of their own, of the files and of commands;
//! the services that they come to are in the layer of the files. Each operation is validated as a whole, compiled, and published with one
//! commit; one that fails changes nothing. Nothing in here waits or reads policy files.

mod ask;
mod change;
mod checks;
mod clients;
mod documents;
mod drains;
mod egress;
mod hosts;
mod leaving;
mod names;
mod neighbours;
mod plan;
mod rebase;
mod seats;
mod subsets;
mod terms;
#[cfg(test)]
mod tests;
pub(super) mod weights;

pub(crate) use ask::{LiveExplanation, Stand};
pub(crate) use documents::Outcome;
#[cfg(test)]
pub(crate) use drains::DrainedBackend;
pub(crate) use drains::{Datagrams, Drained, Target as DrainTarget};
pub(crate) use seats::DrainStatus;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use splitter_common::abi::FrontendKey;
use tracing::warn;

use super::clients::ClientSource;
use super::documents::Documents;
use super::drains::Drains;
use super::overrides::Overrides;
use crate::compile::image::{Need, ServiceId};
use crate::compile::{ClientNames, Compiler, Ids, Note, service_id};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::model::Service;
use crate::policy::{Source, VipRanges};
use crate::publish::{Change, PublishError, Published, Publisher};
use crate::tables::{EgressTables, Maps};
use checks::CheckedServices;
use egress::Egress;
pub(crate) use hosts::HostStatus;
use hosts::Hosts;
use leaving::Leaving;
use terms::TimedServices;

/// The hooks that only some services need.
pub(crate) trait OptionalHooks {
    /// Attaches or detaches them.
    fn set(&mut self, need: Need, wanted: bool) -> io::Result<()>;
}

/// How many services have each of [`Need::ALL`].
type NeedCounts = [usize; Need::ALL.len()];

/// What `some` have and `others` do not.
fn differing(some: &NeedCounts, others: &NeedCounts) -> Vec<Need> {
    let pairs = Need::ALL.into_iter().zip(some.iter().zip(others));
    pairs.filter(|(_, (some, others))| **some > 0 && **others == 0).map(|(need, _)| need).collect()
}

/// A change could not be made. The running policy is what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The policy is wrong.
    #[error("the policy is wrong: {}", summary(diagnostics))]
    Invalid {
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
        /// What the diagnostics point into.
        sources: Vec<Source>,
    },
    /// There is no such service, route or subset, or it cannot have what was asked for.
    #[error("{0}")]
    Impossible(String),
    /// The policy files were broken when the daemon started.
    #[error(
        "the daemon keeps an earlier policy whose text it does not have, because what it was to \
         load is wrong; mend that first: {0}"
    )]
    Degraded(String),
    /// A map is too small.
    #[error("{error}; start the daemon with a larger --max-services, or with {option}")]
    Full {
        /// What is full.
        error: PublishError,
        /// The option that makes it larger.
        option: String,
    },
    /// Two services have one frontend.
    #[error("the frontend {frontend} belongs to another service of the running policy")]
    FrontendTaken {
        /// The frontend.
        frontend: String,
    },
    /// The kernel refused an access.
    #[error("publish the policy")]
    Kernel(#[source] PublishError),
    /// The state directory could not be written.
    #[error("keep the change of {services} in the state directory (--state-dir)")]
    State {
        /// The services in words.
        services: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A hook could not be attached.
    #[error("attach the getpeername hooks")]
    Hooks(#[source] io::Error),
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    let more = match diagnostics.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let first = diagnostics.first().map_or("", |diagnostic| diagnostic.message.as_str());
    format!("{first}{more}")
}

/// Where a running service comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A policy file.
    File(Arc<str>),
    /// Foreign documents; the one that names it is in this file.
    Derived(Arc<str>),
    /// A command, and no file has it.
    Applied,
    /// A command that overrides a policy file.
    Override(Arc<str>),
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.write_str(file),
            Self::Derived(file) => write!(f, "from documents, {file}"),
            Self::Applied => f.write_str("applied"),
            Self::Override(file) => write!(f, "applied over {file}"),
        }
    }
}

/// A service of the policy files or of documents.
#[derive(Clone, Debug)]
struct Filed {
    service: Arc<Service>,
    file: Arc<str>,
    /// Whether it comes from foreign documents.
    derived: bool,
}

impl Filed {
    fn origin(&self) -> Origin {
        let file = Arc::clone(&self.file);
        if self.derived { Origin::Derived(file) } else { Origin::File(file) }
    }

    fn target(&self) -> Target {
        Target { service: Arc::clone(&self.service), origin: self.origin() }
    }
}

/// A service in force. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Running {
    /// What it is.
    pub(crate) service: Arc<Service>,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// What it gets only nearly.
    pub(crate) notes: Vec<Note>,
    /// What its names of clients were when it was compiled.
    ids: Ids,
}

impl Running {
    /// What it would have to become to be this again.
    fn target(&self) -> Target {
        Target { service: Arc::clone(&self.service), origin: self.origin.clone() }
    }
}

/// What a service shall become.
struct Target {
    service: Arc<Service>,
    origin: Origin,
}

/// The running policy.
pub(crate) struct Engine<M, H> {
    publisher: Publisher<M>,
    hooks: H,
    clients: Box<dyn ClientSource>,
    overrides: Overrides,
    files: BTreeMap<String, Filed>,
    documents: Documents,
    vip_ranges: VipRanges,
    running: BTreeMap<String, Running>,
    /// Names of services that name clients only a node knows.
    client_users: BTreeSet<String>,
    /// Whether those names may be others than when they were taken last.
    has_new_names: bool,
    checked: CheckedServices,
    timed: TimedServices,
    /// What is drained by command.
    drains: Drains,
    leaving: Leaving,
    egress: Egress,
    /// Services with `getpeername: frontend`.
    needs: NeedCounts,
    /// Why the text of what runs is not known, if so.
    degraded: Option<String>,
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// An engine whose maps run what an earlier daemon committed, until the first change.
    pub(crate) fn new(
        publisher: Publisher<M>,
        hooks: H,
        clients: Box<dyn ClientSource>,
        overrides: Overrides,
        documents: Documents,
        egress: Box<dyn EgressTables>,
    ) -> Self {
        let drains = drains::read(overrides.drains());
        let hosts = Hosts::restore(&documents.answers, &documents.egress_hosts, Instant::now());
        let egress = Egress::new(egress, hosts, publisher.egress_root(), overrides.egress());
        let needs = |need, id| publisher.image(id).is_some_and(|image| image.needs(need));
        let count = |need| publisher.services().filter(|id| needs(need, *id)).count();
        Self {
            needs: Need::ALL.map(count),
            publisher,
            hooks,
            clients,
            overrides,
            files: BTreeMap::new(),
            documents,
            vip_ranges: VipRanges::default(),
            running: BTreeMap::new(),
            client_users: BTreeSet::new(),
            has_new_names: true,
            checked: CheckedServices::default(),
            timed: TimedServices::default(),
            drains,
            leaving: Leaving::default(),
            egress,
            degraded: None,
        }
    }

    /// Goes on with the policy of an earlier daemon, whose text is not known.
    pub(crate) fn keep_adopted(&mut self, reason: String) {
        self.degraded = Some(reason);
    }

    /// Why the text of what runs is not known, if so.
    pub(crate) fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// The owner of the maps.
    pub(crate) fn publisher(&self) -> &Publisher<M> {
        &self.publisher
    }

    /// The owner of the maps, to make room of what was retired.
    pub(crate) fn publisher_mut(&mut self) -> &mut Publisher<M> {
        &mut self.publisher
    }

    /// The hooks.
    pub(crate) fn hooks(&self) -> &H {
        &self.hooks
    }

    /// The hooks, to attach and detach them.
    pub(crate) fn hooks_mut(&mut self) -> &mut H {
        &mut self.hooks
    }

    /// Gives the hooks up.
    pub(crate) fn into_hooks(self) -> H {
        self.hooks
    }

    /// Every service in force whose text is known, sorted by name.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.values()
    }

    /// Whether a policy file gave any service or document when it was last loaded.
    pub(crate) fn has_services_of(&self, file: &str) -> bool {
        self.files.values().any(|filed| *filed.file == *file)
            || self.document_files().any(|known| known == file)
    }

    /// Names of policy files that gave documents when they were last loaded.
    pub(crate) fn document_files(&self) -> impl Iterator<Item = &str> {
        self.documents.base_files()
    }

    /// Names of services that were applied or reweighted by command.
    pub(crate) fn overridden(&self) -> Vec<String> {
        self.overrides.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What some services need, and how many of them.
    pub(crate) fn needs(&self) -> impl Iterator<Item = (Need, usize)> + use<M, H> {
        Need::ALL.into_iter().zip(self.needs).filter(|(_, n)| *n > 0)
    }

    /// Names of the services that need something, as far as their text is known.
    pub(crate) fn needing(&self, need: Need) -> impl Iterator<Item = String> {
        let needs = move |name: &&String| {
            self.publisher.image(service_id(name)).is_some_and(|image| image.needs(need))
        };
        self.running.keys().filter(needs).cloned()
    }

    /// Compiles and publishes: the only way to the maps. Targets replace or join what runs.
    fn commit(
        &mut self,
        targets: Vec<Target>,
        removed: &[ServiceId],
    ) -> Result<Published, ChangeError> {
        let ids = self.find_ids(targets.iter().map(|target| target.service.as_ref()));
        self.commit_with_ids(targets, removed, &ids)
    }

    fn commit_with_ids(
        &mut self,
        targets: Vec<Target>,
        removed: &[ServiceId],
        ids: &Ids,
    ) -> Result<Published, ChangeError> {
        let mut compiler = Compiler::new(ids.clone());
        let mut changes: Vec<Change> = removed.iter().copied().map(Change::Remove).collect();
        let mut notes = Vec::new();
        for Target { service, .. } in &targets {
            let (image, found_notes) = compiler.compile(service);
            changes.push(Change::Put(Arc::new(image)));
            notes.push(found_notes);
        }
        let needs = self.needs_after(&changes);
        let watched = self.watch_leavers(&targets, removed);
        if !watched.is_empty() {
            self.hold_state(true);
        }
        let published = self.publish(changes, needs)?;
        for (target, notes) in targets.into_iter().zip(notes) {
            self.install(target, ids, notes);
        }
        self.forget(removed);
        self.follow_leavers(watched);
        Ok(published)
    }

    fn forget(&mut self, removed: &[ServiceId]) {
        if removed.is_empty() {
            return;
        }
        let removed: HashSet<ServiceId> = removed.iter().copied().collect();
        self.running.retain(|name, _| !removed.contains(&service_id(name)));
        let n = self.client_users.len();
        self.client_users.retain(|name| self.running.contains_key(name));
        self.has_new_names |= self.client_users.len() != n;
        self.checked.removed(|name| self.running.contains_key(name));
        self.timed.removed(|name| self.running.contains_key(name));
    }

    fn needs_after(&self, changes: &[Change]) -> NeedCounts {
        let mut counts = self.needs;
        for (need, count) in Need::ALL.into_iter().zip(&mut counts) {
            let needed = |id: ServiceId| {
                usize::from(self.publisher.image(id).is_some_and(|image| image.needs(need)))
            };
            *count = changes.iter().fold(*count, |n, change| match change {
                Change::Put(image) => n + usize::from(image.needs(need)) - needed(image.id),
                Change::Remove(id) => n - needed(*id),
            });
        }
        counts
    }

    /// The hooks of a service are there before its first connection and gone after its last.
    fn publish(
        &mut self,
        changes: Vec<Change>,
        needs: NeedCounts,
    ) -> Result<Published, ChangeError> {
        let before = self.publisher.generation();
        let new = differing(&needs, &self.needs);
        for (at, need) in new.iter().enumerate() {
            if let Err(error) = self.hooks.set(*need, true) {
                self.detach(&new[..at]);
                return Err(ChangeError::Hooks(error));
            }
        }
        let staged = match self.stage_egress() {
            Ok(staged) => staged,
            Err(error) => {
                self.settle_egress();
                self.detach(&new);
                return Err(error);
            }
        };
        let result = self.publisher.publish_with(changes, staged.as_ref().map(|it| it.root));
        let generation = self.publisher.generation();
        let published = match result {
            Ok(published) => published,
            // Committed, and something after the commit failed: the policy is in force.
            Err(error) if generation > before => {
                warn!("tidy up after generation {generation}: {error}");
                Published { generation, changed: 0, removed: 0 }
            }
            Err(error) => {
                self.settle_egress();
                self.detach(&new);
                return Err(change_error(error));
            }
        };
        if let Some(staged) = staged {
            self.take_egress(staged);
        }
        let gone = differing(&self.needs, &needs);
        self.needs = needs;
        self.detach(&gone);
        Ok(published)
    }

    /// Hooks that stay without need cost time and change nothing, so this does not fail a change.
    fn detach(&mut self, needs: &[Need]) {
        for need in needs {
            if let Err(error) = self.hooks.set(*need, false) {
                warn!("detach hooks that no service needs any more: {error}");
            }
        }
    }

    fn install(&mut self, target: Target, ids: &Ids, notes: Vec<Note>) {
        let Target { service, origin } = target;
        let name = service.name.clone();
        let names = ClientNames::of([service.as_ref()]);
        let was_user = if names.is_empty() {
            self.client_users.remove(&name)
        } else {
            !self.client_users.insert(name.clone())
        };
        self.has_new_names |= was_user || !names.is_empty();
        let old = self.running.get(&name).map(|running| running.service.as_ref());
        self.checked.installed(old, &service);
        self.timed.installed(&service);
        let ids = ids.of(&names);
        self.running.insert(name, Running { service, origin, notes, ids });
    }
}

fn change_error(error: PublishError) -> ChangeError {
    match error {
        PublishError::Full { map, .. } => {
            let word = map.to_ascii_lowercase().replace('_', "-");
            ChangeError::Full { error, option: format!("--max-{word}") }
        }
        PublishError::FrontendTaken(key) => {
            ChangeError::FrontendTaken { frontend: show_frontend(&key) }
        }
        PublishError::Kernel(_) => ChangeError::Kernel(error),
    }
}

/// `ADDRESS:PORT/PROTOCOL` of a frontend in the maps.
pub(crate) fn show_frontend(key: &FrontendKey) -> String {
    let protocol = match key.protocol {
        splitter_common::abi::UDP => "udp",
        _ => "tcp",
    };
    format!("{}/{protocol}", super::dump::socket_addr(key.addr, key.port_be))
}
