//! `kind: DestinationRule`: the subsets of a host, and what is asked of connections to them.

use std::collections::HashMap;

use super::traffic_policy;
use crate::policy::Reading;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{
    DestinationRule, Export, Labels, Resource, RuleSubset, TrafficPolicy,
};
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), inert("status")];

/// `DestinationRule`.
const TABLE: &[Field] = &[
    field("host"),
    field("trafficPolicy"),
    field("subsets"),
    field("exportTo"),
    field("workloadSelector"),
];

/// `Subset`.
const SUBSET: &[Field] = &[field("name"), field("labels"), field("trafficPolicy")];

/// `WorkloadSelector`.
const SELECTOR: &[Field] = &[field("matchLabels")];

/// Reads a document.
pub(in crate::policy) fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {host: HOST, subsets: [{name: v1, labels: {version: v1}}]}`";
    let spec = reader.required(&object.fields, "spec", help)?;
    let spec = reader.object(spec, "the spec", TABLE)?;
    let host = reader
        .required(&spec, "host", "write the name of a service")
        .and_then(|node| reader.host(node, "a host"));
    let export = reader.export_of_rule(&spec, &object.meta.namespace);
    let workload_selector = spec.get("workloadSelector").and_then(|e| read_selector(reader, e));
    if workload_selector.is_some() {
        check_export(reader, &spec, &export, &object.meta.namespace);
    }
    let policy = read_policy(reader, &spec);
    let subsets = spec.value("subsets").map_or_else(Vec::new, |node| read_subsets(reader, node));
    let (meta, host) = (object.meta, host?);
    let rule = DestinationRule { meta, host, export, workload_selector, policy, subsets };
    Some(Document::Resource(Box::new(Resource::DestinationRule(rule))))
}

fn read_policy(reader: &mut Reader<'_>, fields: &Fields<'_>) -> TrafficPolicy {
    let entry = fields.get("trafficPolicy");
    entry.map_or_else(TrafficPolicy::default, |entry| traffic_policy::read(reader, entry.value))
}

fn read_selector(reader: &mut Reader<'_>, entry: Entry<'_>) -> Option<Labels> {
    let fields = reader.object(entry.value, "the workload selector", SELECTOR)?;
    Some(fields.get("matchLabels").map_or_else(Labels::new, |entry| reader.selector(entry)))
}

/// Clients are selected by labels in the document's own namespace alone.
fn check_export(reader: &mut Reader<'_>, spec: &Fields<'_>, export: &Export, own: &str) {
    let Some(entry) = spec.get("exportTo") else { return };
    let is_own = matches!(export, Export::Namespaces(names) if names.len() == 1
        && names.iter().all(|name| name == own));
    if !is_own {
        let message = "`workloadSelector` selects clients of the document's own namespace alone";
        let diagnostic = Diagnostic::new(&code::EXCLUSIVE_KEYS, entry.key, message);
        reader.push(diagnostic.with_help("write `exportTo: [.]`"));
    }
}

fn read_subsets(reader: &mut Reader<'_>, node: NodeId) -> Vec<RuleSubset> {
    let mut first: HashMap<String, Span> = HashMap::new();
    let mut subsets = Vec::new();
    for node in reader.items(node, "`subsets`") {
        let Some(subset) = read_subset(reader, *node) else { continue };
        let name = &subset.name;
        if let Some(first) = first.get(&name.value) {
            let message = format!("the subset {} is given twice", quote(&name.value));
            reader.push(
                Diagnostic::new(&code::DUPLICATE_ENTRY, name.at, message)
                    .with_label("again here")
                    .with_secondary(*first, "first here")
                    .with_help("delete one of the two, or rename it"),
            );
            continue;
        }
        first.insert(name.value.clone(), name.at);
        subsets.push(subset);
    }
    subsets
}

fn read_subset(reader: &mut Reader<'_>, node: NodeId) -> Option<RuleSubset> {
    let fields = reader.object(node, "a subset", SUBSET)?;
    let labels = fields.get("labels").map_or_else(Labels::new, |entry| reader.selector(entry));
    let policy = read_policy(reader, &fields);
    let name = reader.required(&fields, "name", "write `name: v1`")?;
    let name = reader.dns_label(name, "a subset")?;
    Some(RuleSubset { name, labels, policy })
}
