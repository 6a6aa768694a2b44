//! What becomes of the connections of one client to one address and port of a host.

use std::net::IpAddr;

use super::clients::{Client, Clients};
use super::destination_rules::{DestinationRules, Effective, InForce};
use super::gateway_routes::GatewayRoutes;
use super::names::{full_host, service_host};
use super::references::{self, Reference};
use super::registry::{Host, Reach, Registry};
use super::resource::{
    BackendKind, BackendRef, GatewayRoute, LoadBalancer, RouteDestination, RouteKind, RuleAction,
    ServicePort, Transport,
};
use super::sidecars::Sidecars;
use super::virtual_services::{Chosen, Dialled, Found, VirtualServices};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::model::{Errno, Fault};

/// Everything that decides.
pub(super) struct Mesh<'r> {
    pub(super) registry: &'r Registry<'r>,
    pub(super) clients: &'r Clients<'r>,
    pub(super) sidecars: Sidecars<'r>,
    pub(super) destination_rules: DestinationRules<'r>,
    pub(super) virtual_services: VirtualServices<'r>,
    pub(super) routes: GatewayRoutes<'r>,
    /// Whether connections of some client to what no service has are refused, so that what is
    /// left alone needs a service too.
    pub(super) keeps_all: bool,
}

/// A route of a service to be. Two are equal where the same rule decides in the same way.
#[derive(Clone, Debug)]
pub(super) struct Plan<'r> {
    pub(super) name: String,
    /// The rule, or what stands for it.
    pub(super) at: Span,
    /// Of the document that has the rule.
    pub(super) document: Span,
    pub(super) fault: Fault,
    pub(super) action: Planned<'r>,
}

impl PartialEq for Plan<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at && self.name == other.name && self.action == other.action
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Planned<'r> {
    Split(Vec<(Target<'r>, u32)>),
    Pass,
    Reject(Errno),
}

/// Where a share goes: a subset to be.
#[derive(Clone, Debug)]
pub(super) struct Target<'r> {
    /// Host and its port; `None` for a share that is rejected.
    pub(super) dialled: Option<(&'r Host<'r>, &'r ServicePort)>,
    pub(super) subset: Option<String>,
    pub(super) rules: InForce<'r>,
    pub(super) at: Span,
}

impl PartialEq for Target<'_> {
    fn eq(&self, other: &Self) -> bool {
        let place = |target: &Self| target.dialled.map(|(host, port)| (host.at, port.at));
        place(self) == place(other)
            && self.subset == other.subset
            && self.rules.identity().eq(other.rules.identity())
    }
}

impl<'r> Target<'r> {
    pub(super) fn host(&self) -> Option<&'r Host<'r>> {
        self.dialled.map(|(host, _)| host)
    }

    pub(super) fn effective(&self) -> Effective {
        let Some((_, port)) = self.dialled else { return Effective::default() };
        let subset = self.subset.as_deref().and_then(|name| self.rules.subset(name));
        self.rules.effective(subset, port.number)
    }

    /// Whether connections go where they were dialled to.
    fn is_left(&self) -> bool {
        self.host().is_some_and(|host| host.reach == Reach::Anything)
            || self.effective().load_balancer == Some(LoadBalancer::Passthrough)
    }
}

impl<'r> Mesh<'r> {
    /// Whether any rule is about connections to a host, whoever the client is.
    pub(super) fn has_rules(&self, host: &str) -> bool {
        self.routes.has(host) || self.virtual_services.has(host)
    }

