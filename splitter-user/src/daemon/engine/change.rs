//! The operations that change the running policy.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::neighbours::neighbours;
use super::weights::reweigh;
use super::{ChangeError, Engine, Filed, Origin, PeerNameHooks, Running, Target};
use crate::compile::image::ServiceId;
use crate::compile::service_id;
use crate::daemon::control::{Applied, Weighted};
use crate::daemon::overrides::{self, Override, fingerprint};
use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use crate::policy::{self, Loaded, Source};
use crate::tables::Maps;

impl<M: Maps, H: PeerNameHooks> Engine<M, H> {
    /// Makes the policy files' content this. Overrides whose base changed are dropped.
    pub(crate) fn replace_files(
        &mut self,
        loaded: Loaded,
        sources: &[Source],
    ) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        let files = filed(loaded, sources);
        let (kept, dropped) = self.sort_overrides(&files);
        check_kept(&kept, &files)?;
        let mut next: BTreeMap<&str, Target> = files.iter().map(file_target).collect();
        for (name, kept) in &kept {
            next.insert(name, override_target(kept, files.get(name)));
        }
        let wanted: HashSet<ServiceId> = next.keys().map(|name| service_id(name)).collect();
        let gone: Vec<ServiceId> =
            self.publisher.services().filter(|id| !wanted.contains(id)).collect();
        let mut applied = self.compare(&next);
        let targets: Vec<Target> = next.into_values().collect();
        self.commit(targets, &gone)?;
        for name in &dropped {
            info!(service = %name, "the policy file changed after the command: the file counts");
        }
        self.drop_overrides(dropped);
        self.files = files;
        self.degraded = None;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// Adds services to the running policy or replaces those of the same name.
    pub(crate) fn apply(
        &mut self,
        loaded: &Loaded,
        sources: &[Source],
    ) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        self.check_known()?;
        self.check_apply(loaded, sources)?;
        let services: Vec<Arc<Service>> =
            loaded.policy.services.iter().cloned().map(Arc::new).collect();
        let targets: Vec<Target> =
            services.into_iter().map(|service| self.applied_target(service)).collect();
        let next = targets.iter().map(|t| (t.service.name.as_str(), t)).collect();
        let mut applied = self.compare_some(&next);
        let overrides = targets.iter().map(|target| self.override_for(target)).collect();
        self.commit_with_overrides(targets, &[], overrides)?;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// Removes services that were applied, and what was applied over those of policy files.
    pub(crate) fn remove(&mut self, names: &[String]) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        self.check_known()?;
        let (mut targets, mut gone, mut applied) = (Vec::new(), Vec::new(), Applied::default());
        for name in names {
            match (&self.find(name)?.origin, self.files.get(name)) {
                (Origin::File(file), _) => return Err(in_file(name, file)),
                (_, Some(file)) => {
                    targets.push(file_target((name, file)).1);
                    applied.changed.push(name.clone());
                }
                (_, None) => {
                    gone.push(service_id(name));
                    applied.removed.push(name.clone());
                }
            }
        }
        self.check_return(&targets)?;
        let overrides = names.iter().map(|name| (name.clone(), None)).collect();
        self.commit_with_overrides(targets, &gone, overrides)?;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// Sets weights of one split of one service. Its cost does not depend on other services.
    pub(crate) fn set_weights(
        &mut self,
        name: &str,
        route: Option<&str>,
        weights: &[(String, u32)],
    ) -> Result<Weighted, ChangeError> {
        let start = Instant::now();
        let running = self.find(name)?;
        let changed = reweigh(&running.service, route, weights).map_err(ChangeError::Impossible)?;
        let target = self.applied_target(Arc::new(changed.service));
        let overrides = vec![self.override_for(&target)];
        self.commit_with_overrides(vec![target], &[], overrides)?;
        Ok(Weighted {
            service: name.to_owned(),
            route: changed.route,
            before: changed.before,
            after: changed.after,
            generation: self.publisher.generation(),
            microseconds: micros(start),
        })
    }

    pub(super) fn check_known(&self) -> Result<(), ChangeError> {
        match &self.degraded {
            Some(reason) => Err(ChangeError::Degraded(reason.clone())),
            None => Ok(()),
        }
    }

    /// Overrides that stand on these files, and names of those that do not any more.
    fn sort_overrides(
        &self,
        files: &BTreeMap<String, Filed>,
    ) -> (BTreeMap<String, Override>, Vec<String>) {
        let stands =
            |name: &str, base| files.get(name).map(|filed| fingerprint(&filed.service)) == base;
        let (mut kept, mut dropped) = (BTreeMap::new(), Vec::new());
        for (name, found) in self.overrides.iter() {
            if stands(name, found.base) {
                kept.insert(name.clone(), found.clone());
            } else {
                dropped.push(name.clone());
            }
        }
        (kept, dropped)
    }

    /// Checks applied services against the running ones that they do not replace.
    pub(super) fn check_apply(
        &self,
        loaded: &Loaded,
        sources: &[Source],
    ) -> Result<(), ChangeError> {
        let replaced: HashSet<&str> =
            loaded.policy.services.iter().map(|service| service.name.as_str()).collect();
        let others = self.running.values().map(|running| running.service.as_ref());
        let others = others.filter(|service| !replaced.contains(service.name.as_str()));
        let near = neighbours(loaded.policy.services.iter(), others);
        check_together(sources.to_vec(), &near)
    }

    /// Checks services that come back from under an override against what else runs.
    fn check_return(&self, targets: &[Target]) -> Result<(), ChangeError> {
        let back: Vec<&Service> = targets.iter().map(|target| target.service.as_ref()).collect();
        let returns: HashSet<&str> = back.iter().map(|service| service.name.as_str()).collect();
        let others = self.running.values().map(|running| running.service.as_ref());
        let others = others.filter(|service| !returns.contains(service.name.as_str()));
        let near = neighbours(back.iter().copied(), others);
        check_together(back.into_iter().map(running_source).collect(), &near)
    }

