//! `match` of the rules of a `VirtualService`: which connections a rule takes.
//!
//! A match of `http` may also ask for what is in a request. Such a rule cannot be decided when a
//! connection is made, and leaving the question out would send other clients' connections its way,
//! so it is always an error.

use super::rules::Form;
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, inert, read as field, refused, unseen};
use crate::policy::mesh::resource::{At, Cidr, Labels, Match};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

/// Clients that are no gateway.
pub(super) const MESH: &str = "mesh";
const REQUEST: &str = "a connection is routed before its first request: match on `sourceLabels`, \
                       `sourceNamespace` or `port`, or keep this rule in a proxy";
const SUBNET: &str = "select clients by `sourceLabels` or `sourceNamespace`";

/// `HTTPMatchRequest`.
const HTTP: &[Field] = &[
    inert("name"),
    unseen("uri", REQUEST),
    unseen("scheme", REQUEST),
    unseen("method", REQUEST),
    unseen("authority", REQUEST),
    unseen("headers", REQUEST),
    field("port"),
    field("sourceLabels"),
    field("gateways"),
    unseen("queryParams", REQUEST),
    unseen("ignoreUriCase", REQUEST),
    unseen("withoutHeaders", REQUEST),
    field("sourceNamespace"),
    inert("statPrefix"),
];

/// `L4MatchAttributes`.
const TCP: &[Field] = &[
    field("destinationSubnets"),
    field("port"),
    refused("sourceSubnet", &code::IGNORED_BY_ISTIO, SUBNET),
    field("sourceLabels"),
    field("gateways"),
    field("sourceNamespace"),
];

/// `TLSMatchAttributes`.
const TLS: &[Field] = &[
    field("sniHosts"),
    field("destinationSubnets"),
    field("port"),
    refused("sourceSubnet", &code::IGNORED_BY_ISTIO, SUBNET),
    field("sourceLabels"),
    field("gateways"),
    field("sourceNamespace"),
];

/// Reads the matches of a rule; those with an error are left out. `hosts` are the document's.
pub(super) fn read_all(
    reader: &mut Reader<'_>,
    rule: &Fields<'_>,
    form: Form,
    hosts: &[At<String>],
) -> Vec<Match> {
    let node = rule.value("match");
    let nodes = node.map_or(&[][..], |node| reader.items(node, "`match`"));
    if form == Form::Tls && nodes.is_empty() {
        let help = "write `match: [{sniHosts: [HOST]}]`; rules without one belong under `tcp`";
        reader.missing(rule.span(), "a tls rule", "match", help);
    }
    let mut matches = Vec::new();
    for node in nodes {
        let (found, is_good) = reader.watch(|reader| read(reader, *node, form, hosts));
        matches.extend(found.filter(|_| is_good));
    }
    matches
}

fn read(reader: &mut Reader<'_>, node: NodeId, form: Form, hosts: &[At<String>]) -> Option<Match> {
    let table = match form {
        Form::Http => HTTP,
        Form::Tcp => TCP,
        Form::Tls => TLS,
    };
    if let Some(gateways) = only_gateways(reader, node, table) {
        return Some(Match { gateways, ..Match::everything(reader.span(node)) });
    }
    let fields = reader.object(node, "a match", table)?;
    let mut found = Match {
        at: reader.span(node),
        port: fields.value("port").and_then(|node| read_port(reader, node)),
        source_labels: fields.get("sourceLabels").map_or_else(Labels::new, |e| reader.selector(e)),
        source_namespace: fields.value("sourceNamespace").and_then(|n| read_namespace(reader, n)),
        gateways: fields.get("gateways").map_or_else(Vec::new, |e| names(read_gateways(reader, e))),
        destination_subnets: read_subnets(reader, &fields),
        sni_hosts: Vec::new(),
    };
    if form == Form::Tls {
        found.sni_hosts = read_sni_hosts(reader, &fields, hosts);
    }
    if form == Form::Http && !found.gateways.is_empty() {
        ignore_source(reader, &fields, &mut found);
    }
    Some(found)
}

/// The gateways of a match that takes no client of the mesh. It takes nobody here, whatever else it
/// asks for, so only its keys are looked at.
fn only_gateways(
    reader: &mut Reader<'_>,
    node: NodeId,
    table: &'static [Field],
) -> Option<Vec<String>> {
    let given = reader.peek(node, "gateways").map(|node| reader.value(node));
    let Some(Value::Sequence(items)) = given else { return None };
    let is_other = |item: &NodeId| reader.text(*item).is_some_and(|name| name != MESH);
    if items.is_empty() || !items.iter().all(is_other) {
        return None;
    }
    let known: Vec<&'static str> = table.iter().map(|field| field.name).collect();
    let fields = reader.fields(node, "a match", &known)?;
    Some(names(read_gateways(reader, fields.get("gateways")?)))
}

