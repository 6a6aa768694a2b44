//! `discovery.k8s.io/v1` `EndpointSlice`: the servers of a service, as a cluster knows them.
//!
//! Which service a slice belongs to is in its label `kubernetes.io/service-name`, and is found out
//! where all documents are known.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::service::read_transport;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::resource::{EndpointSlice, Labels, Resource, SliceEndpoint};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::NodeId;
use crate::policy::{Reading, code};

const DOCUMENT: &[Field] = &[
    inert("apiVersion"),
    inert("kind"),
    inert("metadata"),
    field("addressType"),
    field("endpoints"),
    field("ports"),
];

/// `Endpoint`. Hints say which nodes should prefer it, and every node uses all.
const ENDPOINT: &[Field] = &[
    field("addresses"),
    field("conditions"),
    field("nodeName"),
    field("targetRef"),
    field("zone"),
    inert("deprecatedTopology"),
    inert("hints"),
    inert("hostname"),
];

/// `EndpointConditions`. `serving` differs from `ready` only while an endpoint terminates, and
/// then it gets no new connection either way.
const CONDITIONS: &[Field] = &[field("ready"), field("terminating"), inert("serving")];

/// `ObjectReference`.
const TARGET: &[Field] = &[
    field("kind"),
    field("name"),
    field("namespace"),
    inert("apiVersion"),
    inert("fieldPath"),
    inert("resourceVersion"),
    inert("uid"),
];

/// `EndpointPort`. What it speaks is the service's to say.
const PORT: &[Field] = &[field("name"), field("port"), field("protocol"), inert("appProtocol")];

/// Family of a slice's addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AddressType {
    Ipv4,
    Ipv6,
    Fqdn,
}

const ADDRESS_TYPES: &[(&str, AddressType)] =
    &[("IPv4", AddressType::Ipv4), ("IPv6", AddressType::Ipv6), ("FQDN", AddressType::Fqdn)];

/// Reads a document.
pub(super) fn read_slice(
    reader: &mut Reader<'_>,
    node: NodeId,
    reading: &Reading,
) -> Option<Document> {
    let Object { meta, fields, .. } = read_object(reader, node, reading, DOCUMENT)?;
    let family = read_address_type(reader, &fields);
    let mut endpoints = Vec::new();
    if let (Some(node), Some(family)) = (fields.value("endpoints"), family) {
        let items = reader.items(node, "`endpoints`");
        let own = meta.namespace.as_str();
        endpoints.extend(items.iter().filter_map(|item| read_endpoint(reader, *item, family, own)));
    }
    let ports = read_ports(reader, &fields);
    let slice = EndpointSlice { meta, ports, endpoints };
    Some(Document::Resource(Box::new(Resource::EndpointSlice(slice))))
}

