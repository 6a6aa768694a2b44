//! The tables as the kernel reads them, record by record.
//!
//! Names are not in the tables; those of services, routes and subsets are put beside their ids
//! where the policy that runs is known.

mod egress;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use splitter_common::abi::{
    Backend, Choice, EgressRoot, Plan, PlanPair, Route, Subset, Wheel, action, pick,
};
use splitter_common::addr::{Addr, PortBe};

use super::engine::{Running, show_frontend};
use crate::compile::slots::Slots;
use crate::compile::{name_ids, service_id};
use crate::policy::model::Service;
use crate::tables::egress::MemoryEgress;
use crate::tables::{Arena, Maps, committed, read, read_slots, read_thresholds};

pub(crate) use egress::{EgressDump, NetworkDump, RuleDump};

/// All tables, from the frontends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dump {
    /// The committed generation.
    pub(crate) generation: u64,
    /// Frontends, sorted by key.
    pub(crate) frontends: Vec<FrontendDump>,
    /// What clients may reach besides them.
    #[serde(default)]
    pub(crate) egress: EgressDump,
}

/// One frontend and the plan that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrontendDump {
    /// What clients dial.
    pub(crate) frontend: String,
    /// Index of the plan pair.
    pub(crate) pair: u32,
    /// Index of the plan that counts.
    pub(crate) plan: u32,
    /// The generation from which it counts.
    pub(crate) since: u64,
    /// Id of the service, or its name where it is known.
    pub(crate) service: String,
    /// Routes in their order.
    pub(crate) routes: Vec<RouteDump>,
    /// Subsets in their order.
    pub(crate) subsets: Vec<SubsetDump>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteDump {
    /// Index of the record.
    pub(crate) index: u32,
    /// Id of the route, or its name where it is known.
    pub(crate) name: String,
    /// Index of the client match; 0 takes every client.
    pub(crate) client: u32,
    /// Index of the counter.
    pub(crate) counter: u32,
    /// `pass`, `split`, or `reject` with the errno's number.
    pub(crate) action: String,
    /// How the subset is chosen.
    pub(crate) choice: Option<ChoiceDump>,
}

/// How an ordinal is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChoiceDump {
    /// `only`, `ticket`, `random`, `client` or `threshold`.
    pub(crate) pick: String,
    /// The only ordinal there is.
    pub(crate) only: Option<u16>,
    /// Index of the wheel.
    pub(crate) wheel: Option<u32>,
    /// Where the wheel stands.
    pub(crate) ticket: Option<u64>,
    /// Ordinals in the order of the wheel.
    pub(crate) slots: Vec<u64>,
    /// Ends of the ranges of hashes, each with its ordinal.
    pub(crate) thresholds: Vec<(u64, u64)>,
}

/// One subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubsetDump {
    /// Index of the record.
    pub(crate) index: u32,
    /// Id of the subset, or its name where it is known.
    pub(crate) name: String,
    /// Index of the counter.
    pub(crate) counter: u32,
    /// How the backend is chosen; `None` where the subset has none to choose.
    pub(crate) choice: Option<ChoiceDump>,
    /// Backends in their order.
    pub(crate) backends: Vec<BackendDump>,
}

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackendDump {
    /// Index of the record.
    pub(crate) index: u32,
    /// Where connections go.
    pub(crate) address: String,
    /// Index of the counter.
    pub(crate) counter: u32,
}

/// An address and port of the tables.
pub(crate) fn socket_addr(addr: Addr, port_be: PortBe) -> SocketAddr {
    let ip = match addr.to_v4() {
        Some(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
        None => IpAddr::V6(Ipv6Addr::from(addr.0)),
    };
    SocketAddr::new(ip, port_be.to_host())
}

/// What clients may reach, copied, with the names of the rules.
pub(crate) struct EgressCopy {
    pub(crate) root: EgressRoot,
    pub(crate) tables: MemoryEgress,
    pub(crate) names: Vec<String>,
}

/// Reads all tables, and puts the names of these services into them.
pub(crate) fn dump(
    maps: &impl Maps,
    running: &[Running],
    egress: &EgressCopy,
) -> std::io::Result<Dump> {
    let names = running
        .iter()
        .map(|running| (service_id(&running.service.name).0, running.service.as_ref()));
    let walk = Walk { maps, generation: committed(maps).generation, services: names.collect() };
    let mut frontends = maps.frontends()?;
    frontends.sort_unstable();
    let frontends = frontends.into_iter().map(|(key, pair)| FrontendDump {
        frontend: show_frontend(&key),
        pair,
        ..walk.plan_of(pair)
    });
    let egress = egress::dump(&egress.root, &egress.tables, &egress.names);
    Ok(Dump { generation: walk.generation, frontends: frontends.collect(), egress })
}

struct Walk<'a, M> {
    maps: &'a M,
    generation: u64,
    services: HashMap<u64, &'a Service>,
}

