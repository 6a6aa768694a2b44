//! Names of what the tables know only by number.

use std::collections::HashMap;

use splitter_common::abi::{PortRange, Reason};
use splitter_common::addr::Addr;

use crate::compile::egress::{HostAddresses, find_reach};
use crate::compile::{Ids, name_ids, service_id};
use crate::policy::model::{CgroupName, Errno, Outbound, Reach, Service};

/// Ids to names, of some services. What it does not know is shown by its number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    services: HashMap<u64, ServiceNames>,
    cgroups: HashMap<u64, CgroupName>,
    networks: HashMap<u64, String>,
    /// Egress documents by the numbers of their rules.
    egress: Vec<(String, Vec<Reach>)>,
    /// Addresses that their host names stand for.
    hosts: HostAddresses,
}

#[derive(Clone, Debug)]
struct ServiceNames {
    name: String,
    routes: HashMap<u32, String>,
    subsets: HashMap<u32, String>,
}

impl ServiceNames {
    fn new(service: &Service) -> Self {
        let routes = service.routes.iter().map(|route| route.name.as_str());
        let subsets = service.subsets.iter().map(|subset| subset.name.as_str());
        let by_id = |names: Vec<&str>| {
            let ids = name_ids(names.iter().copied());
            ids.into_iter().zip(names.into_iter().map(str::to_owned)).collect()
        };
        Self {
            name: service.name.clone(),
            routes: by_id(routes.collect()),
            subsets: by_id(subsets.collect()),
        }
    }
}

impl Names {
    /// The names in these services, and those of these ids.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Service>, ids: &Ids) -> Self {
        let services = services.into_iter();
        let services = services.map(|s| (service_id(&s.name).0, ServiceNames::new(s))).collect();
        // Paths come first, and other names of the same cgroup replace them.
        let cgroups = ids.cgroups.iter().map(|(name, cgroup)| (cgroup.id, name.clone())).collect();
        let networks = ids.networks.iter().map(|(name, id)| (*id, name.to_string())).collect();
        Self { services, cgroups, networks, ..Self::default() }
    }

    /// Those of egress documents too, in the order of their rules, whose host names stand for these
    /// addresses.
    #[must_use]
    pub fn with_egress<'a>(
        mut self,
        outbound: impl IntoIterator<Item = &'a Outbound>,
        hosts: HostAddresses,
    ) -> Self {
        self.hosts = hosts;
        let outbound = outbound.into_iter();
        self.egress = outbound.map(|said| (said.name.clone(), said.reaches.clone())).collect();
        self
    }

    /// Name of an egress document.
    pub fn egress(&self, rule: u32) -> String {
        let known = self.egress.get(rule as usize);
        known.map_or_else(|| format!("rule {rule}"), |(name, _)| name.clone())
    }

    /// What an egress document says that an address has a range of ports from, as far as it is known.
    pub fn reach(&self, rule: u32, addr: Addr, range: &PortRange) -> Option<&Reach> {
        let (_, reaches) = self.egress.get(rule as usize)?;
        find_reach(reaches, &self.hosts, addr, range)
    }

    /// Name of a service.
    pub fn service(&self, id: u64) -> String {
        self.services.get(&id).map_or_else(|| format!("{id:#018x}"), |names| names.name.clone())
    }

    /// Name of a route of a service.
    pub fn route(&self, service: u64, id: u32) -> String {
        let names = self.services.get(&service);
        let name = names.and_then(|names| names.routes.get(&id));
        name.cloned().unwrap_or_else(|| format!("{id:#010x}"))
    }

    /// Name of a subset of a service.
    pub fn subset(&self, service: u64, id: u32) -> String {
        let names = self.services.get(&service);
        let name = names.and_then(|names| names.subsets.get(&id));
        name.cloned().unwrap_or_else(|| format!("{id:#010x}"))
    }

    /// A cgroup, and what names it.
    pub fn cgroup(&self, id: u64) -> String {
        let known = self.cgroups.get(&id);
        known.map_or_else(|| format!("cgroup with id {id}"), CgroupName::to_string)
    }

    /// Name of a network namespace.
    pub fn network(&self, cookie: u64) -> String {
        self.networks.get(&cookie).cloned().unwrap_or_else(|| format!("cookie {cookie}"))
    }
}

/// Name of an errno that a decision may answer.
pub fn errno_name(number: u16) -> String {
    let known = Errno::ALL.into_iter().find(|errno| errno.number == number);
    known.map_or_else(|| format!("errno {number}"), |errno| errno.name.to_owned())
}

/// Word for the number of a reason; `None` for 0, which is none.
pub(super) fn reason_name(number: u32) -> Option<&'static str> {
    Reason::ALL.into_iter().find(|reason| *reason as u32 == number).map(Reason::name)
}
