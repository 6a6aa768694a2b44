//! `kind: VirtualService`: which rules the connections to some hosts follow.

use std::collections::{HashMap, HashSet};

use super::matching::{MESH, read_gateways};
use super::rules::{self, Form};
use crate::policy::Reading;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{
    At, Resource, RouteDestination, Rule, RuleAction, VirtualService,
};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

const RULES: &str = "write `http: [{route: [{destination: {host: HOST}}]}]`";

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), inert("status")];

/// `VirtualService`.
const TABLE: &[Field] = &[
    field("hosts"),
    field("gateways"),
    field("exportTo"),
    field("http"),
    field("tcp"),
    field("tls"),
];

/// Reads a document.
pub(in crate::policy) fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {hosts: [HOST], http: [{route: [{destination: {host: HOST}}]}]}`";
    let spec = reader.required(&object.fields, "spec", help)?;
    let spec = reader.object(spec, "the spec", TABLE)?;
    let hosts = read_hosts(reader, &spec);
    let gateways = spec.get("gateways").map_or_else(Vec::new, |e| read_gateways(reader, e));
    // Rules for gateways alone are skipped as a whole, so it does not matter what they match.
    let is_of_mesh = gateways.is_empty() || gateways.iter().any(|gateway| gateway.value == MESH);
    let mut rules = |form| {
        if is_of_mesh { rules::read_list(reader, &spec, form, &hosts) } else { Vec::new() }
    };
    let mut service = VirtualService {
        http: rules(Form::Http),
        tcp: rules(Form::Tcp),
        tls: rules(Form::Tls),
        export: reader.export_of_rule(&spec, &object.meta.namespace),
        meta: object.meta,
        gateways,
        hosts,
    };
    check_presence(reader, &spec);
    note_connections(reader, &service.http);
    let is_whole = if has_entries(reader, &spec, "hosts") {
        check_hosts(reader, &service);
        let mut seen = HashSet::new();
        service.hosts.retain(|host| seen.insert(host.value.clone()));
        !service.hosts.is_empty()
    } else {
        reader.watch(|reader| check_delegate(reader, &spec, &service.http)).1
    };
    // Without a host that is good it would look like a delegate.
    is_whole.then(|| Document::Resource(Box::new(Resource::VirtualService(service))))
}

fn read_hosts(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<At<String>> {
    let nodes = spec.value("hosts").map_or(&[][..], |node| reader.items(node, "`hosts`"));
    nodes.iter().filter_map(|node| reader.host(*node, "a host")).collect()
}

/// Whether a key is there and not an empty list.
fn has_entries(reader: &Reader<'_>, spec: &Fields<'_>, name: &str) -> bool {
    let value = spec.value(name).map(|node| reader.value(node));
    value.is_some_and(|value| !matches!(value, Value::Sequence([])))
}

fn check_presence(reader: &mut Reader<'_>, spec: &Fields<'_>) {
    let lists = ["http", "tcp", "tls"];
    if lists.iter().any(|name| has_entries(reader, spec, name)) || spec.may_mean(&lists) {
        return;
    }
    let message = "the spec has neither `http` nor `tcp` nor `tls`";
    let diagnostic = Diagnostic::new(&code::MISSING_KEY, spec.span(), message);
    reader.push(diagnostic.with_help(RULES));
}

// ---- Hosts ----

fn check_hosts(reader: &mut Reader<'_>, service: &VirtualService) {
    let is_mesh = service.gateways.is_empty() || service.gateways.iter().any(|g| g.value == MESH);
    if let Some(all) = service.hosts.iter().find(|host| host.value == "*").filter(|_| is_mesh) {
        let message = "the host `*` is bound to the mesh: it would take every connection";
        let help = "name the hosts, or name the `gateways` that the rules are for";
        return reader.push(Diagnostic::new(&code::MESH_WILDCARD, all.at, message).with_help(help));
    }
    let mut first: HashMap<&str, (usize, Span)> = HashMap::new();
    for (index, host) in service.hosts.iter().enumerate() {
        first.entry(&host.value).or_insert((index, host.at));
    }
    for (index, host) in service.hosts.iter().enumerate() {
        let earlier = first.get(host.value.as_str()).filter(|(first, _)| *first != index);
        let wider = wider_patterns(&host.value).find_map(|wider| first.get(wider.as_str()));
        if let Some((_, other)) = earlier.or(wider) {
            overlapping(reader, host, *other);
        }
    }
}

/// Wildcards that have everything of a host or of a wildcard, from near to far.
fn wider_patterns(host: &str) -> impl Iterator<Item = String> {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    let parents = rest.match_indices('.').filter_map(|(dot, _)| rest.get(dot..));
    let wildcards = parents.map(|parent| format!("*{parent}"));
    wildcards.chain((host != "*").then(|| "*".to_owned()))
}

fn overlapping(reader: &mut Reader<'_>, host: &At<String>, other: Span) {
    let message = format!("the host {} is given twice", quote(&host.value));
    reader.push(
        Diagnostic::new(&code::DUPLICATE_ENTRY, host.at, message)
            .with_label("here")
            .with_secondary(other, "and here")
            .with_help("delete one: a wildcard has all hosts that end like it"),
    );
}

// ---- Delegates ----

/// Checks a document without hosts, whose rules others refer to.
fn check_delegate(reader: &mut Reader<'_>, spec: &Fields<'_>, http: &[Rule]) {
    if spec.may_mean(&["hosts"]) {
        return;
    }
    for name in ["gateways", "tcp", "tls"] {
        if let Some(entry) = spec.get(name).filter(|_| has_entries(reader, spec, name)) {
            let message = format!("a virtual service without `hosts` has no `{name}`");
            let help = "name its `hosts`; without, others delegate their `http` rules to it";
            reader.push(Diagnostic::new(&code::DELEGATE, entry.key, message).with_help(help));
        }
    }
    for rule in http {
        if let RuleAction::Delegate(delegate) = &rule.action {
            let message = "a virtual service without `hosts` does not delegate further";
            let help = "name its `hosts`, or write the rules out here";
            reader.push(Diagnostic::new(&code::DELEGATE, delegate.at, message).with_help(help));
        }
    }
}

// ---- Requests and connections ----

/// Says once per document what splitting http means here.
fn note_connections(reader: &mut Reader<'_>, http: &[Rule]) {
    let is_used = |to: &&RouteDestination| to.weight.as_ref().is_some_and(|w| w.value > 0);
    let is_split = |rule: &&Rule| match &rule.action {
        RuleAction::Route(to) => rule.complete && to.iter().filter(is_used).count() > 1,
        _ => false,
    };
    if let Some(rule) = http.iter().find(is_split) {
        let message = "the weights split connections, not requests";
        let help = "all requests of a connection go one way: clients that keep few connections \
                    for long shift the ratio of requests";
        reader.push(Diagnostic::new(&code::PER_CONNECTION, rule.at, message).with_help(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_patterns_are_wildcards_of_the_parents() {
        let wider = |host| wider_patterns(host).collect::<Vec<_>>();
        assert_eq!(wider("a.b.c"), ["*.b.c", "*.c", "*"]);
        assert_eq!(wider("*.b.c"), ["*.c", "*"]);
        assert_eq!(wider("a"), ["*"]);
        assert_eq!(wider("*"), Vec::<String>::new());
    }
}