    /// The plan for a client. Problems of what it refers to are reported; `None` where they leave
    /// no plan.
    pub(super) fn plan(
        &'r self,
        client: &'r Client<'r>,
        host: &'r Host<'r>,
        port: &'r ServicePort,
        ip: IpAddr,
        report: &mut Report,
    ) -> Option<Plan<'r>> {
        if let Some(errno) = client.reject() {
            return Some(Plan { action: Planned::Reject(errno), ..pass("rejected", host) });
        }
        if !client.sees(host.export) || !self.sidecars.shows(client, host, port.number) {
            let refuses = self.sidecars.refuses(client);
            let action = if refuses { Planned::Reject(Errno::REFUSED) } else { Planned::Pass };
            return Some(Plan { action, ..pass("unseen", host) });
        }
        let is_own = host.is_own(ip);
        let mut services = self.virtual_services.all_of(&host.name);
        let service = services.find(|service| {
            client.sees(&service.export) && self.sidecars.shows_rules(client, service)
        });
        let dialled = Dialled { client, host: &host.name, port, ip, is_own };
        let found = match service {
            Some(service) => self.virtual_services.choose(service, &dialled, report),
            None => Found::Nothing,
        };
        let route = self.routes.choose(client, host, port, report).filter(|_| is_own);
        match (found, route) {
            (Found::Broken, _) => None,
            (Found::Rule(chosen), Some(route)) => {
                references::two_forms(&chosen, route, report);
                None
            }
            (Found::Rule(chosen), None) => self.follow(client, &chosen, port, report),
            (Found::Nothing, Some(route)) => self.route(client, route, report),
            (Found::Nothing, None) if is_own => Some(self.default_plan(client, host, port)),
            (Found::Nothing, None) => Some(pass("default", host)),
        }
    }

    /// Without a rule a host's servers share its connections. What is UDP is split where a route
    /// asks for it only: Istio leaves it alone.
    fn default_plan(
        &'r self,
        client: &Client<'_>,
        host: &'r Host<'r>,
        port: &'r ServicePort,
    ) -> Plan<'r> {
        if !host.known || host.reach == Reach::Servers || port.transport == Transport::Udp {
            return pass("default", host);
        }
        let rules = self.destination_rules.find(client, host);
        let target = Target { dialled: Some((host, port)), subset: None, rules, at: host.at };
        if target.is_left() {
            return pass("default", host);
        }
        Plan { action: Planned::Split(vec![(target, 1)]), ..pass("default", host) }
    }

    fn follow(
        &'r self,
        client: &Client<'_>,
        chosen: &Chosen<'r>,
        dialled: &'r ServicePort,
        report: &mut Report,
    ) -> Option<Plan<'r>> {
        let RuleAction::Route(destinations) = &chosen.rule.action else { return None };
        let only = destinations.len() == 1;
        let mut shares: Vec<(Target<'r>, u32)> = Vec::new();
        let mut complete = true;
        for destination in destinations {
            let namespace = &chosen.owner.meta.namespace;
            let target = self.destination(client, destination, namespace, dialled, report);
            let weight = destination.weight.as_ref().map_or(0, |weight| weight.value);
            match target {
                // A single route gets everything, whatever its weight.
                Some(target) => add(&mut shares, target, if only { 1 } else { weight }),
                None => complete = false,
            }
        }
        if !complete {
            return None;
        }
        let action = action(shares, report)?;
        let (at, fault) = (chosen.rule.at, chosen.fault.unwrap_or_default());
        Some(Plan { name: chosen.name.clone(), at, document: chosen.owner.meta.at, fault, action })
    }

    fn destination(
        &'r self,
        client: &Client<'_>,
        destination: &'r RouteDestination,
        namespace: &str,
        dialled: &ServicePort,
        report: &mut Report,
    ) -> Option<Target<'r>> {
        let name = full_host(&destination.host.value, namespace);
        let Some(host) = self.registry.find(&name) else {
            let reference = Reference { name: &name, at: destination.host.at };
            references::unknown_host(self.registry, &reference, report);
            return None;
        };
        if !client.sees(host.export) {
            references::unseen_host(host, client, destination.host.at, report);
            return None;
        }
        let rules = self.destination_rules.find(client, host);
        if let Some(subset) = &destination.subset
            && rules.subset(&subset.value).is_none()
        {
            let elsewhere = self.destination_rules.defining(&host.name, &subset.value);
            references::undefined_subset(&rules, subset, host, elsewhere, report);
            return None;
        }
        let wanted = destination.port.as_ref().map(|port| (port.value, port.at));
        let port = references::find_port(host, wanted, dialled, destination.host.at, report)?;
        let subset = destination.subset.as_ref().map(|subset| subset.value.clone());
        Some(Target { dialled: Some((host, port)), subset, rules, at: destination.at })
    }

    /// The plan of a route of the Gateway API.
    pub(super) fn route(
        &'r self,
        client: &Client<'_>,
        route: &'r GatewayRoute,
        report: &mut Report,
    ) -> Option<Plan<'r>> {
        let rule = route.rule.as_ref()?;
        let mut shares: Vec<(Target<'r>, u32)> = Vec::new();
        for backend in &rule.backends {
            let target = self.backend(client, backend, route, report);
            let rejected =
                Target { dialled: None, subset: None, rules: InForce::default(), at: backend.at };
            add(&mut shares, target.unwrap_or(rejected), backend.weight);
        }
        let is_zero = shares.iter().all(|(_, weight)| *weight == 0);
        let action = if is_zero { Planned::Reject(Errno::REFUSED) } else { Planned::Split(shares) };
        let name = rule.name.clone().unwrap_or_else(|| route.meta.name.clone());
        let (at, document) = (rule.at, route.meta.at);
        Some(Plan { name, at, document, fault: Fault::default(), action })
    }

    /// `None` where the reference is not good: its share is rejected.
    fn backend(
        &'r self,
        client: &Client<'_>,
        backend: &'r BackendRef,
        route: &GatewayRoute,
        report: &mut Report,
    ) -> Option<Target<'r>> {
        let name = match &backend.kind {
            BackendKind::Service => service_host(&backend.name, &backend.namespace),
            BackendKind::Hostname => backend.name.clone(),
            BackendKind::Invalid(kind) => {
                references::invalid_kind(kind, backend.at, report);
                return None;
            }
        };
        let is_service = backend.kind == BackendKind::Service;
        if is_service && !self.routes.may_refer(route, &backend.namespace, &backend.name) {
            references::not_permitted(backend, route, report);
            return None;
        }
        let transport = match route.kind {
            RouteKind::Udp => Transport::Udp,
            _ => Transport::Tcp,
        };
        let host = self.registry.find(&name);
        let port = host.and_then(|host| {
            let mut ports = host.ports.iter().filter(|port| port.transport == transport);
            match backend.port {
                Some(number) => ports.find(|port| port.number == number),
                None => ports.next(),
            }
        });
        let (Some(host), Some(port)) = (host, port) else {
            references::backend_not_found(&name, backend, host, report);
            return None;
        };
        let rules = self.destination_rules.find(client, host);
        Some(Target { dialled: Some((host, port)), subset: None, rules, at: backend.at })
    }
}

