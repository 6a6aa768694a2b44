//! The native form: `apiVersion: splitter.dev/v1`, `kind: Split` and `kind: Egress`.
//!
//! Reads a document's tree into a service, or into what clients may reach besides the services, and checks the rules that need no other service.
//! `docs/policy.md` is the reference of the form; every rule there is enforced here or in `check`.

mod client;
mod connection;
mod egress;
mod fault;
mod health;
mod host;
mod old_connections;
mod options;
mod rate;
mod route;
mod subset;
mod values;
mod write;
mod write_egress;

use std::net::SocketAddr;

use super::Reading;
use super::check;
use super::code;
use super::diagnostic::{Diagnostic, Span};
use super::document::{API_VERSION, Document, Draft, GROUP, Places, kinds_help};
use super::mesh::resource::{LabelledSplit, Labels, Meta, Resource};
use super::model::{Datagrams, Frontend, OnBackendDown, PeerName, Protocol, Service};
use super::reader::{Fields, Reader};
use super::yaml::{NodeId, Value};
pub(super) use client::{CGROUP_KEYS, read_cgroup_name};
pub(crate) use client::{parse_container, parse_netns, parse_number, parse_pod, parse_unit};
pub(super) use egress::read as read_egress;
pub(crate) use old_connections::value as old_connections_value;
pub(super) use route::{exclusive, read_errno};
pub(crate) use write::{connection_values, eject_value, fault_values, health_value, match_values};
pub use write::{policy_to_yaml, to_yaml};
pub use write_egress::outbound_to_yaml;
pub(crate) use write_egress::{egress_values, reach_value};

const SPEC: [&str; 9] = [
    "frontends",
    "subsets",
    "routes",
    "split",
    "getpeername",
    "datagrams",
    "outcomes",
    "oldConnections",
    "onBackendDown",
];
const DATAGRAMS: [(&str, Datagrams); 2] =
    [("all", Datagrams::All), ("connected", Datagrams::Connected)];
const ON_BACKEND_DOWN: [(&str, OnBackendDown); 2] =
    [("leave", OnBackendDown::Leave), ("close", OnBackendDown::Close)];
const PEER_NAMES: [(&str, PeerName); 2] =
    [("backend", PeerName::Backend), ("frontend", PeerName::Frontend)];

/// Reads a document. A service in error may lack its name.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let keys = ["apiVersion", "kind", "metadata", "spec"];
    let document = &reader.fields(node, "the document", &keys)?;
    reader.required(document, "kind", &kinds_help(Some(GROUP)));
    reader.required(document, "apiVersion", &format!("write `apiVersion: {API_VERSION}`"));
    let metadata = reader.required(document, "metadata", "write `metadata: {name: NAME}`");
    let name = metadata.and_then(|node| read_name(reader, node));
    let spec = reader.required(document, "spec", "write `spec:` with `frontends` and `routes`");
    let spec = spec.and_then(|node| reader.fields(node, "the spec", &SPEC))?;
    let draft = read_spec(reader, &spec, name.unwrap_or_default(), reading);
    check::within(&draft, reader);
    Some(sort(draft))
}

/// A service by itself, or one that depends on what documents say of clients.
fn sort(draft: Draft) -> Document {
    let mut matches = draft.places.routes.iter().flat_map(|route| &route.matches);
    if matches.all(|it| it.selector.is_none()) {
        return Document::Service(Box::new(draft));
    }
    let full = &draft.service.name;
    let meta = Meta {
        namespace: draft.places.namespace.clone(),
        name: full.split_once('/').map_or(full.as_str(), |(_, name)| name).to_owned(),
        labels: Labels::new(),
        at: draft.places.name,
    };
    Document::Resource(Box::new(Resource::Split(LabelledSplit { meta, draft })))
}

/// `namespace/name`, or the name alone.
fn read_name(reader: &mut Reader<'_>, node: NodeId) -> Option<(String, Span)> {
    let keys = ["name", "namespace", "labels", "annotations"];
    let fields = reader.fields(node, "the metadata", &keys)?;
    for key in ["labels", "annotations"] {
        if let Some(node) = fields.value(key) {
            read_labels(reader, node);
        }
    }
    let namespace = fields.value("namespace").map(|node| reader.name(node, "a namespace"));
    let node = reader.required(&fields, "name", "give the service a name, such as `web`")?;
    let name = reader.name(node, "a service")?;
    let name = match namespace {
        Some(namespace) => format!("{}/{name}", namespace?),
        None => name.to_owned(),
    };
    Some((name, reader.span(node)))
}

/// Labels and annotations are for other tools; they only have to be what those tools write.
fn read_labels(reader: &mut Reader<'_>, node: NodeId) {
    if reader.is_null(node) {
        return;
    }
    for entry in reader.entries(node, "a mapping of labels").unwrap_or_default() {
        reader.string(entry.value, "the value of a label or annotation");
    }
}

