//! What clients may reach besides the services.

use std::collections::HashMap;

use super::clients::{Clients, ROOT};
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
    for egress in &resources.egresses {
        check_unique(egress, &mut taken, report);
    }
    let mut all: Vec<Outbound> = resources.egresses.iter().map(outbound).collect();
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

fn outbound(egress: &ClientEgress) -> Outbound {
    let mut cgroups: Vec<CgroupName> =
        egress.cgroups.iter().map(|cgroup| cgroup.value.clone()).collect();
    cgroups.sort_unstable();
    if cgroups.iter().any(|cgroup| cgroup.path() == Some(ROOT)) {
        cgroups.clear();
    }
    Outbound { cgroups, ..egress.said.clone() }
}

/// Reports clients that an earlier document takes.
fn check_unique<'a>(
    egress: &'a ClientEgress,
    taken: &mut HashMap<(&'static str, &'a str), Span>,
    report: &mut Report,
) {
    const EVERY: (&str, &str) = ("cgroup", ROOT);
    let own = egress.cgroups.iter().map(|At { value, at }| ((value.key(), value.value()), *at));
    let own = own.chain(egress.cgroups.is_empty().then_some((EVERY, egress.meta.at)));
    for (name, at) in own {
        let Some(first) = taken.insert(name, at) else { continue };
        let clients = match name {
            EVERY => "every client".to_owned(),
            (_, name) => format!("the clients of {}", quote(name)),
        };
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
