//! Foreign documents: those of the policy files, and those that were applied over them.
//!
//! Services are derived from all of them together, so each load reads all of them again. What was
//! applied, the addresses that hosts were given, what the resolver answered last, and what the host
//! names of egress documents stand for are kept over restarts: as text here, in a file by [`super::overrides`], whose journal makes them one with the services of a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::resolver::Answers;
use crate::policy::model::Outbound;
use crate::policy::{HostNames, Loaded, Reading, Source, holds_resources, is_service};

/// Most hosts whose address is remembered though no document has them now.
const MOST_ABSENT: usize = 1024;

/// A source with the documents in it that count.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) source: Source,
    /// `KIND/NAMESPACE/NAME`, without services.
    pub(crate) identities: Vec<String>,
}

/// All foreign documents, and what they say besides services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    /// Sources of policy files with a document, whether it counts or not.
    pub(crate) base: Vec<Held>,
    /// Sources that were applied, the last one last.
    pub(crate) applied: Vec<Held>,
    /// Addresses that hosts were given, by full name.
    pub(crate) assigned: BTreeMap<String, IpAddr>,
    /// What the resolver answered last.
    pub(crate) answers: Answers,
    /// What host names of egress documents stand for beside those.
    pub(crate) egress_hosts: Answers,
    /// See [`Loaded::hosts`].
    pub(crate) hosts: Vec<HostNames>,
    /// See [`Loaded::lookups`].
    pub(crate) lookups: Vec<String>,
    /// See [`crate::policy::model::Policy::outbound`].
    pub(crate) outbound: Vec<Outbound>,
}

/// What is kept over restarts.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    applied: Vec<KeptSource>,
    addresses: BTreeMap<String, IpAddr>,
    answers: Answers,
    #[serde(default, skip_serializing_if = "Answers::is_empty")]
    egress_hosts: Answers,
}

/// A source that was applied.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptSource {
    name: String,
    text: String,
    namespace: String,
    degrade: bool,
    layer: u32,
    without: BTreeSet<String>,
}

impl Documents {
    /// Reads what [`Self::to_text`] wrote; nothing where the text is empty.
    pub(crate) fn from_text(text: &str) -> serde_json::Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Kept { applied, addresses, answers, egress_hosts } = serde_json::from_str(text)?;
        let held = |kept| Held { source: Source::from(kept), identities: Vec::new() };
        let applied = applied.into_iter().map(held).collect();
        Ok(Self { applied, assigned: addresses, answers, egress_hosts, ..Self::default() })
    }

    /// What is kept over restarts; empty where that is nothing.
    pub(crate) fn to_text(&self) -> String {
        let names = [&self.answers, &self.egress_hosts];
        if self.applied.is_empty()
            && self.assigned.is_empty()
            && names.iter().all(|it| it.is_empty())
        {
            return String::new();
        }
        let kept = Kept {
            applied: self.applied.iter().map(|held| KeptSource::from(&held.source)).collect(),
            addresses: self.assigned.clone(),
            answers: self.answers.clone(),
            egress_hosts: self.egress_hosts.clone(),
        };
        serde_json::to_string(&kept).expect("strings and addresses are JSON")
    }

    /// Sources for a load without the services that stand in them, those of the policy files first.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.base.iter().chain(&self.applied).map(|held| without_services(&held.source)).collect()
    }

    /// Sources that were applied, as [`Self::sources`] has them.
    pub(crate) fn applied_sources(&self) -> Vec<Source> {
        self.applied.iter().map(|held| without_services(&held.source)).collect()
    }

    /// The layer above all that were applied.
    pub(crate) fn next_layer(&self) -> u32 {
        self.applied.iter().map(|held| held.source.reading.layer).max().map_or(1, |top| top + 1)
    }

    /// Names of policy files with a document.
    pub(crate) fn base_files(&self) -> impl Iterator<Item = &str> {
        self.base.iter().map(|held| held.source.name.as_str())
    }

    /// Names of egress documents that take nobody, because nobody bears their labels.
    pub(crate) fn egress_of_nobody(&self) -> impl Iterator<Item = &str> {
        let identities = self.base.iter().chain(&self.applied).flat_map(|held| &held.identities);
        let names = identities.filter_map(|identity| identity.strip_prefix("Egress/"));
        names.filter(|name| self.outbound.iter().all(|said| said.name != *name))
    }

    /// What a load of `sources` leaves. Those in layer 0 are policy files.
    pub(crate) fn after(&self, loaded: &Loaded, sources: &[Source]) -> Self {
        let mut identities = vec![Vec::new(); sources.len()];
        for document in &loaded.documents {
            if let Some(list) = identities.get_mut(document.source) {
                list.extend(document.identities.iter().filter(|it| !is_service(it)).cloned());
            }
        }
        let held = sources.iter().zip(identities);
        let held = held.map(|(source, identities)| Held { source: source.clone(), identities });
        let is_base = |held: &Held| held.source.reading.layer == 0;
        // What is applied over a whole policy file may be taken back.
        let counting = held.filter(|held| {
            !held.identities.is_empty() || is_base(held) && holds_resources(&held.source)
        });
        let (base, applied) = counting.partition(is_base);
        Self {
            base,
            applied,
            answers: self.answers.clone(),
            egress_hosts: self.egress_hosts.clone(),
            assigned: remember(&self.assigned, &loaded.hosts),
            hosts: loaded.hosts.clone(),
            lookups: loaded.lookups.clone(),
            outbound: loaded.policy.outbound.clone(),
        }
    }
}

