//! Which rule of which VirtualService is in force for a client at an address of a host.

use std::collections::HashMap;
use std::net::IpAddr;

use super::clients::Client;
use super::names::{ByHost, covers, full_host};
use super::registry::Host;
use super::resource::{
    Application, Match, Resources, Rule, RuleAction, ServicePort, Transport, VirtualService,
};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::Fault;

/// The gateway that means every client in the mesh.
const MESH: &str = "mesh";

/// Which of the three lists of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Http,
    Tcp,
    Tls,
}

impl List {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// All virtual services of the mesh, by the full names of their hosts.
#[derive(Debug)]
pub(super) struct VirtualServices<'r> {
    by_host: ByHost<&'r VirtualService>,
    delegates: HashMap<(&'r str, &'r str), &'r VirtualService>,
}

/// A rule in force.
#[derive(Clone, Debug)]
pub(super) struct Chosen<'r> {
    /// Where the rule's destinations are written: the virtual service or its delegate.
    pub(super) owner: &'r VirtualService,
    pub(super) rule: &'r Rule,
    /// The rule's name, or its list and number.
    pub(super) name: String,
    /// Of the rule, else of the one that delegates to it.
    pub(super) fault: Option<Fault>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub(super) enum Found<'r> {
    Rule(Chosen<'r>),
    /// No rule takes the connection.
    Nothing,
    /// A rule takes it that is in error.
    Broken,
}

/// A connection as rules see it.
#[derive(Clone, Copy)]
pub(super) struct Dialled<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) host: &'a str,
    pub(super) port: &'a ServicePort,
    pub(super) ip: IpAddr,
    /// Whether the address is the host's own, and not one that a rule adds.
    pub(super) is_own: bool,
}

/// Whether a virtual service is about the mesh, and not only about gateways.
pub(super) fn is_of_mesh(service: &VirtualService) -> bool {
    service.gateways.is_empty() || service.gateways.iter().any(|name| name.value == MESH)
}

impl<'r> VirtualServices<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        let mut by_host = ByHost::default();
        for service in resources.virtual_services.iter().filter(|service| is_of_mesh(service)) {
            for host in &service.hosts {
                by_host.add(&full_host(&host.value, &service.meta.namespace), service);
            }
        }
        let delegates = resources.virtual_services.iter().filter(|s| s.hosts.is_empty());
        let name = |service: &'r VirtualService| {
            ((service.meta.namespace.as_str(), service.meta.name.as_str()), service)
        };
        Self { by_host, delegates: delegates.map(name).collect() }
    }

    /// Every virtual service that could be the one of a host for some client, in this order: by
    /// its name, then by the most specific wildcard.
    pub(super) fn all_of<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = &'r VirtualService> + 'a {
        self.by_host.of(host).flatten().copied()
    }

    /// Whether any virtual service could be the one of a host.
    pub(super) fn has(&self, host: &str) -> bool {
        self.all_of(host).next().is_some()
    }

    /// Hosts with more than one virtual service of the very name.
    pub(super) fn shared(&self) -> Vec<(String, &[&'r VirtualService])> {
        let mut shared: Vec<_> = self.by_host.all().filter(|(_, all)| all.len() > 1).collect();
        shared.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        shared
    }

    /// A virtual service without hosts, to which others delegate.
    pub(super) fn delegate(&self, namespace: &str, name: &str) -> Option<&'r VirtualService> {
        self.delegates.get(&(namespace, name)).copied()
    }

    /// The first rule that takes the connection.
    pub(super) fn choose(
        &self,
        service: &'r VirtualService,
        dialled: &Dialled<'_>,
        report: &mut Report,
    ) -> Found<'r> {
        let Some(list) = list_for(service, dialled, report) else { return Found::Nothing };
        for (index, rule) in rules(service, list).iter().enumerate() {
            if !rule.complete {
                return Found::Broken;
            }
            if !takes(rule, list, dialled) {
                continue;
            }
            let name = rule_name(rule, format!("{}-{}", list.key(), index + 1));
            match &rule.action {
                RuleAction::Route(_) => {
                    let fault = rule.fault;
                    return Found::Rule(Chosen { owner: service, rule, name, fault });
                }
                RuleAction::Unknown => return Found::Broken,
                RuleAction::Delegate(to) => {
                    let (namespace, delegate) = &to.value;
                    let namespace = namespace.as_ref().unwrap_or(&service.meta.namespace);
                    match self.choose_delegated(namespace, delegate, &name, dialled) {
                        Found::Nothing => {}
                        Found::Rule(chosen) => {
                            let fault = chosen.fault.or(rule.fault);
                            return Found::Rule(Chosen { fault, ..chosen });
                        }
                        Found::Broken => return Found::Broken,
                    }
                }
            }
        }
        Found::Nothing
    }

    fn choose_delegated(
        &self,
        namespace: &str,
        name: &str,
        prefix: &str,
        dialled: &Dialled<'_>,
    ) -> Found<'r> {
        let Some(owner) = self.delegate(namespace, name) else { return Found::Broken };
        for (index, rule) in owner.http.iter().enumerate() {
            if !rule.complete {
                return Found::Broken;
            }
            if takes(rule, List::Http, dialled) {
                let RuleAction::Route(_) = &rule.action else { return Found::Broken };
                let name = rule_name(rule, format!("{prefix}-{}", index + 1));
                return Found::Rule(Chosen { owner, rule, name, fault: rule.fault });
            }
        }
        Found::Nothing
    }
}

