//! `kind: Workload`: who the clients of a cgroup are.

use super::meta::read_object;
use super::resource::{At, Resource, Workload};
use crate::policy::Reading;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::native::read_cgroup;
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] = &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec")];
const SPEC: &[Field] = &[field("cgroup"), field("labels")];

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
    let node = reader.required(&spec, "cgroup", "write `cgroup: /system.slice/web.service`")?;
    let cgroup = At { value: read_cgroup(reader, node)?, at: reader.span(node) };
    let workload = Workload { meta: object.meta, cgroup, labels };
    Some(Document::Resource(Box::new(Resource::Workload(workload))))
}