impl<M: Maps> Walk<'_, M> {
    fn plan_of(&self, pair: u32) -> FrontendDump {
        let pair: PlanPair = read(self.maps, Arena::PlanPairs, pair).unwrap_or_default();
        let plans = [pair.newer(), pair.older()].into_iter();
        let counting = plans
            .filter_map(|index| Some((index, read::<Plan, _>(self.maps, Arena::Plans, index)?)))
            .find(|(_, plan)| (1..=self.generation).contains(&plan.generation));
        let Some((index, plan)) = counting else { return FrontendDump::default() };
        let service = self.services.get(&plan.service).copied();
        FrontendDump {
            plan: index,
            since: plan.generation,
            service: service.map_or_else(|| hex(plan.service), |service| service.name.clone()),
            routes: self.routes(&plan, service),
            subsets: self.subsets(&plan, service),
            ..FrontendDump::default()
        }
    }

    fn routes(&self, plan: &Plan, service: Option<&Service>) -> Vec<RouteDump> {
        let names = names(service.iter().flat_map(|s| &s.routes).map(|route| &*route.name));
        let indices = plan.routes..plan.routes + u32::from(plan.n_routes);
        let dump = |index| {
            let route: Route = read(self.maps, Arena::Routes, index)?;
            let name = names.get(&route.id).cloned();
            Some(RouteDump {
                index,
                name: name.unwrap_or_else(|| hex(u64::from(route.id))),
                client: route.client,
                counter: route.counter,
                action: action_word(&route),
                choice: (route.action == action::SPLIT).then(|| self.choice(route.choice)),
            })
        };
        indices.filter_map(dump).collect()
    }

    fn subsets(&self, plan: &Plan, service: Option<&Service>) -> Vec<SubsetDump> {
        let names = names(service.iter().flat_map(|s| &s.subsets).map(|subset| &*subset.name));
        let indices = plan.subsets..plan.subsets + u32::from(plan.n_subsets);
        let dump = |index| {
            let subset: Subset = read(self.maps, Arena::Subsets, index)?;
            let name = names.get(&subset.id).cloned();
            Some(SubsetDump {
                index,
                name: name.unwrap_or_else(|| hex(u64::from(subset.id))),
                counter: subset.counter,
                choice: (subset.n_backends > 0).then(|| self.choice(subset.choice)),
                backends: self.backends(&subset),
            })
        };
        indices.filter_map(dump).collect()
    }

    fn backends(&self, subset: &Subset) -> Vec<BackendDump> {
        let indices = subset.backends..subset.backends + u32::from(subset.n_listed);
        let dump = |index| {
            let Backend { addr, port_be, counter, .. } = read(self.maps, Arena::Backends, index)?;
            Some(BackendDump { index, address: socket_addr(addr, port_be).to_string(), counter })
        };
        indices.filter_map(dump).collect()
    }

    fn choice(&self, choice: Choice) -> ChoiceDump {
        let dump = |pick: &str| ChoiceDump { pick: pick.to_owned(), ..ChoiceDump::default() };
        match choice.pick {
            pick::ONLY => ChoiceDump { only: Some(choice.only), ..dump("only") },
            pick::THRESHOLD => {
                ChoiceDump { thresholds: self.thresholds(choice), ..dump("threshold") }
            }
            pick::TICKET => self.wheel(choice.wheel, dump("ticket")),
            pick::RANDOM => self.wheel(choice.wheel, dump("random")),
            _ => self.wheel(choice.wheel, dump("client")),
        }
    }

    fn thresholds(&self, choice: Choice) -> Vec<(u64, u64)> {
        let thresholds = read_thresholds(self.maps, choice).unwrap_or_default();
        thresholds.into_iter().map(|(end, ordinal)| (end, u64::from(ordinal))).collect()
    }

    fn wheel(&self, index: u32, dump: ChoiceDump) -> ChoiceDump {
        let Some(wheel) = read::<Wheel, _>(self.maps, Arena::Wheels, index) else { return dump };
        let slots = read_slots(self.maps, &wheel);
        let slots = slots.iter().flat_map(Slots::iter).map(u64::from).collect();
        // Tickets of client hashes are never taken.
        let ticket = (dump.pick == "ticket").then_some(wheel.ticket);
        ChoiceDump { wheel: Some(index), ticket, slots, ..dump }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> HashMap<u32, String> {
    name_ids(names.clone()).into_iter().zip(names.map(str::to_owned)).collect()
}

fn action_word(route: &Route) -> String {
    match route.action {
        action::PASS => "pass".to_owned(),
        action::REJECT => format!("reject {}", route.errno),
        _ => "split".to_owned(),
    }
}

fn hex(id: u64) -> String {
    format!("#{id:x}")
}
