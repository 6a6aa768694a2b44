//! What clients may reach besides services: from what documents say to the maps.
//!
//! A change is written as a set of its own, which the root refers to from the commit on. The set of
//! before is removed when the next one comes, after every decision that could look at it has ended.

mod names;

use std::collections::{BTreeMap, BTreeSet};

use splitter_common::abi::{EgressCounts, EgressRoot, egress_flag};
use tracing::warn;

use super::hosts::{HostStatus, Hosts};
use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::egress::{
    Compiled, EgressImage, HostAddresses, LeftOut, Places, compile_egress, describe_names,
};
use crate::compile::image::Need;
use crate::daemon::dump::EgressCopy;
use crate::policy::model::{CgroupName, Errno, Outbound};
use crate::policy::suggest;
use crate::publish::PublishError;
use crate::tables::{EgressTables, Maps};
use names::RuleNames;

/// Name of the rule for clients that wait for a policy, as those of documents are.
const HOLD: &str = "splitter/hold";

/// What is in force, and what shall be.
pub(super) struct Egress {
    tables: Box<dyn EgressTables>,
    /// What the documents say.
    pub(super) wanted: Vec<Outbound>,
    /// What the host names in them stand for.
    pub(super) hosts: Hosts,
    /// Addresses of those that are not in force with the rest.
    pub(super) left_out: BTreeSet<LeftOut>,
    /// Cgroups whose clients reach nothing until a policy is committed.
    held: Vec<CgroupName>,
    /// Whether the change under way gives a policy, which ends a hold.
    gives_policy: bool,
    /// Whether that may be another thing than what is in force.
    is_stale: bool,
    /// What that came to; of an earlier daemon's nothing is known.
    pub(super) in_force: Option<EgressImage>,
    names: RuleNames,
    /// What about which names of clients, by document.
    notes: Vec<(String, String)>,
}

/// A change that is written and not committed.
pub(super) struct Staged {
    compiled: Compiled,
    /// What is to be said of names of clients.
    notes: Vec<(String, String)>,
    /// The set that was in force.
    before: u32,
    pub(super) root: EgressRoot,
}

impl Egress {
    /// With what an earlier daemon kept of the names of rules, where some are in force, and of what
    /// host names stand for.
    pub(super) fn new(
        tables: Box<dyn EgressTables>,
        hosts: Hosts,
        root: EgressRoot,
        kept: &str,
    ) -> Self {
        let is_adopted = root != EgressRoot::default();
        Self {
            tables,
            wanted: Vec::new(),
            hosts,
            left_out: BTreeSet::new(),
            held: Vec::new(),
            gives_policy: false,
            is_stale: true,
            in_force: None,
            names: if is_adopted { RuleNames::read(kept) } else { RuleNames::default() },
            notes: Vec::new(),
        }
    }

    /// The tables.
    pub(super) fn tables(&self) -> &dyn EgressTables {
        self.tables.as_ref()
    }

    /// Takes in what is to be said of names of clients, and logs what is new of it.
    fn note(&mut self, notes: Vec<(String, String)>) {
        for note in notes.iter().filter(|note| !self.notes.contains(note)) {
            warn!(document = %note.0, "clients of an egress document: {}", note.1);
        }
        self.notes = notes;
    }

    /// What the clients may reach now.
    fn said(&self) -> Vec<Outbound> {
        if self.held.is_empty() {
            return self.wanted.clone();
        }
        let hold = Outbound::plain(HOLD.to_owned(), self.held.clone(), true);
        vec![Outbound { errno: Errno::REFUSED, loopback: false, ..hold }]
    }

    /// Holds clients, or those no longer that were held. Answers which those were.
    pub(super) fn hold(&mut self, cgroups: Vec<CgroupName>) -> Vec<CgroupName> {
        self.is_stale |= cgroups != self.held;
        std::mem::replace(&mut self.held, cgroups)
    }

    /// Takes back the end of a hold, because the change that was to give a policy failed.
    pub(super) fn hold_again(&mut self, cgroups: Vec<CgroupName>) {
        self.gives_policy = false;
        self.hold(cgroups);
    }

    /// Takes in what documents say now, for the next commit. Answers what they said before.
    pub(super) fn want(&mut self, said: Vec<Outbound>) -> Vec<Outbound> {
        self.is_stale |= said != self.wanted;
        std::mem::replace(&mut self.wanted, said)
    }
}

impl<M: Maps, H: OptionalHooks> Engine<M, H> {
    /// Cgroups that are named by what clients may reach.
    pub(super) fn egress_cgroups(&self) -> impl Iterator<Item = &CgroupName> {
        let wanted = self.egress.wanted.iter().flat_map(|said| &said.cgroups);
        self.egress.held.iter().chain(wanted)
    }

