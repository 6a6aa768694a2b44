//! Questions about the running policy: nothing in here changes it.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::{Cgroups, frontend_key};
use crate::explain::{Explanation, How, Names, explain};
use crate::policy::model::{Frontend, Service};
use crate::policy::{Loaded, Source};
use crate::rehearsal::{Role, lineage};
use crate::tables::Maps;

/// What an [`Engine::apply`] would replace and what it would leave.
pub(crate) struct Stand {
    /// Running services that would be replaced or removed.
    pub(crate) old: Vec<Arc<Service>>,
    /// What would run in their place, and what would join.
    pub(crate) new: Vec<Arc<Service>>,
    /// Number of the other running services.
    pub(crate) left_alone: usize,
    /// The generation in force.
    pub(crate) generation: u64,
}

/// What the next connection of a client would meet in the running policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LiveExplanation {
    /// The committed generation, also where the address is not in the table.
    pub(crate) committed: u64,
    /// The ticket that the next connection would take, where one is taken for its subset.
    pub(crate) next_ticket: Option<u64>,
    /// Why it goes where it goes.
    #[serde(flatten)]
    pub(crate) explanation: Explanation,
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// What an apply of the same arguments would change. Fails where that would be refused as
    /// wrong.
    pub(crate) fn stand(&self, loaded: &Loaded, sources: &[Source]) -> Result<Stand, ChangeError> {
        self.check_known()?;
        self.check_apply(loaded, sources)?;
        let services = loaded.policy.services.iter();
        let names: HashSet<&str> = services.map(|service| service.name.as_str()).collect();
        let running = names.iter().filter_map(|name| self.running.get(*name));
        let found: Vec<_> = running.map(|running| Arc::clone(&running.service)).collect();
        let left_alone = self.running.len() - found.len();
        let new = loaded.policy.services.iter().cloned().map(Arc::new).collect();
        Ok(Stand { old: found, new, left_alone, generation: self.publisher.generation() })
    }

    /// Asks the decision on the live maps, without taking a ticket.
    pub(crate) fn explain(
        &self,
        to: &Frontend,
        role: &Role,
    ) -> Result<LiveExplanation, ChangeError> {
        let running = self.running.values();
        let dialled: Vec<&Service> = running
            .map(|running| running.service.as_ref())
            .filter(|service| service.frontends.contains(to))
            .collect();
        let mut cgroups = self.client_cgroups(role)?;
        cgroups.extend(dialled.iter().flat_map(|service| self.find_cgroups(service)));
        let names = Names::new(dialled, &cgroups);
        let client = role.client(0, &cgroups);
        let explanation = explain(self.publisher.maps(), &names, &frontend_key(to), client);
        let next_ticket = explanation.subset.as_ref().and_then(|subset| match subset.choice {
            How::Ticket { ticket, .. } => Some(ticket),
            _ => None,
        });
        Ok(LiveExplanation { committed: self.publisher.generation(), next_ticket, explanation })
    }

    /// The client's cgroup and all above it, as they are on this node.
    fn client_cgroups(&self, role: &Role) -> Result<Cgroups, ChangeError> {
        let find = |path: String| match self.cgroups.find(&path) {
            Some(cgroup) => Ok((path, cgroup)),
            None => Err(ChangeError::Impossible(format!(
                "no client can be in the cgroup {path}: there is none at this path now"
            ))),
        };
        lineage(role.cgroup.as_deref().unwrap_or("/")).into_iter().map(find).collect()
    }
}
