//! `kind: Egress`: what clients may reach besides the services.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use splitter_common::abi::MAX_PORT_RANGES;

use super::client::{CGROUP_KEYS, LABEL_KEYS, read_cgroup_name, read_selector};
use super::host::read_host;
use super::route::{exclusive, read_errno};
use crate::policy::Reading;
use crate::policy::address::{parse_port, parse_protocol};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Span};
use crate::policy::document::Document;
use crate::policy::fields::{Field, inert, read as field};
use crate::policy::mesh::meta::read_object;
use crate::policy::mesh::outbound::too_deep;
use crate::policy::mesh::resource::{
    At, Cidr, ClientEgress, ClientSelector, OutboundMode, Resource,
};
use crate::policy::model::{
    CgroupName, Destinations, Errno, Network, Outbound, PortSpan, Protocol, Reach,
};
use crate::policy::reader::{Fields, Reader};
use crate::policy::words::quote;
use crate::policy::yaml::{NodeId, Value};

const DOCUMENT: &[Field] = &[inert("apiVersion"), inert("kind"), inert("metadata"), field("spec")];
const SPEC: &[Field] = &[
    field("mode"),
    field("clients"),
    field("audit"),
    field("errno"),
    field("loopback"),
    field("allow"),
    field("refuse"),
];
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
        Some(node) => read_clients(reader, node, &object.meta.namespace),
        None => Some(Clients::default()),
    };
    reader.required(&spec, "mode", "write `mode: registryOnly` or `mode: allowAny`");
    let mode = spec.value("mode").map(|node| reader.word(node, "a mode of egress", &MODES));
    let is_set = |reader: &mut Reader<'_>, key: &str, or: bool| match spec.value(key) {
        Some(node) => reader.boolean(node, &format!("`{key}`")),
        None => Some(or),
    };
    let (audit, loopback) = (is_set(reader, "audit", false), is_set(reader, "loopback", true));
    let errno = match spec.value("errno") {
        Some(node) => read_errno(reader, node, "errno"),
        None => Some(Errno::ACCESS),
    };
    let refuse = read_reaches(reader, spec.value("refuse"), "refuse");
    let allow = read_reaches(reader, spec.value("allow"), "allow");
    let reaches: Vec<_> = refuse?.into_iter().chain(allow?).collect();
    let said = Outbound {
        name: format!("{}/{}", object.meta.namespace, object.meta.name),
        cgroups: Vec::new(),
        registry_only: mode?? == OutboundMode::RegistryOnly,
        audit: audit?,
        errno: errno?,
        loopback: loopback?,
        reaches: reaches.iter().map(|reach| reach.value.clone()).collect(),
    };
    check_ports(reader, &said, &reaches)?;
    let Clients { cgroups, selectors } = clients?;
    let egress = ClientEgress { meta: object.meta, cgroups, selectors, said };
    Some(Document::Resource(Box::new(Resource::Egress(egress))))
}

const REACH_HELP: &str = "write a list such as `[{cidr: 10.0.0.0/8, ports: [443]}]`";

/// What is said of destinations; nothing where there is no key. `None` where some of it is wrong.
fn read_reaches(
    reader: &mut Reader<'_>,
    node: Option<NodeId>,
    key: &str,
) -> Option<Vec<At<Reach>>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let nodes = reader.list(node, &format!("`{key}`"), REACH_HELP)?;
    if nodes.is_empty() {
        reader.empty(reader.span(node), &format!("`{key}`"), REACH_HELP);
        return None;
    }
    let is_refused = key == "refuse";
    let reaches: Vec<_> =
        nodes.iter().filter_map(|node| read_reach(reader, *node, is_refused)).collect();
    (reaches.len() == nodes.len()).then_some(reaches)
}

