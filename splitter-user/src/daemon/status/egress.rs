//! What clients may reach, as `status` tells it.

use serde::{Deserialize, Serialize};
use splitter_common::abi::EgressCounts;

use crate::daemon::engine::HostStatus;
use crate::daemon::resolver::DnsStatus;
use crate::policy::model::Outbound;

/// What some clients may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EgressStatus {
    /// Name of the document.
    pub(crate) name: String,
    /// Cgroups of the clients; every client where empty.
    pub(crate) cgroups: Vec<String>,
    /// `allowAny` or `registryOnly`.
    pub(crate) mode: String,
    /// Whether what is to be refused is only told of.
    pub(crate) audit: bool,
    /// Connections and datagrams that were refused.
    pub(crate) refused: u64,
    /// Those that were only told of.
    pub(crate) audited: u64,
    /// Those of both that are in no event, because there were too many.
    pub(crate) untold: u64,
    /// Its host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<HostStatus>,
    /// What is to be said of names of clients.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

impl EgressStatus {
    /// What is said, what came of it, what its host names stand for, and what is to be said of names of
    /// clients.
    pub(in crate::daemon) fn new(
        said: &Outbound,
        counts: EgressCounts,
        hosts: Vec<HostStatus>,
        dns: &DnsStatus,
        notes: Vec<&str>,
    ) -> Self {
        let unresolved = |host: HostStatus| HostStatus {
            unresolved: dns.unresolved.get(&host.name).cloned(),
            ..host
        };
        let EgressCounts { refused, audited, untold, .. } = counts;
        Self {
            name: said.name.clone(),
            cgroups: said.cgroups.iter().map(|name| name.value().to_owned()).collect(),
            mode: if said.registry_only { "registryOnly" } else { "allowAny" }.to_owned(),
            audit: said.audit,
            refused,
            audited,
            untold,
            hosts: hosts.into_iter().map(unresolved).collect(),
            notes: notes.into_iter().map(str::to_owned).collect(),
        }
    }
}
