//! Rules between foreign documents that do not show when a plan is made: about what is never
//! reached, and about what is named in vain.

use std::collections::{BTreeSet, HashSet};

use super::clients::{Client, Clients};
use super::gateway_routes;
use super::names::{full_host, suffixes};
use super::plan::Mesh;
use super::references::{self, Reference};
use super::registry::Host;
use super::resource::{
    At, Export, Match, Resources, RouteDestination, Rule, RuleAction, VirtualService,
};
use super::sidecars::{self, WORKLOAD_HELP};
use super::virtual_services::{check_protocols, is_of_mesh};
use crate::policy::code::{self, Code};
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::words::list;

/// Checks everything.
pub(super) fn check(resources: &Resources, mesh: &Mesh<'_>, report: &mut Report) {
    conflicts(mesh, report);
    let covered = Covered::new(mesh.registry.hosts().map(|host| host.name.as_str()));
    let delegated = delegated(resources);
    for service in &resources.virtual_services {
        if is_of_mesh(service) {
            check_service(service, mesh, &covered, report);
        } else if let Some(gateway) = service.gateways.first() {
            gateway_routes::unbound(&gateway.value, gateway.at, report);
        }
    }
    // Rules for gateways alone are not read, so that nobody knows to whom those delegate.
    let all_read = resources.virtual_services.iter().all(is_of_mesh);
    for service in resources.virtual_services.iter().filter(|s| all_read && s.hosts.is_empty()) {
        if !delegated.contains(&(service.meta.namespace.as_str(), service.meta.name.as_str())) {
            let message = "a VirtualService without `hosts` to which none delegates";
            ineffective(service.meta.at, message, "give it `hosts`, or delegate to it", report);
        }
    }
    check_destination_rules(resources, mesh, &covered, report);
    for host in mesh.registry.hosts().filter(|host| is_unseen(host.export, mesh)) {
        // Dumps of clusters have many such hosts: they are left alone.
        ineffective(host.at, UNSEEN, WORKLOAD_HELP, report);
    }
    sidecars::check(resources, mesh.clients, report);
    gateway_routes::check_parents(resources, mesh.registry, report);
}

/// Namespace and name of everything that a rule delegates to.
fn delegated<'r>(resources: &'r Resources) -> HashSet<(&'r str, &'r str)> {
    let name = |service: &'r VirtualService, rule: &'r Rule| match &rule.action {
        RuleAction::Delegate(At { value: (namespace, name), .. }) => {
            let namespace = namespace.as_ref().unwrap_or(&service.meta.namespace);
            Some((namespace.as_str(), name.as_str()))
        }
        _ => None,
    };
    let services = resources.virtual_services.iter();
    services.flat_map(|it| it.http.iter().filter_map(move |rule| name(it, rule))).collect()
}

/// Every wildcard that takes a host.
struct Covered<'a>(HashSet<&'a str>);

impl<'a> Covered<'a> {
    fn new(hosts: impl Iterator<Item = &'a str>) -> Self {
        Self(hosts.flat_map(suffixes).collect())
    }

    /// Whether a wildcard takes any.
    fn has(&self, wildcard: &str) -> bool {
        wildcard.strip_prefix('*').is_some_and(|suffix| self.0.contains(suffix))
    }
}

/// Two virtual services of one host: Istio takes the older, and files have no age.
fn conflicts(mesh: &Mesh<'_>, report: &mut Report) {
    for (host, services) in mesh.virtual_services.shared() {
        for (index, second) in services.iter().enumerate() {
            let mut earlier = services.iter().take(index);
            let Some(first) = earlier.find(|first| overlap(&first.export, &second.export)) else {
                continue;
            };
            let place = |service: &VirtualService| {
                let full =
                    |name: &&At<String>| full_host(&name.value, &service.meta.namespace) == host;
                service.hosts.iter().find(full).map_or(service.meta.at, |name| name.at)
            };
            let message = format!("the host {host} has two VirtualServices");
            report.push(
                Diagnostic::new(&code::HOST_CONFLICT, place(second), message)
                    .with_label(format!("`{}` is the second", second.meta.name))
                    .with_secondary(place(first), "the first")
                    .with_help("put the rules of both into one, in the order that is meant"),
            );
        }
    }
}

