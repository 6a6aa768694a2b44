//! `Sidecar`: which hosts some clients see, and what becomes of their other connections.
//!
//! What it says of connections that come in is refused: only connections that go out are seen.

use super::selector;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, proxied, read as field, refused};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::port;
use crate::policy::mesh::resource::{At, Egress, OutboundMode, Resource, Sidecar};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;
use crate::policy::{Reading, code};

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), inert("status")];

const SPEC: &[Field] = &[
    field("workloadSelector"),
    field("egress"),
    field("outboundTrafficPolicy"),
    refused("ingress", &code::SERVER_SIDE, SERVER_SIDE),
    refused("inboundConnectionPool", &code::SERVER_SIDE, SERVER_SIDE),
];

const SERVER_SIDE: &str = "splitter sees connections that go out: delete the field, or keep it in \
                           a proxy beside the server";

const EGRESS: &[Field] = &[
    field("port"),
    field("hosts"),
    field("captureMode"),
    proxied(
        "bind",
        "nothing listens here that clients could dial: name the address in `addresses` of a \
         ServiceEntry",
    ),
];

/// `SidecarPort`. The name is for logs.
const PORT: &[Field] = &[
    field("number"),
    field("protocol"),
    inert("name"),
    refused("targetPort", &code::IGNORED_BY_ISTIO, "delete the field"),
];

