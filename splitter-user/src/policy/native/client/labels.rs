//! Clients by the labels that documents give them.

use super::cgroup;
use crate::policy::mesh::resource::ClientSelector;
use crate::policy::native::route::exclusive;
use crate::policy::reader::{Fields, Reader};

/// The keys, of which the second only narrows the first.
pub(in crate::policy::native) const KEYS: [&str; 2] = ["labels", "namespace"];
const HELP: &str = "write `labels: {app: web}`: what the clients' workloads bear";

/// The labels that are asked for, of the document's `own` namespace where no other is named. `None`
/// where there are none, `Some(None)` where they are wrong.
#[expect(clippy::option_option, reason = "absent and wrong differ, and both are no value")]
pub(in crate::policy::native) fn read(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    own: &str,
) -> Option<Option<ClientSelector>> {
    let [labels, namespace] = KEYS.map(|key| fields.get(key));
    let namespace = namespace.map(|entry| (entry, reader.name(entry.value, "a namespace")));
    let Some(labels) = labels else {
        let (entry, _) = namespace?;
        reader.missing(entry.key, "a match by `namespace`", "labels", HELP);
        return Some(None);
    };
    if let Some(cgroup) = cgroup::KEYS.iter().find_map(|key| fields.get(key)) {
        exclusive(reader, labels, cgroup, "each of them says which cgroups these are: keep one");
        return Some(None);
    }
    let wanted = reader.labels(labels.value, "labels");
    if wanted.is_empty() {
        reader.empty(reader.span(labels.value), "`labels`", HELP);
        return Some(None);
    }
    let namespace = match namespace {
        Some((_, name)) => name,
        None => Some(own),
    };
    Some(namespace.map(|name| ClientSelector { namespace: name.to_owned(), labels: wanted }))
}
