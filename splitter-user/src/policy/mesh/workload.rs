//! `kind: Workload`: who the clients of a cgroup are.

use super::meta::read_object;
use super::resource::{At, Resource, Workload};
use crate::policy::Reading;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::native::{CGROUP_KEYS, exclusive, read_cgroup_name, read_errno};
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] = &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec")];
const SPEC: &[Field] = &[
    field("cgroup"),
    field("unit"),
    field("container"),
    field("pod"),
    field("labels"),
    field("reject"),
];

/// Reads a document.
pub(in crate::policy) fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {cgroup: /system.slice/web.service, labels: {app: web}}`";
    let spec = reader.required(&object.fields, "spec", help)?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    let mut labels = object.meta.labels.clone();
    if let Some(node) = spec.value("labels") {
        labels.extend(reader.labels(node, "labels"));
    }
    if let (Some(labels), Some(reject)) = (spec.get("labels"), spec.get("reject")) {
        let help = "rules do not count for clients that are rejected: delete one of the two";
        exclusive(reader, reject, labels, help);
    }
    let reject = match spec.value("reject") {
        Some(node) => Some(read_errno(reader, node, "reject")?),
        None => None,
    };
    let Some(name) = read_cgroup_name(reader, &spec) else {
        // Says so, unless another key was meant to be it.
        reader.required(&spec, "cgroup", "write `cgroup`, `unit`, `container` or `pod`");
        return None;
    };
    let given = CGROUP_KEYS.iter().find_map(|key| spec.value(key))?;
    let cgroup = At { value: name?, at: reader.span(given) };
    let workload = Workload { meta: object.meta, cgroup, labels, reject };
    Some(Document::Resource(Box::new(Resource::Workload(workload))))
}