fn read_reach(reader: &mut Reader<'_>, node: NodeId, is_refused: bool) -> Option<At<Reach>> {
    let fields = reader.fields(node, "a destination", &["cidr", "host", "ports", "protocol"])?;
    let to = read_to(reader, &fields);
    let ports = match fields.value("ports") {
        Some(node) => read_some(reader, node, "`ports`", read_ports),
        None => Some(Vec::new()),
    };
    let protocol = fields.value("protocol").map(|node| read_protocol(reader, node));
    let protocol = match protocol {
        Some(read) => Some(read?),
        None => None,
    };
    let value = Reach { is_refused, to: to?, ports: ports?, protocol };
    Some(At { value, at: reader.span(node) })
}

/// Networks or host names. Where both are given, what is wrong with either is told too.
fn read_to(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Destinations> {
    let hosts = fields.value("host").map(|node| read_some(reader, node, "`host`", read_host));
    let Some(hosts) = hosts else {
        let help = "write `cidr: 10.0.0.0/8`, one address, or `host: api.example.com`";
        let node = reader.required(fields, "cidr", help)?;
        return read_some(reader, node, "`cidr`", read_network).map(Destinations::Networks);
    };
    let Some(cidr) = fields.get("cidr") else { return hosts.map(Destinations::Hosts) };
    read_some(reader, cidr.value, "`cidr`", read_network);
    exclusive(reader, fields.get("host")?, cidr, "write a destination for each of the two");
    None
}

/// Reports networks and host names of which more is said than the kernel can be told, each at the
/// destination that is too much.
fn check_ports(reader: &mut Reader<'_>, said: &Outbound, reaches: &[At<Reach>]) -> Option<()> {
    let mut is_good = true;
    for network in said.networks().into_iter().collect::<BTreeSet<_>>() {
        let Network { ip, prefix } = network;
        let about = reaches.iter().filter(|reach| reach.value.is_about(&network));
        is_good &= check_number(reader, &format!("{ip}/{prefix}"), about);
    }
    for host in said.hosts().collect::<BTreeSet<_>>() {
        let about = reaches.iter().filter(|reach| reach.value.names(host));
        is_good &= check_number(reader, host, about);
    }
    is_good.then_some(())
}

/// Whether what is said of a network or a name is few enough.
fn check_number<'a>(
    reader: &mut Reader<'_>,
    of: &str,
    about: impl Iterator<Item = &'a At<Reach>>,
) -> bool {
    let mut seen = HashSet::new();
    let mut first_too_much = None;
    for reach in about {
        seen.extend(reach.value.said());
        if seen.len() > MAX_PORT_RANGES {
            first_too_much.get_or_insert(reach.at);
        }
    }
    let Some(at) = first_too_much else { return true };
    let n = seen.len();
    let message =
        format!("{n} things are said of ports of {of}, those of ranges around it included");
    let help = format!(
        "at most {MAX_PORT_RANGES} can be told apart: put ports together to ranges, or say less of \
         the ranges around it"
    );
    reader.push(Diagnostic::new(&code::EGRESS_PORTS, at, message).with_help(help));
    false
}

/// Without any, it is both: the help of services does not fit.
fn read_protocol(reader: &mut Reader<'_>, node: NodeId) -> Option<Protocol> {
    let text = reader.string(node, "a protocol")?;
    let protocol = parse_protocol(text).ok();
    if protocol.is_none() {
        let at = reader.span(node);
        let message = format!("{} is not a protocol that is looked at", quote(text));
        let help = "write `tcp` or `udp`, in lower case, or leave `protocol` out for both";
        reader.push(Diagnostic::new(&code::BAD_PROTOCOL, at, message).with_help(help));
    }
    protocol
}

