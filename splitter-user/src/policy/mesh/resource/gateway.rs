//! Documents of the Gateway API.

use std::net::IpAddr;

use super::Meta;
use crate::policy::diagnostic::Span;

/// Which kind of route; earlier ones win a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) enum RouteKind {
    Http,
    Tcp,
    Udp,
}

/// HTTPRoute, TCPRoute or UDPRoute.
#[derive(Clone, Debug)]
pub(in crate::policy) struct GatewayRoute {
    pub(in crate::policy) kind: RouteKind,
    pub(in crate::policy) meta: Meta,
    pub(in crate::policy) parents: Vec<ParentRef>,
    /// The rule in force, which takes every connection. `None` where it was in error.
    pub(in crate::policy) rule: Option<GatewayRule>,
}

/// `parentRefs[]`.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ParentRef {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) kind: ParentKind,
    pub(in crate::policy) namespace: String,
    pub(in crate::policy) name: String,
    pub(in crate::policy) port: Option<u16>,
    pub(in crate::policy) section: Option<String>,
}

/// What a route attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum ParentKind {
    Service,
    ServiceEntry,
    Gateway,
}

/// A rule without matches.
#[derive(Clone, Debug)]
pub(in crate::policy) struct GatewayRule {
    pub(in crate::policy) name: Option<String>,
    pub(in crate::policy) at: Span,
    pub(in crate::policy) backends: Vec<BackendRef>,
}

/// `backendRefs[]`.
#[derive(Clone, Debug)]
pub(in crate::policy) struct BackendRef {
    pub(in crate::policy) at: Span,
    pub(in crate::policy) kind: BackendKind,
    pub(in crate::policy) namespace: String,
    pub(in crate::policy) name: String,
    pub(in crate::policy) port: Option<u16>,
    /// 1 where absent, at most 1,000,000.
    pub(in crate::policy) weight: u32,
}

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum BackendKind {
    Service,
    /// networking.istio.io `Hostname`: the name is a host.
    Hostname,
    /// Group and kind that cannot be a backend: its share is rejected.
    Invalid(String),
}

/// ReferenceGrant.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ReferenceGrant {
    pub(in crate::policy) meta: Meta,
    /// Kind and namespace of the documents that may refer.
    pub(in crate::policy) from: Vec<(String, String)>,
    /// Kind and, where only one is granted, name.
    pub(in crate::policy) to: Vec<(String, Option<String>)>,
}

/// Gateway, as far as its listeners are addresses to dial.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Gateway {
    pub(in crate::policy) meta: Meta,
    /// `spec.addresses` and `status.addresses` that are IP addresses.
    pub(in crate::policy) addresses: Vec<IpAddr>,
    pub(in crate::policy) listeners: Vec<Listener>,
}

/// `listeners[]` of a Gateway.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Listener {
    pub(in crate::policy) name: String,
    pub(in crate::policy) port: u16,
    /// Which routes attach to it.
    pub(in crate::policy) kind: RouteKind,
}
