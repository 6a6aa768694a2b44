//! What clients may reach besides services: from what documents say to the maps.
//!
//! A change is written as a set of its own, which the root refers to from the commit on. The set of
//! before is removed when the next one comes, after every decision that could look at it has ended.

use std::collections::{BTreeSet, VecDeque};

use splitter_common::abi::{EgressCounts, EgressRoot, egress_flag};
use tracing::warn;

use super::hosts::{HostStatus, Hosts};
use super::{ChangeError, Engine, OptionalHooks};
use crate::compile::egress::{Compiled, EgressImage, LeftOut, compile_egress};
use crate::compile::image::Need;
use crate::policy::model::{CgroupName, Errno, Outbound};
use crate::publish::PublishError;
use crate::tables::{EgressTables, Maps};

/// Name of the rule for clients that wait for a policy, as those of documents are.
const HOLD: &str = "splitter/hold";
/// Sets whose rules' names are known, for events that come late.
const SETS_REMEMBERED: usize = 16;

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
    /// Names of rules by set, the latest last.
    names: VecDeque<(u32, Vec<String>)>,
}

/// A change that is written and not committed.
pub(super) struct Staged {
    compiled: Compiled,
    pub(super) root: EgressRoot,
}

impl Egress {
    /// Nothing yet, where host names stand for what an earlier daemon knew.
    pub(super) fn new(tables: Box<dyn EgressTables>, hosts: Hosts) -> Self {
        let (wanted, held, left_out) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (gives_policy, is_stale, in_force) = (false, true, None);
        let names = VecDeque::new();
        Self { tables, wanted, hosts, left_out, held, gives_policy, is_stale, in_force, names }
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

    fn compile_egress(&self) -> Result<Compiled, ChangeError> {
        let places = self.clients.places(&self.egress_cgroups().collect());
        let hosts = self.egress.hosts.addresses(&self.egress.wanted);
        let mut compiled = compile_egress(&self.egress.said(), &places, &hosts)
            .map_err(|error| ChangeError::Impossible(error.to_string()))?;
        if !self.egress.held.is_empty() {
            compiled.image.everyone.flags |= egress_flag::HOLDS;
        }
        Ok(compiled)
    }

    /// Looks whether cgroups that came or went, or other addresses of hosts, make it another thing
    /// than what is in force.
    pub(super) fn is_egress_stale(&mut self) -> bool {
        let Ok(Compiled { image, left_out }) = self.compile_egress() else {
            return self.egress.is_stale;
        };
        let is_other = self.egress.in_force.as_ref().is_some_and(|in_force| *in_force != image);
        self.egress.is_stale |= is_other;
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
        let compiled = self.compile_egress()?;
        let image = &compiled.image;
        let is_nothing = *image == EgressImage::default();
        // Held by a daemon before this one, which was not told of whom: until there is a policy.
        if is_nothing && self.is_holding() && self.egress.in_force.is_none() && !self.has_policy() {
            return Ok(None);
        }
        let was_nothing = self.publisher.egress_root() == EgressRoot::default();
        if self.egress.in_force.as_ref() == Some(image) || is_nothing && was_nothing {
            self.egress.is_stale = false;
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
        Ok(Some(Staged { compiled, root }))
    }

    /// Takes in that a change is committed.
    pub(super) fn take_egress(&mut self, Staged { compiled, root }: Staged) {
        let Compiled { image, left_out } = compiled;
        let before = self.egress.in_force.as_ref().map_or(&[][..], |image| &image.names);
        let renamed =
            image.names.iter().zip(0..).filter(|(name, rule)| {
                before.get(*rule as usize).is_none_or(|before| before != *name)
            });
        for (_, rule) in renamed {
            if let Err(error) = self.publisher.zero_egress_counts(rule) {
                warn!("begin to count anew for a rule of egress: {error}");
            }
        }
        self.egress.names.push_back((root.set, image.names.clone()));
        if self.egress.names.len() > SETS_REMEMBERED {
            self.egress.names.pop_front();
        }
        self.egress.in_force = Some(image);
        self.egress.leave_out(left_out);
        self.egress.is_stale = false;
        self.settle_egress();
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

    /// Name of a rule; `None` where it was an earlier daemon's.
    pub(crate) fn egress_name(&self, set: u32, rule: u32) -> Option<&str> {
        let (_, names) = self.egress.names.iter().find(|(known, _)| *known == set)?;
        names.get(rule as usize).map(String::as_str)
    }

    /// What is said of clients, with what came of it and what its host names stand for.
    pub(crate) fn egress(
        &self,
    ) -> impl Iterator<Item = (&Outbound, EgressCounts, Vec<HostStatus>)> {
        self.egress.wanted.iter().zip(0..).map(|(said, rule)| {
            let counts = self.publisher.egress_counts(rule);
            (said, counts, self.egress.host_status(said, rule))
        })
    }
}
