//! Documents of Istio.
//!
//! Each kind has a reader that says everything that can be said about one document by itself, with
//! Istio's own defaults and rules. What several documents say together is for `mesh` to find out.

mod balance;
mod common;
mod destination_rule;
mod fault;
mod locality;
mod matching;
mod outlier;
mod pool;
mod retries;
mod route;
mod rules;
mod selector;
mod service_entry;
mod sidecar;
#[cfg(test)]
mod tests;
mod traffic_policy;
mod virtual_service;
mod workload_entry;

use super::document::{Kind, KindFate};

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

/// Kinds of this form.
pub(super) const KINDS: &[Kind] = &[
    // Rules for connections that go out.
    networking("VirtualService", KindFate::Read(virtual_service::read)),
    networking("DestinationRule", KindFate::Read(destination_rule::read)),
    // Hosts and clients.
    networking("ServiceEntry", KindFate::Read(service_entry::read)),
    networking("WorkloadEntry", KindFate::Read(workload_entry::read)),
    networking("Sidecar", KindFate::Read(sidecar::read)),
    Kind {
        name: "IstioOperator",
        group: "install.istio.io",
        versions: &["v1alpha1"],
        fate: KindFate::NotEnforced,
    },
    // Proxies that are not on the path.
    networking("Gateway", KindFate::Inert),
    networking("ProxyConfig", KindFate::Inert),
    networking("WorkloadGroup", KindFate::Inert),
    Kind {
        name: "Telemetry",
        group: "telemetry.istio.io",
        versions: &["v1", "v1alpha1"],
        fate: KindFate::Inert,
    },
    networking("EnvoyFilter", KindFate::NotEnforced),
    Kind {
        name: "WasmPlugin",
        group: "extensions.istio.io",
        versions: &["v1alpha1"],
        fate: KindFate::NotEnforced,
    },
    security("AuthorizationPolicy"),
    security("PeerAuthentication"),
    security("RequestAuthentication"),
];

const fn networking(name: &'static str, fate: KindFate) -> Kind {
    Kind { name, group: "networking.istio.io", versions: NETWORKING, fate }
}

const fn security(name: &'static str) -> Kind {
    let fate = KindFate::NotEnforced;
    Kind { name, group: "security.istio.io", versions: SECURITY, fate }
}