fn read_address_type(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<AddressType> {
    let node = reader.required(fields, "addressType", "write `addressType: IPv4`")?;
    let family = reader.word(node, "an address type", ADDRESS_TYPES)?;
    if family != AddressType::Fqdn {
        return Some(family);
    }
    let at = reader.span(node);
    let message = "the endpoints of the slice are names, which Kubernetes does not resolve";
    let help = "write the addresses with `addressType: IPv4` or `IPv6`, or name the hosts in a \
                ServiceEntry with `resolution: DNS`";
    reader.push(Diagnostic::new(&code::NOT_AN_ENDPOINT, at, message).with_help(help));
    None
}

/// Port by name. One without a number stands for every port, which is how services without ports
/// are written, and names none.
fn read_ports(reader: &mut Reader<'_>, fields: &Fields<'_>) -> BTreeMap<String, u16> {
    let Some(node) = fields.value("ports") else { return BTreeMap::new() };
    let mut ports = BTreeMap::new();
    for item in reader.items(node, "`ports`") {
        let Some(fields) = reader.object(*item, "a port", PORT) else { continue };
        if let Some(node) = fields.value("protocol") {
            read_transport(reader, node);
        }
        let name = match fields.value("name").filter(|node| reader.text(*node) != Some("")) {
            Some(node) => reader.name(node, "a port"),
            None => Some(""),
        };
        let number = fields.value("port").and_then(|node| reader.port(node));
        if let (Some(name), Some(number)) = (name, number) {
            ports.insert(name.to_owned(), number);
        }
    }
    ports
}

fn read_endpoint(
    reader: &mut Reader<'_>,
    node: NodeId,
    family: AddressType,
    own: &str,
) -> Option<SliceEndpoint> {
    let fields = reader.object(node, "an endpoint", ENDPOINT)?;
    let addresses = read_addresses(reader, &fields, family);
    let (ready, terminating) = read_conditions(reader, &fields);
    let mut labels = Labels::new();
    for (name, label) in
        [("zone", "topology.kubernetes.io/zone"), ("nodeName", "kubernetes.io/hostname")]
    {
        let node = fields.value(name);
        if let Some(text) = node.and_then(|node| reader.string(node, &format!("`{name}`"))) {
            labels.insert(label.to_owned(), text.to_owned());
        }
    }
    let pod = fields.value("targetRef").and_then(|node| read_target(reader, node, own));
    Some(SliceEndpoint { at: fields.span(), addresses, ready, terminating, pod, labels })
}

fn read_addresses(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    family: AddressType,
) -> Vec<IpAddr> {
    let help = "write `addresses: [10.0.0.1]`";
    let Some(node) = reader.required(fields, "addresses", help) else { return Vec::new() };
    let items = reader.items(node, "`addresses`");
    if items.is_empty() {
        reader.empty(reader.span(node), "`addresses`", help);
    }
    let mut addresses = Vec::new();
    for item in items {
        let Some(ip) = reader.ip(*item) else { continue };
        if ip.is_ipv4() == (family == AddressType::Ipv4) {
            addresses.push(ip);
        } else {
            let message = format!("`{ip}` is not of the slice's `addressType`");
            let help = "a slice has addresses of one family: write two slices";
            let at = reader.span(*item);
            reader.push(Diagnostic::new(&code::MIXED_FAMILIES, at, message).with_help(help));
        }
    }
    addresses
}

/// `ready`, which is true where absent, and `terminating`.
fn read_conditions(reader: &mut Reader<'_>, fields: &Fields<'_>) -> (bool, bool) {
    let node = fields.value("conditions");
    let conditions = node.and_then(|node| reader.object(node, "the conditions", CONDITIONS));
    let Some(conditions) = conditions else { return (true, false) };
    let mut is = |name: &str| {
        let node = conditions.value(name)?;
        reader.boolean(node, &format!("`{name}`"))
    };
    (is("ready").unwrap_or(true), is("terminating").unwrap_or(false))
}

/// Namespace and name of the pod that an endpoint is, if it is one.
fn read_target(reader: &mut Reader<'_>, node: NodeId, own: &str) -> Option<(String, String)> {
    let fields = reader.object(node, "the target", TARGET)?;
    if fields.value("kind").and_then(|kind| reader.text(kind)) != Some("Pod") {
        return None;
    }
    let name = reader.kube_name(fields.value("name")?, "a pod")?;
    let namespace = match fields.value("namespace") {
        Some(node) => reader.name(node, "a namespace")?,
        None => own,
    };
    Some((namespace.to_owned(), name.to_owned()))
}

/// Passes over a `v1` `Endpoints`: Kubernetes mirrors each into slices, which say the same.
pub(super) fn skip_endpoints(
    reader: &mut Reader<'_>,
    node: NodeId,
    _: &Reading,
) -> Option<Document> {
    let at = reader.peek(node, "kind").map_or(reader.span(node), |kind| reader.span(kind));
    let message = "`kind: Endpoints` is not read";
    let help = "give the service's EndpointSlices, which say the same: `kubectl get endpointslices \
                -o yaml`";
    reader.push(Diagnostic::new(&code::NO_ENDPOINTS, at, message).with_help(help));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::read_resources;

    fn read(rest: &str) -> EndpointSlice {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: a, namespace: shop}}\naddressType: IPv4\n{rest}\n"
        );
        match read_resources(&text).pop() {
            Some(Resource::EndpointSlice(slice)) => slice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conditions_that_are_absent_mean_ready() {
        let conditions = |text: &str| {
            let slice =
                read(&format!("endpoints: [{{addresses: [10.0.0.1], conditions: {text}}}]"));
            (slice.endpoints[0].ready, slice.endpoints[0].terminating)
        };
        assert_eq!(conditions("null"), (true, false));
        assert_eq!(conditions("{}"), (true, false));
        assert_eq!(conditions("{ready: null}"), (true, false));
        assert_eq!(conditions("{ready: false, serving: true, terminating: true}"), (false, true));
    }

    #[test]
    fn targets_are_pods() {
        let target = |text: &str| {
            let slice = read(&format!("endpoints: [{{addresses: [10.0.0.1], targetRef: {text}}}]"));
            slice.endpoints[0].pod.clone()
        };
        let pod = |namespace: &str| Some((namespace.to_owned(), "a.b".to_owned()));
        assert_eq!(target("{kind: Pod, name: a.b}"), pod("shop"));
        assert_eq!(target("{kind: Pod, name: a.b, namespace: edge}"), pod("edge"));
        assert_eq!(target("{kind: Node, name: a.b}"), None);
    }

    #[test]
    fn ports_may_have_no_name_and_no_number() {
        let slice =
            read("ports: [{port: 80}, {name: a, port: 81}, {name: b}, {name: '', port: null}]");
        assert_eq!(slice.ports, BTreeMap::from([(String::new(), 80), ("a".to_owned(), 81)]));
        assert!(read("ports: null\nendpoints: null").ports.is_empty());
    }
}
