//! What the host names of egress documents stand for.
//!
//! That is the last answer of the resolver, and for a time what was in those before it: clients ask
//! for themselves, are answered with other addresses of a name that has many, and keep what they
//! were told. When it is asked, and how often, is the resolver's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::egress::Egress;
use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::egress::{HostAddresses, LeftOut, MAX_HOST_ADDRESSES, NoRoom, host_key};
use crate::daemon::resolver::Answers;
use crate::policy::model::Outbound;
use crate::tables::Maps;

/// How long an address stays after it left the answers of its name. Resolvers and programs keep an
/// answer for its time to live, which is rarely longer.
const STAY: Duration = Duration::from_hours(1);

/// Addresses of host names.
#[derive(Default)]
pub(super) struct Hosts {
    /// The last answers of the resolver, also of names that no egress document has.
    answers: Answers,
    /// Addresses that are in no answer any more, with when they left, by the names of documents.
    left: BTreeMap<String, BTreeMap<IpAddr, Instant>>,
}

/// A host name of an egress document, and what it stands for now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostStatus {
    /// The name.
    pub(crate) name: String,
    /// Addresses of the last answer.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses that are in no answer any more, and count for a time.
    pub(crate) left: Vec<IpAddr>,
    /// Addresses that do not count, because there is no room for them.
    pub(crate) left_out: Vec<IpAddr>,
    /// Why there was never an answer, if so and known.
    pub(crate) unresolved: Option<String>,
}

impl Hosts {
    /// What an earlier daemon knew: answers, and what [`Self::beside`] gave for them. The time of
    /// that begins anew.
    pub(super) fn restore(answers: &Answers, beside: &Answers, now: Instant) -> Self {
        let left = beside.iter().map(|(name, addresses)| {
            (name.clone(), addresses.iter().map(|ip| (*ip, now)).collect())
        });
        Self { answers: answers.clone(), left: left.collect() }
    }

    /// What names stand for, and is not in these answers.
    pub(super) fn beside(&self, answers: &Answers, wanted: &[Outbound]) -> Answers {
        let names = wanted.iter().flat_map(Outbound::hosts);
        let names: BTreeSet<&str> = names.chain(self.left.keys().map(String::as_str)).collect();
        let beside = names.into_iter().map(|name| {
            let is_in = |ip: &IpAddr| answers.get(name).is_some_and(|known| known.contains(ip));
            (name.to_owned(), self.of(name).filter(|ip| !is_in(ip)).collect::<Vec<_>>())
        });
        beside.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// Takes in the last answers, of all names that the resolver follows.
    fn learn(&mut self, answers: &Answers, wanted: &[Outbound], now: Instant) {
        for name in wanted.iter().flat_map(Outbound::hosts) {
            let Some(new) = answers.get(name) else { continue };
            let left = self.left.entry(name.to_owned()).or_default();
            let old = self.answers.get(name).into_iter().flatten();
            left.extend(old.map(|ip| (*ip, now)));
            left.retain(|ip, _| !new.contains(ip));
            keep_latest(left, MAX_HOST_ADDRESSES.saturating_sub(new.len()));
        }
        self.answers.clone_from(answers);
        self.forget(now);
    }

    /// Forgets what left the answers long ago. Answers whether there was any.
    fn forget(&mut self, now: Instant) -> bool {
        let mut has_forgotten = false;
        self.left.retain(|_, left| {
            let before = left.len();
            left.retain(|_, at| now.saturating_duration_since(*at) < STAY);
            has_forgotten |= left.len() < before;
            !left.is_empty()
        });
        has_forgotten
    }

    /// Addresses of the names in documents.
    pub(super) fn addresses(&self, wanted: &[Outbound]) -> HostAddresses {
        let names: BTreeSet<&str> = wanted.iter().flat_map(Outbound::hosts).collect();
        names.into_iter().map(|name| (name.to_owned(), self.of(name).collect())).collect()
    }

    /// Addresses of a name: of the last answer, then those that left, the latest first.
    fn of(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.answers.get(name).into_iter().flatten().copied().chain(self.latest(name))
    }

    /// Addresses that left the answers of a name, the latest first.
    fn latest(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        let mut left: Vec<_> = self.left.get(name).into_iter().flatten().collect();
        left.sort_by(|(_, one), (_, other)| other.cmp(one));
        left.into_iter().map(|(ip, _)| *ip)
    }
}

/// Forgets those that left first, of more than `most`.
fn keep_latest(left: &mut BTreeMap<IpAddr, Instant>, most: usize) {
    let mut times: Vec<(Instant, IpAddr)> = left.iter().map(|(ip, at)| (*at, *ip)).collect();
    times.sort_unstable();
    for (_, ip) in times.iter().take(times.len().saturating_sub(most)) {
        left.remove(ip);
    }
}

impl Egress {
    /// Takes in which addresses are left out now, and says so of names that had none of those.
    pub(super) fn leave_out(&mut self, left_out: BTreeSet<LeftOut>) {
        let before = tally(&self.left_out);
        for (of, n) in tally(&left_out).iter().filter(|(of, _)| !before.contains_key(*of)) {
            warn!("{}", describe(of, *n));
        }
        self.left_out = left_out;
    }

