//! What clients may reach besides the services.

use std::collections::HashMap;

use super::clients::{Clients, ROOT};
use super::labels;
use super::resource::{At, ClientEgress, OutboundMode, Resources};
use super::sidecars::Sidecars;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::model::{CgroupName, Outbound};
use crate::policy::words::quote;

/// What `kind: Egress` and sidecars say, in this order but for what takes every client.
pub(super) fn find(
    resources: &Resources,
    sidecars: &Sidecars<'_>,
    clients: &Clients<'_>,
    report: &mut Report,
) -> Vec<Outbound> {
    let mut taken = HashMap::new();
    let mut all = Vec::new();
    for egress in &resources.egresses {
        let cgroups = cgroups(egress, clients, report);
        // Nobody bears the labels.
        if cgroups.is_empty() && !egress.selectors.is_empty() {
            continue;
        }
        check_unique(egress, &cgroups, &mut taken, report);
        all.push(outbound(egress, cgroups));
    }
    all.extend(sidecars.outbound(clients));
    all.sort_by_key(|outbound| outbound.cgroups.is_empty());
    all
}

/// Whether connections of some client to what no service has are refused.
pub(super) fn are_some_refused(resources: &Resources) -> bool {
    let sidecars = resources.sidecars.iter().filter_map(|sidecar| sidecar.outbound.as_ref());
    resources.egresses.iter().any(|egress| egress.said.registry_only)
        || sidecars.map(|mode| mode.value).any(|mode| mode == OutboundMode::RegistryOnly)
}

/// Cgroups of the clients, each once; none where a document is about every client.
fn cgroups(
    egress: &ClientEgress,
    clients: &Clients<'_>,
    report: &mut Report,
) -> Vec<At<CgroupName>> {
    let mut cgroups = egress.cgroups.clone();
    for selector in &egress.selectors {
        for value in labels::find(selector, clients, report) {
            if cgroups.iter().all(|known| known.value != value) {
                cgroups.push(At { value, at: selector.at });
            }
        }
    }
    cgroups
}

fn outbound(egress: &ClientEgress, cgroups: Vec<At<CgroupName>>) -> Outbound {
    let mut cgroups: Vec<CgroupName> = cgroups.into_iter().map(|cgroup| cgroup.value).collect();
    cgroups.sort_unstable();
    if cgroups.iter().any(|cgroup| cgroup.path() == Some(ROOT)) {
        cgroups.clear();
    }
    Outbound { cgroups, ..egress.said.clone() }
}

/// Reports clients that an earlier document takes.
fn check_unique(
    egress: &ClientEgress,
    cgroups: &[At<CgroupName>],
    taken: &mut HashMap<CgroupName, Span>,
    report: &mut Report,
) {
    let every = || (CgroupName::Path(ROOT.to_owned()), egress.meta.at);
    let own = cgroups.iter().map(|At { value, at }| (value.clone(), *at));
    for (name, at) in own.chain(cgroups.is_empty().then(every)) {
        let clients = match &name {
            CgroupName::Path(path) if path == ROOT => "every client".to_owned(),
            name => format!("the clients of {}", quote(name.value())),
        };
        let Some(first) = taken.insert(name, at) else { continue };
        let message = format!("two documents say what {clients} may reach");
        report.push(
            Diagnostic::new(&code::EGRESS_CONFLICT, at, message)
                .with_label("again here")
                .with_secondary(first, "first here")
                .with_help("keep one of them, or name other clients in it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::model::CgroupName;
    use crate::policy::{Source, load};

    fn egress(name: &str, clients: &str) -> String {
        format!(
            "apiVersion: splitter.dev/v1\nkind: Egress\nmetadata: {{name: {name}}}\n\
             spec: {{mode: allowAny{clients}}}\n---\n"
        )
    }

    #[test]
    fn what_is_for_every_client_is_last() {
        let some = ", clients: [{cgroup: /b}, {cgroup: /a}]";
        for every in ["", ", clients: [{cgroup: /c}, {cgroup: /}]"] {
            let text = egress("every", every) + &egress("some", some);
            let loaded = load(&[Source::new("-", text)]).expect("valid");
            let path = |path: &str| CgroupName::Path(path.to_owned());
            let cgroups = [vec![path("/a"), path("/b")], Vec::new()];
            let found = loaded.policy.outbound.into_iter().map(|outbound| outbound.cgroups);
            assert!(found.eq(cgroups));
        }
    }
}