fn read_spec(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    (name, at): (String, Span),
    reading: &Reading,
) -> Draft {
    let namespace = name.split_once('/').map_or(reading.namespace.as_str(), |(own, _)| own);
    let mut places = Places { name: at, namespace: namespace.to_owned(), ..Places::default() };
    let frontends = "write `frontends: [\"127.0.0.1:8080\"]`: what clients dial";
    if let Some(node) = reader.required(spec, "frontends", frontends) {
        places.frontends = read_frontends(reader, node);
    }
    let (subsets, subset_places) = match spec.value("subsets") {
        Some(node) => subset::read_all(reader, node),
        None => (Some(Vec::new()), Vec::new()),
    };
    places.subsets = subset_places;
    let routes = route::read_all(reader, spec, subsets.as_deref(), &mut places);
    let getpeername = spec
        .value("getpeername")
        .and_then(|node| reader.word(node, "a value of `getpeername`", &PEER_NAMES));
    places.datagrams = spec.get("datagrams").map(|entry| entry.key);
    let datagrams = spec
        .value("datagrams")
        .and_then(|node| reader.word(node, "a value of `datagrams`", &DATAGRAMS));
    let outcomes = spec.value("outcomes").and_then(|node| reader.boolean(node, "`outcomes`"));
    let old_connections = spec.get("oldConnections");
    let old_connections = old_connections.and_then(|entry| old_connections::read(reader, entry));
    let on_backend_down = spec
        .value("onBackendDown")
        .and_then(|node| reader.word(node, "a value of `onBackendDown`", &ON_BACKEND_DOWN));
    let service = Service {
        outcomes: outcomes.unwrap_or(false),
        old_connections: old_connections.unwrap_or_default(),
        on_backend_down: on_backend_down.unwrap_or_default(),
        name,
        frontends: sort_frontends(reader, &places.frontends),
        getpeername: getpeername.unwrap_or_default(),
        datagrams: datagrams.unwrap_or_default(),
        subsets: subsets.unwrap_or_default(),
        routes,
    };
    Draft { service, places }
}

fn read_frontends(reader: &mut Reader<'_>, node: NodeId) -> Vec<(Frontend, Span)> {
    let one = [node];
    let nodes = match reader.value(node) {
        Value::Scalar(_) if !reader.is_null(node) => &one,
        _ => {
            let example = "write `[\"127.0.0.1:8080\"]`";
            reader.list(node, "`frontends`", example).unwrap_or(&one[..0])
        }
    };
    if matches!(reader.value(node), Value::Sequence([])) {
        reader.empty(
            reader.span(node),
            "`frontends`",
            "list at least one address that clients dial",
        );
    }
    let read = |node: &NodeId| Some((read_frontend(reader, *node)?, reader.span(*node)));
    nodes.iter().filter_map(read).collect()
}

/// `ADDR:PORT/PROTOCOL`, or the same as a mapping.
fn read_frontend(reader: &mut Reader<'_>, node: NodeId) -> Option<Frontend> {
    let Value::Mapping(_) = reader.value(node) else { return reader.frontend(node) };
    let fields = reader.fields(node, "a frontend", &["address", "port", "protocol"])?;
    let address = reader.required(&fields, "address", "write `address: \"127.0.0.1\"`");
    let port = reader.required(&fields, "port", "write `port: 8080`");
    let ip = address.and_then(|node| reader.ip(node));
    let port = port.and_then(|node| reader.port(node));
    let protocol = match fields.value("protocol") {
        Some(node) => reader.protocol(node),
        None => Some(Protocol::Tcp),
    };
    Some(Frontend { addr: SocketAddr::new(ip?, port?), protocol: protocol? })
}

/// The frontends in the model's order, each once.
fn sort_frontends(reader: &mut Reader<'_>, places: &[(Frontend, Span)]) -> Vec<Frontend> {
    // Sorted by place within equals, so each duplicate points at the one before it.
    let mut sorted = places.to_vec();
    sorted.sort_by_key(|(frontend, _)| *frontend);
    for pair in sorted.windows(2) {
        let &[(first, first_at), (frontend, at)] = pair else { continue };
        if frontend == first {
            let message = format!("the frontend `{frontend}` is given twice");
            reader.push(
                Diagnostic::new(&code::DUPLICATE_FRONTEND, at, message)
                    .with_label("again here")
                    .with_secondary(first_at, "first here")
                    .with_help("delete one of the two"),
            );
        }
    }
    let mut frontends: Vec<Frontend> = sorted.into_iter().map(|(frontend, _)| frontend).collect();
    frontends.dedup();
    frontends
}