    fn applied_target(&self, service: Arc<Service>) -> Target {
        let origin = match self.files.get(&service.name) {
            Some(filed) if filed.service == service => Origin::File(Arc::clone(&filed.file)),
            Some(filed) => Origin::Override(Arc::clone(&filed.file)),
            None => Origin::Applied,
        };
        Target { service, origin }
    }

    /// What to keep of a target: nothing where it says what the file says.
    fn override_for(&self, target: &Target) -> overrides::Change {
        let name = target.service.name.clone();
        let base = self.files.get(&name).map(|filed| fingerprint(&filed.service));
        let kept = match target.origin {
            Origin::File(_) => None,
            Origin::Applied | Origin::Override(_) => {
                Some(Override { service: Arc::clone(&target.service), base })
            }
        };
        (name, kept)
    }

    /// Writes the overrides first, then commits, then settles them. A daemon that dies before the
    /// last comes up without the change, so a policy that does not fit is never found at a start.
    fn commit_with_overrides(
        &mut self,
        targets: Vec<Target>,
        gone: &[ServiceId],
        overrides: Vec<overrides::Change>,
    ) -> Result<(), ChangeError> {
        let services = name_some(&overrides);
        if let Err(error) = self.overrides.set(overrides) {
            return Err(ChangeError::State { services, error });
        }
        let result = self.commit(targets, gone).map(drop);
        let kept =
            if result.is_ok() { self.overrides.settle() } else { self.overrides.roll_back() };
        if let Err(error) = kept {
            warn!(services, "the state directory keeps what was before this change: {error}");
        }
        result
    }

    /// Forgets overrides that do not count any more. One that stays is found again at the next
    /// start, and does not count then either.
    fn drop_overrides(&mut self, names: Vec<String>) {
        let overrides: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
        let services = name_some(&overrides);
        if let Err(error) = self.overrides.set(overrides).and_then(|()| self.overrides.settle()) {
            warn!(services, "remove overrides from the state directory: {error}");
        }
    }

    /// What a whole new policy changes.
    fn compare(&self, next: &BTreeMap<&str, Target>) -> Applied {
        let by_name = next.iter().map(|(name, target)| (*name, target)).collect();
        let mut applied = self.compare_some(&by_name);
        let gone = self.running.keys().filter(|name| !next.contains_key(name.as_str()));
        applied.removed = gone.cloned().collect();
        applied
    }

    /// What new or replaced services change.
    fn compare_some(&self, next: &BTreeMap<&str, &Target>) -> Applied {
        let mut applied = Applied::default();
        for (name, target) in next {
            let list = match self.running.get(*name) {
                None => &mut applied.added,
                Some(Running { service, .. }) if *service == target.service => {
                    &mut applied.unchanged
                }
                Some(_) => &mut applied.changed,
            };
            list.push((*name).to_owned());
        }
        applied
    }
}

/// The services of some overrides in words: the first stands for all.
fn name_some(overrides: &[overrides::Change]) -> String {
    match overrides {
        [] => "no service".to_owned(),
        [(name, _)] => format!("`{name}`"),
        [(name, _), more @ ..] => format!("`{name}` and {} more", more.len()),
    }
}

fn finish(applied: &mut Applied, generation: u64, start: Instant) {
    applied.generation = generation;
    applied.microseconds = micros(start);
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn in_file(name: &str, file: &str) -> ChangeError {
    ChangeError::Impossible(format!(
        "`{name}` was not applied, it is in the policy file {file}: remove it there"
    ))
}

/// The services of a load with their files.
fn filed(loaded: Loaded, sources: &[Source]) -> BTreeMap<String, Filed> {
    let names: Vec<Arc<str>> = sources.iter().map(|s| Arc::from(s.name.as_str())).collect();
    let file_of: HashMap<String, Arc<str>> = loaded
        .origins
        .into_iter()
        .filter_map(|(service, source)| Some((service, Arc::clone(names.get(source)?))))
        .collect();
    let filed = |service: Service| {
        let file = file_of.get(&service.name).cloned().unwrap_or_else(|| Arc::from(""));
        (service.name.clone(), Filed { service: Arc::new(service), file })
    };
    loaded.policy.services.into_iter().map(filed).collect()
}

fn file_target<'a>((name, filed): (&'a String, &Filed)) -> (&'a str, Target) {
    let origin = Origin::File(Arc::clone(&filed.file));
    (name, Target { service: Arc::clone(&filed.service), origin })
}

fn override_target(kept: &Override, file: Option<&Filed>) -> Target {
    let origin = file.map_or(Origin::Applied, |filed| Origin::Override(Arc::clone(&filed.file)));
    Target { service: Arc::clone(&kept.service), origin }
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

/// Loads sources together with running services, for the rules between services. Those come
/// first, so that what is new is what is reported.
fn check_together(sources: Vec<Source>, near: &[&Service]) -> Result<(), ChangeError> {
    if near.is_empty() {
        return Ok(());
    }
    let running = near.iter().copied().map(running_source);
    let sources: Vec<Source> = running.chain(sources).collect();
    match policy::load(&sources) {
        Ok(_) => Ok(()),
        Err(diagnostics) => Err(ChangeError::Invalid { diagnostics, sources }),
    }
}

/// A running service as text that diagnostics can point into. Whether it degrades was asked when
/// it was applied.
fn running_source(service: &Service) -> Source {
    Source::new(format!("(running service {})", service.name), to_yaml(service)).degraded()
}
