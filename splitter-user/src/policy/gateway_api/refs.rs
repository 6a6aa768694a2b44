//! `parentRefs` and `backendRefs`: what routes attach to, and where they lead.

use super::{GROUP, filter};
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, read};
use crate::policy::mesh::resource::{BackendKind, BackendRef, ParentKind, ParentRef, RouteKind};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

/// Istio's API group.
const ISTIO: &str = "networking.istio.io";
/// Largest weight of a backend.
const MAX_WEIGHT: u32 = 1_000_000;

/// `ParentReference`.
const PARENT: &[Field] = &[
    read("group"),
    read("kind"),
    read("namespace"),
    read("name"),
    read("sectionName"),
    read("port"),
];
/// `BackendRef`.
const BACKEND: &[Field] =
    &[read("group"), read("kind"), read("name"), read("namespace"), read("port"), read("weight")];
/// `HTTPBackendRef`.
const HTTP_BACKEND: &[Field] = &[
    read("group"),
    read("kind"),
    read("name"),
    read("namespace"),
    read("port"),
    read("weight"),
    read("filters"),
];

const PARENTS_HELP: &str =
    "name what the route is for: `parentRefs: [{group: \"\", kind: Service, name: NAME}]`";

/// Whether a group is that of Services. It has no name; documents also call it `core`.
pub(super) fn is_core(group: &str) -> bool {
    matches!(group, "" | "core")
}

/// Group and kind with their defaults. `None` where one was in error.
fn read_kind<'a>(
    reader: &mut Reader<'a>,
    fields: &Fields<'_>,
    group: &'static str,
    kind: &'static str,
) -> Option<(&'a str, &'a str)> {
    let group = match fields.value("group") {
        Some(node) => reader.string(node, "`group`"),
        None => Some(group),
    };
    let kind = match fields.value("kind") {
        Some(node) => reader.string(node, "`kind`"),
        None => Some(kind),
    };
    group.zip(kind)
}

/// The namespace of a reference, else that of the document.
fn read_namespace(reader: &mut Reader<'_>, fields: &Fields<'_>, own: &str) -> Option<String> {
    match fields.value("namespace") {
        Some(node) => reader.name(node, "a namespace").map(str::to_owned),
        None => Some(own.to_owned()),
    }
}

/// What a route attaches to; references in error are left out. `own` is the route's namespace.
pub(super) fn read_parents(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    own: &str,
) -> Vec<ParentRef> {
    let Some(node) = reader.required(spec, "parentRefs", PARENTS_HELP) else { return Vec::new() };
    let Some(items) = reader.list(node, "`parentRefs`", "begin each entry with `- `") else {
        return Vec::new();
    };
    if items.is_empty() {
        reader.empty(reader.span(node), "`parentRefs`", PARENTS_HELP);
    }
    let mut parents: Vec<ParentRef> = Vec::new();
    for item in items {
        let Some(parent) = read_parent(reader, *item, own) else { continue };
        match parents.iter().find(|earlier| is_same(earlier, &parent)) {
            Some(first) => repeated(reader, &parent, first),
            None => parents.push(parent),
        }
    }
    parents
}

fn read_parent(reader: &mut Reader<'_>, node: NodeId, own: &str) -> Option<ParentRef> {
    let fields = reader.object(node, "a parent", PARENT)?;
    let kind = read_parent_kind(reader, &fields);
    let namespace = read_namespace(reader, &fields, own);
    let name = reader.required(&fields, "name", "name what the route is for");
    let name = name.and_then(|node| reader.kube_name(node, "a parent"));
    let port = fields.value("port").map(|node| reader.port(node));
    let section = fields.value("sectionName").map(|node| reader.kube_name(node, "a section"));
    // What narrows a reference must not get lost: the whole would be attached.
    if port == Some(None) || section == Some(None) {
        return None;
    }
    Some(ParentRef {
        at: reader.span(node),
        kind: kind?,
        namespace: namespace?,
        name: name?.to_owned(),
        port: port.flatten(),
        section: section.flatten().map(str::to_owned),
    })
}