/// One value, or a list of at least one. `None` where one is wrong.
fn read_some<T>(
    reader: &mut Reader<'_>,
    node: NodeId,
    what: &str,
    read: impl Fn(&mut Reader<'_>, NodeId) -> Option<T>,
) -> Option<Vec<T>> {
    let Value::Sequence(nodes) = reader.value(node) else {
        return Some(vec![read(reader, node)?]);
    };
    if nodes.is_empty() {
        reader.empty(reader.span(node), what, "leave it out, or write one");
        return None;
    }
    let values: Vec<T> = nodes.iter().filter_map(|node| read(reader, *node)).collect();
    (values.len() == nodes.len()).then_some(values)
}

/// A v4-mapped range is that of the IPv4 addresses.
fn read_network(reader: &mut Reader<'_>, node: NodeId) -> Option<Network> {
    let At { value: Cidr { ip, prefix }, at } = reader.cidr(node, "a destination")?;
    let written = reader.text(node)?.split('/').next()?;
    if written.parse().ok() != Some(ip) {
        let message = format!("{} is an address of a range", quote(reader.text(node)?));
        let help = format!("write `{ip}/{prefix}` for the range, or `{written}` for the address");
        reader.push(Diagnostic::new(&code::BAD_RANGE, at, message).with_help(help));
        return None;
    }
    Some(match (ip, ip.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) if prefix >= 96 => {
            Network { ip: v4.into(), prefix: prefix - 96 }
        }
        _ => Network { ip, prefix },
    })
}

/// A port, or `FIRST-LAST`.
fn read_ports(reader: &mut Reader<'_>, node: NodeId) -> Option<PortSpan> {
    let span = reader.text(node).and_then(|text| text.split_once('-'));
    let Some((first, last)) = span else {
        let port = reader.port(node)?;
        return Some(PortSpan { first: port, last: port });
    };
    let port = |text: &str| parse_port(text.trim()).ok();
    if let (Some(first), Some(last)) = (port(first), port(last))
        && first <= last
    {
        return Some(PortSpan { first, last });
    }
    let at = reader.span(node);
    let message = format!("{} is not a range of ports", quote(&format!("{first}-{last}")));
    let help = "write the first and the last port, such as `8000-8099`";
    reader.push(Diagnostic::new(&code::BAD_PORT, at, message).with_help(help));
    None
}

/// Who the clients are.
#[derive(Default)]
struct Clients {
    cgroups: Vec<At<CgroupName>>,
    selectors: Vec<At<ClientSelector>>,
}

/// At least one client. `None` where one is wrong.
fn read_clients(reader: &mut Reader<'_>, node: NodeId, namespace: &str) -> Option<Clients> {
    let nodes = reader.list(node, "`clients`", CLIENTS_HELP)?;
    if nodes.is_empty() {
        reader.empty(reader.span(node), "`clients`", CLIENTS_HELP);
        return None;
    }
    let mut clients = Clients::default();
    let read = |node: &&NodeId| read_client(reader, **node, namespace, &mut clients).is_some();
    let is_complete = nodes.iter().filter(read).count() == nodes.len();
    (check_unique(reader, &clients.cgroups) && is_complete).then_some(clients)
}

fn read_client(
    reader: &mut Reader<'_>,
    node: NodeId,
    namespace: &str,
    clients: &mut Clients,
) -> Option<()> {
    let keys = [&CGROUP_KEYS[..], &LABEL_KEYS].concat();
    let fields = reader.fields(node, "a client", &keys)?;
    let at = reader.span(keys.iter().find_map(|key| fields.value(key)).unwrap_or(node));
    if let Some(selector) = read_selector(reader, &fields, namespace) {
        clients.selectors.push(At { value: selector?, at });
        return Some(());
    }
    let Some(name) = read_cgroup_name(reader, &fields) else {
        reader.required(
            &fields,
            "cgroup",
            "write `cgroup`, `unit`, `container`, `pod` or `labels`",
        );
        return None;
    };
    let client = At { value: name?, at };
    if let Some(diagnostic) = too_deep(&client) {
        reader.push(diagnostic);
        return None;
    }
    clients.cgroups.push(client);
    Some(())
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
