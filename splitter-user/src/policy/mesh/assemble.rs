//! Plans of all clients for one port of a host, put together to one service.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;

use splitter_common::abi::{MAX_BACKENDS, MAX_ROUTES, MAX_SPLIT, MAX_SUBSETS};

use super::clients::Clients;
use super::names::{clean_name, split_service_host};
use super::order::Plans;
use super::plan::{Plan, Planned, Target};
use super::registry::{Host, Server};
use super::resource::{LoadBalancer, ServicePort, Transport};
use crate::policy::code::{self, Code};
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::document::{Draft, MatchPlace, Places, RoutePlaces, SubsetPlaces};
use crate::policy::model::{
    Action, Backend, Balance, CgroupName, ClientKey, ClientMatch, Connection, Datagrams, Frontend,
    OldConnections, OnBackendDown, OnEmpty, PeerName, Pick, Protocol, Route, Service, Split,
    Subset,
};

/// What a service is made of.
pub(super) struct Parts<'a, 'r> {
    /// `NAMESPACE/NAME`.
    pub(super) name: String,
    /// The host that is dialled; subsets of others are named after them.
    pub(super) host: Option<&'a Host<'r>>,
    pub(super) at: Span,
    pub(super) frontends: Vec<Frontend>,
    pub(super) plans: Plans<'r>,
    pub(super) clients: &'a Clients<'r>,
    /// Whether it is made even if it leaves every connection alone.
    pub(super) keep: bool,
}

/// Makes a service, unless it would leave every connection alone and need not be.
pub(super) fn assemble(parts: Parts<'_, '_>, report: &mut Report) -> Option<Draft> {
    let v4 = parts.frontends.first()?.addr.is_ipv4();
    let mut subsets = Subsets::new(parts.host, v4);
    let routes = parts.plans.in_order(parts.clients);
    if !parts.keep && routes.iter().all(|(plan, _)| plan.action == Planned::Pass) {
        return None;
    }
    let at = routes.first().map_or(parts.at, |(plan, _)| plan.document);
    let mut service = Service {
        outcomes: false,
        old_connections: OldConnections::Leave,
        on_backend_down: OnBackendDown::Leave,
        name: parts.name,
        frontends: parts.frontends,
        getpeername: PeerName::default(),
        datagrams: Datagrams::default(),
        subsets: Vec::new(),
        routes: Vec::new(),
    };
    let mut places = Places {
        name: at,
        frontends: service.frontends.iter().map(|frontend| (*frontend, parts.at)).collect(),
        ..Places::default()
    };
    let mut names = BTreeSet::new();
    for (plan, cgroups) in routes {
        let (route, place) = make_route(plan, &cgroups, &mut subsets, &mut names, report)?;
        service.routes.push(route);
        places.routes.push(place);
    }
    subsets.add_prepared(report);
    (service.subsets, places.subsets) = subsets.made.into_iter().unzip();
    service.frontends.sort_unstable();
    check_limits(&service, at, report).then_some(Draft { service, places })
}

fn make_route<'r>(
    plan: &Plan<'r>,
    cgroups: &[CgroupName],
    subsets: &mut Subsets<'_, 'r>,
    names: &mut BTreeSet<String>,
    report: &mut Report,
) -> Option<(Route, RoutePlaces)> {
    let action = match &plan.action {
        Planned::Pass => Action::Pass,
        Planned::Reject(errno) => Action::Reject(*errno),
        Planned::Split(shares) => Action::Split(make_split(plan.at, shares, subsets, report)?),
    };
    let client =
        |name: &CgroupName| ClientMatch { cgroup: Some(name.clone()), ..ClientMatch::default() };
    let matches: Vec<ClientMatch> = cgroups.iter().map(client).collect();
    let place =
        |client: &ClientMatch| MatchPlace { client: client.clone(), selector: None, at: plan.at };
    let places = matches.iter().map(place).collect();
    let name = unique(&clean_name(&plan.name), names);
    let route = Route { name, matches, action, fault: plan.fault };
    Some((route, RoutePlaces { route: plan.at, matches: places, on_empty: None }))
}

