//! The operations that change the running policy.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::neighbours::neighbours;
use super::plan::Keep;
use super::weights::reweigh;
use super::{ChangeError, Engine, OptionalHooks, Origin, Running, Target};
use crate::compile::image::ServiceId;
use crate::compile::service_id;
use crate::daemon::control::{Applied, Weighted};
use crate::daemon::overrides::{self, Override, fingerprint};
use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use crate::policy::{self, Loaded, Source};
use crate::tables::Maps;

/// What makes a change undone.
#[derive(Default)]
struct Reverse {
    targets: Vec<Target>,
    gone: Vec<ServiceId>,
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Makes the policy files' content this; sources in higher layers than 0 are documents that were
    /// applied over them. Overrides whose base changed are dropped.
    pub(crate) fn replace_files(
        &mut self,
        loaded: Loaded,
        sources: &[Source],
    ) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        let plan = self.plan_files(loaded, sources)?;
        let mut applied = self.carry_out(plan, Keep::First)?;
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
        let overrides: Vec<_> = targets.iter().map(|it| self.override_for(it)).collect();
        self.commit_with_overrides(targets, &[], overrides.into())?;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// Removes services that were applied, and what was applied over those of policy files.
    pub(super) fn remove_services(
        &mut self,
        names: &BTreeSet<&str>,
    ) -> Result<Applied, ChangeError> {
        let start = Instant::now();
        self.check_known()?;
        let (mut targets, mut gone, mut applied) = (Vec::new(), Vec::new(), Applied::default());
        let mut overrides = Vec::new();
        for name in names {
            let name = self.find_removable(name)?.service.name.clone();
            if let Some(file) = self.files.get(&name) {
                targets.push(file.target());
                applied.changed.push(name.clone());
            } else {
                gone.push(service_id(&name));
                applied.removed.push(name.clone());
            }
            overrides.push((name, None));
        }
        self.check_return(&targets)?;
        self.commit_with_overrides(targets, &gone, overrides.into())?;
        finish(&mut applied, self.publisher.generation(), start);
        Ok(applied)
    }

    /// A service that was applied, or that a command changed.
    pub(super) fn find_removable(&self, name: &str) -> Result<&Running, ChangeError> {
        let running = self.find(name)?;
        match &running.origin {
            Origin::File(file) => Err(in_file(name, file)),
            Origin::Derived(file) => Err(ChangeError::Impossible(format!(
                "`{name}` was not applied by itself, it comes from documents such as one in \
                 {file}: remove those, with `splitter apply --remove KIND/NAMESPACE/NAME` where \
                 they were applied"
            ))),
            Origin::Applied | Origin::Override(_) => Ok(running),
        }
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
        let service_name = changed.service.name.clone();
        let target = self.applied_target(Arc::new(changed.service));
        let overrides = vec![self.override_for(&target)];
        self.commit_with_overrides(vec![target], &[], overrides.into())?;
        Ok(Weighted {
            service: service_name,
            route: changed.route,
            before: changed.before,
            after: changed.after,
            generation: self.publisher.generation(),
            microseconds: micros(start),
        })
    }

    /// Fails where the text of what runs is not known.
    pub(crate) fn check_known(&self) -> Result<(), ChangeError> {
        match &self.degraded {
            Some(reason) => Err(ChangeError::Degraded(reason.clone())),
            None => Ok(()),
        }
    }

