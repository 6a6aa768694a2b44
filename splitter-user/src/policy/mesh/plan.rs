//! What becomes of the connections of one client to one address and port of a host.

use std::net::IpAddr;

use super::clients::Client;
use super::destination_rules::{DestinationRules, Effective, InForce};
use super::gateway_routes::GatewayRoutes;
use super::names::{full_host, service_host};
use super::references::{self, Reference};
use super::registry::{Host, Registry};
use super::resource::{
    BackendKind, BackendRef, GatewayRoute, LoadBalancer, RouteDestination, RuleAction, ServicePort,
    Transport,
};
use super::sidecars::Sidecars;
use super::virtual_services::{Chosen, Dialled, Found, VirtualServices};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::model::Fault;

/// Everything that decides.
pub(super) struct Mesh<'r> {
    pub(super) registry: &'r Registry<'r>,
    pub(super) clients: &'r [Client<'r>],
    pub(super) sidecars: Sidecars<'r>,
    pub(super) destination_rules: DestinationRules<'r>,
    pub(super) virtual_services: VirtualServices<'r>,
    pub(super) routes: GatewayRoutes<'r>,
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
        self.name == other.name && self.at == other.at && self.action == other.action
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Planned<'r> {
    Split(Vec<(Target<'r>, u32)>),
    Pass,
    Reject,
}

/// Where a share goes: a subset to be.
#[derive(Clone, Debug)]
pub(super) struct Target<'r> {
    /// `None` for a share that is rejected.
    pub(super) host: Option<&'r Host<'r>>,
    pub(super) subset: Option<String>,
    /// Of the host.
    pub(super) port: &'r ServicePort,
    pub(super) rules: InForce<'r>,
    pub(super) at: Span,
}

impl PartialEq for Target<'_> {
    fn eq(&self, other: &Self) -> bool {
        let name = |target: &Self| target.host.map(|host| host.name.clone());
        name(self) == name(other)
            && self.subset == other.subset
            && (self.host.is_none() || self.port.at == other.port.at)
            && self.rules.identity() == other.rules.identity()
    }
}

impl Target<'_> {
    pub(super) fn effective(&self) -> Effective {
        let subset = self.subset.as_deref().and_then(|name| self.rules.subset(name));
        self.rules.effective(subset, self.port.number)
    }
}

impl<'r> Mesh<'r> {
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
        if !client.sees(&host.export) || !self.sidecars.shows(client, host, port.number) {
            return Some(pass("unseen", host));
        }
        let service = self.virtual_services.of(client, &host.name);
        let dialled = Dialled { client, host: &host.name, port, ip };
        let found = match service {
            Some(service) => self.virtual_services.choose(service, &dialled, report),
            None => Found::Nothing,
        };
        let route = self.routes.choose(client, host, port, report);
        match (found, route) {
            (Found::Broken, _) => None,
            (Found::Rule(chosen), Some(route)) => {
                references::two_forms(&chosen, route, report);
                None
            }
            (Found::Rule(chosen), None) => self.follow(client, &chosen, port, report),
            (Found::Nothing, Some(route)) => {
                let port = Some(port);
                self.route(client, route, port, report)
            }
            (Found::Nothing, None) => Some(self.default_plan(client, host, port)),
        }
    }

    /// Without a rule a host's servers share its connections.
    fn default_plan(
        &'r self,
        client: &Client<'_>,
        host: &'r Host<'r>,
        port: &'r ServicePort,
    ) -> Plan<'r> {
        if host.passthrough || !host.known || host.headless {
            return pass("default", host);
        }
        let rules = self.destination_rules.find(client, host);
        let target = Target { host: Some(host), subset: None, port, rules, at: host.at };
        if target.effective().load_balancer == Some(LoadBalancer::Passthrough) {
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
        let action = self.action(shares, report)?;
        let (at, fault) = (chosen.rule.at, chosen.rule.fault.unwrap_or_default());
        Some(Plan { name: chosen.name.clone(), at, document: chosen.owner.meta.at, fault, action })
    }

    /// A split, unless its only share is to be left alone.
    fn action(&self, shares: Vec<(Target<'r>, u32)>, report: &mut Report) -> Option<Planned<'r>> {
        let is_left = |target: &Target<'_>| {
            target.host.is_some_and(|host| host.passthrough)
                || target.effective().load_balancer == Some(LoadBalancer::Passthrough)
        };
        let left = shares.iter().find(|(target, _)| is_left(target));
        match (left, shares.len()) {
            (None, _) => Some(Planned::Split(shares)),
            (Some(_), 1) => Some(Planned::Pass),
            (Some((target, _)), _) => {
                let message = "connections of one share would go where they were dialled to";
                report.push(
                    Diagnostic::new(&code::MIXED_PASSTHROUGH, target.at, message).with_help(
                        "give this share endpoints: a host with `resolution: STATIC`, a load \
                         balancer that is not PASSTHROUGH",
                    ),
                );
                None
            }
        }
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
        let rules = self.destination_rules.find(client, host);
        if let Some(subset) = &destination.subset
            && rules.subset(&subset.value).is_none()
        {
            references::undefined_subset(&rules, subset, host, report);
            return None;
        }
        let wanted = destination.port.as_ref().map(|port| (port.value, port.at));
        let port = references::find_port(host, wanted, dialled, destination.host.at, report)?;
        let subset = destination.subset.as_ref().map(|subset| subset.value.clone());
        Some(Target { host: Some(host), subset, port, rules, at: destination.at })
    }

    /// The plan of a route of the Gateway API.
    pub(super) fn route(
        &'r self,
        client: &Client<'_>,
        route: &'r GatewayRoute,
        dialled: Option<&'r ServicePort>,
        report: &mut Report,
    ) -> Option<Plan<'r>> {
        let rule = route.rule.as_ref()?;
        let mut shares: Vec<(Target<'r>, u32)> = Vec::new();
        for backend in &rule.backends {
            let target = self.backend(client, backend, route, report);
            // A share that reaches nobody has no port either; any will do.
            let target = match (target, dialled.or_else(|| self.any_port())) {
                (Some(target), _) => target,
                (None, Some(port)) => Target {
                    host: None,
                    subset: None,
                    port,
                    rules: InForce::default(),
                    at: backend.at,
                },
                (None, None) => continue,
            };
            add(&mut shares, target, backend.weight);
        }
        let is_zero = shares.iter().all(|(_, weight)| *weight == 0);
        let action = if is_zero { Planned::Reject } else { Planned::Split(shares) };
        let name = rule.name.clone().unwrap_or_else(|| route.meta.name.clone());
        let (at, document) = (rule.at, route.meta.at);
        Some(Plan { name, at, document, fault: Fault::default(), action })
    }

    fn any_port(&'r self) -> Option<&'r ServicePort> {
        self.registry.hosts().find_map(|host| host.ports.first())
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
            super::resource::RouteKind::Udp => Transport::Udp,
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
        Some(Target { host: Some(host), subset: None, port, rules, at: backend.at })
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