    /// Has clients of cgroups reach nothing until a policy is committed, by this or by a command.
    /// Where one is in force, nobody has to wait. Answers whether they do.
    pub(crate) fn hold(&mut self, cgroups: Vec<CgroupName>) -> Result<bool, ChangeError> {
        let root = self.publisher.egress_root();
        let is_new = self.publisher.services().next().is_none()
            && (root == EgressRoot::default() || self.is_holding());
        if cgroups.is_empty() || !is_new {
            return Ok(false);
        }
        self.egress.hold(cgroups);
        self.has_new_names = true;
        self.commit(Vec::new(), &[])?;
        Ok(true)
    }

    /// Whether clients are held, by this daemon or by one before it.
    pub(crate) fn is_holding(&self) -> bool {
        self.publisher.egress_root().everyone.flags & egress_flag::HOLDS != 0
    }

    /// Whether there is any service, or will be by the change under way.
    fn has_policy(&self) -> bool {
        self.publisher.services().next().is_some() || self.egress.gives_policy
    }

    /// Ends a hold where a change gives a policy: services, or something that clients may not reach.
    /// Answers who was held.
    pub(super) fn end_hold(&mut self, has_services: bool) -> Vec<CgroupName> {
        self.egress.gives_policy = has_services || !self.egress.wanted.is_empty();
        if self.egress.gives_policy {
            return self.egress.hold(Vec::new());
        }
        self.egress.held.clone()
    }

    fn compile_egress(&self) -> Result<(Compiled, Vec<(String, String)>), ChangeError> {
        let names: BTreeSet<CgroupName> = self.egress_cgroups().cloned().collect();
        let places = if names.is_empty() { Places::new() } else { self.clients.places(&names) };
        let said = self.egress.said();
        let mut compiled = compile_egress(&said, &places, &self.egress_hosts())
            .map_err(|error| ChangeError::Impossible(error.to_string()))?;
        if !self.egress.held.is_empty() {
            compiled.image.everyone.flags |= egress_flag::HOLDS;
        }
        Ok((compiled, describe_names(&said, &places)))
    }

    /// Looks whether cgroups that came or went, or other addresses of hosts, make it another thing
    /// than what is in force.
    pub(super) fn is_egress_stale(&mut self) -> bool {
        let Ok((Compiled { image, left_out }, notes)) = self.compile_egress() else {
            return self.egress.is_stale;
        };
        let is_other = self.egress.in_force.as_ref().is_some_and(|in_force| *in_force != image);
        self.egress.is_stale |= is_other;
        self.egress.note(notes);
        if !self.egress.is_stale {
            self.egress.leave_out(left_out);
        }
        self.egress.is_stale
    }

    /// Writes what is wanted where it is not in force, and attaches what it needs.
    pub(super) fn stage_egress(&mut self) -> Result<Option<Staged>, ChangeError> {
        if !self.egress.is_stale {
            return Ok(None);
        }
        let (compiled, notes) = self.compile_egress()?;
        let image = &compiled.image;
        let is_nothing = *image == EgressImage::default();
        // Held by a daemon before this one, which was not told of whom: until there is a policy.
        if is_nothing && self.is_holding() && self.egress.in_force.is_none() && !self.has_policy() {
            return Ok(None);
        }
        let was_nothing = self.publisher.egress_root() == EgressRoot::default();
        if self.egress.in_force.as_ref() == Some(image) || is_nothing && was_nothing {
            self.egress.is_stale = false;
            self.egress.note(notes);
            self.egress.leave_out(compiled.left_out);
            return Ok(None);
        }
        let before = self.publisher.egress_root();
        let set = before.set.wrapping_add(1).max(1);
        let written = self.publisher.maps().grace().wait();
        let written = written.and_then(|()| self.egress.tables.keep_only(before.set));
        let written = written.and_then(|()| self.egress.tables.insert(set, image));
        written.map_err(|error| ChangeError::Kernel(PublishError::Kernel(error)))?;
        if image.refuses() {
            self.hooks.set(Need::Egress, true).map_err(ChangeError::Hooks)?;
            let told = self.publisher.set_egress(true);
            told.map_err(|error| ChangeError::Kernel(PublishError::Kernel(error)))?;
        }
        let EgressImage { everyone, levels, .. } = *image;
        let root = EgressRoot { generation: 0, set, levels, everyone };
        self.keep_egress_names(set, compiled.image.names.clone());
        Ok(Some(Staged { compiled, notes, before: before.set, root }))
    }

    /// Keeps the names of a set that is not in force yet. A daemon can do without.
    fn keep_egress_names(&mut self, set: u32, names: Vec<String>) {
        self.egress.names.learn(set, names);
        if let Err(error) = self.overrides.keep_egress(&self.egress.names.to_text()) {
            warn!("keep the names of egress documents in the state directory: {error}");
        }
    }

    /// Takes in that a change is committed.
    pub(super) fn take_egress(&mut self, Staged { compiled, notes, before, .. }: Staged) {
        let Compiled { image, left_out } = compiled;
        self.egress.note(notes);
        if let Err(error) = self.carry_counts(before, &image.names) {
            warn!("count on, or anew, for rules of egress: {error}");
        }
        self.egress.in_force = Some(image);
        self.egress.leave_out(left_out);
        self.egress.is_stale = false;
        self.settle_egress();
    }

