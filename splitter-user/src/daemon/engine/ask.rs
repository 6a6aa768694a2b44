//! Questions about the running policy: nothing in here changes it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::{Cgroups, ClientNames, frontend_key};
use crate::explain::{Explanation, How, Names, explain};
use crate::policy::model::{CgroupName, Frontend, Outbound, Service};
use crate::policy::{Loaded, Source};
use crate::rehearsal::{Role, lineage};
use crate::tables::Maps;

/// What an [`Engine::apply`] would replace and what it would leave.
pub(crate) struct Stand {
    /// Running services that would be replaced or removed.
    pub(crate) old: Vec<Arc<Service>>,
    /// What would run in their place, and what would join.
    pub(crate) new: Vec<Arc<Service>>,
    /// What clients may reach besides services, and what they could.
    pub(crate) outbound: [Vec<Outbound>; 2],
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
        let (generation, outbound) = (self.publisher.generation(), Default::default());
        Ok(Stand { old: found, new, outbound, left_alone, generation })
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
        let (role, own) = self.place(role)?;
        let mut names = ClientNames::of(dialled.iter().copied());
        names.networks.extend(role.netns_name.clone());
        let mut ids = self.clients.find(&names);
        ids.cgroups.extend(own);
        let names =
            Names::new(dialled, &ids).with_egress(&self.egress_documents(), self.egress_hosts());
        let (client, key) = (role.client(0, &ids), frontend_key(to));
        let (maps, tables) = (self.publisher.maps(), self.egress.tables());
        let explanation = explain(maps, tables, &names, &key, client);
        let next_ticket = explanation.subset.as_ref().and_then(|subset| match subset.choice {
            How::Ticket { ticket, .. } => Some(ticket),
            _ => None,
        });
        Ok(LiveExplanation { committed: self.publisher.generation(), next_ticket, explanation })
    }

    /// The client by the path of its cgroup, and that cgroup and all above it, as they are on this
    /// node.
    fn place(&self, role: &Role) -> Result<(Role, Cgroups), ChangeError> {
        let nobody = |name: &CgroupName, why: &str| {
            ChangeError::Impossible(format!("no client can be in the {name}: {why}"))
        };
        let path = match &role.cgroup {
            None => "/".to_owned(),
            Some(CgroupName::Path(path)) => path.clone(),
            Some(name) => {
                let found = self.clients.places(&BTreeSet::from([name.clone()]));
                match found.get(name).map_or(&[][..], Vec::as_slice) {
                    [(only, _)] => only.clone(),
                    _ => return Err(nobody(name, "none is found now, or several are")),
                }
            }
        };
        let find = |path: String| {
            let cgroup = self.clients.cgroup(&path);
            let name = CgroupName::Path(path);
            match cgroup {
                Some(cgroup) => Ok((name, cgroup)),
                None => Err(nobody(&name, "there is none at this path now")),
            }
        };
        let own = lineage(&path).into_iter().map(find).collect::<Result<_, _>>()?;
        let cgroup = role.cgroup.is_some().then_some(CgroupName::Path(path));
        Ok((Role { cgroup, ..role.clone() }, own))
    }
}
