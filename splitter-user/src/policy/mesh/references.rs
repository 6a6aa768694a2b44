//! What is said where a document refers to what is not there, or to what another one refers to.

use super::clients::Client;
use super::destination_rules::{InForce, ROOT_NAMESPACE};
use super::names::DOMAIN;
use super::registry::{Host, Registry};
use super::resource::{At, BackendRef, DestinationRule, GatewayRoute, ServicePort};
use super::virtual_services::Chosen;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::words::{list, nearest, quote};

/// A host by its full name, and where it is named.
pub(super) struct Reference<'a> {
    pub(super) name: &'a str,
    pub(super) at: Span,
}

/// Says that a host is in no registry.
pub(super) fn unknown_host(
    registry: &Registry<'_>,
    reference: &Reference<'_>,
    report: &mut Report,
) {
    let alias = registry.get(reference.name).and_then(Host::alias);
    let message = match alias {
        Some(meant) => format!("{} stands for {meant}, which is in no registry", reference.name),
        None => format!("the host {} is in no registry", quote(reference.name)),
    };
    let help = match (alias, guess_host(registry, reference.name)) {
        (None, Some(guess)) => format!("did you mean `{guess}`?"),
        _ => "load the Service or ServiceEntry that defines it too; a name without a dot is a \
                 service of the document's own namespace"
            .to_owned(),
    };
    report.push(Diagnostic::new(&code::HOST_UNKNOWN, reference.at, message).with_help(help));
}

/// Says that some clients do not see a host to which a rule sends them.
pub(super) fn unseen_host(host: &Host<'_>, client: &Client<'_>, at: Span, report: &mut Report) {
    let clients = match client.namespace() {
        Some(namespace) => format!("clients of the namespace `{namespace}`"),
        None => "clients that no workload describes".to_owned(),
    };
    let message = format!("{clients} do not see the host {}", host.name);
    report.push(
        Diagnostic::new(&code::HOST_UNKNOWN, at, message)
            .with_secondary(host.at, "the host")
            .with_help(
                "add their namespace to its `exportTo`, or keep the rule from them by its own",
            ),
    );
}

/// The host that was probably meant. A name with a dot is taken to be full, and people write
/// `NAME.NAMESPACE`.
pub(super) fn guess_host(registry: &Registry<'_>, name: &str) -> Option<String> {
    let qualified = format!("{name}.{DOMAIN}");
    if registry.get(&qualified).is_some() {
        return Some(qualified);
    }
    nearest(name, registry.names().iter().copied()).map(str::to_owned)
}

/// Says that no rule in force defines a subset. `elsewhere` is one that does and is not in force.
pub(super) fn undefined_subset(
    rules: &InForce<'_>,
    subset: &At<String>,
    host: &Host<'_>,
    elsewhere: Option<&DestinationRule>,
    report: &mut Report,
) {
    let message = format!("{} has no subset {}", host.name, quote(&subset.value));
    let names = rules.subset_names();
    let mut diagnostic = Diagnostic::new(&code::SUBSET_UNDEFINED, subset.at, message);
    diagnostic = match (elsewhere, nearest(&subset.value, names.iter().copied()), &names[..]) {
        (Some(rule), ..) => diagnostic
            .with_secondary(rule.meta.at, "this rule has it and is not in force")
            .with_help(format!(
                "the first of the client's namespace, the host's and `{ROOT_NAMESPACE}` that has a \
                 rule decides alone: define the subset there too, or say with a document `kind: \
                 Workload` of which namespace the clients are"
            )),
        (None, Some(guess), _) => diagnostic.with_help(format!("did you mean `{guess}`?")),
        (None, None, []) => diagnostic.with_help(
            "define it in a DestinationRule for this host, in the namespace of the client or of \
             the host",
        ),
        (None, None, names) => diagnostic.with_help(format!("its subsets are: {}", list(names))),
    };
    if let Some(at) = rules.identity().next() {
        diagnostic = diagnostic.with_secondary(at, "the rule in force");
    }
    report.push(diagnostic);
}

