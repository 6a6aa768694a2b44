//! What clients see of the mesh, and what they may reach outside of it.

use std::collections::HashMap;

use super::clients::Client;
use super::destination_rules::ROOT_NAMESPACE;
use super::names::covers;
use super::registry::Host;
use super::resource::{Egress, OutboundMode, Resources, Sidecar};
use crate::policy::code::{self, Code};
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::Outbound;

/// All sidecars.
#[derive(Debug)]
pub(super) struct Sidecars<'r> {
    all: &'r [Sidecar],
}

impl<'r> Sidecars<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        Self { all: &resources.sidecars }
    }

    /// The sidecar of a client: one that selects it, else that of its namespace, else that of the
    /// root namespace.
    fn find(&self, client: &Client<'_>) -> Option<&'r Sidecar> {
        let own = client.namespace()?;
        let of = |namespace| self.all.iter().filter(move |s| s.meta.namespace == namespace);
        let selected = of(own).find(|sidecar| {
            sidecar.workload_selector.as_ref().is_some_and(|labels| client.has(labels))
        });
        let whole = |namespace| of(namespace).find(|s| s.workload_selector.is_none());
        selected.or_else(|| whole(own)).or_else(|| whole(ROOT_NAMESPACE))
    }

    /// Whether a client sees a host at a port.
    pub(super) fn shows(&self, client: &Client<'_>, host: &Host<'_>, port: u16) -> bool {
        let Some(sidecar) = self.find(client) else { return true };
        let shows = |egress: &Egress| {
            egress.port.is_none_or(|only| only == port)
                && egress.hosts.iter().any(|pattern| {
                    let (namespace, name) = &pattern.value;
                    (namespace == "*" || namespace == host.namespace) && covers(name, &host.name)
                })
        };
        sidecar.egress.is_empty() || sidecar.egress.iter().any(shows)
    }

    /// What each client may reach besides the hosts, where a sidecar says so.
    pub(super) fn outbound(&self, clients: &[Client<'_>]) -> Vec<Outbound> {
        let mut by_mode: Vec<Outbound> = Vec::new();
        for client in clients {
            let Some(cgroup) = client.cgroup() else { continue };
            let Some(mode) = self.find(client).and_then(|sidecar| sidecar.outbound.as_ref()) else {
                continue;
            };
            let registry_only = mode.value == OutboundMode::RegistryOnly;
            match by_mode.last_mut() {
                // Only neighbours are put together: deeper cgroups stay first.
                Some(last) if last.registry_only == registry_only => {
                    last.cgroups.push(cgroup.to_owned());
                }
                _ => by_mode.push(Outbound { cgroups: vec![cgroup.to_owned()], registry_only }),
            }
        }
        for outbound in &mut by_mode {
            outbound.cgroups.sort();
            // The root cgroup holds every client.
            if outbound.cgroups.iter().any(|cgroup| cgroup == "/") {
                outbound.cgroups.clear();
            }
        }
        by_mode
    }
}

/// Checks the sidecars against each other and against the clients.
pub(super) fn check(resources: &Resources, clients: &[Client<'_>], report: &mut Report) {
    let mut defaults: HashMap<&str, &Sidecar> = HashMap::new();
    for sidecar in resources.sidecars.iter().filter(|s| s.workload_selector.is_none()) {
        match defaults.get(sidecar.meta.namespace.as_str()) {
            Some(first) => conflict(&code::SIDECAR_DEFAULT_CONFLICT, first, sidecar, report),
            None => drop(defaults.insert(&sidecar.meta.namespace, sidecar)),
        }
    }
    for client in clients {
        let mut selecting = resources.sidecars.iter().filter(|sidecar| {
            client.namespace() == Some(sidecar.meta.namespace.as_str())
                && sidecar.workload_selector.as_ref().is_some_and(|labels| client.has(labels))
        });
        let first = selecting.next();
        for second in selecting {
            if let Some(first) = first {
                conflict(&code::SIDECAR_CONFLICT, first, second, report);
            }
        }
    }
    for sidecar in &resources.sidecars {
        check_selects(sidecar, clients, report);
    }
}

fn conflict(code: &'static Code, first: &Sidecar, second: &Sidecar, report: &mut Report) {
    report.push(
        Diagnostic::new(code, second.meta.at, code.title)
            .with_label("and this one")
            .with_secondary(first.meta.at, "this one")
            .with_help("merge the two, or select different workloads"),
    );
}

/// A sidecar without clients does nothing, which is never meant.
fn check_selects(sidecar: &Sidecar, clients: &[Client<'_>], report: &mut Report) {
    let selects = |client: &&Client<'_>| {
        let is_near = client.namespace() == Some(sidecar.meta.namespace.as_str())
            || sidecar.meta.namespace == ROOT_NAMESPACE && client.workload.is_some();
        is_near && sidecar.workload_selector.as_ref().is_none_or(|labels| client.has(labels))
    };
    if clients.iter().any(|client| selects(&client)) {
        return;
    }
    let message = format!(
        "no workload of the namespace `{}` is described that this selects",
        sidecar.meta.namespace
    );
    let code = if clients.len() > 1 { &code::RULE_INEFFECTIVE } else { &code::UNKNOWN_CLIENT };
    report.push(Diagnostic::new(code, sidecar.meta.at, message).with_help(WORKLOAD_HELP));
}

/// How clients become known.
pub(super) const WORKLOAD_HELP: &str = "say who the clients are with a document `kind: Workload` (apiVersion splitter.dev/v1): a \
     cgroup, its namespace and labels; the cgroup `/` is every client";
