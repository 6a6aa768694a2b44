//! Gateway: addresses and ports that clients dial. Nothing listens there; connections of this
//! node's clients to them go straight to the backends.

use std::net::IpAddr;

use crate::policy::Reading;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{Gateway, Listener, Resource, RouteKind};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), field("status")];
/// `GatewaySpec`.
const SPEC: &[Field] = &[
    inert("gatewayClassName"),
    field("listeners"),
    field("addresses"),
    inert("infrastructure"),
    inert("allowedListeners"),
    inert("backendTLS"),
    inert("tls"),
    inert("defaultScope"),
];
/// `GatewayStatus`.
const STATUS: &[Field] =
    &[field("addresses"), inert("conditions"), inert("listeners"), inert("attachedListenerSets")];
/// `GatewaySpecAddress`, `GatewayStatusAddress`.
const ADDRESS: &[Field] = &[field("type"), field("value")];
/// `Listener`.
const LISTENER: &[Field] = &[
    field("name"),
    inert("hostname"),
    field("port"),
    field("protocol"),
    inert("tls"),
    inert("allowedRoutes"),
];

/// Types of addresses, and whether they are IP addresses.
const ADDRESS_TYPES: [(&str, bool); 3] =
    [("IPAddress", true), ("Hostname", false), ("NamedAddress", false)];
/// Protocols, and which routes attach; none where a proxy would have to end TLS or look into it.
const PROTOCOLS: [(&str, Option<RouteKind>); 5] = [
    ("HTTP", Some(RouteKind::Http)),
    ("TCP", Some(RouteKind::Tcp)),
    ("UDP", Some(RouteKind::Udp)),
    ("HTTPS", None),
    ("TLS", None),
];

const SPEC_HELP: &str = "write `spec:` with `addresses` and `listeners` below it";
const LISTENERS_HELP: &str = "write `listeners: [{name: web, port: 80, protocol: HTTP}]`";

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let spec = reader.required(&object.fields, "spec", SPEC_HELP)?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    let mut addresses = read_addresses(reader, &spec);
    let status = object.fields.value("status");
    if let Some(status) = status.and_then(|node| reader.object(node, "the status", STATUS)) {
        addresses.extend(read_addresses(reader, &status));
    }
    addresses.sort();
    addresses.dedup();
    let listeners = read_listeners(reader, &spec);
    let gateway = Gateway { meta: object.meta, addresses, listeners };
    Some(Document::Resource(Box::new(Resource::Gateway(gateway))))
}

fn read_addresses(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Vec<IpAddr> {
    let Some(node) = fields.value("addresses") else { return Vec::new() };
    let items = reader.items(node, "`addresses`");
    items.iter().filter_map(|item| read_address(reader, *item)).collect()
}

/// `None` also for an address of another type, and one that is still to be assigned.
fn read_address(reader: &mut Reader<'_>, node: NodeId) -> Option<IpAddr> {
    let fields = reader.object(node, "an address", ADDRESS)?;
    let is_ip = match fields.value("type") {
        Some(node) if is_own(reader, node) => false,
        Some(node) => reader.word(node, "a type of address", &ADDRESS_TYPES)?,
        None => true,
    };
    let value = fields.value("value").filter(|_| is_ip)?;
    reader.ip(value)
}

fn read_listeners(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<Listener> {
    let Some(node) = reader.required(spec, "listeners", LISTENERS_HELP) else {
        return Vec::new();
    };
    let items = reader.items(node, "`listeners`");
    items.iter().filter_map(|item| read_listener(reader, *item)).collect()
}

fn read_listener(reader: &mut Reader<'_>, node: NodeId) -> Option<Listener> {
    let fields = reader.object(node, "a listener", LISTENER)?;
    let name = reader.required(&fields, "name", LISTENERS_HELP);
    let name = name.and_then(|node| reader.kube_name(node, "a listener"));
    let port = reader.required(&fields, "port", LISTENERS_HELP);
    let port = port.and_then(|node| reader.port(node));
    let protocol = reader.required(&fields, "protocol", LISTENERS_HELP)?;
    if is_own(reader, protocol) {
        return None;
    }
    let kind = reader.word(protocol, "a protocol of a listener", &PROTOCOLS)??;
    Some(Listener { name: name?.to_owned(), port: port?, kind })
}

/// Whether a word is an implementation's own, which has a domain in front: `example.com/word`.
fn is_own(reader: &Reader<'_>, node: NodeId) -> bool {
    reader.text(node).is_some_and(|text| text.contains('/'))
}
