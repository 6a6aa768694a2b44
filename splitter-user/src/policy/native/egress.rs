//! `kind: Egress`: what clients may reach besides the services.

use std::collections::HashMap;

use super::client::{CGROUP_KEYS, read_cgroup_name};
use super::values::not_enforced;
use crate::policy::Reading;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::resource::{At, ClientEgress, OutboundMode, Resource};
use crate::policy::model::CgroupName;
use crate::policy::reader::Reader;
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;

const DOCUMENT: &[Field] = &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec")];
const SPEC: &[Field] = &[field("mode"), field("clients")];
/// The words for what clients may reach.
pub(super) const MODES: [(&str, OutboundMode); 2] =
    [("allowAny", OutboundMode::AllowAny), ("registryOnly", OutboundMode::RegistryOnly)];
const CLIENTS_HELP: &str = "write `clients: [{cgroup: /system.slice/web.service}]`, or leave \
                            `clients` out for every client";

/// Reads a document.
pub(in crate::policy) fn read(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let object = read_object(reader, node, reading, DOCUMENT)?;
    let spec = reader.required(&object.fields, "spec", "write `spec: {mode: registryOnly}`")?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    let clients = match spec.value("clients") {
        Some(node) => read_clients(reader, node),
        None => Some(Vec::new()),
    };
    reader.required(&spec, "mode", "write `mode: registryOnly` or `mode: allowAny`");
    let mode = spec.get("mode")?;
    let word = reader.word(mode.value, "a mode of egress", &MODES)?;
    if word == OutboundMode::RegistryOnly {
        let meanwhile = "connections to what is no service pass through untouched";
        not_enforced(reader, mode.key, "mode: registryOnly", meanwhile);
    }
    let egress = ClientEgress { meta: object.meta, cgroups: clients?, mode: word };
    Some(Document::Resource(Box::new(Resource::Egress(egress))))
}

/// Cgroups of the clients, at least one. `None` where one is wrong.
fn read_clients(reader: &mut Reader<'_>, node: NodeId) -> Option<Vec<At<CgroupName>>> {
    let nodes = reader.list(node, "`clients`", CLIENTS_HELP)?;
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`clients`", CLIENTS_HELP);
        return None;
    }
    let clients: Vec<_> = nodes.iter().filter_map(|node| read_client(reader, *node)).collect();
    let is_complete = clients.len() == nodes.len();
    (check_unique(reader, &clients) && is_complete).then_some(clients)
}

fn read_client(reader: &mut Reader<'_>, node: NodeId) -> Option<At<CgroupName>> {
    let fields = reader.fields(node, "a client", &CGROUP_KEYS)?;
    let Some(name) = read_cgroup_name(reader, &fields) else {
        reader.required(&fields, "cgroup", "write `cgroup`, `unit`, `container` or `pod`");
        return None;
    };
    let given = CGROUP_KEYS.iter().find_map(|key| fields.value(key))?;
    Some(At { value: name?, at: reader.span(given) })
}

fn check_unique(reader: &mut Reader<'_>, clients: &[At<CgroupName>]) -> bool {
    let mut seen: HashMap<&CgroupName, Span> = HashMap::with_capacity(clients.len());
    for At { value, at } in clients {
        let Some(first) = seen.insert(value, *at) else { continue };
        let message = format!("the {} {} is given twice", value.key(), quote(value.value()));
        reader.push(
            Diagnostic::new(&code::DUPLICATE_ENTRY, *at, message)
                .with_label("again here")
                .with_secondary(first, "first here")
                .with_help("delete one of the two"),
        );
    }
    seen.len() == clients.len()
}
