//! The operations on foreign documents that change the running policy.

use std::collections::BTreeSet;
use std::time::Instant;

use super::ask::Stand;
use super::change::finish;
use super::plan::{Keep, Plan, named_from};
use super::{ChangeError, Engine, OptionalHooks};
use tracing::{info, warn};

use crate::compile::image::ServiceId;
use crate::compile::service_id;
use crate::daemon::control::Applied;
use crate::daemon::documents::Held;
use crate::daemon::overrides::Changes;
use crate::daemon::resolver::Answers;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::{SPLIT_BY_LABELS, Source, suggest};
use crate::tables::Maps;

/// What came of documents that were applied.
pub(crate) struct Outcome {
    /// What it did.
    pub(crate) applied: Applied,
    /// What is allowed in them but rarely meant.
    pub(crate) warnings: Vec<Diagnostic>,
    /// What the warnings point into.
    pub(crate) sources: Vec<Source>,
}

/// Whether a name is of a document, `KIND/NAMESPACE/NAME`. Names of services have no capitals.
fn is_document(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Adds documents to those that are known, in place of those of the same kind, namespace and
    /// name. Services among them are applied as [`Engine::apply`] does, by the same commit.
    pub(crate) fn apply_documents(&mut self, new: &[Source]) -> Result<Outcome, ChangeError> {
        let start = Instant::now();
        self.check_known()?;
        let (sources, first) = self.with_new(new);
        let loaded = self.load(&sources)?;
        let warnings = loaded.warnings.clone();
        let named = named_from(&loaded, first);
        let plan = self.plan_documents(loaded, &sources, &[])?;
        let is_new = |held: &&Held| held.source.reading.layer == self.documents.next_layer();
        let new = plan.documents.applied.iter().filter(is_new);
        let documents = new.flat_map(|held| held.identities.clone()).collect();
        let mut applied = self.carry_out(plan, Keep::First)?;
        applied.unchanged.retain(|name| named.contains(name));
        applied.documents = documents;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(Outcome { applied, warnings, sources })
    }

    /// What [`Self::apply_documents`] would change.
    pub(crate) fn stand_documents(&self, new: &[Source]) -> Result<Stand, ChangeError> {
        self.check_known()?;
        let (sources, first) = self.with_new(new);
        let loaded = self.load(&sources)?;
        let named = named_from(&loaded, first);
        let plan = self.plan_documents(loaded, &sources, &[])?;
        let targets = plan.targets();
        let changed = targets.values().filter(|target| !self.runs(target));
        let new: Vec<_> = changed.map(|target| target.service.clone()).collect();
        let is_touched = |name: &str| {
            !targets.contains_key(name) || new.iter().any(|service| service.name == name)
        };
        let running = self.running.iter().filter(|(name, _)| is_touched(name));
        let old: Vec<_> = running.map(|(_, running)| running.service.clone()).collect();
        let is_left_alone = |name: &String| !is_touched(name) && !named.contains(name);
        let left_alone = self.running.keys().filter(|name| is_left_alone(name)).count();
        let outbound = [self.egress.wanted.clone(), plan.documents.outbound.clone()];
        let generation = self.publisher.generation();
        Ok(Stand { old, new, outbound, left_alone, generation })
    }

    /// All documents with new ones on top, and the index of the first of those.
    fn with_new(&self, new: &[Source]) -> (Vec<Source>, usize) {
        let mut sources = self.documents.sources();
        for known in &mut sources {
            known.reading.quiet = true;
        }
        let (first, layer) = (sources.len(), self.documents.next_layer());
        sources.extend(new.iter().cloned().map(|mut source| {
            source.reading.layer = layer;
            source
        }));
        (sources, first)
    }

    /// Removes documents and services that were applied, and what was applied over those of policy
    /// files.
    pub(crate) fn remove(&mut self, names: &[String]) -> Result<Applied, ChangeError> {
        let names: Vec<String> = names.iter().map(|name| self.find_labelled(name)).collect();
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let (documents, services): (BTreeSet<&str>, BTreeSet<&str>) =
            names.into_iter().partition(|name| is_document(name));
        if documents.is_empty() {
            return self.remove_services(&services);
        }
        let start = Instant::now();
        self.check_known()?;
        documents.iter().try_for_each(|identity| self.check_applied(identity))?;
        let mut removed = Vec::new();
        for name in services {
            removed.push(self.find_removable(name)?.service.name.clone());
        }
        let mut sources = self.documents.sources();
        for source in sources.iter_mut().filter(|source| source.reading.layer > 0) {
            source.reading.without.extend(documents.iter().map(|it| (*it).to_owned()));
        }
        let loaded = self.load(&sources)?;
        let plan = self.plan_documents(loaded, &sources, &removed)?;
        let mut applied = self.carry_out(plan, Keep::First)?;
        applied.unchanged.clear();
        applied.dropped = documents.into_iter().map(str::to_owned).collect();
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// The document of a service that was applied and takes clients by labels; else the name itself.
    pub(super) fn find_labelled(&self, name: &str) -> String {
        let name = name.strip_prefix("Split/").unwrap_or(name);
        let is_it = |identity: &&String| {
            let full = identity.strip_prefix(SPLIT_BY_LABELS).and_then(|it| it.strip_prefix('/'));
            full.is_some_and(|full| {
                full == name || full.split_once('/').is_some_and(|(_, short)| short == name)
            })
        };
        let held = self.documents.applied.iter();
        let mut found = held.flat_map(|held| &held.identities).filter(is_it);
        match (found.next(), found.next()) {
            (Some(only), None) => only.clone(),
            _ => name.to_owned(),
        }
    }

    /// Whether a document was applied; else says where it is, or which were.
    fn check_applied(&self, identity: &str) -> Result<(), ChangeError> {
        let holds = |held: &&Held| held.identities.iter().any(|it| it == identity);
        let documents = &self.documents;
        if documents.applied.iter().any(|held| holds(&held)) {
            return Ok(());
        }
        if let Some(held) = documents.base.iter().find(holds) {
            return Err(super::change::in_file(identity, &held.source.name));
        }
        let known = self.applied_documents();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let help = match known[..] {
            [] => "no document was applied".to_owned(),
            _ => suggest(identity, &known, "applied documents"),
        };
        Err(ChangeError::Impossible(format!("no document `{identity}` was applied: {help}")))
    }

    /// Documents that were applied and count, as `KIND/NAMESPACE/NAME`.
    pub(crate) fn applied_documents(&self) -> Vec<String> {
        let held = self.documents.applied.iter();
        held.flat_map(|held| held.identities.iter().cloned()).collect()
    }

    /// Takes in other answers of the resolver: derives services anew, and has clients reach the
    /// hosts that documents name. Answers that make services wrong are dropped for those, and the
    /// ones of before stay.
    pub(crate) fn set_answers(&mut self, answers: &Answers) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        self.learn_hosts(answers, start);
        let derived = self.derive_from(answers);
        if derived.is_err()
            && let Err(error) = self.publish_hosts()
        {
            warn!("have clients reach other addresses of hosts: {error}");
        }
        let mut applied = derived?;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    fn derive_from(&mut self, answers: &Answers) -> Result<Applied, ChangeError> {
        self.check_known()?;
        let sources = self.documents.sources();
        let loaded = self.load_with(&sources, answers)?;
        let mut plan = self.plan_documents(loaded, &sources, &[])?;
        plan.documents.answers.clone_from(answers);
        // Servers that move are followed even where the disk is full.
        self.carry_out(plan, Keep::IfPossible)
    }

    /// Publishes and keeps what was planned. What changed is told without generation and time.
    pub(super) fn carry_out(&mut self, plan: Plan, keep: Keep) -> Result<Applied, ChangeError> {
        let next = plan.targets();
        let wanted: BTreeSet<ServiceId> = next.keys().map(|name| service_id(name)).collect();
        let gone: Vec<ServiceId> =
            self.publisher.services().filter(|id| !wanted.contains(id)).collect();
        let applied = self.compare(&next);
        let is_in_force = |target: &super::Target| {
            let running = self.running.get(&target.service.name);
            running.is_some_and(|r| r.service == target.service && r.origin == target.origin)
        };
        let targets = next.into_values().filter(|target| !is_in_force(target)).collect();
        let Plan { files, changes, dropped, mut documents, .. } = plan;
        documents.egress_hosts = self.egress.hosts.beside(&documents.answers, &documents.outbound);
        let text = Some(documents.to_text()).filter(|text| *text != self.overrides.documents());
        let (first, last) = if keep == Keep::First { (text, None) } else { (None, text) };
        let changes = Changes { services: changes, documents: first, drains: None };
        let said = self.egress.want(documents.outbound.clone());
        if let Err(error) = self.commit_with_overrides(targets, &gone, changes) {
            self.egress.want(said);
            return Err(error);
        }
        self.has_new_names |= said != documents.outbound;
        self.keep_documents(last);
        for name in &dropped {
            info!(service = %name, "the policy changed after the command: it counts");
        }
        self.drop_overrides(dropped);
        self.files = files;
        let known = self.egress_problems();
        self.documents = documents;
        for problem in self.egress_problems().iter().filter(|it| !known.contains(it)) {
            warn!("{problem}");
        }
        self.degraded = None;
        Ok(applied)
    }

    /// Writes what a daemon can do without: the next one asks the resolver itself.
    pub(super) fn keep_documents(&mut self, text: Option<String>) {
        let changes = Changes { documents: text, ..Changes::default() };
        if let Err(error) = self.overrides.set(changes).and_then(|()| self.overrides.settle()) {
            warn!("keep the resolver's answers in the state directory: {error}");
        }
    }
}