fn overlap(a: &Export, b: &Export) -> bool {
    match (a, b) {
        (Export::Namespaces(a), Export::Namespaces(b)) => a.iter().any(|name| b.contains(name)),
        (Export::Namespaces(only), Export::All) | (Export::All, Export::Namespaces(only)) => {
            !only.is_empty()
        }
        (Export::All, Export::All) => true,
    }
}

fn check_service(
    service: &VirtualService,
    mesh: &Mesh<'_>,
    covered: &Covered<'_>,
    report: &mut Report,
) {
    check_seen(&service.export, service.meta.at, mesh, report);
    check_hosts(service, mesh, covered, report);
    let mut assumed = None;
    for rule in service.tls.iter().filter(|rule| rule.complete) {
        check_server_names(rule, &mut assumed, report);
    }
    if let Some(at) = assumed {
        let message = "connections to a host are taken to ask for its name";
        report.push(Diagnostic::new(&code::SNI_ASSUMED, at, message).with_help(
            "the name in the TLS handshake is sent after the connection was made; programs that \
             dial one host and ask for another are routed by the one they dial",
        ));
    }
    for rule in service.http.iter().chain(&service.tcp).chain(&service.tls) {
        for wanted in &rule.matches {
            check_match(wanted, mesh, report);
            check_port(wanted, service, mesh, report);
        }
        match &rule.action {
            RuleAction::Route(destinations) => {
                check_destinations(destinations, &service.meta.namespace, mesh, report);
            }
            RuleAction::Delegate(to) => {
                let namespace = to.value.0.as_ref().unwrap_or(&service.meta.namespace);
                check_delegate(to.at, namespace, &to.value.1, mesh, report);
            }
            RuleAction::Unknown => {}
        }
    }
}

/// What is said of labels and a namespace that nobody has.
pub(super) const UNSELECTED: &str = "no known client has these labels and this namespace";
const UNSEEN: &str = "no known client is of a namespace that this is exported to";

/// Whether nobody sees what is exported so, and somebody shall.
fn is_unseen(export: &Export, mesh: &Mesh<'_>) -> bool {
    let is_hidden = matches!(export, Export::Namespaces(names) if names.is_empty());
    !is_hidden && !mesh.clients.classes.iter().any(|client| client.sees(export))
}

fn check_seen(export: &Export, at: Span, mesh: &Mesh<'_>, report: &mut Report) {
    if is_unseen(export, mesh) {
        unseen(at, UNSEEN, mesh.clients, report);
    }
}

/// Reports what selects clients that nobody is: an error where nobody could be.
pub(super) fn unseen(at: Span, message: &str, clients: &Clients<'_>, report: &mut Report) {
    let code: &'static Code =
        if clients.are_known() { &code::RULE_INEFFECTIVE } else { &code::UNKNOWN_CLIENT };
    report.push(Diagnostic::new(code, at, message).with_help(WORKLOAD_HELP));
}

fn ineffective(at: Span, message: &str, help: &str, report: &mut Report) {
    report.push(Diagnostic::new(&code::RULE_INEFFECTIVE, at, message).with_help(help));
}

fn check_hosts(
    service: &VirtualService,
    mesh: &Mesh<'_>,
    covered: &Covered<'_>,
    report: &mut Report,
) {
    for name in &service.hosts {
        let full = full_host(&name.value, &service.meta.namespace);
        if full.starts_with('*') {
            if !covered.has(&full) {
                let message = format!("no host of a registry is covered by `{full}`");
                ineffective(name.at, &message, "load the ServiceEntry or Service too", report);
            }
            continue;
        }
        if let Some(meant) = mesh.registry.get(&full).and_then(Host::alias) {
            let message = format!("clients of {full} dial {meant}, for which it stands");
            ineffective(name.at, &message, "write the rules for that host", report);
            continue;
        }
        if let Some(host) = mesh.registry.find(&full) {
            check_protocols(service, host, report);
        } else {
            let message = format!("no address is known at which clients dial {full}");
            let help = match references::guess_host(mesh.registry, &full) {
                Some(guess) => format!("did you mean `{guess}`?"),
                None => "load the Service that defines it, or write a ServiceEntry with its \
                         `addresses` and `endpoints`"
                    .to_owned(),
            };
            report.push(Diagnostic::new(&code::NO_ADDRESS, name.at, message).with_help(help));
        }
    }
}

