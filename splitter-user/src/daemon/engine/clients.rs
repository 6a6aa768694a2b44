//! Clients that services name and only a node knows.

use tracing::debug;

use super::{ChangeError, Engine, OptionalHooks, Running, Target};
use crate::compile::{ClientNames, Ids};
use crate::policy::model::Service;
use crate::tables::Maps;

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// All names of clients that only a node knows, where they may have changed since the last time.
    pub(crate) fn take_changed_names(&mut self) -> Option<ClientNames> {
        std::mem::take(&mut self.has_new_names).then(|| self.client_names())
    }

    fn client_names(&self) -> ClientNames {
        let users = self.client_users.iter().filter_map(|name| self.running.get(name));
        let mut names = ClientNames::of(users.map(|running| running.service.as_ref()));
        names.cgroups.extend(self.egress_cgroups().cloned());
        names
    }

    /// Looks up all names of clients again, and compiles services anew whose cgroups or network
    /// namespaces came, went or were made again under the same name.
    pub(crate) fn refresh_clients(&mut self) -> Result<usize, ChangeError> {
        let ids = self.clients.find(&self.client_names());
        let users = self.client_users.iter().filter_map(|name| self.running.get(name));
        let is_stale = |running: &&Running| {
            ids.of(&ClientNames::of([running.service.as_ref()])) != running.ids
        };
        let targets: Vec<Target> = users.filter(is_stale).map(Running::target).collect();
        // Both are looked at: an event may be about either.
        let is_egress_stale = self.is_egress_stale();
        if targets.is_empty() && !is_egress_stale {
            return Ok(0);
        }
        let stale = targets.iter().map(|target| target.service.name.as_str());
        debug!(services = ?stale.collect::<Vec<_>>(), "clients came or went");
        self.commit_with_ids(targets, &[], &ids).map(|published| published.changed)
    }

    pub(super) fn find_ids<'a>(&self, services: impl IntoIterator<Item = &'a Service>) -> Ids {
        let names = ClientNames::of(services);
        if names.is_empty() { Ids::default() } else { self.clients.find(&names) }
    }
}