/// The port of a destination: the one named, else the only one, else the one dialled.
pub(super) fn find_port<'r>(
    host: &'r Host<'r>,
    wanted: Option<(u16, Span)>,
    dialled: &ServicePort,
    at: Span,
    report: &mut Report,
) -> Option<&'r ServicePort> {
    let mut ports = host.ports.iter().filter(|port| port.transport == dialled.transport);
    let found = match wanted {
        Some((number, _)) => ports.find(|port| port.number == number),
        None if ports.clone().nth(1).is_none() => ports.next(),
        None => ports.find(|port| port.number == dialled.number),
    };
    if found.is_none() {
        no_port(host, wanted, dialled, at, report);
    }
    found
}

fn no_port(
    host: &Host<'_>,
    wanted: Option<(u16, Span)>,
    dialled: &ServicePort,
    at: Span,
    report: &mut Report,
) {
    let ports = host.ports.iter().filter(|port| port.transport == dialled.transport);
    let numbers: Vec<String> = ports.map(|port| port.number.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let (code, at, message, help) = match (wanted, &numbers[..]) {
        (_, []) => {
            let message = format!("{} has no port to be dialled at", host.name);
            let help = "write its `ports` where it is defined".to_owned();
            (&code::PORT_UNKNOWN, at, message, help)
        }
        (Some((number, at)), _) => {
            let message = format!("{} has no port {number}", host.name);
            let ports = list(&numbers);
            let help = format!("its ports are: {ports}; name the service's port, not the target's");
            (&code::PORT_UNKNOWN, at, message, help)
        }
        (None, _) => {
            let message = format!(
                "which port of {}? it has several, and not the one that is dialled, {}",
                host.name, dialled.number
            );
            let help = format!("write `port: {{number: N}}`; its ports are: {}", list(&numbers));
            (&code::PORT_AMBIGUOUS, at, message, help)
        }
    };
    report.push(Diagnostic::new(code, at, message).with_help(help));
}

/// Says that a VirtualService and a route of the Gateway API claim one port.
pub(super) fn two_forms(chosen: &Chosen<'_>, route: &GatewayRoute, report: &mut Report) {
    let message = format!(
        "the VirtualService `{}` and the route `{}` are about one port of one host",
        chosen.owner.meta.name, route.meta.name
    );
    report.push(
        Diagnostic::new(&code::ROUTE_CONFLICT, route.meta.at, message)
            .with_secondary(chosen.owner.meta.at, "the VirtualService")
            .with_help("keep one of the two"),
    );
}

/// Says that a reference names what cannot be a backend.
pub(super) fn invalid_kind(kind: &str, at: Span, report: &mut Report) {
    let message = format!("{} cannot be a backend: its share is rejected", quote(kind));
    report.push(
        Diagnostic::new(&code::INVALID_KIND, at, message)
            .with_help("refer to a Service, or to a `Hostname` of networking.istio.io"),
    );
}

/// Says that a reference needs a grant.
pub(super) fn not_permitted(backend: &BackendRef, route: &GatewayRoute, report: &mut Report) {
    let message = format!(
        "`{}` of the namespace `{}` may not be referred to: its share is rejected",
        backend.name, backend.namespace
    );
    let help = format!(
        "write a ReferenceGrant in the namespace `{}` for routes of `{}`",
        backend.namespace, route.meta.namespace
    );
    report.push(Diagnostic::new(&code::REF_NOT_PERMITTED, backend.at, message).with_help(help));
}

/// Says that a reference names nothing.
pub(super) fn backend_not_found(
    name: &str,
    backend: &BackendRef,
    host: Option<&Host<'_>>,
    report: &mut Report,
) {
    let message = match (host, backend.port) {
        (Some(_), Some(port)) => format!("{name} has no port {port}: its share is rejected"),
        (Some(_), None) => format!("{name} has no port: its share is rejected"),
        (None, _) => format!("the host {name} is in no registry: its share is rejected"),
    };
    let help = match host {
        Some(host) => {
            let numbers: Vec<String> =
                host.ports.iter().map(|port| port.number.to_string()).collect();
            let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
            format!("its ports are: {}", list(&numbers))
        }
        None => "load the Service that defines it too".to_owned(),
    };
    report.push(Diagnostic::new(&code::BACKEND_NOT_FOUND, backend.at, message).with_help(help));
}
