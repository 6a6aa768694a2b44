//! `ServiceEntry`: a host that no cluster knows, and its servers.

use std::net::IpAddr;

use super::{selector, workload_entry};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, meaningless, read as field};
use crate::policy::mesh::meta::{Object, read_object};
use crate::policy::mesh::port;
use crate::policy::mesh::resource::{
    Application, At, Cidr, Endpoint, EndpointAddress, Export, Labels, Resolution, Resource,
    ServiceEntry, ServicePort, Target, Transport,
};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::{list, quote};
use crate::policy::yaml::{NodeId, Value};
use crate::policy::{Reading, code};

const DOCUMENT: &[Field] =
    &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec"), field("status")];

const SPEC: &[Field] = &[
    field("hosts"),
    field("addresses"),
    field("ports"),
    field("location"),
    field("resolution"),
    field("endpoints"),
    field("workloadSelector"),
    field("exportTo"),
    meaningless("subjectAltNames", "who a server is, is verified by clients that speak TLS"),
];

const PORT: &[Field] = &[field("number"), field("name"), field("protocol"), field("targetPort")];

/// What control planes write.
const STATUS: &[Field] = &[
    field("addresses"),
    inert("conditions"),
    inert("observedGeneration"),
    inert("validationMessages"),
];

/// Decides about encryption by proxies alone.
const LOCATIONS: &[(&str, ())] = &[("MESH_EXTERNAL", ()), ("MESH_INTERNAL", ())];

/// `None` is what only a proxy can do.
const RESOLUTIONS: &[(&str, Option<Resolution>)] = &[
    ("NONE", Some(Resolution::None)),
    ("STATIC", Some(Resolution::Static)),
    ("DNS", Some(Resolution::Dns)),
    ("DNS_ROUND_ROBIN", Some(Resolution::DnsRoundRobin)),
    ("DYNAMIC_DNS", None),
];

/// Reads a document.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId, reading: &Reading) -> Option<Document> {
    let Object { meta, fields, .. } = read_object(reader, node, reading, DOCUMENT)?;
    let help = "write `spec: {hosts: [db.example.com], ports: [{number: 5432, name: tcp, \
                protocol: TCP}], resolution: DNS}`";
    let spec = reader.required(&fields, "spec", help)?;
    let spec = reader.object(spec, "the spec", SPEC)?;
    if let Some(node) = spec.value("location") {
        reader.word(node, "a location", LOCATIONS);
    }
    let resolution = read_resolution(reader, &spec);
    let export = spec.value("exportTo").map(|node| read_export(reader, node, &meta.namespace));
    let selector = spec.value("workloadSelector").and_then(|node| selector::read(reader, node));
    let entry = ServiceEntry {
        hosts: read_hosts(reader, &spec),
        addresses: read_addresses(reader, &spec, resolution),
        ports: read_ports(reader, &spec),
        resolution: resolution.unwrap_or(Resolution::None),
        endpoints: read_endpoints(reader, &spec),
        workload_selector: selector,
        export: export.unwrap_or(Export::All),
        allocated: read_allocated(reader, &fields),
        meta,
    };
    let ports_given = spec.value("ports").map_or(0, |node| reader.items(node, "`ports`").len());
    // A port in error would be missed a second time.
    if entry.ports.len() == ports_given {
        check_endpoint_ports(reader, &entry);
    }
    if let Some(resolution) = resolution {
        check_exclusive(reader, &spec, resolution);
        check_resolution(reader, &entry, resolution);
    }
    Some(Document::Resource(Box::new(Resource::ServiceEntry(entry))))
}

/// Reads `exportTo`, where `~` for nobody stands alone.
fn read_export(reader: &mut Reader<'_>, node: NodeId, own: &str) -> Export {
    if let Value::Sequence(items @ [_, _, ..]) = reader.value(node) {
        let nobody = items.iter().find(|item| reader.text(**item) == Some("~"));
        if let Some(at) = nobody.map(|item| reader.span(*item)) {
            let message = "`~` in `exportTo` stands beside other entries";
            let help = "keep `~` alone, or name the namespaces";
            reader.push(Diagnostic::new(&code::EXCLUSIVE_KEYS, at, message).with_help(help));
        }
    }
    reader.export(node, own)
}

