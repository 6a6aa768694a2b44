//! Which services' health checks may be others than they were.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Engine, OptionalHooks};
use crate::compile::image::ServiceId;
use crate::compile::{backend_image, frontend_key, name_ids, service_id};
use crate::policy::model::{Frontend, Service};
use crate::publish::CounterOwner;
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

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Names of the services whose health checks may be others than when this was last asked, each
    /// with the service where it is still in force.
    pub(crate) fn take_changed_checks(&mut self) -> Vec<(String, Option<Arc<Service>>)> {
        let service = |name: &String| Some(Arc::clone(&self.running.get(name)?.service));
        let changed = self.checked.take().into_iter();
        changed.map(|name| (name.clone(), service(&name))).collect()
    }

    /// Lets connections avoid a backend for a reason, or no longer.
    pub(crate) fn set_standing(
        &mut self,
        service: &str,
        subset: &str,
        addr: SocketAddr,
        (bit, is_set): (u64, bool),
    ) -> io::Result<()> {
        let Some(running) = self.running.get(service) else { return Ok(()) };
        let names = running.service.subsets.iter().map(|subset| subset.name.as_str());
        let ids = name_ids(names.clone());
        let Some((_, id)) = names.zip(ids).find(|(name, _)| *name == subset) else { return Ok(()) };
        let owner = CounterOwner::Backend(id, backend_image(addr));
        self.publisher.set_standing(service_id(service), owner, bit, is_set).map(drop)
    }

    /// Forgets what an earlier daemon knew of backends: this one finds out for itself.
    pub(crate) fn forget_standings(&mut self, bit: u64) -> io::Result<()> {
        let ids: Vec<ServiceId> = self.publisher.services().collect();
        for id in ids {
            let Some(states) = self.publisher.states(id) else { continue };
            for (owner, _) in states.iter() {
                self.publisher.set_standing(id, owner, bit, false)?;
            }
        }
        Ok(())
    }

    /// Whether connections to an address are split.
    pub(crate) fn is_frontend(&self, frontend: &Frontend) -> bool {
        self.publisher.has_frontend(&frontend_key(frontend))
    }
}
