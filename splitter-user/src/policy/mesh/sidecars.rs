//! What clients see of the mesh, and what they may reach outside of it.

use std::collections::HashMap;

use super::clients::{Client, Clients, ROOT};
use super::destination_rules::ROOT_NAMESPACE;
use super::names::{covers, full_host};
use super::registry::Host;
use super::resource::{Egress, OutboundMode, Resources, Sidecar, VirtualService};
use crate::policy::code::{self, Code};
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::policy::model::Outbound;

/// All sidecars, by namespace.
#[derive(Debug)]
pub(super) struct Sidecars<'r> {
    by_namespace: HashMap<&'r str, Vec<&'r Sidecar>>,
}

impl<'r> Sidecars<'r> {
    pub(super) fn new(resources: &'r Resources) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for sidecar in &resources.sidecars {
            by_namespace.entry(&sidecar.meta.namespace).or_default().push(sidecar);
        }
        Self { by_namespace }
    }

    /// The sidecar of a client: one that selects it, else that of its namespace, else that of the
    /// root namespace.
    fn find(&self, client: &Client<'_>) -> Option<&'r Sidecar> {
        let own = client.namespace().filter(|_| !self.by_namespace.is_empty())?;
        let of = |namespace| self.by_namespace.get(namespace).into_iter().flatten().copied();
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
            let mut hosts = egress.hosts.iter().map(|pattern| &pattern.value);
            egress.port.is_none_or(|only| only == port)
                && hosts.any(|(namespace, name)| {
                    is_of(namespace, host.namespace) && covers(name, &host.name)
                })
        };
        sidecar.egress.is_empty() || sidecar.egress.iter().any(shows)
    }

    /// Whether a client sees a virtual service, which has a namespace and hosts of its own.
    pub(super) fn shows_rules(&self, client: &Client<'_>, service: &VirtualService) -> bool {
        let Some(sidecar) = self.find(client) else { return true };
        let own = &service.meta.namespace;
        let mut patterns = sidecar.egress.iter().flat_map(|egress| &egress.hosts);
        sidecar.egress.is_empty()
            || patterns.any(|pattern| {
                let (namespace, name) = &pattern.value;
                let mut hosts = service.hosts.iter().map(|host| full_host(&host.value, own));
                let is_near = |host: String| covers(name, &host) || covers(&host, name);
                is_of(namespace, own) && hosts.any(is_near)
            })
    }

    /// Whether connections of a client to what it does not see are refused.
    pub(super) fn refuses(&self, client: &Client<'_>) -> bool {
        self.mode(client) == Some(OutboundMode::RegistryOnly)
    }

    fn mode(&self, client: &Client<'_>) -> Option<OutboundMode> {
        self.find(client)?.outbound.as_ref().map(|mode| mode.value)
    }

    /// What each client may reach besides the hosts, where a sidecar says so of it or of a client
    /// around it: what is not said is that it may reach everything.
    pub(super) fn outbound(&self, clients: &Clients<'_>) -> Vec<Outbound> {
        let said: Vec<_> = clients.all.iter().map(|client| self.mode(client)).collect();
        let is_said_around = |client: &Client<'_>| {
            let step = |index: &usize| clients.all.get(*index)?.around;
            let mut around = std::iter::successors(client.around, step);
            around.any(|index| said.get(index).is_some_and(Option::is_some))
        };
        let mut by_mode: Vec<Outbound> = Vec::new();
        for (client, said) in clients.all.iter().zip(&said) {
            let Some(cgroup) = client.cgroup() else { continue };
            if said.is_none() && !is_said_around(client) {
                continue;
            }
            let registry_only = *said == Some(OutboundMode::RegistryOnly);
            match by_mode.last_mut() {
                // Only neighbours are put together: deeper cgroups stay first.
                Some(last) if last.registry_only == registry_only => {
                    last.cgroups.push(cgroup.clone());
                }
                _ => {
                    let name = format!("sidecars/egress-{}", by_mode.len() + 1);
                    by_mode.push(Outbound::plain(name, vec![cgroup.clone()], registry_only));
                }
            }
        }
        for outbound in &mut by_mode {
            outbound.cgroups.sort();
            if outbound.cgroups.iter().any(|cgroup| cgroup.path() == Some(ROOT)) {
                outbound.cgroups.clear();
            }
        }
        by_mode
    }
}

/// Whether a namespace is the one that a pattern names.
fn is_of(pattern: &str, namespace: &str) -> bool {
    pattern == "*" || pattern == namespace
}

/// Checks the sidecars against each other and against the clients.
pub(super) fn check(resources: &Resources, clients: &Clients<'_>, report: &mut Report) {
    let mut defaults: HashMap<&str, &Sidecar> = HashMap::new();
    for sidecar in resources.sidecars.iter().filter(|s| s.workload_selector.is_none()) {
        match defaults.get(sidecar.meta.namespace.as_str()) {
            Some(first) => conflict(&code::SIDECAR_DEFAULT_CONFLICT, first, sidecar, report),
            None => drop(defaults.insert(&sidecar.meta.namespace, sidecar)),
        }
    }
    for client in &clients.classes {
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
fn check_selects(sidecar: &Sidecar, clients: &Clients<'_>, report: &mut Report) {
    let selects = |client: &&Client<'_>| {
        let is_near = client.namespace() == Some(sidecar.meta.namespace.as_str())
            || sidecar.meta.namespace == ROOT_NAMESPACE && client.workload.is_some();
        is_near && sidecar.workload_selector.as_ref().is_none_or(|labels| client.has(labels))
    };
    if clients.classes.iter().any(|client| selects(&client)) {
        return;
    }
    let message = format!(
        "no workload of the namespace `{}` is described that this selects",
        sidecar.meta.namespace
    );
    let code = if clients.are_known() { &code::RULE_INEFFECTIVE } else { &code::UNKNOWN_CLIENT };
    report.push(Diagnostic::new(code, sidecar.meta.at, message).with_help(WORKLOAD_HELP));
}

/// How clients become known.
pub(super) const WORKLOAD_HELP: &str = "say who the clients are with a document `kind: Workload` (apiVersion splitter.dev/v1): a \
     cgroup, its namespace and labels; the cgroup `/` is every client";
