//! Documents of the Gateway API: routes, the Gateways they attach to, grants between namespaces.
//!
//! A connection is made before anything of a request is known, so only rules that take everything
//! mean something here. Rules that look into a request are errors; what else a route has and no
//! connection shows is in the tables of its fields. Whether a reference finds anything, and which
//! of several routes has a port, is decided where all documents are known, in `mesh`.

mod filter;
mod gateway;
mod grant;
mod matches;
mod refs;
mod route;

use super::Reading;
use super::code;
use super::diagnostic::Diagnostic;
use super::document::{Document, Kind, KindFate};
use super::reader::Reader;
use super::yaml::NodeId;

/// The API group of these kinds.
const GROUP: &str = "gateway.networking.k8s.io";

/// Kinds of this form.
pub(super) const KINDS: &[Kind] = &[
    kind("HTTPRoute", &["v1", "v1beta1"], KindFate::Read(route::read_http)),
    kind("TCPRoute", &["v1", "v1alpha2"], KindFate::Read(route::read_tcp)),
    kind("UDPRoute", &["v1", "v1alpha2"], KindFate::Read(route::read_udp)),
    kind("Gateway", &["v1", "v1beta1"], KindFate::Read(gateway::read)),
    kind("ReferenceGrant", &["v1", "v1beta1"], KindFate::Read(grant::read)),
    kind("GRPCRoute", &["v1", "v1alpha2"], KindFate::Read(refuse_grpc)),
    kind("TLSRoute", &["v1", "v1alpha3", "v1alpha2"], KindFate::Read(refuse_tls)),
    kind("GatewayClass", &["v1", "v1beta1"], KindFate::Inert),
    kind("BackendTLSPolicy", &["v1", "v1alpha3", "v1alpha2"], KindFate::NotEnforced),
    kind("ListenerSet", &["v1"], KindFate::NotEnforced),
];

const fn kind(name: &'static str, versions: &'static [&'static str], fate: KindFate) -> Kind {
    Kind { name, group: GROUP, versions, fate }
}

fn refuse_grpc(reader: &mut Reader<'_>, node: NodeId, _reading: &Reading) -> Option<Document> {
    let message = "a GRPCRoute chooses by method and header, which no connection shows";
    let help = "split the Service's port with a TCPRoute, or keep this route in a proxy";
    refuse(reader, node, message, help)
}

fn refuse_tls(reader: &mut Reader<'_>, node: NodeId, _reading: &Reading) -> Option<Document> {
    let message = "a TLSRoute chooses by server name, which is sent after the connection is made";
    let help = "give each server name a Service of its own and split it with a TCPRoute";
    refuse(reader, node, message, help)
}

fn refuse(reader: &mut Reader<'_>, node: NodeId, message: &str, help: &str) -> Option<Document> {
    let at = reader.peek(node, "kind").map_or(reader.span(node), |kind| reader.span(kind));
    reader.push(Diagnostic::new(&code::L7_MATCH, at, message).with_help(help));
    None
}