/// Reads how servers are found. `None` where it was in error.
fn read_resolution(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Option<Resolution> {
    let Some(node) = spec.value("resolution") else { return Some(Resolution::None) };
    let resolution = reader.word(node, "a resolution", RESOLUTIONS)?;
    if resolution.is_none() {
        let at = reader.span(node);
        let message = "with `DYNAMIC_DNS` a proxy looks up the host of each request";
        let help = "name each host, with `resolution: DNS`";
        reader.push(Diagnostic::new(&code::DYNAMIC, at, message).with_help(help));
    }
    resolution
}

/// Every host, each once.
fn read_hosts(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<At<String>> {
    let help = "write `hosts: [db.example.com]`";
    let Some(node) = reader.required(spec, "hosts", help) else { return Vec::new() };
    let items = reader.items(node, "`hosts`");
    if items.is_empty() {
        reader.empty(reader.span(node), "`hosts`", help);
    }
    let mut hosts: Vec<At<String>> = Vec::new();
    for item in items {
        let Some(host) = reader.host(*item, "a host") else { continue };
        if host.value == "*" {
            let message = "`*` is no host of a ServiceEntry";
            let help = "name the hosts, or all below a domain: `*.example.com`";
            reader.push(Diagnostic::new(&code::BAD_HOST, host.at, message).with_help(help));
        } else if hosts.iter().all(|known| known.value != host.value) {
            hosts.push(host);
        }
    }
    hosts
}

fn read_addresses(
    reader: &mut Reader<'_>,
    spec: &Fields<'_>,
    resolution: Option<Resolution>,
) -> Vec<At<Cidr>> {
    let Some(node) = spec.value("addresses") else { return Vec::new() };
    let looks_up = matches!(resolution, Some(Resolution::Dns | Resolution::DnsRoundRobin));
    let mut addresses = Vec::new();
    for item in reader.items(node, "`addresses`") {
        let Some(address) = read_address(reader, *item) else { continue };
        if looks_up && reader.text(*item).is_some_and(|text| text.contains('/')) {
            let message = "a host that is looked up has single addresses, not ranges";
            let help = "write the address without `/`, or use `resolution: STATIC` or `NONE`";
            reader.push(Diagnostic::new(&code::NO_RANGES, address.at, message).with_help(help));
            continue;
        }
        addresses.push(address);
    }
    addresses
}

/// An address that can be dialled, or a range.
fn read_address(reader: &mut Reader<'_>, node: NodeId) -> Option<At<Cidr>> {
    if reader.text(node).is_none_or(|text| text.contains('/')) {
        return reader.cidr(node, "an address");
    }
    let ip = reader.ip(node)?;
    let prefix = if ip.is_ipv4() { 32 } else { 128 };
    Some(At { value: Cidr::new(ip, prefix), at: reader.span(node) })
}

fn read_ports(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<ServicePort> {
    let Some(node) = spec.value("ports") else { return Vec::new() };
    let items = reader.items(node, "`ports`");
    let ports = items.iter().filter_map(|item| read_port(reader, *item)).collect();
    port::unique(reader, ports, |port| port.number)
}

fn read_port(reader: &mut Reader<'_>, node: NodeId) -> Option<ServicePort> {
    let fields = reader.object(node, "a port", PORT)?;
    let name = reader.required(&fields, "name", "write `name: http`");
    let name = name.and_then(|node| reader.name(node, "a port"));
    let spoken = match fields.value("protocol") {
        Some(node) => port::read_protocol(reader, node),
        None => None,
    };
    let (transport, application) = spoken.unwrap_or((Transport::Tcp, Application::Unknown));
    // Protobuf writes 0 where nobody set it.
    let target = fields.value("targetPort").filter(|node| reader.text(*node) != Some("0"));
    let target = target.and_then(|node| reader.port(node));
    let number = reader.required(&fields, "number", "write `number: 80`")?;
    Some(ServicePort {
        at: fields.span(),
        number: reader.port(number)?,
        name: Some(name?.to_owned()),
        transport,
        application,
        target: target.map(Target::Number),
    })
}

fn read_endpoints(reader: &mut Reader<'_>, spec: &Fields<'_>) -> Vec<Endpoint> {
    let Some(node) = spec.value("endpoints") else { return Vec::new() };
    let items = reader.items(node, "`endpoints`");
    let outer = Labels::new();
    let read = |item: &NodeId| workload_entry::read_server(reader, *item, "an endpoint", &outer);
    items.iter().filter_map(read).collect()
}

/// Addresses of `status`, which a control plane gave to hosts without any, and the hosts.
fn read_allocated(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Vec<(Option<String>, IpAddr)> {
    let Some(node) = fields.value("status") else { return Vec::new() };
    let status = reader.object(node, "the status", STATUS);
    let Some(list) = status.and_then(|status| status.value("addresses")) else {
        return Vec::new();
    };
    let items = reader.items(list, "`addresses`");
    let read = |item: &NodeId| {
        let fields = reader.open_object(*item, "an address", &["value", "host"])?;
        let host = fields.value("host").filter(|node| reader.text(*node) != Some(""));
        let host = host.and_then(|node| reader.host(node, "a host"));
        let ip = reader.ip(fields.value("value")?)?;
        Some((host.map(|host| host.value), ip))
    };
    items.iter().filter_map(read).collect()
}

fn check_exclusive(reader: &mut Reader<'_>, spec: &Fields<'_>, resolution: Resolution) {
    let keys = ["endpoints", "workloadSelector"];
    reader.exclude(spec, keys, "keep one: servers written here, or those selected");
    let endpoints = spec.get("endpoints").filter(|_| resolution == Resolution::None);
    if let Some(endpoints) = endpoints {
        let message = "without a resolution connections go where clients dial, and `endpoints` \
                       would never be used";
        let help = "write `resolution: STATIC`, or `DNS` for host names";
        reader.push(Diagnostic::new(&code::EXCLUSIVE_KEYS, endpoints.key, message).with_help(help));
    }
}

/// Checks what depends on how servers are found.
fn check_resolution(reader: &mut Reader<'_>, entry: &ServiceEntry, resolution: Resolution) {
    match resolution {
        Resolution::None => return,
        Resolution::Static => check_static(reader, entry),
        Resolution::Dns => check_lookup(reader, entry),
        Resolution::DnsRoundRobin => {
            check_lookup(reader, entry);
            check_single(reader, entry);
        }
    }
    check_alike(reader, entry);
}

fn check_static(reader: &mut Reader<'_>, entry: &ServiceEntry) {
    let addresses = entry.endpoints.iter().filter_map(|endpoint| endpoint.address.as_ref());
    for At { value, at } in addresses {
        let EndpointAddress::Name(name) = value else { continue };
        let message = format!("{} is a name, and `resolution: STATIC` has addresses", quote(name));
        let help = "write the address, or `resolution: DNS`";
        reader.push(Diagnostic::new(&code::NOT_AN_ADDRESS, *at, message).with_help(help));
    }
}

/// Without endpoints the hosts themselves are looked up.
fn check_lookup(reader: &mut Reader<'_>, entry: &ServiceEntry) {
    if !entry.endpoints.is_empty() {
        return;
    }
    for host in entry.hosts.iter().filter(|host| host.value.starts_with('*')) {
        let message = format!("{} is no host that can be looked up", quote(&host.value));
        let help = "name each host, or give `endpoints`";
        reader.push(Diagnostic::new(&code::BAD_HOST, host.at, message).with_help(help));
    }
}

fn check_single(reader: &mut Reader<'_>, entry: &ServiceEntry) {
    let Some(second) = entry.endpoints.get(1) else { return };
    let message = "`resolution: DNS_ROUND_ROBIN` has at most one endpoint";
    let help = "keep one, or write `resolution: DNS` to use the addresses of all";
    reader.out_of_range(second.at, message, help);
}

/// Proxies tell hosts of one port apart by what clients say in HTTP or TLS.
fn check_alike(reader: &mut Reader<'_>, entry: &ServiceEntry) {
    let is_opaque =
        |port: &&ServicePort| !matches!(port.application, Application::Http | Application::Tls);
    let opaque = entry.ports.iter().find(is_opaque);
    if let (Some(port), [_, second, ..]) = (opaque, &entry.hosts[..]) {
        let message = format!(
            "nothing tells the hosts of port {} apart, which is neither HTTP nor TLS",
            port.number
        );
        let help = "write a ServiceEntry for each host, or say what the port speaks: \
                    `protocol: HTTP`";
        reader.push(
            Diagnostic::new(&code::HOSTS_ALIKE, port.at, message)
                .with_secondary(second.at, "another host is here")
                .with_help(help),
        );
    }
}

/// Ports of endpoints are of ports that the entry has.
fn check_endpoint_ports(reader: &mut Reader<'_>, entry: &ServiceEntry) {
    let known: Vec<&str> = entry.ports.iter().filter_map(|port| port.name.as_deref()).collect();
    for endpoint in &entry.endpoints {
        for name in endpoint.ports.keys().filter(|name| !known.contains(&name.as_str())) {
            let message =
                format!("the endpoint has a port {}, and the entry has none", quote(name));
            let help = format!("the ports of the entry are: {}", list(&known));
            reader.push(Diagnostic::new(&code::PORT_UNKNOWN, endpoint.at, message).with_help(help));
        }
    }
}
