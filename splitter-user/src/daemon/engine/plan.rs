//! What the policy becomes when files, documents or their surroundings change.
//!
//! Documents mean something only together, so each such change derives all services of them anew,
//! and they replace the derived ones of before as a set. Nothing in here changes anything: a plan
//! that is not carried out is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::change::{check_together, running_source};
use super::neighbours::neighbours;
use super::rebase::rebase;
use super::{ChangeError, Engine, Filed, OptionalHooks, Origin, Target};
use crate::daemon::documents::Documents;
use crate::daemon::overrides::{self, Override, fingerprint};
use crate::daemon::resolver::Answers;
use crate::policy::model::Service;
use crate::policy::{self, DocumentRef, Loaded, Source, Surroundings, VipRanges, Vips, is_service};
use crate::tables::Maps;

/// What the policy becomes.
pub(super) struct Plan {
    /// The layer of policy files and documents.
    pub(super) files: BTreeMap<String, Filed>,
    /// Every override that stands.
    pub(super) overrides: BTreeMap<String, Override>,
    /// Overrides that are made or taken back.
    pub(super) changes: Vec<overrides::Change>,
    /// Overrides that do not stand any more.
    pub(super) dropped: Vec<String>,
    pub(super) documents: Documents,
}

/// Overrides, by what becomes of them.
#[derive(Default)]
struct Sorted {
    /// Those that stand, moved ones included.
    kept: BTreeMap<String, Override>,
    /// Those that stand on other backends than before.
    moved: Vec<overrides::Change>,
    /// Names of those that do not stand any more.
    dropped: Vec<String>,
}

/// When documents are written to the state directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Before the change, which fails where they cannot be.
    First,
    /// After the change, if that is possible.
    IfPossible,
}

impl Plan {
    /// Every service in force, by its name.
    pub(super) fn targets(&self) -> BTreeMap<&str, Target> {
        let mut next: BTreeMap<&str, Target> =
            self.files.iter().map(|(name, filed)| (name.as_str(), filed.target())).collect();
        for (name, kept) in &self.overrides {
            next.insert(name, kept_target(kept, self.files.get(name)));
        }
        next
    }
}

fn kept_target(kept: &Override, file: Option<&Filed>) -> Target {
    let origin = file.map_or(Origin::Applied, |filed| Origin::Override(Arc::clone(&filed.file)));
    Target { service: Arc::clone(&kept.service), origin }
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Takes addresses for hosts from these ranges.
    pub(crate) fn set_vip_ranges(&mut self, ranges: VipRanges) {
        self.vip_ranges = ranges;
    }

    /// The foreign documents.
    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Policy files with what was applied over them.
    pub(crate) fn with_applied(&self, mut files: Vec<Source>) -> Vec<Source> {
        files.extend(self.documents.applied_sources());
        files
    }

    /// Loads sources as this node does.
    pub(crate) fn load(&self, sources: &[Source]) -> Result<Loaded, ChangeError> {
        self.load_with(sources, &self.documents.answers)
    }

    pub(super) fn load_with(
        &self,
        sources: &[Source],
        answers: &Answers,
    ) -> Result<Loaded, ChangeError> {
        // An empty policy is worth a warning only where somebody wrote it.
        if sources.is_empty() {
            return Ok(Loaded::default());
        }
        let assigned = self.documents.assigned.clone();
        let vips = Vips { ranges: self.vip_ranges, assigned };
        let surroundings = Surroundings { answers: answers.clone(), vips, taken: self.taken() };
        policy::load_in(sources, &surroundings)
            .map_err(|diagnostics| ChangeError::Invalid { diagnostics, sources: sources.to_vec() })
    }

    /// Where services are dialled that no document gives. An address that a host was given is its
    /// own also where a command changed its service.
    fn taken(&self) -> Vec<IpAddr> {
        let given: BTreeSet<&IpAddr> = self.documents.assigned.values().collect();
        let addresses = |service: &Arc<Service>| -> Vec<IpAddr> {
            service.frontends.iter().map(|frontend| frontend.addr.ip()).collect()
        };
        let files = self.files.values().filter(|filed| !filed.derived);
        let files = files.flat_map(|filed| addresses(&filed.service));
        let applied = self.overrides.iter().flat_map(|(_, found)| addresses(&found.service));
        files.chain(applied.filter(|ip| !given.contains(ip))).collect()
    }

    /// What the policy becomes where these are the policy files, with what was applied over them.
    pub(super) fn plan_files(
        &self,
        loaded: Loaded,
        sources: &[Source],
    ) -> Result<Plan, ChangeError> {
        let documents = self.documents.after(&loaded, sources);
        let files = filed(loaded, sources);
        let Sorted { kept: overrides, moved: changes, dropped } = self.sort_overrides(&files);
        check_kept(&overrides, &files)?;
        Ok(Plan { files, overrides, changes, dropped, documents })
    }

    /// What the policy becomes where these are all documents. Services that stand in the sources
    /// themselves are applied over what the policy files say; those in `removed` are not any more.
    pub(super) fn plan_documents(
        &self,
        loaded: Loaded,
        sources: &[Source],
        removed: &[String],
    ) -> Result<Plan, ChangeError> {
        let documents = self.documents.after(&loaded, sources);
        let natives = names_of_services(&loaded.documents);
        let (applied, derived): (BTreeMap<_, _>, BTreeMap<_, _>) =
            filed(loaded, sources).into_iter().partition(|(name, _)| natives.contains(name));
        let clashing: Vec<Arc<Service>> = derived
            .keys()
            .filter_map(|name| Some(&self.files.get(name).filter(|filed| !filed.derived)?.service))
            .map(Arc::clone)
            .collect();
        let mut files = self.files.clone();
        files.retain(|_, filed| !filed.derived);
        files.extend(derived);
        let Sorted { kept: mut overrides, moved: mut changes, mut dropped } =
            self.sort_overrides(&files);
        let said = applied.into_iter().map(|(name, new)| override_of(name, new, &files));
        let said: Vec<_> = said.chain(removed.iter().map(|it| (it.clone(), None))).collect();
        changes.retain(|(name, _)| said.iter().all(|(other, _)| other != name));
        dropped.retain(|name| said.iter().all(|(other, _)| other != name));
        for (name, next) in &said {
            match next {
                Some(next) => overrides.insert(name.clone(), next.clone()),
                None => overrides.remove(name),
            };
        }
        changes.extend(said);
        let plan = Plan { files, overrides, changes, dropped, documents };
        self.check_plan(&plan, &clashing)?;
        Ok(plan)
    }

    /// What becomes of the overrides where these are the files.
    fn sort_overrides(&self, files: &BTreeMap<String, Filed>) -> Sorted {
        let mut sorted = Sorted::default();
        for (name, found) in self.overrides.iter() {
            let new = files.get(name);
            if new.map(|filed| fingerprint(&filed.service)) == found.base {
                sorted.kept.insert(name.clone(), found.clone());
            } else if let Some(moved) = self.moved(name, found, new) {
                sorted.kept.insert(name.clone(), moved.clone());
                sorted.moved.push((name.clone(), Some(moved)));
            } else {
                sorted.dropped.push(name.clone());
            }
        }
        sorted
    }

    /// An override on the service that documents give now.
    fn moved(&self, name: &str, found: &Override, new: Option<&Filed>) -> Option<Override> {
        let (old, new) = (self.files.get(name)?, new?);
        let derived = old.derived && new.derived;
        derived.then(|| rebase(found, &old.service, &new.service)).flatten()
    }

    /// Checks services that are not what runs against those that are. `clashing` are services of
    /// policy files whose names documents take.
    fn check_plan(&self, plan: &Plan, clashing: &[Arc<Service>]) -> Result<(), ChangeError> {
        let targets = plan.targets();
        let (same, changed): (Vec<&Target>, Vec<&Target>) =
            targets.values().partition(|target| self.runs(target));
        let changed: Vec<&Service> = changed.into_iter().map(|it| it.service.as_ref()).collect();
        let others = same.into_iter().map(|target| target.service.as_ref());
        let mut near = neighbours(changed.iter().copied(), others);
        near.extend(clashing.iter().map(AsRef::as_ref));
        let clashes = |service: &&Service| clashing.iter().any(|it| it.name == service.name);
        // An override may hide the service that takes the name.
        let hidden = plan.files.values().map(|filed| filed.service.as_ref()).filter(clashes);
        let mut changed = changed;
        changed.retain(|service| !clashes(service));
        let changed = changed.into_iter().chain(hidden).map(running_source).collect();
        check_together(changed, &near)
    }

    /// Whether a service is in force as it is here.
    pub(super) fn runs(&self, target: &Target) -> bool {
        let running = self.running.get(&target.service.name);
        running.is_some_and(|running| running.service == target.service)
    }
}

