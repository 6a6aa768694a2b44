//! Documents of this form.

mod selector;
mod service_entry;
mod sidecar;
mod workload_entry;

use super::document::{Kind, KindFate};

/// Kinds of this form.
pub(super) const KINDS: &[Kind] = &[
    networking("ServiceEntry", KindFate::Read(service_entry::read)),
    networking("WorkloadEntry", KindFate::Read(workload_entry::read)),
    networking("Sidecar", KindFate::Read(sidecar::read)),
    Kind {
        kind: "IstioOperator",
        group: "install.istio.io",
        versions: &["v1alpha1"],
        fate: KindFate::Inert,
    },
];

const fn networking(kind: &'static str, fate: KindFate) -> Kind {
    let versions = &["v1", "v1beta1", "v1alpha3"];
    Kind { kind, group: "networking.istio.io", versions, fate }
}