    /// Checks applied services against the running ones that they do not replace.
    pub(super) fn check_apply(
        &self,
        loaded: &Loaded,
        sources: &[Source],
    ) -> Result<(), ChangeError> {
        let replaced: HashSet<&str> =
            loaded.policy.services.iter().map(|service| service.name.as_str()).collect();
        if let Some(name) = replaced.iter().find(|name| self.find_labelled(name) != **name) {
            return Err(ChangeError::Impossible(format!(
                "apply {name}: it was applied with `labels` in its routes, as part of the \
                 documents, and this one is without: `splitter apply --remove {name}` takes that \
                 one away first"
            )));
        }
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

    pub(super) fn applied_target(&self, service: Arc<Service>) -> Target {
        let origin = match self.files.get(&service.name) {
            Some(filed) if filed.service == service => filed.origin(),
            Some(filed) => Origin::Override(Arc::clone(&filed.file)),
            None => Origin::Applied,
        };
        Target { service, origin }
    }

    /// What to keep of a target: nothing where it says what the file says.
    pub(super) fn override_for(&self, target: &Target) -> overrides::Change {
        let name = target.service.name.clone();
        let base = self.files.get(&name).map(|filed| fingerprint(&filed.service));
        let kept = match target.origin {
            Origin::File(_) | Origin::Derived(_) => None,
            Origin::Applied | Origin::Override(_) => {
                Some(Override { service: Arc::clone(&target.service), base })
            }
        };
        (name, kept)
    }

    /// Writes the overrides first, then commits, then settles them: connections do not wait for the
    /// disk, the answer does. A daemon that dies before the last comes up without the change, so a
    /// policy that does not fit is never found at a start. What the disk refuses is taken back.
    pub(super) fn commit_with_overrides(
        &mut self,
        targets: Vec<Target>,
        gone: &[ServiceId],
        overrides: overrides::Changes,
    ) -> Result<(), ChangeError> {
        let services = match &overrides.services[..] {
            [] if overrides.drains.is_some() => "what is drained".to_owned(),
            [] => "the documents".to_owned(),
            services => name_some(services),
        };
        if let Err(error) = self.overrides.set(overrides) {
            return Err(ChangeError::State { services, error });
        }
        let reverse = self.overrides.is_unsettled().then(|| self.reverse(&targets, gone));
        let held = self.end_hold(!targets.is_empty());
        let mut result = self.commit(targets, gone).map(drop);
        if result.is_err() {
            self.egress.hold_again(held);
        }
        if result.is_ok()
            && let Err(error) = self.overrides.settle()
        {
            self.take_back(reverse.unwrap_or_default());
            result = Err(ChangeError::State { services: services.clone(), error });
        }
        if result.is_err()
            && let Err(error) = self.overrides.roll_back()
        {
            warn!(services, "take a refused change out of the state directory: {error}");
        }
        result
    }

    /// The change that undoes a change. Services of an earlier daemon whose text is not known
    /// cannot be compiled again, and stay as the change makes them.
    fn reverse(&self, targets: &[Target], gone: &[ServiceId]) -> Reverse {
        let (mut reverse, gone) = (Reverse::default(), gone.iter().collect::<HashSet<_>>());
        for Target { service, .. } in targets {
            let id = service_id(&service.name);
            match self.running.get(&service.name) {
                Some(running) => reverse.targets.push(running.target()),
                None if self.publisher.image(id).is_none() => reverse.gone.push(id),
                None => {}
            }
        }
        if !gone.is_empty() {
            let is_gone = |it: &&Running| gone.contains(&service_id(&it.service.name));
            reverse.targets.extend(self.running.values().filter(is_gone).map(Running::target));
        }
        reverse
    }

    fn take_back(&mut self, Reverse { targets, gone }: Reverse) {
        if let Err(error) = self.commit(targets, &gone) {
            warn!("a change that could not be kept is in force until the next: {error}");
        }
    }

    /// Forgets overrides that do not count any more. One that stays is found again at the next
    /// start, and does not count then either.
    pub(super) fn drop_overrides(&mut self, names: Vec<String>) {
        let overrides: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
        let services = name_some(&overrides);
        if let Err(error) = self.overrides.set(overrides).and_then(|()| self.overrides.settle()) {
            warn!(services, "remove overrides from the state directory: {error}");
        }
    }

    /// What a whole new policy changes.
    pub(super) fn compare(&self, next: &BTreeMap<&str, Target>) -> Applied {
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

pub(super) fn finish(applied: &mut Applied, generation: u64, start: Instant) {
    applied.generation = generation;
    applied.microseconds = micros(start);
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn in_file(name: &str, file: &str) -> ChangeError {
    ChangeError::Impossible(format!(
        "`{name}` was not applied, it is in the policy file {file}: remove it there"
    ))
}

/// Loads sources together with running services, for the rules between services. Those come
/// first, so that what is new is what is reported.
pub(super) fn check_together(sources: Vec<Source>, near: &[&Service]) -> Result<(), ChangeError> {
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
pub(super) fn running_source(service: &Service) -> Source {
    Source::new(format!("(running service {})", service.name), to_yaml(service)).degraded()
}