    /// Counts on for rules of the same names, wherever they are now, and anew for others.
    fn carry_counts(&mut self, before: u32, names: &[String]) -> std::io::Result<()> {
        let known = self.egress.names.of(before).iter().zip(0..);
        let counts =
            known.map(|(name, rule)| (name.clone(), (rule, self.publisher.egress_counts(rule))));
        let counts: BTreeMap<String, (u32, EgressCounts)> = counts.collect();
        for (name, rule) in names.iter().zip(0..) {
            match counts.get(name) {
                Some((before, _)) if *before == rule => {}
                Some((_, counts)) => self.publisher.set_egress_counts(rule, counts)?,
                None => self.publisher.set_egress_counts(rule, &EgressCounts::default())?,
            }
        }
        Ok(())
    }

    /// Detaches what nothing in force needs. It costs time and changes nothing, so it fails nothing.
    pub(super) fn settle_egress(&mut self) {
        let refuses = match &self.egress.in_force {
            Some(image) => image.refuses(),
            None => self.publisher.has_egress(),
        };
        if refuses {
            return;
        }
        let settled = self.publisher.set_egress(false);
        if let Err(error) = settled.and_then(|()| self.hooks.set(Need::Egress, false)) {
            warn!("have connections to what is no service no longer look: {error}");
        }
    }

    /// Attaches what rules of an earlier daemon need.
    pub(crate) fn resume_egress(&mut self) -> std::io::Result<()> {
        if self.publisher.has_egress() { self.hooks.set(Need::Egress, true) } else { Ok(()) }
    }

    /// Name of a rule; `None` where it is not known, because an earlier daemon could not keep it.
    pub(crate) fn egress_name(&self, set: u32, rule: u32) -> Option<&str> {
        self.egress.names.of(set).get(rule as usize).map(String::as_str)
    }

    /// Addresses that the documents' host names stand for.
    pub(super) fn egress_hosts(&self) -> HostAddresses {
        self.egress.hosts.addresses(&self.egress.wanted)
    }

    /// What is said of clients, with what came of it, what its host names stand for, and what is to be
    /// said of names of clients.
    pub(crate) fn egress(
        &self,
    ) -> impl Iterator<Item = (&Outbound, EgressCounts, Vec<HostStatus>, Vec<&str>)> {
        let notes = |said: &Outbound| {
            let own = self.egress.notes.iter().filter(|(document, _)| *document == said.name);
            own.map(|(_, note)| note.as_str()).collect()
        };
        self.egress.wanted.iter().zip(0..).map(move |(said, rule)| {
            let counts = self.publisher.egress_counts(rule);
            (said, counts, self.egress.host_status(said, rule), notes(said))
        })
    }

    /// Documents that are in force for nobody.
    pub(crate) fn egress_problems(&self) -> Vec<String> {
        let problem = |name| {
            format!(
                "the egress document {name} holds for nobody: no workload and no pod bears the \
                 labels of its clients"
            )
        };
        self.documents.egress_of_nobody().map(problem).collect()
    }

    /// Whether rules are in force that an earlier daemon left, and no document was read yet.
    pub(crate) fn has_left_egress(&self) -> bool {
        let root = self.publisher.egress_root();
        self.egress.in_force.is_none() && root != EgressRoot::default() && !self.is_holding()
    }

    /// Whether some of these are of policy files. What commands gave is kept, and comes back by itself.
    pub(crate) fn has_egress_of_files(&self) -> bool {
        self.has_left_egress() && self.documents.applied.is_empty()
    }

    /// A document by its name.
    pub(crate) fn find_egress(&self, name: &str) -> Result<&Outbound, ChangeError> {
        let found = self.egress.wanted.iter().find(|said| said.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.egress.wanted.iter().map(|said| &*said.name).collect();
            let help = match known[..] {
                [] => "there is none".to_owned(),
                _ => suggest(name, &known, "egress documents"),
            };
            ChangeError::Impossible(format!("no egress document is named `{name}`: {help}"))
        })
    }

    /// What is in force, as the tables have it.
    pub(crate) fn copy_egress(&self) -> std::io::Result<EgressCopy> {
        let root = self.publisher.egress_root();
        let names = self.egress.names.of(root.set).to_vec();
        Ok(EgressCopy { root, tables: self.egress.tables.copy(root.set)?, names })
    }

    /// Documents by the numbers of the rules in force. Of an earlier daemon's, only the name is known.
    pub(super) fn egress_documents(&self) -> Vec<Outbound> {
        let said = self.egress.said();
        let find = |name: &String| said.iter().find(|said| said.name == *name).cloned();
        let plain = |name: &String| Outbound::plain(name.clone(), Vec::new(), false);
        let names = self.egress.names.of(self.publisher.egress_root().set).iter();
        names.map(|name| find(name).unwrap_or_else(|| plain(name))).collect()
    }
}
