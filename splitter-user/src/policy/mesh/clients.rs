//! Who connects: workloads, and everybody else.

use std::collections::HashMap;

use super::resource::{Export, Labels, Resources, Workload, selects};
use crate::policy::code;
use crate::policy::diagnostic::{Diagnostic, Report};
use crate::rehearsal::lineage;

/// Clients that no rule tells apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'r> {
    /// `None` for everybody that no workload describes.
    pub(super) workload: Option<&'r Workload>,
}

impl<'r> Client<'r> {
    /// Everybody that no workload describes: no labels, no namespace.
    pub(super) const ANYBODY: Self = Self { workload: None };

    pub(super) fn namespace(&self) -> Option<&'r str> {
        self.workload.map(|workload| workload.meta.namespace.as_str())
    }

    /// Whether the client has all of these labels.
    pub(super) fn has(&self, labels: &Labels) -> bool {
        match self.workload {
            Some(workload) => selects(labels, &workload.labels),
            None => labels.is_empty(),
        }
    }

    /// Whether the client sees what is exported so.
    pub(super) fn sees(&self, export: &Export) -> bool {
        match export {
            Export::All => true,
            Export::Namespaces(names) => {
                self.namespace().is_some_and(|own| names.iter().any(|name| name == own))
            }
        }
    }

    pub(super) fn cgroup(&self) -> Option<&'r str> {
        self.workload.map(|workload| workload.cgroup.value.as_str())
    }
}

/// Every client: workloads, those in deeper cgroups first, then everybody else.
pub(super) fn find<'r>(resources: &'r Resources, report: &mut Report) -> Vec<Client<'r>> {
    let mut seen: HashMap<&str, &Workload> = HashMap::new();
    let mut clients = Vec::new();
    for workload in &resources.workloads {
        let cgroup = &workload.cgroup;
        match seen.get(cgroup.value.as_str()) {
            Some(first) => repeated(first, workload, report),
            None => {
                seen.insert(&cgroup.value, workload);
                clients.push(Client { workload: Some(workload) });
            }
        }
    }
    clients.sort_by_key(|client| {
        let path = client.cgroup().unwrap_or("/");
        (std::cmp::Reverse(lineage(path).len()), path)
    });
    clients.push(Client::ANYBODY);
    clients
}

fn repeated(first: &Workload, second: &Workload, report: &mut Report) {
    let message = format!("the cgroup {} has two workloads", second.cgroup.value);
    report.push(
        Diagnostic::new(&code::WORKLOAD_REPEATED, second.cgroup.at, message)
            .with_label("again here")
            .with_secondary(first.cgroup.at, "first here")
            .with_help("give one of them another cgroup; one inside the other is fine"),
    );
}

/// Whether the cgroup `inner` is `outer` or below it.
pub(super) fn is_within(inner: &str, outer: &str) -> bool {
    outer == "/"
        || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
