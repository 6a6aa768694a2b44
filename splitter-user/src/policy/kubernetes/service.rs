//! `v1` `Service`: the addresses that clients dial, and which pods serve them.

use std::net::IpAddr;

use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field, refused};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::port;
use crate::policy::mesh::resource::{
    At, Export, KubeService, Labels, Resource, ServicePort, Target, Transport,
};
use crate::policy::reader::{Fields, Reader};
use crate::policy::yaml::{NodeId, Scalar, Value};
use crate::policy::{Reading, code};

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), inert("status")];

/// `ServiceSpec`. Without effect is what is about load balancers and ports of the node, which
/// connections reach from outside, and what an API server does before it writes addresses.
const SPEC: &[Field] = &[
    field("clusterIP"),
    field("clusterIPs"),
    field("externalIPs"),
    field("externalName"),
    field("internalTrafficPolicy"),
    field("ports"),
    field("publishNotReadyAddresses"),
    field("selector"),
    field("sessionAffinity"),
    field("type"),
    refused(
        "trafficDistribution",
        &code::NOT_ENFORCED,
        "connections go to all ready endpoints, wherever they are; delete the field",
    ),
    inert("allocateLoadBalancerNodePorts"),
    inert("externalTrafficPolicy"),
    inert("healthCheckNodePort"),
    inert("ipFamilies"),
    inert("ipFamilyPolicy"),
    inert("loadBalancerClass"),
    inert("loadBalancerIP"),
    inert("loadBalancerSourceRanges"),
    // The time-out of an affinity that is itself reported.
    inert("sessionAffinityConfig"),
];

/// `ServicePort`. Nobody dials a node's port to reach a service of the same mesh.
const PORT: &[Field] = &[
    field("name"),
    field("port"),
    field("targetPort"),
    field("protocol"),
    field("appProtocol"),
    inert("nodePort"),
];

/// `clusterIP` of a service that is dialled at its pods' addresses.
const HEADLESS: &str = "None";

#[derive(Clone, Copy, PartialEq, Eq)]
enum ServiceType {
    Addressed,
    ExternalName,
}

