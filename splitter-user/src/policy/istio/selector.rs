//! `workloadSelector` of `ServiceEntry` and `Sidecar`.

use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, read as field};
use crate::policy::mesh::resource::Labels;
use crate::policy::reader::Reader;
use crate::policy::yaml::NodeId;

const SELECTOR: &[Field] = &[field("labels")];

/// The labels that a workload must have. `None` where the selector was in error.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> Option<Labels> {
    let fields = reader.object(node, "the selector", SELECTOR)?;
    let Some(node) = fields.value("labels") else { return Some(Labels::new()) };
    let labels = reader.labels(node, "labels");
    let is_plain = |text: &String| !text.contains('*');
    if labels.iter().all(|(key, value)| !key.is_empty() && is_plain(key) && is_plain(value)) {
        return Some(labels);
    }
    let at = reader.span(node);
    let message = "labels of a selector have no wildcards and no empty keys";
    let help = "write each label as it is, `app: web`; leave a label out to take every value";
    reader.push(Diagnostic::new(&code::BAD_LABEL, at, message).with_help(help));
    None
}
