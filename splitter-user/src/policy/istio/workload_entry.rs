//! `WorkloadEntry`, and the same server within a `ServiceEntry`.

use std::collections::BTreeMap;

use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::resource::{
    At, Endpoint, EndpointAddress, Labels, Resource, WorkloadEntry,
};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::NodeId;
use crate::policy::{Reading, code};

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), inert("status")];

/// The account is for proxies that verify each other.
const SERVER: &[Field] = &[
    field("address"),
    field("ports"),
    field("labels"),
    field("network"),
    field("locality"),
    field("weight"),
    inert("serviceAccount"),
];

/// Labels that Istio makes of `locality`, for its parts in turn.
const LOCALITY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Label that Istio makes of `network`, and takes for it where that is absent.
const NETWORK: &str = "topology.istio.io/network";

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let Object { meta, fields, .. } = read_object(reader, node, reading, DOCUMENT)?;
    let spec = reader.required(&fields, "spec", "write `spec: {address: 10.0.0.1}`")?;
    let endpoint = read_server(reader, spec, "the spec", &meta.labels)?;
    let entry = WorkloadEntry { meta, endpoint };
    Some(Document::Resource(Box::new(Resource::WorkloadEntry(entry))))
}

/// Reads a server, whose labels are also those in `outer`. `None` where it is no mapping.
pub(super) fn read_server(
    reader: &mut Reader<'_>,
    node: NodeId,
    what: &'static str,
    outer: &Labels,
) -> Option<Endpoint> {
    let fields = reader.object(node, what, SERVER)?;
    let mut labels = fields.get("labels").map(|it| reader.selector(it)).unwrap_or_default();
    labels.extend(outer.clone());
    place(reader, &fields, &mut labels);
    let network = read_network(reader, &fields, &mut labels);
    let address = read_address(reader, &fields, network.is_some());
    let weight = fields.value("weight").and_then(|node| reader.number(node, "a weight"));
    let ports = fields.value("ports").map(|node| read_ports(reader, node));
    Some(Endpoint {
        at: fields.span(),
        address,
        ports: ports.unwrap_or_default(),
        labels,
        network,
        weight: weight.unwrap_or(1).max(1),
    })
}

/// Adds the labels that say where a server is: `region/zone/subzone`, of which the last may be
/// left out.
fn place(reader: &mut Reader<'_>, fields: &Fields<'_>, labels: &mut Labels) {
    let node = fields.value("locality");
    let Some(locality) = node.and_then(|node| reader.string(node, "`locality`")) else { return };
    for (label, part) in LOCALITY.iter().zip(locality.split('/')) {
        if !part.is_empty() {
            labels.insert((*label).to_owned(), part.to_owned());
        }
    }
}

fn read_network(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    labels: &mut Labels,
) -> Option<At<String>> {
    let node = fields.value("network").filter(|node| reader.text(*node) != Some(""));
    let Some(node) = node else {
        let value = labels.get(NETWORK)?.clone();
        return Some(At { value, at: fields.span() });
    };
    let value = reader.string(node, "`network`")?.to_owned();
    labels.insert(NETWORK.to_owned(), value.clone());
    Some(At { value, at: reader.span(node) })
}

/// Reads where the server is. A server of another network may be known by that alone.
fn read_address(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    has_network: bool,
) -> Option<At<EndpointAddress>> {
    if has_network && fields.value("address").is_none() {
        return None;
    }
    let node = reader.required(fields, "address", "write `address: 10.0.0.1`")?;
    let text = reader.string(node, "an address")?;
    let at = reader.span(node);
    if text.starts_with("unix://") {
        let message = format!("{} is a socket in the file system", quote(text));
        let help = "a connection to an IP address cannot be sent to it: let the server listen on \
                    127.0.0.1 as well";
        reader.push(Diagnostic::new(&code::NOT_AN_ENDPOINT, at, message).with_help(help));
        return None;
    }
    let is_numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_numeric || text.contains([':', '%']) {
        return Some(At { value: EndpointAddress::Ip(reader.ip(node)?), at });
    }
    let At { value: name, .. } = reader.host(node, "an address")?;
    if name.starts_with('*') {
        let message = format!("{} is no host that can be looked up", quote(text));
        let help = "write one host name, or an address";
        reader.push(Diagnostic::new(&code::BAD_HOST, at, message).with_help(help));
        return None;
    }
    Some(At { value: EndpointAddress::Name(name), at })
}

/// Port by name of the service's port.
fn read_ports(reader: &mut Reader<'_>, node: NodeId) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    for entry in reader.entries(node, "`ports`").unwrap_or_default() {
        let is_name = reader.check_name(entry.name, entry.key, "a port");
        if let Some(number) = reader.port(entry.value).filter(|_| is_name) {
            ports.insert(entry.name.to_owned(), number);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::read_resources;

    fn read(metadata: &str, spec: &str) -> Endpoint {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{name: a, {metadata}}}\nspec: {{address: 127.0.0.1, {spec}}}\n"
        );
        match &read_resources(&text)[..] {
            [Resource::WorkloadEntry(entry)] => entry.endpoint.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn places_are_labels() {
        let spec = "locality: r/z/s, network: far, labels: {app: web}";
        let expected = labels(&[
            ("app", "web"),
            ("topology.kubernetes.io/region", "r"),
            ("topology.kubernetes.io/zone", "z"),
            ("topology.istio.io/subzone", "s"),
            ("topology.istio.io/network", "far"),
        ]);
        assert_eq!(read("", spec).labels, expected);
        let region = labels(&[("topology.kubernetes.io/region", "r")]);
        assert_eq!(read("", "locality: r").labels, region);
        assert_eq!(read("", "locality: ''").labels, Labels::new());
    }

    #[test]
    fn labels_of_the_document_win() {
        let endpoint = read("labels: {version: v2}", "labels: {app: web, version: v1}");
        assert_eq!(endpoint.labels, labels(&[("app", "web"), ("version", "v2")]));
    }

    #[test]
    fn a_network_may_be_a_label() {
        let endpoint = read("", "labels: {topology.istio.io/network: far}");
        assert_eq!(endpoint.network.map(|network| network.value).as_deref(), Some("far"));
    }

    #[test]
    fn a_weight_is_at_least_one() {
        let weight = |spec| read("", spec).weight;
        assert_eq!((weight(""), weight("weight: 0"), weight("weight: 7")), (1, 1, 7));
    }
}
