//! `ReferenceGrant`: which namespaces' routes may refer to Services of another namespace.

use super::GROUP;
use super::refs::backend_kind;
use crate::policy::Reading;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{BackendKind, ReferenceGrant, Resource};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] = &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec")];
const SPEC: &[Field] = &[field("from"), field("to")];
/// `ReferenceGrantFrom`.
const FROM: &[Field] = &[field("group"), field("kind"), field("namespace")];
/// `ReferenceGrantTo`.
const TO: &[Field] = &[field("group"), field("kind"), field("name")];

const SPEC_HELP: &str = "write `spec:` with `from` and `to` below it";
const FROM_HELP: &str =
    "write `from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: NAMESPACE}]`";
const TO_HELP: &str = "write `to: [{group: \"\", kind: Service}]`";

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let spec = reader.required(&object.fields, "spec", SPEC_HELP)?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    let from = read_items(reader, &spec, "from", FROM_HELP, read_from);
    let to = read_items(reader, &spec, "to", TO_HELP, read_to);
    let grant = ReferenceGrant { meta: object.meta, from, to };
    Some(Document::Resource(Box::new(Resource::ReferenceGrant(grant))))
}

fn read_items<T>(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    name: &'static str,
    help: &str,
    read: fn(&mut Reader<'_>, NodeId) -> Option<T>,
) -> Vec<T> {
    let Some(node) = reader.required(spec, name, help) else { return Vec::new() };
    let Some(items) = reader.list(node, &format!("`{name}`"), help) else { return Vec::new() };
    if items.is_empty() {
        reader.empty(reader.span(node), &format!("`{name}`"), help);
    }
    items.iter().filter_map(|item| read(reader, *item)).collect()
}

/// Kind and namespace; `None` also where no route of this form is meant.
fn read_from(reader: &mut Reader<'_>, node: NodeId) -> Option<(String, String)> {
    let fields = reader.object(node, "an entry of `from`", FROM)?;
    let group = required_string(reader, &fields, "group", FROM_HELP);
    let kind = required_string(reader, &fields, "kind", FROM_HELP);
    let namespace = reader.required(&fields, "namespace", FROM_HELP);
    let namespace = namespace.and_then(|node| reader.name(node, "a namespace"));
    (group? == GROUP).then_some(())?;
    Some((kind?.to_owned(), namespace?.to_owned()))
}

/// Kind and name; `None` also where what is meant cannot be a backend.
fn read_to(reader: &mut Reader<'_>, node: NodeId) -> Option<(String, Option<String>)> {
    let fields = reader.object(node, "an entry of `to`", TO)?;
    let group = required_string(reader, &fields, "group", TO_HELP);
    let kind = required_string(reader, &fields, "kind", TO_HELP);
    let name = match fields.value("name") {
        Some(node) => Some(reader.kube_name(node, "a Service")?.to_owned()),
        None => None,
    };
    let (group, kind) = group.zip(kind)?;
    let is_backend = !matches!(backend_kind(group, kind), BackendKind::Invalid(_));
    is_backend.then(|| (kind.to_owned(), name))
}

fn required_string<'a>(
    reader: &mut Reader<'a>,
    fields: &Fields<'_>,
    name: &'static str,
    help: &str,
) -> Option<&'a str> {
    let node = reader.required(fields, name, help)?;
    reader.string(node, &format!("`{name}`"))
}
