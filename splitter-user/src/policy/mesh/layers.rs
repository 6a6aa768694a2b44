//! Which of several documents of one kind, namespace and name counts.

use std::collections::{BTreeSet, HashMap};

use super::resource::{Meta, Resource, Resources, RouteKind};
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::{DocumentRef, Reading, SPLIT_BY_LABELS, code};

/// Resources as they are read. One in a higher layer replaces one in a lower; two in one layer are
/// an error.
#[derive(Debug, Default)]
pub(in crate::policy) struct Layers {
    kept: Vec<Kept>,
    by_identity: HashMap<String, usize>,
}

#[derive(Debug)]
struct Kept {
    layer: u32,
    resource: Resource,
}

impl Layers {
    /// Adds a resource, and answers who it is if it counts so far.
    pub(in crate::policy) fn add(
        &mut self,
        resource: Resource,
        reading: &Reading,
        report: &mut Report,
    ) -> Option<String> {
        let identity = resource.identity();
        if reading.without.contains(&identity) {
            return None;
        }
        let kept = Kept { layer: reading.layer, resource };
        let Some(index) = self.by_identity.get(&identity) else {
            self.by_identity.insert(identity.clone(), self.kept.len());
            self.kept.push(kept);
            return Some(identity);
        };
        let known = self.kept.get_mut(*index)?;
        if known.layer == kept.layer {
            duplicate(&identity, known, &kept, report);
            return None;
        }
        if known.layer > kept.layer {
            return None;
        }
        *known = kept;
        Some(identity)
    }

    /// What counts. Documents lose the identities that another layer replaced, and those without
    /// any are dropped.
    pub(in crate::policy) fn finish(self, documents: &mut Vec<DocumentRef>) -> Resources {
        let mut seen = BTreeSet::new();
        let mut count = |identity: &String| {
            !self.by_identity.contains_key(identity) || seen.insert(identity.clone())
        };
        // From the last layer to the first, so that what replaced is found before what it replaced.
        for document in documents.iter_mut().rev() {
            document.identities.retain(&mut count);
        }
        documents.retain(|document| !document.identities.is_empty());
        let mut resources = Resources::default();
        for Kept { resource, .. } in self.kept {
            resources.add(resource);
        }
        resources
    }
}

fn duplicate(identity: &str, first: &Kept, second: &Kept, report: &mut Report) {
    let message = format!("{identity} is given twice");
    report.push(
        Diagnostic::new(&code::DUPLICATE_DOCUMENT, second.resource.meta().at, message)
            .with_label("again here")
            .with_secondary(first.resource.meta().at, "first here")
            .with_help("delete one of the two, or rename it"),
    );
}

impl Resource {
    /// Name and labels.
    pub(in crate::policy) fn meta(&self) -> &Meta {
        match self {
            Self::VirtualService(it) => &it.meta,
            Self::DestinationRule(it) => &it.meta,
            Self::ServiceEntry(it) => &it.meta,
            Self::WorkloadEntry(it) => &it.meta,
            Self::Sidecar(it) => &it.meta,
            Self::Service(it) => &it.meta,
            Self::EndpointSlice(it) => &it.meta,
            Self::Pod(it) => &it.meta,
            Self::Namespace(it) => &it.meta,
            Self::Route(it) => &it.meta,
            Self::ReferenceGrant(it) => &it.meta,
            Self::Gateway(it) => &it.meta,
            Self::Workload(it) => &it.meta,
            Self::Split(it) => &it.meta,
            Self::Egress(it) => &it.meta,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::VirtualService(_) => "VirtualService",
            Self::DestinationRule(_) => "DestinationRule",
            Self::ServiceEntry(_) => "ServiceEntry",
            Self::WorkloadEntry(_) => "WorkloadEntry",
            Self::Sidecar(_) => "Sidecar",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Pod(_) => "Pod",
            Self::Namespace(_) => "Namespace",
            Self::Route(route) => match route.kind {
                RouteKind::Http => "HTTPRoute",
                RouteKind::Tcp => "TCPRoute",
                RouteKind::Udp => "UDPRoute",
            },
            Self::ReferenceGrant(_) => "ReferenceGrant",
            Self::Gateway(_) => "Gateway",
            Self::Workload(_) => "Workload",
            Self::Split(_) => SPLIT_BY_LABELS,
            Self::Egress(_) => "Egress",
        }
    }

    /// `KIND/NAMESPACE/NAME`.
    fn identity(&self) -> String {
        let Meta { namespace, name, .. } = self.meta();
        format!("{}/{namespace}/{name}", self.kind())
    }
}

impl Resources {
    fn add(&mut self, resource: Resource) {
        match resource {
            Resource::VirtualService(it) => self.virtual_services.push(it),
            Resource::DestinationRule(it) => self.destination_rules.push(it),
            Resource::ServiceEntry(it) => self.service_entries.push(it),
            Resource::WorkloadEntry(it) => self.workload_entries.push(it),
            Resource::Sidecar(it) => self.sidecars.push(it),
            Resource::Service(it) => self.services.push(it),
            Resource::EndpointSlice(it) => self.endpoint_slices.push(it),
            Resource::Pod(it) => self.pods.push(it),
            // Names of namespaces are not checked against these: dumps rarely have all.
            Resource::Namespace(_) => {}
            Resource::Route(it) => self.routes.push(it),
            Resource::ReferenceGrant(it) => self.grants.push(it),
            Resource::Gateway(it) => self.gateways.push(it),
            Resource::Workload(it) => self.workloads.push(it),
            Resource::Split(it) => self.splits.push(it),
            Resource::Egress(it) => self.egresses.push(it),
        }
    }
}
