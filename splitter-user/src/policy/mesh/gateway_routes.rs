//! Which route of the Gateway API is in force for a client at a port of a host or a gateway.

use std::collections::{BTreeSet, HashMap};

use super::clients::Client;
use super::names::service_host;
use super::registry::{Host, Registry};
use super::resource::{
    Gateway, GatewayRoute, Listener, ParentKind, ParentRef, ReferenceGrant, Resources, RouteKind,
    ServiceEntry, ServicePort, Transport,
};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};

/// All routes and grants.
#[derive(Debug)]
pub(super) struct GatewayRoutes<'r> {
    /// By the full name of the host they are attached to.
    by_host: HashMap<String, Vec<(&'r ParentRef, &'r GatewayRoute)>>,
    /// By the gateway they are attached to.
    by_gateway: HashMap<(&'r str, &'r str), Vec<(&'r ParentRef, &'r GatewayRoute)>>,
    grants: &'r [ReferenceGrant],
}

impl<'r> GatewayRoutes<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        let mut by_host: HashMap<String, Vec<_>> = HashMap::new();
        let mut by_gateway: HashMap<_, Vec<_>> = HashMap::new();
        let entries = entries(resources);
        for route in &resources.routes {
            for parent in &route.parents {
                for host in parent_hosts(parent, &entries) {
                    by_host.entry(host).or_default().push((parent, route));
                }
                if parent.kind == ParentKind::Gateway {
                    let key = (parent.namespace.as_str(), parent.name.as_str());
                    by_gateway.entry(key).or_default().push((parent, route));
                }
            }
        }
        Self { by_host, by_gateway, grants: &resources.grants }
    }

    /// Whether any route is attached to a host.
    pub(super) fn has(&self, host: &str) -> bool {
        self.by_host.contains_key(host)
    }

    /// The route in force: a client's own namespace first, then HTTP before TCP, then the name.
    pub(super) fn choose(
        &self,
        client: &Client<'_>,
        host: &Host<'_>,
        port: &ServicePort,
        report: &mut Report,
    ) -> Option<&'r GatewayRoute> {
        let is_own = |route: &GatewayRoute| client.namespace() == Some(&route.meta.namespace);
        let is_producer = |route: &GatewayRoute| route.meta.namespace == host.namespace;
        let attached = self.by_host.get(&host.name).into_iter().flatten();
        let mut fitting: Vec<&GatewayRoute> = attached
            .filter(|(parent, route)| is_attached(parent, route, port))
            .map(|(_, route)| *route)
            .filter(|route| is_own(route) || is_producer(route))
            .collect();
        fitting.sort_by_key(|route| (is_producer(route), rank(route)));
        let best = *fitting.first()?;
        let same = fitting.iter().skip(1).filter(|r| is_producer(r) == is_producer(best));
        same.for_each(|loser| shadowed(best, loser, report));
        Some(best)
    }

    /// The route in force at a listener of a gateway.
    pub(super) fn choose_at(
        &self,
        gateway: &Gateway,
        listener: &Listener,
        report: &mut Report,
    ) -> Option<&'r GatewayRoute> {
        let key = (gateway.meta.namespace.as_str(), gateway.meta.name.as_str());
        let attached = self.by_gateway.get(&key).into_iter().flatten();
        let fits = |(parent, route): &&(&ParentRef, &GatewayRoute)| {
            route.kind == listener.kind
                && parent.port.is_none_or(|port| port == listener.port)
                && parent.section.as_ref().is_none_or(|name| *name == listener.name)
        };
        let mut fitting: Vec<&GatewayRoute> =
            attached.filter(fits).map(|(_, route)| *route).collect();
        fitting.sort_by_key(|route| rank(route));
        let best = *fitting.first()?;
        fitting.iter().skip(1).for_each(|loser| shadowed(best, loser, report));
        Some(best)
    }

    /// Whether a route may refer to a service of another namespace.
    pub(super) fn may_refer(&self, route: &GatewayRoute, namespace: &str, name: &str) -> bool {
        if route.meta.namespace == namespace {
            return true;
        }
        let kind = kind_name(route.kind);
        self.grants.iter().filter(|grant| grant.meta.namespace == namespace).any(|grant| {
            grant.from.iter().any(|(from, of)| from == kind && *of == route.meta.namespace)
                && grant.to.iter().any(|(to, only)| {
                    to == "Service" && only.as_ref().is_none_or(|only| only == name)
                })
        })
    }
}

fn kind_name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Http => "HTTPRoute",
        RouteKind::Tcp => "TCPRoute",
        RouteKind::Udp => "UDPRoute",
    }
}