/// The server name is sent after the connection was made. It is known before only where it is the
/// name that was looked up.
fn check_server_names(rule: &Rule, assumed: &mut Option<Span>, report: &mut Report) {
    for name in rule.matches.iter().flat_map(|wanted| &wanted.sni_hosts) {
        if name.value.starts_with('*') {
            let message =
                format!("a split by server names such as {} is not decided here", name.value);
            report.push(
                Diagnostic::new(&code::SNI_UNDECIDABLE, name.at, message)
                    .with_help("list the names, each also under `hosts`"),
            );
        } else {
            assumed.get_or_insert(name.at);
        }
    }
}

fn check_match(wanted: &Match, mesh: &Mesh<'_>, report: &mut Report) {
    let namespace = wanted.source_namespace.as_deref();
    if wanted.source_labels.is_empty() && namespace.is_none() {
        return;
    }
    let fits = |client: &Client<'_>| client.is_selected(&wanted.source_labels, namespace);
    if !mesh.clients.classes.iter().any(fits) {
        unseen(wanted.at, UNSELECTED, mesh.clients, report);
    }
}

/// A port that no host has is a slip, and the rule takes nobody.
fn check_port(wanted: &Match, service: &VirtualService, mesh: &Mesh<'_>, report: &mut Report) {
    let Some(number) = wanted.port else { return };
    let full = |host: &At<String>| full_host(&host.value, &service.meta.namespace);
    let patterns: Vec<String> = service.hosts.iter().map(full).collect();
    // A wildcard is there for hosts that may come.
    if patterns.iter().any(|pattern| pattern.starts_with('*')) {
        return;
    }
    let own = |pattern: &String| mesh.registry.find(pattern);
    let hosts: Vec<&Host<'_>> = patterns.iter().filter_map(own).collect();
    let numbers = || hosts.iter().flat_map(|host| host.ports).map(|port| port.number);
    if hosts.is_empty() || numbers().any(|known| known == number) {
        return;
    }
    let message = format!("no host of the rule has port {number}");
    let known: BTreeSet<String> = numbers().map(|number| number.to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let help = format!("the ports are: {}", list(&known));
    ineffective(wanted.at, &message, &help, report);
}

fn check_destinations(
    destinations: &[RouteDestination],
    namespace: &str,
    mesh: &Mesh<'_>,
    report: &mut Report,
) {
    for destination in destinations {
        let name = full_host(&destination.host.value, namespace);
        let Some(host) = mesh.registry.find(&name) else {
            let reference = Reference { name: &name, at: destination.host.at };
            references::unknown_host(mesh.registry, &reference, report);
            continue;
        };
        let Some(subset) = &destination.subset else { continue };
        if mesh.destination_rules.defining(&host.name, &subset.value).is_none() {
            let in_force = mesh.destination_rules.find(&Client::ANYBODY, host);
            references::undefined_subset(&in_force, subset, host, None, report);
        }
    }
}

fn check_delegate(at: Span, namespace: &str, name: &str, mesh: &Mesh<'_>, report: &mut Report) {
    let Some(delegate) = mesh.virtual_services.delegate(namespace, name) else {
        let message = format!("there is no VirtualService `{namespace}/{name}` without `hosts`");
        report.push(
            Diagnostic::new(&code::DELEGATE, at, message).with_help(
                "load it too; only a VirtualService without `hosts` can be delegated to",
            ),
        );
        return;
    };
    for rule in &delegate.http {
        if let RuleAction::Delegate(to) = &rule.action {
            let message = "a delegate cannot delegate";
            report.push(
                Diagnostic::new(&code::DELEGATE, to.at, message)
                    .with_help("write the rules of the other one here"),
            );
        }
    }
}

/// Rules for hosts and clients that there are not.
fn check_destination_rules(
    resources: &Resources,
    mesh: &Mesh<'_>,
    covered: &Covered<'_>,
    report: &mut Report,
) {
    for (host, rule) in mesh.destination_rules.all() {
        let is_known = covered.has(&host) || mesh.registry.find(&host).is_some();
        if !is_known {
            let message = format!("the host {host} is in no registry");
            ineffective(rule.host.at, &message, "load the document that defines it too", report);
        }
    }
    for rule in &resources.destination_rules {
        let Some(labels) = &rule.workload_selector else {
            check_seen(&rule.export, rule.meta.at, mesh, report);
            continue;
        };
        let own = |client: &Client<'_>| {
            client.namespace() == Some(&rule.meta.namespace) && client.has(labels)
        };
        if !mesh.clients.classes.iter().any(own) {
            unseen(rule.meta.at, "no known client is selected by this", mesh.clients, report);
        }
    }
}
