//! Kinds of Kubernetes itself: services, their endpoints, and what is found beside them.
//!
//! These make the registry of hosts. Nothing here routes.

mod endpoints;
mod pod;
mod service;

use super::document::{Kind, KindFate};

/// Kinds of this form. Those without effect are the ones that samples and dumps mix in.
pub(super) const KINDS: &[Kind] = &[
    Kind { name: "Service", group: "", versions: V1, fate: KindFate::Read(service::read) },
    Kind {
        name: "EndpointSlice",
        group: "discovery.k8s.io",
        versions: V1,
        fate: KindFate::Read(endpoints::read_slice),
    },
    Kind {
        name: "Endpoints",
        group: "",
        versions: V1,
        fate: KindFate::Read(endpoints::skip_endpoints),
    },
    Kind { name: "Pod", group: "", versions: V1, fate: KindFate::Read(pod::read) },
    Kind { name: "Namespace", group: "", versions: V1, fate: KindFate::Read(pod::read_namespace) },
    inert("ConfigMap", "", V1),
    inert("Event", "", V1),
    inert("LimitRange", "", V1),
    inert("Node", "", V1),
    inert("PersistentVolume", "", V1),
    inert("PersistentVolumeClaim", "", V1),
    inert("ReplicationController", "", V1),
    inert("ResourceQuota", "", V1),
    inert("Secret", "", V1),
    inert("ServiceAccount", "", V1),
    inert("CustomResourceDefinition", "apiextensions.k8s.io", BETA1),
    inert("ControllerRevision", "apps", V1),
    inert("DaemonSet", "apps", APPS),
    inert("Deployment", "apps", APPS),
    inert("ReplicaSet", "apps", APPS),
    inert("StatefulSet", "apps", APPS),
    inert("HorizontalPodAutoscaler", "autoscaling", &["v2", "v1", "v2beta2", "v2beta1"]),
    inert("CronJob", "batch", BETA1),
    inert("Job", "batch", V1),
    inert("Event", "events.k8s.io", V1),
    // What samples from before Kubernetes 1.16 have.
    inert("DaemonSet", "extensions", &["v1beta1"]),
    inert("Deployment", "extensions", &["v1beta1"]),
    inert("Ingress", "extensions", &["v1beta1"]),
    inert("Ingress", "networking.k8s.io", BETA1),
    inert("IngressClass", "networking.k8s.io", BETA1),
    Kind {
        name: "NetworkPolicy",
        group: "networking.k8s.io",
        versions: V1,
        fate: KindFate::NotEnforced,
    },
    inert("PodDisruptionBudget", "policy", BETA1),
    inert("ClusterRole", RBAC, BETA1),
    inert("ClusterRoleBinding", RBAC, BETA1),
    inert("Role", RBAC, BETA1),
    inert("RoleBinding", RBAC, BETA1),
];

const V1: &[&str] = &["v1"];
const BETA1: &[&str] = &["v1", "v1beta1"];
const APPS: &[&str] = &["v1", "v1beta2", "v1beta1"];
const RBAC: &str = "rbac.authorization.k8s.io";

const fn inert(name: &'static str, group: &'static str, versions: &'static [&'static str]) -> Kind {
    Kind { name, group, versions, fate: KindFate::Inert }
}