/// Service entries by namespace and name.
type Entries<'r> = HashMap<(&'r str, &'r str), &'r ServiceEntry>;

fn entries(resources: &Resources) -> Entries<'_> {
    let entries = resources.service_entries.iter();
    entries.map(|it| ((it.meta.namespace.as_str(), it.meta.name.as_str()), it)).collect()
}

/// Full names of the hosts that a route is attached to.
fn parent_hosts(parent: &ParentRef, entries: &Entries<'_>) -> Vec<String> {
    match parent.kind {
        ParentKind::Service => vec![service_host(&parent.name, &parent.namespace)],
        ParentKind::ServiceEntry => {
            let entry = entries.get(&(parent.namespace.as_str(), parent.name.as_str()));
            let hosts = entry.into_iter().flat_map(|entry| &entry.hosts);
            hosts.map(|host| host.value.clone()).collect()
        }
        ParentKind::Gateway => Vec::new(),
    }
}

fn is_attached(parent: &ParentRef, route: &GatewayRoute, port: &ServicePort) -> bool {
    let fits_kind = match port.transport {
        Transport::Tcp => route.kind != RouteKind::Udp,
        Transport::Udp => route.kind == RouteKind::Udp,
        Transport::Sctp => false,
    };
    fits_kind
        && parent.port.is_none_or(|only| only == port.number)
        && parent.section.as_ref().is_none_or(|only| port.name.as_ref() == Some(only))
}

fn rank(route: &GatewayRoute) -> (RouteKind, &str, &str) {
    (route.kind, &route.meta.namespace, &route.meta.name)
}

fn shadowed(best: &GatewayRoute, loser: &GatewayRoute, report: &mut Report) {
    let message = format!("the route `{}` has the port already", best.meta.name);
    report.push(
        Diagnostic::new(&code::ROUTE_SHADOWED, loser.meta.at, message)
            .with_label("takes no connection there")
            .with_secondary(best.meta.at, "this one takes them")
            .with_help(
                "one route is in force at a port: HTTPRoute before TCPRoute, then the first by \
                 namespace and name",
            ),
    );
}

/// Says which routes are attached to nothing.
pub(super) fn check_parents(resources: &Resources, registry: &Registry<'_>, report: &mut Report) {
    let gateways: BTreeSet<(&str, &str)> = resources
        .gateways
        .iter()
        .filter(|gateway| !gateway.addresses.is_empty())
        .map(|gateway| (gateway.meta.namespace.as_str(), gateway.meta.name.as_str()))
        .collect();
    let entries = entries(resources);
    let parents = resources.routes.iter();
    for (parent, route) in parents.flat_map(|r| r.parents.iter().map(move |parent| (parent, r))) {
        if parent.kind == ParentKind::Gateway {
            if !gateways.contains(&(parent.namespace.as_str(), parent.name.as_str())) {
                unbound(&parent.name, parent.at, report);
            }
            continue;
        }
        let hosts = parent_hosts(parent, &entries);
        let hosts: Vec<&Host<'_>> = hosts.iter().filter_map(|name| registry.find(name)).collect();
        let mut ports = hosts.iter().flat_map(|host| host.ports);
        if !hosts.is_empty() && !ports.any(|port| is_attached(parent, route, port)) {
            let message = format!("`{}` has no port that the route attaches to", parent.name);
            report.push(Diagnostic::new(&code::RULE_INEFFECTIVE, parent.at, message).with_help(
                "`port` and `sectionName` are number and name of a port of the parent; UDPRoutes \
                 attach to ports of UDP, the others to those of TCP",
            ));
        }
        if hosts.is_empty() {
            let message = format!(
                "there is no {} `{}/{}`",
                parent_kind(parent),
                parent.namespace,
                parent.name
            );
            report.push(
                Diagnostic::new(&code::HOST_UNKNOWN, parent.at, message)
                    .with_help("load the document that defines it too"),
            );
        }
    }
}

fn parent_kind(parent: &ParentRef) -> &'static str {
    match parent.kind {
        ParentKind::Service => "Service",
        ParentKind::ServiceEntry => "ServiceEntry",
        ParentKind::Gateway => "Gateway",
    }
}

/// Says that a gateway is not a place to dial here.
pub(super) fn unbound(name: &str, at: Span, report: &mut Report) {
    let message = format!("no address of the gateway `{name}` is known here: it is skipped");
    report.push(Diagnostic::new(&code::GATEWAY_UNBOUND, at, message).with_help(
        "load the Gateway with `spec.addresses`, or attach to the service: clients on this node \
         dial it directly",
    ));
}
