//! Which running service a name means.

use super::{ChangeError, Engine, OptionalHooks, Running};
use crate::policy::suggest;
use crate::tables::Maps;

/// Most services that a message lists.
const MOST_LISTED: usize = 20;

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// One service in force: the one of this name, or the only one of this name in any namespace.
    pub(crate) fn find(&self, name: &str) -> Result<&Running, ChangeError> {
        if let Some(running) = self.running.get(name) {
            return Ok(running);
        }
        let mut fitting = self.in_namespaces(name);
        let (first, second) = (fitting.next(), fitting.next());
        match (first, second) {
            (Some(running), None) => Ok(running),
            (None, _) => Err(self.unknown_service(name)),
            (Some(_), Some(_)) => Err(ambiguous(name, self.in_namespaces(name))),
        }
    }

    /// Services in force whose name without its namespace is this.
    fn in_namespaces(&self, name: &str) -> impl Iterator<Item = &Running> {
        let fits = move |known: &str| known.split_once('/').is_some_and(|(_, rest)| rest == name);
        self.running.iter().filter(move |(known, _)| fits(known)).map(|(_, running)| running)
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.running.contains_key(name) || self.in_namespaces(name).next().is_some()
    }

    /// Takes `SERVICE/ROUTE` apart. Names of services may have a `/` too, and they come first.
    pub(crate) fn find_target<'t>(&self, target: &'t str) -> (&'t str, Option<&'t str>) {
        match target.rsplit_once('/') {
            Some((service, route)) if !self.is_named(target) && self.is_named(service) => {
                (service, Some(route))
            }
            _ => (target, None),
        }
    }

    fn unknown_service(&self, name: &str) -> ChangeError {
        if let Some(reason) = &self.degraded {
            return ChangeError::Degraded(reason.clone());
        }
        let help = self.suggest_service(name);
        ChangeError::Impossible(format!("no service is named `{name}`: {help}"))
    }

    /// Neither is there such a service, nor one that it could be a part of.
    pub(super) fn unknown_part(&self, service: &str, part: &str) -> ChangeError {
        let help = self.suggest_service(service);
        ChangeError::Impossible(format!(
            "no service is named `{service}`, to have a subset `{part}`, or `{service}/{part}`: \
             {help}"
        ))
    }

    fn suggest_service(&self, name: &str) -> String {
        let known: Vec<&str> = self.running.keys().map(String::as_str).collect();
        match known[..] {
            [] => "no service runs".to_owned(),
            _ => suggest(name, &known, "running services"),
        }
    }
}

fn ambiguous<'a>(name: &str, fitting: impl Iterator<Item = &'a Running>) -> ChangeError {
    let names: Vec<String> =
        fitting.take(MOST_LISTED).map(|running| format!("`{}`", running.service.name)).collect();
    ChangeError::Impossible(format!(
        "several services are named `{name}`, say which: {}",
        names.join(", ")
    ))
}
