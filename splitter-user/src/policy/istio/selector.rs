//! `workloadSelector` of `ServiceEntry` and `Sidecar`.

use crate::policy::fields::{Field, read as field};
use crate::policy::mesh::resource::Labels;
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const SELECTOR: &[Field] = &[field("labels")];

/// The labels that a workload must have. `None` where it is no mapping.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> Option<Labels> {
    let fields = reader.object(node, "the selector", SELECTOR)?;
    Some(fields.get("labels").map(|entry| reader.selector(entry)).unwrap_or_default())
}