fn rule_name(rule: &Rule, default: String) -> String {
    rule.name.as_ref().map_or(default, |name| name.value.clone())
}

fn rules(service: &VirtualService, list: List) -> &[Rule] {
    match list {
        List::Http => &service.http,
        List::Tcp => &service.tcp,
        List::Tls => &service.tls,
    }
}

/// The list of rules for what a port speaks. Istio looks into connections to ports that do not
/// say; here one of the lists has to be empty then.
fn list_for(service: &VirtualService, dialled: &Dialled<'_>, report: &mut Report) -> Option<List> {
    if dialled.port.transport != Transport::Tcp {
        return None;
    }
    let given: Vec<List> = [List::Http, List::Tcp, List::Tls]
        .into_iter()
        .filter(|list| rules(service, *list).iter().any(|rule| takes(rule, *list, dialled)))
        .collect();
    let spoken = match dialled.port.application {
        Application::Http => List::Http,
        Application::Tcp => List::Tcp,
        Application::Tls => List::Tls,
        Application::Unknown => {
            if let [_, second, ..] = given[..] {
                unclear(service, second, dialled, report);
            }
            return given.first().copied();
        }
    };
    given.contains(&spoken).then_some(spoken)
}

fn unclear(service: &VirtualService, list: List, dialled: &Dialled<'_>, report: &mut Report) {
    let Some(rule) = rules(service, list).first() else { return };
    let number = dialled.port.number;
    let message = format!(
        "port {number} of {} does not say what it speaks, and rules of several protocols take it",
        dialled.host
    );
    report.push(
        Diagnostic::new(&code::PROTOCOL_UNCLEAR, rule.at, message)
            .with_secondary(dialled.port.at, "the port")
            .with_help("set `appProtocol: http` or `tcp` on the port, or begin its name with it"),
    );
}

fn takes(rule: &Rule, list: List, dialled: &Dialled<'_>) -> bool {
    match rule.matches[..] {
        [] => dialled.is_own,
        _ => rule.matches.iter().any(|wanted| fits(wanted, list, dialled)),
    }
}

/// Whether everything that a match asks for is so. `http` matches with gateways do not look at
/// the client's labels, as in Istio; one without a range is about the host's own addresses.
fn fits(wanted: &Match, list: List, dialled: &Dialled<'_>) -> bool {
    let Dialled { client, host, port, ip, is_own } = dialled;
    let gateways = &wanted.gateways;
    if !gateways.is_empty() && !gateways.iter().any(|name| name == MESH) {
        return false;
    }
    let ignores_client = list == List::Http && !gateways.is_empty();
    let namespace = wanted.source_namespace.as_deref();
    let fits_client = ignores_client || client.is_selected(&wanted.source_labels, namespace);
    let subnets = &wanted.destination_subnets;
    let names = &wanted.sni_hosts;
    fits_client
        && wanted.port.is_none_or(|only| only == port.number)
        && if subnets.is_empty() { *is_own } else { subnets.iter().any(|r| r.value.contains(*ip)) }
        && (names.is_empty() || names.iter().any(|name| covers(&name.value, host)))
}

/// Says which rules are for a protocol that no port of a host speaks.
pub(super) fn check_protocols(service: &VirtualService, host: &Host<'_>, report: &mut Report) {
    let lists = [
        (List::Http, Application::Http),
        (List::Tcp, Application::Tcp),
        (List::Tls, Application::Tls),
    ];
    for (list, spoken) in lists {
        let Some(rule) = rules(service, list).first() else { continue };
        let speaks = |port: &&ServicePort| {
            port.transport == Transport::Tcp
                && (port.application == spoken || port.application == Application::Unknown)
        };
        if host.ports.is_empty() || host.ports.iter().any(|port| speaks(&port)) {
            continue;
        }
        let message = format!("no port of {} takes {} rules", host.name, list.key());
        report.push(
            Diagnostic::new(&code::WRONG_PROTOCOL, rule.at, message)
                .with_secondary(host.at, "the host")
                .with_help(
                    "ports say what they speak by `appProtocol` or the prefix of their name",
                ),
        );
    }
}