fn make_split<'r>(
    at: Span,
    shares: &[(Target<'r>, u32)],
    subsets: &mut Subsets<'_, 'r>,
    report: &mut Report,
) -> Option<Split> {
    let sum: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if sum == 0 {
        // Reported where it was read.
        return None;
    }
    if sum > u64::from(u32::MAX) {
        let message = format!("the weights sum to {sum}, more than {}", u32::MAX);
        report.push(
            Diagnostic::new(&code::SUM_OVERFLOW, at, message)
                .with_help("divide all of them by the same number: only their ratio counts"),
        );
        return None;
    }
    let weights: Vec<(usize, u32)> =
        shares.iter().map(|(target, weight)| (subsets.ordinal(target, report), *weight)).collect();
    Some(Split { weights, pick: Pick::default(), on_empty: OnEmpty::default() })
}

/// A name that is not taken, like this one.
fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = |n: usize| match n {
        1 => name.to_owned(),
        n => {
            let end = format!("-{n}");
            format!("{}{end}", clean_name(&name.chars().take(63 - end.len()).collect::<String>()))
        }
    };
    let mut free = (1..).map(numbered).filter(|name| !taken.contains(name));
    let name = free.next().unwrap_or_else(|| name.to_owned());
    taken.insert(name.clone());
    name
}

/// The subsets of a service under way.
struct Subsets<'a, 'r> {
    host: Option<&'a Host<'r>>,
    v4: bool,
    targets: Vec<Target<'r>>,
    made: Vec<(Subset, SubsetPlaces)>,
    names: BTreeSet<String>,
}

impl<'a, 'r> Subsets<'a, 'r> {
    fn new(host: Option<&'a Host<'r>>, v4: bool) -> Self {
        Self { host, v4, targets: Vec::new(), made: Vec::new(), names: BTreeSet::new() }
    }

    fn ordinal(&mut self, target: &Target<'r>, report: &mut Report) -> usize {
        if let Some(known) = self.targets.iter().position(|known| known == target) {
            return known;
        }
        let name = unique(&self.name(target), &mut self.names);
        self.made.push(make_subset(name, target, self.v4, report));
        self.targets.push(target.clone());
        self.targets.len() - 1
    }

    /// The subset's name where the host is the one that is dialled, else after the host.
    fn name(&self, target: &Target<'_>) -> String {
        let Some(host) = target.host() else { return "rejected".to_owned() };
        let is_own = self.host.is_some_and(|own| own.name == host.name);
        let short = match split_service_host(&host.name) {
            Some((name, _)) => name,
            None => &host.name,
        };
        let name = match (&target.subset, is_own) {
            (Some(subset), true) => subset.clone(),
            (Some(subset), false) => format!("{short}-{subset}"),
            (None, true) => "all".to_owned(),
            (None, false) => short.to_owned(),
        };
        clean_name(&name)
    }

    /// Adds the other subsets that the rule in force for the dialled host defines, so that weight
    /// can be shifted to them by command.
    fn add_prepared(&mut self, report: &mut Report) {
        let own = |target: &&Target<'r>| {
            target.subset.is_some()
                && target.host().map(|host| &host.name) == self.host.map(|host| &host.name)
        };
        let Some(model) = self.targets.iter().find(own).cloned() else { return };
        for subset in model.rules.subsets() {
            let name = Some(subset.name.value.clone());
            let target = Target { subset: name, at: subset.name.at, ..model.clone() };
            if self.made.len() < MAX_SUBSETS as usize {
                self.ordinal(&target, report);
            }
        }
    }
}

fn make_subset(
    name: String,
    target: &Target<'_>,
    v4: bool,
    report: &mut Report,
) -> (Subset, SubsetPlaces) {
    let effective = target.effective();
    let tcp = &effective.tcp;
    let (backends, places) = backends(target, v4, report).into_iter().unzip();
    let subset = Subset {
        name,
        backends,
        balance: balance(effective.load_balancer),
        connection: Connection {
            max_connections: tcp.max_connections,
            connect_timeout_ms: tcp.connect_timeout_ms,
            keepalive: tcp.keepalive,
            idle_timeout_ms: tcp.idle_timeout_ms,
            max_lifetime_ms: tcp.max_lifetime_ms,
            ..Connection::default()
        },
        // A block that ejects none undoes what a wider policy asks for, and is gone then.
        eject: effective.ejection.filter(|eject| eject.max_percent > 0),
        health: None,
    };
    (subset, SubsetPlaces { name: target.at, backends: places, source: None, over_limit: None })
}

fn balance(asked: Option<LoadBalancer>) -> Balance {
    match asked {
        None | Some(LoadBalancer::RoundRobin | LoadBalancer::Passthrough) => Balance::RoundRobin,
        Some(LoadBalancer::Random) => Balance::Random,
        Some(LoadBalancer::LeastRequest) => Balance::LeastConnections,
        Some(LoadBalancer::Client) => Balance::ClientHash(ClientKey::Netns),
    }
}

