//! Which services' health checks may be others than they were.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Engine, PeerNameHooks};
use crate::compile::frontend_key;
use crate::policy::model::{Frontend, Service};
use crate::tables::Maps;

/// Services with health checks, and what became of them since somebody asked.
#[derive(Default)]
pub(super) struct CheckedServices {
    users: BTreeSet<String>,
    changed: BTreeSet<String>,
    /// Whether other addresses are frontends, which concerns every check: see
    /// [`Engine::is_frontend`].
    moved: bool,
}

impl CheckedServices {
    /// A service is in force, in place of what ran under its name.
    pub(super) fn installed(&mut self, old: Option<&Service>, new: &Service) {
        self.moved |= old.is_none_or(|old| old.frontends != new.frontends);
        if old.is_some_and(|old| old.subsets == new.subsets) {
            return;
        }
        let is_user = new.subsets.iter().any(|subset| subset.health.is_some());
        let was_user = self.users.contains(&new.name);
        if is_user && !was_user {
            self.users.insert(new.name.clone());
        } else if was_user && !is_user {
            self.users.remove(&new.name);
        }
        if is_user || was_user {
            self.changed.insert(new.name.clone());
        }
    }

    /// Services are gone; `is_left` says which are not.
    pub(super) fn removed(&mut self, is_left: impl Fn(&str) -> bool) {
        self.moved = true;
        let (users, gone) = std::mem::take(&mut self.users).into_iter().partition(|it| is_left(it));
        self.users = users;
        self.changed.extend::<BTreeSet<String>>(gone);
    }

    fn take(&mut self) -> BTreeSet<String> {
        let mut changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.moved) {
            changed.extend(self.users.iter().cloned());
        }
        changed
    }
}

impl<M: Maps, H: PeerNameHooks> Engine<M, H> {
    /// Names of the services whose health checks may be others than when this was last asked, each
    /// with the service where it is still in force.
    pub(crate) fn take_changed_checks(&mut self) -> Vec<(String, Option<Arc<Service>>)> {
        let service = |name: &String| Some(Arc::clone(&self.running.get(name)?.service));
        let changed = self.checked.take().into_iter();
        changed.map(|name| (name.clone(), service(&name))).collect()
    }

    /// Whether connections to an address are split.
    pub(crate) fn is_frontend(&self, frontend: &Frontend) -> bool {
        self.publisher.has_frontend(&frontend_key(frontend))
    }
}
