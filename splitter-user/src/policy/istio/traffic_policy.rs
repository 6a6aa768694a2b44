//! `trafficPolicy`: how a server of a subset is chosen, and what is asked of its connections.
//!
//! Its blocks override each other as wholes. So a block that is there is in the answer, even where
//! it asks for nothing: it may be there to undo what a wider policy asks for.

use super::balance;
use super::{outlier, pool, route};
use crate::policy::code;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fields::{Field, inert, meaningless, read as field, refused};
use crate::policy::mesh::resource::TrafficPolicy;
use crate::policy::reader::{Entry, Fields, Reader};
use crate::policy::yaml::NodeId;

const BYTES: &str = "what is sent over a connection is not changed: keep this host in a proxy";
const CLIENT: &str = "let the client speak TLS, or keep this host in a proxy";

/// `TrafficPolicy`.
const TABLE: &[Field] = &[
    field("loadBalancer"),
    field("connectionPool"),
    field("outlierDetection"),
    field("tls"),
    field("portLevelSettings"),
    refused("tunnel", &code::ENCRYPTION, BYTES),
    refused("proxyProtocol", &code::ENCRYPTION, BYTES),
    meaningless("retryBudget", "a connection is made once: retry in the client"),
];

/// `TrafficPolicy.PortTrafficPolicy`.
const PORT: &[Field] = &[
    field("port"),
    field("loadBalancer"),
    field("connectionPool"),
    field("outlierDetection"),
    field("tls"),
];

/// `ClientTLSSettings`. What says how to encrypt has no effect where nothing is encrypted, and
/// `mode` says that.
const TLS: &[Field] = &[
    field("mode"),
    inert("clientCertificate"),
    inert("privateKey"),
    inert("caCertificates"),
    inert("caCrl"),
    inert("credentialName"),
    inert("subjectAltNames"),
    inert("sni"),
    inert("insecureSkipVerify"),
];

/// `ClientTLSSettings.TLSmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    /// By certificates that the application or the gateway has.
    Own,
    /// By certificates that Istio makes.
    Istio,
}

const MODES: [(&str, Mode); 4] = [
    ("DISABLE", Mode::Disable),
    ("SIMPLE", Mode::Own),
    ("MUTUAL", Mode::Own),
    ("ISTIO_MUTUAL", Mode::Istio),
];

/// Reads a policy with those of its ports.
pub(super) fn read(reader: &mut Reader<'_>, node: NodeId) -> TrafficPolicy {
    let Some(fields) = reader.object(node, "the traffic policy", TABLE) else {
        return TrafficPolicy::default();
    };
    check_members(reader, node, &fields, TABLE);
    let mut policy = read_blocks(reader, &fields);
    if let Some(entry) = fields.get("portLevelSettings") {
        policy.ports = read_ports(reader, entry);
    }
    policy
}

/// Says that a policy asks for nothing; fields that were refused count as asking.
fn check_members(
    reader: &mut Reader<'_>,
    node: NodeId,
    fields: &Fields<'_>,
    table: &'static [Field],
) {
    let is_given = |field: &Field| {
        let value = reader.peek(node, field.name);
        field.name != "port" && value.is_some_and(|value| !reader.is_null(value))
    };
    if !table.iter().any(is_given) && !fields.has_unknown() {
        let help = "write a `loadBalancer`, a `connectionPool` or an `outlierDetection`, or delete \
                    it";
        reader.empty(reader.span(node), "the traffic policy", help);
    }
}

fn read_blocks(reader: &mut Reader<'_>, fields: &Fields<'_>) -> TrafficPolicy {
    if let Some(entry) = fields.get("tls") {
        check_tls(reader, entry);
    }
    let of_pool = fields.get("connectionPool");
    TrafficPolicy {
        load_balancer: fields.get("loadBalancer").and_then(|e| balance::read(reader, e)),
        tcp: of_pool.and_then(|entry| pool::read(reader, entry)),
        ejection: fields.get("outlierDetection").and_then(|e| outlier::read(reader, e)),
        ports: Vec::new(),
    }
}

fn read_ports(reader: &mut Reader<'_>, entry: Entry<'_>) -> Vec<(u16, TrafficPolicy)> {
    let mut ports: Vec<(u16, TrafficPolicy)> = Vec::new();
    for node in reader.items(entry.value, "`portLevelSettings`") {
        let Some(fields) = reader.object(*node, "the settings of a port", PORT) else { continue };
        check_members(reader, *node, &fields, PORT);
        let policy = read_blocks(reader, &fields);
        let help = "write `port: {number: 80}`, a port of the service";
        if reader.required(&fields, "port", help).is_none() {
            continue;
        }
        let port = fields.get("port").and_then(|entry| route::read_port(reader, entry));
        let Some(port) = port else { continue };
        if ports.iter().any(|(known, _)| *known == port.value) {
            let message = format!("the port {} has settings twice", port.value);
            let diagnostic = Diagnostic::new(&code::DUPLICATE_ENTRY, port.at, message);
            reader.push(diagnostic.with_help("delete one of the two"));
        } else {
            ports.push((port.value, policy));
        }
    }
    ports
}

fn check_tls(reader: &mut Reader<'_>, entry: Entry<'_>) {
    let Some(fields) = reader.object(entry.value, "the tls settings", TLS) else { return };
    let Some(mode) = fields.get("mode") else { return };
    match reader.word(mode.value, "a tls mode", &MODES) {
        Some(Mode::Disable) | None => {}
        Some(Mode::Own) => {
            let message = "the mode asks a proxy to encrypt connections";
            let diagnostic = Diagnostic::new(&code::ENCRYPTION, mode.key, message);
            reader.push(diagnostic.with_help(CLIENT));
        }
        Some(Mode::Istio) => {
            let message = "the mode asks Istio to encrypt connections, and they are not encrypted";
            let help = "write `mode: DISABLE`, or keep Istio's proxies on both sides";
            let diagnostic = Diagnostic::new(&code::ENCRYPTION_ASSUMED, mode.key, message);
            reader.push(diagnostic.with_help(help));
        }
    }
}