fn without_services(source: &Source) -> Source {
    let mut source = source.clone();
    source.reading.without_services = true;
    source
}

/// Addresses that were given, with those of before that nobody else has now: a host that comes back
/// gets its own again.
fn remember(before: &BTreeMap<String, IpAddr>, hosts: &[HostNames]) -> BTreeMap<String, IpAddr> {
    let given = hosts.iter().filter(|host| host.allocated);
    let mut assigned: BTreeMap<String, IpAddr> =
        given.filter_map(|host| Some((host.names.first()?.clone(), host.address))).collect();
    let taken: BTreeSet<IpAddr> = hosts.iter().map(|host| host.address).collect();
    let absent =
        before.iter().filter(|(name, ip)| !assigned.contains_key(*name) && !taken.contains(*ip));
    let absent: Vec<_> = absent.take(MOST_ABSENT).map(|(name, ip)| (name.clone(), *ip)).collect();
    assigned.extend(absent);
    assigned
}

impl From<KeptSource> for Source {
    fn from(kept: KeptSource) -> Self {
        let KeptSource { name, text, namespace, degrade, layer, without } = kept;
        let reading =
            Reading { namespace, degrade, quiet: true, layer, without_services: true, without };
        Self { name, bytes: text.into_bytes(), reading }
    }
}

impl From<&Source> for KeptSource {
    fn from(source: &Source) -> Self {
        let Reading { namespace, degrade, layer, without, .. } = source.reading.clone();
        let text = String::from_utf8_lossy(&source.bytes).into_owned();
        Self { name: source.name.clone(), text, namespace, degrade, layer, without }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, address: &str, allocated: bool) -> HostNames {
        let address = address.parse().unwrap();
        HostNames { address, names: vec![name.to_owned()], allocated }
    }

    #[test]
    fn addresses_stay_with_their_hosts_while_nobody_else_has_them() {
        let first = remember(
            &BTreeMap::new(),
            &[
                host("a", "127.240.0.1", true),
                host("b", "127.240.0.2", true),
                host("c", "::1", false),
            ],
        );
        assert_eq!(first.keys().collect::<Vec<_>>(), ["a", "b"]);
        let second = remember(&first, &[host("d", "127.240.0.2", true)]);
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "d"]);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut source = Source::new("one.yaml", "# \u{e9}\n");
        source.reading = Reading {
            quiet: true,
            namespace: "shop".to_owned(),
            degrade: true,
            layer: 7,
            without_services: true,
            without: BTreeSet::from(["Pod/shop/a".to_owned()]),
        };
        let documents = Documents {
            applied: vec![Held { source: source.clone(), identities: Vec::new() }],
            assigned: BTreeMap::from([("a".to_owned(), "127.240.0.1".parse().unwrap())]),
            ..Documents::default()
        };
        let read = Documents::from_text(&documents.to_text()).unwrap();
        assert_eq!(read.applied[0].source.reading, source.reading);
        assert_eq!(read.applied[0].source.bytes, source.bytes);
        assert_eq!((read.next_layer(), read.assigned), (8, documents.assigned));
        assert_eq!(Documents::default().to_text(), "");
        assert!(Documents::from_text("{").is_err());
    }
}
