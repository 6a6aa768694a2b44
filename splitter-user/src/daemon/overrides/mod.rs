//! Services that were applied or reweighted by command, kept in a directory over restarts.
//!
//! One file per service holds its document, under a first line that says which file's document it
//! overrides. One more file holds what [`super::documents`] keeps, one what [`super::drains`]
//! does, and one the names of egress documents, which belongs to no change: it says which rules are
//! whose in whatever set the kernel has.
//!
//! A change is written beside the files before the policy that it describes is committed, which is
//! when a full disk or a lost directory shows. Once it is, the disk is waited for, and the files are
//! put in place under a journal of what they were before: removing that is the commit point of a
//! change, of however many services. Where a daemon dies before, the next one that opens the
//! directory takes all of the change back, so a policy that was never in force does not come up
//! again. No policy waits for a disk: its maps outlive a daemon, but not the loss of power that the
//! waiting is for.

mod files;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use splitter_common::hash::mix;

use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use files::{Content, DOCUMENTS, DRAINS, Files, file_text};

/// A service that stands instead of what the policy files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// The service in force.
    pub(crate) service: Arc<Service>,
    /// [`fingerprint`] of the service in the policy files, `None` where they had none.
    pub(crate) base: Option<u64>,
}

/// A service by its name, and its override: none where the policy files count.
pub(crate) type Change = (String, Option<Override>);

/// What one change sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Services, each named once.
    pub(crate) services: Vec<Change>,
    /// Text of the documents' file, empty for none, where it changes.
    pub(crate) documents: Option<String>,
    /// The same of the drains' file.
    pub(crate) drains: Option<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.documents.is_none() && self.drains.is_none()
    }
}

impl From<Vec<Change>> for Changes {
    fn from(services: Vec<Change>) -> Self {
        Self { services, ..Self::default() }
    }
}

/// All overrides, in memory and in their directory.
#[derive(Debug)]
pub(crate) struct Overrides {
    files: Files,
    by_name: BTreeMap<String, Override>,
    documents: String,
    drains: String,
    /// Text of the file of egress documents' names, as it was found.
    egress: String,
    /// What the journal says: how it was before a change that is not settled.
    before: Changes,
    /// What that change makes of the files.
    next: Vec<Content>,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Locked by another process.
    #[error(
        "another splitter daemon keeps its state in {0}; stop it, or choose another directory \
         with --state-dir"
    )]
    Busy(PathBuf),
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A number that two services share when they say the same.
pub(crate) fn fingerprint(service: &Service) -> u64 {
    let mut hash = 0;
    for chunk in to_yaml(service).as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    hash
}

impl Overrides {
    /// Opens `STATE_DIR/overrides`, made if need be, takes back what a daemon that died did not
    /// finish, and reads what is in there. A file that cannot be read is reported and left alone.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, StateError> {
        let files = Files::open(state_dir)?;
        let (by_name, documents) = (files.read_all()?, files.read_documents()?);
        let (drains, egress) = (files.read_drains()?, files.read_egress()?);
        let (before, next) = (Changes::default(), Vec::new());
        Ok(Self { files, by_name, documents, drains, egress, before, next })
    }

    /// Every override by the service's name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Override)> {
        self.by_name.iter()
    }

    /// Text of the documents' file, empty where there is none.
    pub(crate) fn documents(&self) -> &str {
        &self.documents
    }

    /// Text of the drains' file, empty where there is none.
    pub(crate) fn drains(&self) -> &str {
        &self.drains
    }

    /// Names of egress documents as an earlier daemon kept them, empty where none did.
    pub(crate) fn egress(&self) -> &str {
        &self.egress
    }

    /// Keeps names of egress documents for the next daemon, apart from any change.
    pub(crate) fn keep_egress(&self, text: &str) -> io::Result<()> {
        self.files.write_egress(text)
    }

    /// Where that of the documents is.
    pub(crate) fn documents_path(&self) -> PathBuf {
        self.files.path(DOCUMENTS)
    }

    /// Sets or, with `None`, removes overrides of services, each named once, until [`settle`] or
    /// [`roll_back`]. Does not wait for the disk. One that fails changes nothing: what the disk does
    /// not let be taken back at once is taken back before the next change or when the directory is
    /// opened again.
    ///
    /// [`settle`]: Self::settle
    /// [`roll_back`]: Self::roll_back
    pub(crate) fn set(&mut self, changes: impl Into<Changes>) -> io::Result<()> {
        let changes = changes.into();
        self.roll_back()?;
        if changes.is_empty() {
            return Ok(());
        }
        let before = |(name, _): &Change| (name.clone(), self.by_name.get(name).cloned());
        self.before = Changes {
            services: changes.services.iter().map(before).collect(),
            documents: changes.documents.as_ref().map(|_| self.documents.clone()),
            drains: changes.drains.as_ref().map(|_| self.drains.clone()),
        };
        self.next = contents(&changes);
        if let Err(error) = self.files.stage_change(&contents(&self.before), &self.next) {
            // Where this fails too, it is by the same error.
            let _later = self.roll_back();
            return Err(error);
        }
        self.remember(changes);
        Ok(())
    }

    /// Makes the last change last, down to the disk. One that fails is to be rolled back.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        self.files.replace(&self.next)?;
        self.before = Changes::default();
        self.next = Vec::new();
        Ok(())
    }

    /// Whether a change waits for [`settle`](Self::settle).
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.before.is_empty()
    }

    /// Takes the last change back, unless it was settled.
    pub(crate) fn roll_back(&mut self) -> io::Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        self.remember(self.before.clone());
        self.files.restore(&contents(&self.before))?;
        self.before = Changes::default();
        self.next = Vec::new();
        Ok(())
    }

    fn remember(&mut self, changes: Changes) {
        if let Some(documents) = changes.documents {
            self.documents = documents;
        }
        if let Some(drains) = changes.drains {
            self.drains = drains;
        }
        for (name, next) in changes.services {
            match next {
                Some(next) => self.by_name.insert(name, next),
                None => self.by_name.remove(&name),
            };
        }
    }
}

fn contents(changes: &Changes) -> Vec<Content> {
    let content = |(name, next): &Change| Content {
        service: name.clone(),
        text: next.as_ref().map(file_text),
    };
    let other = |name: &str, text: &Option<String>| {
        text.as_ref().map(|text| Content {
            service: name.to_owned(),
            text: Some(text.clone()).filter(|text| !text.is_empty()),
        })
    };
    let documents = other(DOCUMENTS, &changes.documents);
    let drains = other(DRAINS, &changes.drains);
    changes.services.iter().map(content).chain(documents).chain(drains).collect()
}
