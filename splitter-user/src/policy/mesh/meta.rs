//! What Kubernetes puts around every object: `apiVersion`, `kind`, `metadata`, `spec`, `status`.

use super::resource::{Labels, Meta};
use crate::policy::Reading;
use crate::policy::fields::{Field, inert, read};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;

/// `ObjectMeta` of Kubernetes.
const META: &[Field] = &[
    read("name"),
    read("namespace"),
    read("labels"),
    read("annotations"),
    inert("creationTimestamp"),
    inert("deletionGracePeriodSeconds"),
    inert("deletionTimestamp"),
    inert("finalizers"),
    inert("generateName"),
    inert("generation"),
    inert("managedFields"),
    inert("ownerReferences"),
    inert("resourceVersion"),
    inert("selfLink"),
    inert("uid"),
];

/// An object's parts.
pub(in crate::policy) struct Object<'a> {
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) annotations: Labels,
    /// The object's own keys, `spec` and `status` among them.
    pub(in crate::policy) fields: Fields<'a>,
}

/// Reads an object whose own keys are in `table`, which holds `apiVersion`, `kind` and `metadata`
/// as inert too. `None` where not even its name is known.
pub(in crate::policy) fn read_object<'a>(
    reader: &mut Reader<'a>,
    node: NodeId,
    reading: &Reading,
    table: &'static [Field],
) -> Option<Object<'a>> {
    let fields = reader.object(node, "the document", table)?;
    let (meta, annotations) = read_meta(reader, node, reading)?;
    Some(Object { meta, annotations, fields })
}

fn read_meta(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<(Meta, Labels)> {
    let Some(node) = reader.peek(node, "metadata") else {
        let at = reader.span(node);
        reader.missing(at, "the document", "metadata", "write `metadata: {name: NAME}`");
        return None;
    };
    let fields = reader.object(node, "the metadata", META)?;
    let labels = fields.value("labels").map(|node| reader.labels(node, "labels"));
    let annotations = fields.value("annotations").map(|node| reader.labels(node, "annotations"));
    let namespace = match fields.value("namespace") {
        Some(node) => reader.name(node, "a namespace")?.to_owned(),
        None => reading.namespace.clone(),
    };
    let node = reader.required(&fields, "name", "give the document a name")?;
    let name = reader.kube_name(node, "the document")?;
    let meta = Meta {
        namespace,
        name: name.to_owned(),
        labels: labels.unwrap_or_default(),
        at: reader.span(node),
    };
    Some((meta, annotations.unwrap_or_default()))
}