fn read_parent_kind(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<ParentKind> {
    let (group, kind) = read_kind(reader, fields, GROUP, "Gateway")?;
    match (group, kind) {
        ("" | "core", "Service") => return Some(ParentKind::Service),
        (ISTIO, "ServiceEntry") => return Some(ParentKind::ServiceEntry),
        (GROUP, "Gateway") => return Some(ParentKind::Gateway),
        _ => {}
    }
    let help = match (fields.value("group"), kind) {
        (None, "Service") => "a Service is of another group: write `group: \"\"` beside its kind",
        (None, "ServiceEntry") => "write `group: networking.istio.io` beside the kind",
        (_, "ListenerSet") => "attach the route to the Gateway itself",
        _ => {
            "routes attach to a Service (`group: \"\"`), a ServiceEntry (`group: \
             networking.istio.io`) or a Gateway"
        }
    };
    let node = fields.get("kind").or(fields.get("group"));
    let at = node.map_or(fields.span(), |entry| reader.span(entry.value));
    let message = format!("a route cannot attach to {}", quote(&full_kind(group, kind)));
    reader.push(Diagnostic::new(&code::UNKNOWN_WORD, at, message).with_help(help));
    None
}

fn is_same(a: &ParentRef, b: &ParentRef) -> bool {
    let key = |it: &ParentRef| (it.kind, it.port);
    key(a) == key(b) && a.namespace == b.namespace && a.name == b.name && a.section == b.section
}

fn repeated(reader: &mut Reader<'_>, parent: &ParentRef, first: &ParentRef) {
    let message = format!("the route is attached to {} twice", quote(&parent.name));
    reader.push(
        Diagnostic::new(&code::DUPLICATE_ENTRY, parent.at, message)
            .with_secondary(first.at, "first here")
            .with_help("delete one, or tell them apart by `port` or `sectionName`"),
    );
}

fn full_kind(group: &str, kind: &str) -> String {
    if is_core(group) { kind.to_owned() } else { format!("{group}/{kind}") }
}

/// What a group and kind are as a backend.
pub(super) fn backend_kind(group: &str, kind: &str) -> BackendKind {
    match (group, kind) {
        ("" | "core", "Service") => BackendKind::Service,
        (ISTIO, "Hostname") => BackendKind::Hostname,
        _ => BackendKind::Invalid(full_kind(group, kind)),
    }
}

/// All backends of a rule; `None` where one was in error. `own` is the route's namespace.
pub(super) fn read_backends(
    reader: &mut Reader<'_>,
    items: &[NodeId],
    route: RouteKind,
    own: &str,
) -> Option<Vec<BackendRef>> {
    let read = |item: &NodeId| read_backend(reader, *item, route, own);
    let backends: Vec<Option<BackendRef>> = items.iter().map(read).collect();
    backends.into_iter().collect()
}

fn read_backend(
    reader: &mut Reader<'_>,
    node: NodeId,
    route: RouteKind,
    own: &str,
) -> Option<BackendRef> {
    let table = if route == RouteKind::Http { HTTP_BACKEND } else { BACKEND };
    let fields = reader.object(node, "a backend", table)?;
    if let Some(node) = fields.value("filters") {
        filter::check_all(reader, node);
    }
    let kind = read_kind(reader, &fields, "", "Service");
    let kind = kind.map(|(group, kind)| backend_kind(group, kind));
    let namespace = read_namespace(reader, &fields, own);
    let name = reader.required(&fields, "name", "name the Service");
    let name = name.and_then(|node| read_backend_name(reader, node, kind.as_ref()));
    let has_port = has_port(reader, &fields, kind.as_ref());
    let port = fields.value("port").map(|node| reader.port(node));
    let weight = fields.value("weight").map_or(Some(1), |node| read_weight(reader, node));
    if !has_port || port == Some(None) {
        return None;
    }
    Some(BackendRef {
        at: reader.span(node),
        kind: kind?,
        namespace: namespace?,
        name: name?,
        port: port.flatten(),
        weight: weight?,
    })
}

fn read_backend_name(
    reader: &mut Reader<'_>,
    node: NodeId,
    kind: Option<&BackendKind>,
) -> Option<String> {
    if kind == Some(&BackendKind::Hostname) {
        return reader.host(node, "the name of a backend").map(|host| host.value);
    }
    reader.kube_name(node, "a backend").map(str::to_owned)
}

/// Whether the port is there where it is needed: a backend of no known kind is rejected anyway.
fn has_port(reader: &mut Reader<'_>, fields: &Fields<'_>, kind: Option<&BackendKind>) -> bool {
    matches!(kind, Some(BackendKind::Invalid(_)))
        || reader.required(fields, "port", "write the Service's port, `port: 8080`").is_some()
}

fn read_weight(reader: &mut Reader<'_>, node: NodeId) -> Option<u32> {
    let weight = reader.number(node, "a weight")?;
    if weight > MAX_WEIGHT {
        let message = format!("the weight {weight} is larger than {MAX_WEIGHT}");
        let help = "weights are relative: divide all of them by one number";
        let at = reader.span(node);
        reader.push(Diagnostic::new(&code::OUT_OF_RANGE, at, message).with_help(help));
        return None;
    }
    Some(weight)
}