const OUTBOUND: &[Field] = &[
    field("mode"),
    proxied(
        "egressProxy",
        "connections to unknown hosts are left alone or refused: name the hosts in ServiceEntries \
         and route them to the proxy with a VirtualService",
    ),
];

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let Object { meta, fields, .. } = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {egress: [{hosts: [\"./*\", \"istio-system/*\"]}]}`";
    let node = reader.required(&fields, "spec", help)?;
    let spec = reader.object(node, "the spec", SPEC)?;
    let is_said = ["egress", "outboundTrafficPolicy", "ingress", "inboundConnectionPool"]
        .iter()
        .any(|name| reader.peek(node, name).is_some_and(|value| !reader.is_null(value)));
    if !is_said {
        reader.empty(spec.span(), "the spec", help);
    }
    let selector = spec.value("workloadSelector").and_then(|node| selector::read(reader, node));
    let sidecar = Sidecar {
        // Without labels it selects the namespace, as without a selector.
        workload_selector: selector.filter(|labels| !labels.is_empty()),
        egress: read_egress(reader, &spec, &meta.namespace),
        outbound: read_outbound(reader, &spec),
        meta,
    };
    Some(Document::Resource(Box::new(Resource::Sidecar(sidecar))))
}

fn read_egress(reader: &mut Reader<'_>, spec: &Fields<'_>, own: &str) -> Vec<Egress> {
    let Some(node) = spec.value("egress") else { return Vec::new() };
    let items = reader.items(node, "`egress`");
    let mut egress: Vec<Egress> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(entry) = read_listener(reader, *item, own) else { continue };
        let is_last = index + 1 == items.len();
        check_order(reader, *item, &entry, &egress, is_last);
        egress.push(entry);
    }
    egress
}

fn read_listener(reader: &mut Reader<'_>, node: NodeId, own: &str) -> Option<Egress> {
    let fields = reader.object(node, "an entry of `egress`", EGRESS)?;
    check_capture(reader, &fields);
    let port = match fields.value("port") {
        Some(node) => Some(read_port(reader, node)?),
        None => None,
    };
    let help = "write `hosts: [\"./*\"]`";
    let node = reader.required(&fields, "hosts", help)?;
    let given = reader.strings(node, "`hosts`");
    if given.is_empty() {
        reader.empty(reader.span(node), "`hosts`", help);
    }
    let hosts = given.into_iter().filter_map(|host| read_host(reader, &host, own)).collect();
    Some(Egress { port, hosts })
}

/// One entry takes the ports that no other names, and stands last; ports are unique.
fn check_order(
    reader: &mut Reader<'_>,
    node: NodeId,
    entry: &Egress,
    earlier: &[Egress],
    is_last: bool,
) {
    let at = reader.span(node);
    match entry.port {
        None if !is_last => {
            let message = "an entry of `egress` without `port` stands before another entry";
            let help = "it takes every other port: keep one, as the last entry";
            reader.push(Diagnostic::new(&code::EXCLUSIVE_KEYS, at, message).with_help(help));
        }
        Some(port) if earlier.iter().any(|earlier| earlier.port == Some(port)) => {
            let message = format!("the port {port} is given twice in `egress`");
            let help = "put the hosts of both entries into one";
            reader.push(Diagnostic::new(&code::DUPLICATE_ENTRY, at, message).with_help(help));
        }
        _ => {}
    }
}

fn check_capture(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    let Some(entry) = fields.get("captureMode") else { return };
    let words = [("DEFAULT", false), ("IPTABLES", false), ("NONE", true)];
    if reader.word(entry.value, "a capture mode", &words) == Some(true) {
        let message = "`captureMode: NONE` asks for clients that dial a proxy";
        let help = "delete the field: connections are seen as clients make them";
        reader.push(Diagnostic::new(&code::L7_ACTION, entry.key, message).with_help(help));
    }
}

fn read_port(reader: &mut Reader<'_>, node: NodeId) -> Option<u16> {
    let fields = reader.object(node, "the port", PORT)?;
    if let Some(node) = fields.value("protocol") {
        port::read_protocol(reader, node);
    }
    let number = reader.required(&fields, "number", "write `number: 80`")?;
    reader.port(number)
}

/// Reads `NAMESPACE/HOST`.
fn read_host(
    reader: &mut Reader<'_>,
    host: &At<String>,
    own: &str,
) -> Option<At<(String, String)>> {
    let At { value: text, at } = host;
    let Some((namespace, name)) = text.split_once('/') else {
        let message = format!("{} is not of the form NAMESPACE/HOST", quote(text));
        let help = format!("write `./{text:.60}` for the own namespace, `*/{text:.60}` for any");
        reader.push(Diagnostic::new(&code::BAD_HOST, *at, message).with_help(help));
        return None;
    };
    let name = reader.host_text(name, *at)?.value;
    let namespace = match namespace {
        "." => own,
        "*" | "~" => namespace,
        _ => match namespace.strip_prefix('~') {
            Some(excluded) => return exclude(reader, text, excluded, host),
            None => reader.check_name(namespace, *at, "a namespace").then_some(namespace)?,
        },
    };
    Some(At { value: (namespace.to_owned(), name), at: *at })
}

/// Says that hosts cannot be taken away again, which `~NAMESPACE/HOST` asks for.
fn exclude<T>(
    reader: &mut Reader<'_>,
    text: &str,
    namespace: &str,
    host: &At<String>,
) -> Option<T> {
    if reader.check_name(namespace, host.at, "a namespace") {
        let message = format!("{} leaves hosts out, which is not enforced", quote(text));
        let help = "the hosts stay visible where another entry names them: name only those that \
                    clients need";
        reader.push(Diagnostic::new(&code::NOT_ENFORCED, host.at, message).with_help(help));
    }
    None
}

fn read_outbound(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<At<OutboundMode>> {
    let entry = spec.get("outboundTrafficPolicy")?;
    let fields = reader.object(entry.value, "the outbound policy", OUTBOUND)?;
    let words =
        [("REGISTRY_ONLY", OutboundMode::RegistryOnly), ("ALLOW_ANY", OutboundMode::AllowAny)];
    let value = match fields.value("mode") {
        Some(node) => reader.word(node, "a mode", &words)?,
        // The first of protobuf's enumeration: `{}` refuses.
        None => OutboundMode::RegistryOnly,
    };
    Some(At { value, at: entry.key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::read_resources;

    fn read(spec: &str) -> Sidecar {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
             metadata: {{name: a, namespace: shop}}\nspec: {{{spec}}}\n"
        );
        match read_resources(&text).pop() {
            Some(Resource::Sidecar(sidecar)) => sidecar,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hosts_have_a_namespace() {
        let sidecar = read("egress: [{hosts: ['./*', '*/A.b', '~/*', 'edge/*.c']}]");
        let hosts: Vec<_> = sidecar.egress[0].hosts.iter().map(|host| &host.value).collect();
        let pair = |namespace: &str, host: &str| (namespace.to_owned(), host.to_owned());
        let expected = [pair("shop", "*"), pair("*", "a.b"), pair("~", "*"), pair("edge", "*.c")];
        assert_eq!(hosts, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_selector_without_labels_is_none() {
        let selector =
            |spec: &str| read(&format!("egress: [{{hosts: ['*/*']}}], {spec}")).workload_selector;
        assert_eq!(selector(""), None);
        assert_eq!(selector("workloadSelector: {}"), None);
        assert!(selector("workloadSelector: {labels: {app: web}}").is_some());
    }
}