/// The servers of a target at its port, each address once, as Envoy has them.
fn backends(target: &Target<'_>, v4: bool, report: &mut Report) -> Vec<(Backend, Span)> {
    let Some((host, port)) = target.dialled else { return Vec::new() };
    let port = host.ports.iter().position(|own| own.at == port.at);
    let labels = target.subset.as_deref().and_then(|name| target.rules.subset(name));
    let is_chosen = |server: &&Server<'_>| labels.is_none_or(|subset| server.has(&subset.labels));
    let chosen: Vec<&Server<'_>> = host.servers.iter().filter(is_chosen).collect();
    let at_port = |server: &&Server<'_>| {
        let number = (*server.ports.get(port?)?)?;
        let addr = SocketAddr::new(server.ip.to_canonical(), number);
        Some((Backend { addr, weight: server.weight }, server.at))
    };
    let mut found: Vec<(Backend, Span)> = chosen.iter().filter_map(at_port).collect();
    let serves_port = !found.is_empty();
    let mut seen = HashSet::new();
    found.retain(|(backend, _)| backend.addr.is_ipv4() == v4 && seen.insert(backend.addr));
    if chosen.is_empty() {
        selects_none(target, report);
    } else if found.is_empty() {
        serves_none(target, serves_port, v4, report);
    }
    found
}

fn selects_none(target: &Target<'_>, report: &mut Report) {
    let Some(host) = target.host().filter(|host| !host.unresolved) else { return };
    let help = "its share is rejected with ECONNREFUSED until there is one";
    let subset = target.subset.as_deref().and_then(|name| target.rules.subset(name));
    let diagnostic = if let Some(subset) = subset.filter(|_| !host.servers.is_empty()) {
        let name = &subset.name.value;
        let message = format!("no endpoint of {} has the labels of the subset `{name}`", host.name);
        Diagnostic::new(&code::SUBSET_SELECTS_NONE, subset.name.at, message)
    } else {
        let message = format!("no endpoint of {} is known", host.name);
        Diagnostic::new(&code::NO_ENDPOINTS, host.at, message)
    };
    report.push(diagnostic.with_help(help));
}

/// Says that there are servers, and none at the port, or none of the family where `serves_port`.
fn serves_none(target: &Target<'_>, serves_port: bool, v4: bool, report: &mut Report) {
    let Some((host, port)) = target.dialled else { return };
    let (message, help) = if serves_port {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let message = format!("no endpoint of {} has an {family} address", host.name);
        let help = "a connection cannot change its family: its share is rejected with \
                    ECONNREFUSED, and programs try the other family";
        (message, help)
    } else {
        let message = format!("no endpoint of {} serves its port {}", host.name, port.number);
        let help = "servers are found by the name of the port: write it in the service and in \
                    its EndpointSlices, or the target port's name in its Pods; until then its \
                    share is rejected with ECONNREFUSED";
        (message, help)
    };
    report.push(Diagnostic::new(&code::NO_ENDPOINTS, host.at, message).with_help(help));
}

/// Whether the service fits the data plane.
pub(super) fn check_limits(service: &Service, at: Span, report: &mut Report) -> bool {
    let routes: usize = service.routes.iter().map(|route| route.matches.len().max(1)).sum();
    let widest = service.routes.iter().map(|route| match &route.action {
        Action::Split(split) => split.weights.len(),
        _ => 0,
    });
    let largest = service.subsets.iter().map(|subset| subset.backends.len()).max();
    let counts: [(usize, u32, &'static Code, &str); 4] = [
        (routes, MAX_ROUTES, &code::TOO_MANY_ROUTES, "routes, counting one per cgroup of clients"),
        (widest.max().unwrap_or(0), MAX_SPLIT, &code::SPLIT_TOO_WIDE, "destinations in one route"),
        (service.subsets.len(), MAX_SUBSETS, &code::TOO_MANY_SUBSETS, "subsets"),
        (largest.unwrap_or(0), MAX_BACKENDS, &code::TOO_MANY_BACKENDS, "endpoints in one subset"),
    ];
    let mut fits = true;
    for (count, most, code, what) in counts {
        if count > most as usize {
            fits = false;
            let message = format!("{} would have {count} {what}; at most {most} fit", service.name);
            report.push(
                Diagnostic::new(code, at, message)
                    .with_help("spread what it does over several services"),
            );
        }
    }
    fits
}

/// The protocol of a frontend for a port. `None` where it cannot be split.
pub(super) fn protocol(port: &ServicePort) -> Option<Protocol> {
    match port.transport {
        Transport::Tcp => Some(Protocol::Tcp),
        Transport::Udp => Some(Protocol::Udp),
        Transport::Sctp => None,
    }
}