/// Port 0 is what protobuf writes for none.
fn read_port(reader: &mut Reader<'_>, node: NodeId) -> Option<u16> {
    if reader.text(node) == Some("0") { None } else { reader.port(node) }
}

fn read_namespace(reader: &mut Reader<'_>, node: NodeId) -> Option<String> {
    if reader.text(node) == Some("") {
        return None;
    }
    Some(reader.dns_label(node, "a namespace")?.value)
}

fn read_subnets(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Vec<At<Cidr>> {
    let Some(node) = fields.value("destinationSubnets") else { return Vec::new() };
    let nodes = reader.items(node, "`destinationSubnets`");
    nodes.iter().filter_map(|node| reader.cidr(*node, "`destinationSubnets`")).collect()
}

/// Reads names of gateways: `mesh`, `NAME`, `NAMESPACE/NAME`, or a full host name, as of old.
pub(super) fn read_gateways(reader: &mut Reader<'_>, entry: Entry<'_>) -> Vec<At<String>> {
    let mut gateways = reader.strings(entry.value, "`gateways`");
    gateways.retain(|gateway| {
        let is_good = is_gateway(&gateway.value);
        if !is_good {
            let message = format!("{} is not a name for a gateway", quote(&gateway.value));
            let help = "write `mesh` for clients of the mesh, or NAMESPACE/NAME";
            let diagnostic = Diagnostic::new(&code::BAD_NAME, gateway.at, message);
            reader.push(diagnostic.with_help(help));
        }
        is_good
    });
    gateways
}

fn is_gateway(name: &str) -> bool {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let is_name = |name: &str| {
        let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_good))
    };
    is_name(namespace) && is_name(name)
}

fn names(gateways: Vec<At<String>>) -> Vec<String> {
    gateways.into_iter().map(|gateway| gateway.value).collect()
}

/// Istio looks at the gateways of an http match or at its source, and never at both.
fn ignore_source(reader: &mut Reader<'_>, fields: &Fields<'_>, found: &mut Match) {
    for name in ["sourceLabels", "sourceNamespace"] {
        let Some(entry) = fields.get(name) else { continue };
        let message = format!("`{name}` is ignored beside `gateways`, as in Istio");
        let help = "write two matches, or delete `gateways` where it only says `mesh`";
        reader.push(Diagnostic::new(&code::SELECTOR_IGNORED, entry.key, message).with_help(help));
    }
    found.source_labels.clear();
    found.source_namespace = None;
}

fn read_sni_hosts(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    hosts: &[At<String>],
) -> Vec<At<String>> {
    let help = "write `sniHosts: [HOST]`, with a host of the document";
    let Some(node) = reader.required(fields, "sniHosts", help) else { return Vec::new() };
    let nodes = reader.items(node, "`sniHosts`");
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`sniHosts`", help);
    }
    let names: Vec<At<String>> =
        nodes.iter().filter_map(|node| reader.host(*node, "a server name")).collect();
    for name in &names {
        if !hosts.iter().any(|host| is_within(&name.value, &host.value)) {
            let message = format!("{} is none of the document's `hosts`", quote(&name.value));
            reader.push(
                Diagnostic::new(&code::SNI_NOT_A_HOST, name.at, message)
                    .with_help("name it in `hosts` too, or name one of those here"),
            );
        }
    }
    names
}

/// Whether every name of a pattern is one of another's.
fn is_within(name: &str, host: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) => name.strip_prefix('*').unwrap_or(name).ends_with(suffix),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_within_patterns() {
        for (name, host) in [("a.b", "a.b"), ("a.b", "*.b"), ("*.a.b", "*.b"), ("*.b", "*")] {
            assert!(is_within(name, host), "{name} in {host}");
        }
        for (name, host) in [("a.b", "a.c"), ("*.b", "*.a.b"), ("ab", "*.b"), ("*.b", "a.b")] {
            assert!(!is_within(name, host), "{name} in {host}");
        }
    }

    #[test]
    fn names_of_gateways() {
        for good in ["mesh", "istio-system/gateway", "gateway.istio-system.svc.cluster.local"] {
            assert!(is_gateway(good), "{good}");
        }
        for bad in ["", "/", "a/", "a/b/c", "A", "a b"] {
            assert!(!is_gateway(bad), "{bad}");
        }
    }
}