/// A split, unless everything is to be left alone. A share without weight is never taken, so it
/// may be anything.
fn action<'r>(shares: Vec<(Target<'r>, u32)>, report: &mut Report) -> Option<Planned<'r>> {
    let is_left = |(target, _): &&(Target<'r>, u32)| target.is_left();
    let taken = |(_, weight): &&(Target<'r>, u32)| *weight > 0;
    let left = shares.iter().filter(taken).find(is_left);
    let others = shares.iter().filter(taken).any(|(target, _)| !target.is_left());
    match left {
        None => {
            let split = shares.into_iter().filter(|(target, _)| !target.is_left());
            Some(Planned::Split(split.collect()))
        }
        Some(_) if !others => Some(Planned::Pass),
        Some((target, _)) => {
            let message = "connections of one share would go where they were dialled to";
            report.push(Diagnostic::new(&code::MIXED_PASSTHROUGH, target.at, message).with_help(
                "give this share endpoints: a host with `resolution: STATIC`, a load balancer \
                 that is not PASSTHROUGH",
            ));
            None
        }
    }
}

/// Adds a share; shares of one target are put together.
fn add<'r>(shares: &mut Vec<(Target<'r>, u32)>, target: Target<'r>, weight: u32) {
    match shares.iter_mut().find(|(known, _)| *known == target) {
        Some((_, sum)) => *sum = sum.saturating_add(weight),
        None => shares.push((target, weight)),
    }
}

fn pass<'r>(name: &str, host: &Host<'_>) -> Plan<'r> {
    Plan {
        name: name.to_owned(),
        at: host.at,
        document: host.at,
        fault: Fault::default(),
        action: Planned::Pass,
    }
}