const TYPES: &[(&str, ServiceType)] = &[
    ("ClusterIP", ServiceType::Addressed),
    ("NodePort", ServiceType::Addressed),
    ("LoadBalancer", ServiceType::Addressed),
    ("ExternalName", ServiceType::ExternalName),
];

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let Object { meta, annotations, fields } = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {selector: {app: web}, ports: [{port: 80}]}`";
    let spec = reader.required(&fields, "spec", help)?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    report_policies(reader, &spec);
    let type_node = spec.value("type");
    let kind = type_node.and_then(|node| reader.word(node, "a type of service", TYPES));
    let is_name = kind == Some(ServiceType::ExternalName);
    let (addresses, headless) = read_addresses(reader, &spec);
    let publish = spec.value("publishNotReadyAddresses");
    let service = KubeService {
        addresses,
        headless,
        ports: read_ports(reader, &spec, is_name || headless),
        selector: read_selector(reader, &spec),
        external_name: if is_name { read_external_name(reader, &spec) } else { None },
        publish_not_ready: publish
            .and_then(|node| reader.boolean(node, "`publishNotReadyAddresses`"))
            .unwrap_or_default(),
        export: read_export(reader, node, &annotations, &meta.namespace),
        meta,
    };
    Some(Document::Resource(Box::new(Resource::Service(service))))
}

/// Reports the policies that choose among endpoints by who the client is, where they are not their
/// defaults.
fn report_policies(reader: &mut Reader<'_>, spec: &Fields<'_>) {
    for (name, default, other, help) in [
        (
            "internalTrafficPolicy",
            "Cluster",
            "Local",
            "connections go to endpoints of every node; delete the field",
        ),
        (
            "sessionAffinity",
            "None",
            "ClientIP",
            "Istio ignores it as well; for clients that stay with a backend, write a \
             DestinationRule with `loadBalancer: {consistentHash: {useSourceIp: true}}`",
        ),
    ] {
        let Some(entry) = spec.get(name) else { continue };
        let words = [(default, false), (other, true), ("", false)];
        if reader.word(entry.value, &format!("a value of `{name}`"), &words) == Some(true) {
            let message = format!("`{name}: {other}` is not enforced");
            reader.push(Diagnostic::new(&code::NOT_ENFORCED, entry.key, message).with_help(help));
        }
    }
}

/// Every address, each once, and whether there is none on purpose.
fn read_addresses(reader: &mut Reader<'_>, spec: &Fields<'_>) -> (Vec<At<IpAddr>>, bool) {
    let mut nodes: Vec<NodeId> = spec.value("clusterIP").into_iter().collect();
    for name in ["clusterIPs", "externalIPs"] {
        if let Some(node) = spec.value(name) {
            nodes.extend(reader.items(node, &format!("`{name}`")));
        }
    }
    let mut addresses: Vec<At<IpAddr>> = Vec::new();
    let mut headless = false;
    for node in nodes {
        match reader.text(node) {
            // Not allocated yet.
            Some("") => {}
            Some(HEADLESS) => headless = true,
            _ => {
                let Some(value) = reader.ip(node) else { continue };
                if addresses.iter().all(|known| known.value != value) {
                    addresses.push(At { value, at: reader.span(node) });
                }
            }
        }
    }
    (addresses, headless)
}

fn read_external_name(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<At<String>> {
    let help = "write the host that the service stands for: `externalName: db.example.com`";
    let node = reader.required(spec, "externalName", help)?;
    reader.host(node, "`externalName`")
}

fn read_selector(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Labels {
    spec.value("selector").map(|node| reader.labels(node, "selector")).unwrap_or_default()
}

/// What Istio reads from `networking.istio.io/exportTo`: namespaces between commas.
fn read_export(
    reader: &mut Reader<'_>,
    document: NodeId,
    annotations: &Labels,
    own: &str,
) -> Export {
    const KEY: &str = "networking.istio.io/exportTo";
    let Some(text) = annotations.get(KEY) else { return Export::All };
    let place = ["metadata", "annotations", KEY];
    let node = place.iter().try_fold(document, |node, key| reader.peek(node, key));
    let at = node.map_or(reader.span(document), |node| reader.span(node));
    let mut namespaces = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry {
            "*" => return Export::All,
            "." => namespaces.push(own.to_owned()),
            "~" => {}
            name if reader.check_name(name, at, "a namespace") => namespaces.push(name.to_owned()),
            _ => {}
        }
    }
    Export::Namespaces(namespaces)
}

fn read_ports(reader: &mut Reader<'_>, spec: &Fields<'_>, optional: bool) -> Vec<ServicePort> {
    let Some(node) = spec.value("ports") else {
        if !optional {
            reader.required(spec, "ports", "write `ports: [{name: http, port: 80}]`");
        }
        return Vec::new();
    };
    let items = reader.items(node, "`ports`");
    if items.is_empty() && !optional {
        reader.empty(reader.span(node), "`ports`", "write `ports: [{name: http, port: 80}]`");
    }
    let several = items.len() > 1;
    let ports = items.iter().filter_map(|item| read_port(reader, *item, several)).collect();
    port::unique(reader, ports, |port| (port.number, port.transport))
}

fn read_port(reader: &mut Reader<'_>, node: NodeId, several: bool) -> Option<ServicePort> {
    let fields = reader.object(node, "a port", PORT)?;
    let name = read_port_name(reader, &fields, several);
    let app = fields.value("appProtocol").and_then(|node| reader.string(node, "`appProtocol`"));
    let transport = fields.value("protocol").and_then(|node| read_transport(reader, node));
    let target = fields.value("targetPort").and_then(|node| read_target(reader, node));
    let number = reader.required(&fields, "port", "write `port: 80`")?;
    let (name, number) = (name?, reader.port(number)?);
    Some(ServicePort {
        at: fields.span(),
        number,
        name: (!name.is_empty()).then(|| name.to_owned()),
        transport: transport.unwrap_or(Transport::Tcp),
        application: port::application(app, Some(name), number),
        target,
    })
}

/// The name of a port; empty for an only port without one, `None` where it was in error.
fn read_port_name<'a>(
    reader: &mut Reader<'a>,
    fields: &Fields<'a>,
    several: bool,
) -> Option<&'a str> {
    match fields.value("name").filter(|node| reader.text(*node) != Some("")) {
        Some(node) => reader.name(node, "a port"),
        None if several => {
            let help = "name each port where there are several: `name: http`";
            reader.missing(fields.span(), "the port", "name", help);
            None
        }
        None => Some(""),
    }
}

/// Reads `protocol` of a port.
pub(super) fn read_transport(reader: &mut Reader<'_>, node: NodeId) -> Option<Transport> {
    let words = [("TCP", Transport::Tcp), ("UDP", Transport::Udp), ("SCTP", Transport::Sctp)];
    reader.word(node, "a protocol of a port", &words)
}

/// Reads `targetPort`: a number, or the name of a container's port. 0 means the port itself.
fn read_target(reader: &mut Reader<'_>, node: NodeId) -> Option<Target> {
    match reader.value(node) {
        Value::Scalar(Scalar { text, quoted: false }) if text == "0" => None,
        Value::Scalar(scalar) if scalar.text.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
            Some(Target::Name(reader.name(node, "a port")?.to_owned()))
        }
        _ => reader.port(node).map(Target::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::read_resources;

    fn read(annotations: &str, spec: &str) -> KubeService {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop, \
             annotations: {{{annotations}}}}}\nspec: {{ports: [{{port: 80, {spec}}}]}}\n"
        );
        match read_resources(&text).pop() {
            Some(Resource::Service(service)) => service,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn targets() {
        let target = |text: &str| read("", &format!("targetPort: {text}")).ports[0].target.clone();
        assert_eq!(target("null"), None);
        assert_eq!(target("0"), None);
        assert_eq!(target("8080"), Some(Target::Number(8080)));
        assert_eq!(target("web"), Some(Target::Name("web".to_owned())));
        assert_eq!(target("'8080-a'"), Some(Target::Name("8080-a".to_owned())));
    }

    #[test]
    fn exports() {
        let export = |text| read(&format!("networking.istio.io/exportTo: '{text}'"), "").export;
        let namespaces = |names: &[&str]| {
            Export::Namespaces(names.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(read("", "").export, Export::All);
        assert_eq!(export("*"), Export::All);
        assert_eq!(export("., edge"), namespaces(&["shop", "edge"]));
        assert_eq!(export("~"), namespaces(&[]));
    }
}