    /// What the host names of a document stand for, as far as that is in force.
    pub(super) fn host_status(&self, said: &Outbound, rule: u32) -> Vec<HostStatus> {
        let names: BTreeSet<&str> = said.hosts().collect();
        let describe = |name: &str| {
            let is_of = |it: &&LeftOut| it.document == said.name && it.host == name;
            let out: Vec<IpAddr> = self.left_out.iter().filter(is_of).map(|it| it.ip).collect();
            let networks = self.in_force.as_ref().map(|image| &image.networks);
            let is_there =
                |ip| networks.is_some_and(|networks| networks.contains_key(&host_key(rule, ip)));
            let counts = |ip: &IpAddr| !out.contains(ip) && is_there(*ip);
            let answer = self.hosts.answers.get(name).into_iter().flatten().copied();
            HostStatus {
                name: name.to_owned(),
                addresses: answer.filter(counts).collect(),
                left: self.hosts.latest(name).filter(counts).collect(),
                left_out: out,
                unresolved: None,
            }
        };
        names.into_iter().map(describe).collect()
    }
}

/// Of a document, a host name, and what there is no room for.
type Of<'a> = (&'a str, &'a str, NoRoom);

fn tally(left_out: &BTreeSet<LeftOut>) -> BTreeMap<Of<'_>, usize> {
    let mut counts = BTreeMap::new();
    for LeftOut { document, host, why, .. } in left_out {
        *counts.entry((document.as_str(), host.as_str(), *why)).or_insert(0) += 1;
    }
    counts
}

fn describe((document, host, why): &Of<'_>, n: usize) -> String {
    let (addresses, are) =
        if n == 1 { ("1 address".to_owned(), "is") } else { (format!("{n} addresses"), "are") };
    format!(
        "{addresses} of the host {host} {are} left out of the egress document {document}: {why}; what \
         else the document says holds there"
    )
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Takes in answers of the resolver, for the next commit.
    pub(super) fn learn_hosts(&mut self, answers: &Answers, now: Instant) {
        let Egress { hosts, wanted, .. } = &mut self.egress;
        hosts.learn(answers, wanted, now);
        self.is_egress_stale();
    }

    /// Whether addresses count that are in no answer any more.
    pub(crate) fn has_left_hosts(&self) -> bool {
        !self.egress.hosts.left.is_empty()
    }

    /// Has addresses count no longer that left the answers of their names long ago.
    pub(crate) fn forget_left_hosts(&mut self, now: Instant) -> Result<(), ChangeError> {
        if self.egress.hosts.forget(now) { self.publish_hosts() } else { Ok(()) }
    }

    /// Commits what became of hosts alone, where that is anything, and keeps it.
    pub(super) fn publish_hosts(&mut self) -> Result<(), ChangeError> {
        if self.is_egress_stale() {
            self.commit(Vec::new(), &[])?;
        }
        let Egress { hosts, wanted, .. } = &self.egress;
        self.documents.egress_hosts = hosts.beside(&self.documents.answers, wanted);
        let text = self.documents.to_text();
        self.keep_documents(Some(text).filter(|text| *text != self.overrides.documents()));
        Ok(())
    }

    /// What is wrong with the hosts that documents name.
    pub(crate) fn host_problems(&self) -> Vec<String> {
        tally(&self.egress.left_out).iter().map(|(of, n)| describe(of, *n)).collect()
    }
}

#[cfg(test)]
mod tests;