/// What to keep of a service that is applied: nothing where it says what the files say.
fn override_of(name: String, new: Filed, files: &BTreeMap<String, Filed>) -> overrides::Change {
    let file = files.get(&name);
    if file.is_some_and(|file| file.service == new.service) {
        return (name, None);
    }
    let base = file.map(|file| fingerprint(&file.service));
    (name, Some(Override { service: new.service, base }))
}

/// Names of services that stand in documents of their own.
fn names_of_services(documents: &[DocumentRef]) -> BTreeSet<String> {
    let identities = documents.iter().flat_map(|document| &document.identities);
    let names = identities.filter(|it| is_service(it)).filter_map(|it| it.split_once('/'));
    names.map(|(_, name)| name.to_owned()).collect()
}

/// The services of a load with their files.
fn filed(loaded: Loaded, sources: &[Source]) -> BTreeMap<String, Filed> {
    let natives = names_of_services(&loaded.documents);
    let names: Vec<Arc<str>> = sources.iter().map(|s| Arc::from(s.name.as_str())).collect();
    let file_of: HashMap<String, Arc<str>> = loaded
        .origins
        .into_iter()
        .filter_map(|(service, source)| Some((service, Arc::clone(names.get(source)?))))
        .collect();
    let filed = |service: Service| {
        let file = file_of.get(&service.name).cloned().unwrap_or_else(|| Arc::from(""));
        let derived = !natives.contains(&service.name);
        (service.name.clone(), Filed { service: Arc::new(service), file, derived })
    };
    loaded.policy.services.into_iter().map(filed).collect()
}

/// Checks overrides that stay against the files' services that they do not replace.
fn check_kept(
    kept: &BTreeMap<String, Override>,
    files: &BTreeMap<String, Filed>,
) -> Result<(), ChangeError> {
    let overrides = || kept.values().map(|found| found.service.as_ref());
    let others = files.values().map(|filed| filed.service.as_ref());
    let others = others.filter(|service| !kept.contains_key(&service.name));
    let near = neighbours(overrides(), others);
    check_together(overrides().map(running_source).collect(), &near)
}

/// Names of services that sources from this one on gave.
pub(super) fn named_from(loaded: &Loaded, first: usize) -> HashSet<String> {
    let named = loaded.origins.iter().filter(|(_, source)| **source >= first);
    named.map(|(name, _)| name.clone()).collect()
}
