//! What clients may reach besides the services.

use std::collections::{HashMap, HashSet};

use splitter_common::abi::{EGRESS_LEVELS, MAX_EGRESS_RULES};

use super::clients::{Clients, ROOT};
use super::labels;
use super::resource::{At, ClientEgress, OutboundMode, Resources};
use super::sidecars::Sidecars;
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report, Span};
use crate::policy::model::{CgroupName, Outbound};
use crate::policy::words::quote;
use crate::rehearsal::lineage;

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
    let of_sidecars = sidecars.outbound(clients);
    let named: HashSet<&CgroupName> = of_sidecars.iter().flat_map(|it| &it.cgroups).collect();
    let workloads = resources.workloads.iter().map(|workload| &workload.cgroup);
    let named = workloads.filter(|cgroup| named.contains(&cgroup.value));
    named.filter_map(too_deep).for_each(|diagnostic| report.push(diagnostic));
    all.extend(of_sidecars);
    all.sort_by_key(|outbound| outbound.cgroups.is_empty());
    check_number(resources, all.len(), report);
    all
}

/// What is wrong with a cgroup that is deeper than clients can be told apart.
pub(in crate::policy) fn too_deep(At { value, at }: &At<CgroupName>) -> Option<Diagnostic> {
    let path = value.path()?;
    let levels = lineage(path).len() - 1;
    if levels < EGRESS_LEVELS as usize {
        return None;
    }
    let message = format!("the cgroup {} is {levels} levels below the root", quote(path));
    let help = format!(
        "what clients may reach is told apart down to {} levels: name a cgroup around it",
        EGRESS_LEVELS - 1
    );
    Some(Diagnostic::new(&code::EGRESS_DEPTH, *at, message).with_help(help))
}

/// Reports that there are more documents than the kernel has rules.
fn check_number(resources: &Resources, n: usize, report: &mut Report) {
    let most = MAX_EGRESS_RULES as usize;
    if n <= most {
        return;
    }
    let egresses = &resources.egresses;
    let metas = egresses.get(most).or(egresses.last()).map(|egress| &egress.meta);
    let Some(meta) = metas.or(resources.sidecars.last().map(|sidecar| &sidecar.meta)) else {
        return;
    };
    let message = format!("{n} documents say what clients may reach");
    let help = format!(
        "at most {most} can: name clients that may reach the same in one document; sidecars of \
         neighbouring cgroups count as one where their modes are equal"
    );
    report.push(Diagnostic::new(&code::EGRESS_DOCUMENTS, meta.at, message).with_help(help));
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

    fn codes(text: String) -> Vec<&'static str> {
        let problems = load(&[Source::new("-", text)]).map(|loaded| loaded.warnings);
        problems.unwrap_or_else(|problems| problems).iter().map(|it| it.code).collect()
    }

    #[test]
    fn cgroups_of_workloads_have_the_same_depth_where_a_sidecar_speaks_of_them() {
        let workload = |levels| {
            let path = "/a".repeat(levels);
            format!(
                "apiVersion: splitter.dev/v1\nkind: Workload\nmetadata: {{name: web}}\n\
                 spec: {{cgroup: {path}, labels: {{app: web}}}}\n---\n"
            )
        };
        let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: web}\n\
                       spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";
        assert!(codes(workload(16)).is_empty());
        assert!(codes(workload(15) + sidecar).is_empty());
        assert_eq!(codes(workload(16) + sidecar), ["SP0931"]);
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
