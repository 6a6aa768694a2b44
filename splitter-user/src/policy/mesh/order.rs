//! The plans of all clients in the order in which they are tried.

use super::clients::{Client, Clients, ROOT};
use super::plan::Plan;
use crate::policy::model::CgroupName;

/// What becomes of each client's connections to one address.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plans<'r> {
    /// Each once.
    distinct: Vec<Plan<'r>>,
    /// Ordinals of these, by the class of the client.
    of_class: Vec<usize>,
}

impl<'r> Plans<'r> {
    /// Adds the plan of the next class.
    pub(super) fn push(&mut self, plan: Plan<'r>) {
        let known = self.distinct.iter().position(|known| *known == plan);
        self.of_class.push(known.unwrap_or(self.distinct.len()));
        if known.is_none() {
            self.distinct.push(plan);
        }
    }

    /// Each plan once.
    pub(super) fn distinct(&self) -> &[Plan<'r>] {
        &self.distinct
    }

    fn of(&self, client: &Client<'_>) -> Option<usize> {
        self.of_class.get(client.class).copied()
    }

    /// The plans as routes with the cgroups they are for, an empty list for every client. Cgroups
    /// inside others come first; those that would fall to the same plan anyway are left out.
    pub(super) fn in_order(&self, clients: &Clients<'_>) -> Vec<(&Plan<'r>, Vec<CgroupName>)> {
        let mut routes: Vec<(usize, Vec<CgroupName>)> = Vec::new();
        for (index, client) in clients.all.iter().enumerate() {
            let Some(plan) = self.of(client) else { continue };
            let Some(cgroup) = client.cgroup().filter(|cgroup| cgroup.path() != Some(ROOT)) else {
                // Nothing comes after what every client is in.
                routes.push((plan, Vec::new()));
                break;
            };
            if clients.around(index, client).all(|around| self.of(around) == Some(plan)) {
                continue;
            }
            match routes.iter_mut().find(|(known, _)| *known == plan) {
                // What is inside came before and must stay before.
                Some((_, cgroups)) if !client.encloses => cgroups.push(cgroup.clone()),
                _ => routes.push((plan, vec![cgroup.clone()])),
            }
        }
        let plan = |(plan, cgroups)| Some((self.distinct.get(plan)?, cgroups));
        routes.into_iter().filter_map(plan).collect()
    }
}
