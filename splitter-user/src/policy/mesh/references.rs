//! What is said where a document refers to what is not there, or to what another one refers to.

use super::destination_rules::InForce;
use super::registry::{Host, Registry};
use super::resource::{At, BackendRef, GatewayRoute, ServicePort};
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
    let message = format!("the host {} is in no registry", quote(reference.name));
    let names = registry.names();
    let help = match nearest(reference.name, names.iter().copied()) {
        Some(guess) => format!("did you mean `{guess}`?"),
        None => "load the Service or ServiceEntry that defines it too; a name without a dot is a \
                 service of the document's own namespace"
            .to_owned(),
    };
    report.push(Diagnostic::new(&code::HOST_UNKNOWN, reference.at, message).with_help(help));
}

/// Says that no rule in force defines a subset.
pub(super) fn undefined_subset(
    rules: &InForce<'_>,
    subset: &At<String>,
    host: &Host<'_>,
    report: &mut Report,
) {
    let message = format!("{} has no subset {}", host.name, quote(&subset.value));
    let names = rules.subset_names();
    let mut diagnostic = Diagnostic::new(&code::SUBSET_UNDEFINED, subset.at, message);
    diagnostic = match (nearest(&subset.value, names.iter().copied()), &names[..]) {
        (Some(guess), _) => diagnostic.with_help(format!("did you mean `{guess}`?")),
        (None, []) => diagnostic.with_help(
            "define it in a DestinationRule for this host, in the namespace of the client or of \
             the host",
        ),
        (None, names) => diagnostic.with_help(format!("its subsets are: {}", list(names))),
    };
    if let Some(at) = rules.identity().first() {
        diagnostic = diagnostic.with_secondary(*at, "the rule in force");
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
    let fits = |port: &&ServicePort| port.transport == dialled.transport;
    let mut ports = host.ports.iter().filter(fits);
    let numbers: Vec<String> = ports.clone().map(|port| port.number.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    if let Some((number, at)) = wanted {
        let found = ports.find(|port| port.number == number);
        if found.is_none() {
            let message = format!("{} has no port {number}", host.name);
            let help = format!(
                "its ports are: {}; name the service's port, not the target's",
                list(&numbers)
            );
            report.push(Diagnostic::new(&code::PORT_UNKNOWN, at, message).with_help(help));
        }
        return found;
    }
    let found = match numbers[..] {
        [_] => ports.next(),
        _ => ports.find(|port| port.number == dialled.number),
    };
    if found.is_none() {
        let message = format!(
            "which port of {}? it has several, and not the one that is dialled, {}",
            host.name, dialled.number
        );
        let help = format!("write `port: {{number: N}}`; its ports are: {}", list(&numbers));
        report.push(Diagnostic::new(&code::PORT_AMBIGUOUS, at, message).with_help(help));
    }
    found
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
