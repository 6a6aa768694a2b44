//! Services that were applied or reweighted by command, kept in a directory over restarts.
//!
//! One file per service holds its document, under a first line that says which file's document it
//! overrides. One more file holds what [`super::documents`] keeps. Files are written before the policy they describe is committed, and a journal of what
//! they were before stays until it is: removing it is the commit point of a change, of however many
//! services. Where a daemon dies before, the next one that opens the directory takes all of the
//! change back, so a policy that was never in force does not come up again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use splitter_common::hash::mix;
use tracing::warn;

use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use crate::policy::{self, Source};

const HEAD: &str = "# splitter override of ";
const NOTHING: &str = "nothing";
const EXTENSION: &str = "yaml";
/// Of files that are not in place yet.
const NEW: &str = "new";
const JOURNAL: &str = "journal";
/// No service's file begins with `_`.
const NEW_JOURNAL: &str = "_journal.new";
/// Stands for a service where the documents' file is meant, and is in its name.
const DOCUMENTS: &str = "_documents";
const DOCUMENTS_EXTENSION: &str = "json";
/// So many new files are flushed one by one; for more, flushing the whole file system once is
/// faster, though it is others' data too.
const FEW: usize = 16;

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
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.documents.is_none()
    }
}

impl From<Vec<Change>> for Changes {
    fn from(services: Vec<Change>) -> Self {
        Self { services, documents: None }
    }
}

/// All overrides, in memory and in their directory.
#[derive(Debug)]
pub(crate) struct Overrides {
    files: Files,
    by_name: BTreeMap<String, Override>,
    documents: String,
    /// What the journal says: how it was before a change that is not settled.
    before: Changes,
}

/// The directory, locked.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    _lock: File,
}

/// What a service's file holds, `None` where there is no file. The journal is a list of these.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    service: String,
    text: Option<String>,
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
        let dir = state_dir.join("overrides");
        DirBuilder::new().recursive(true).mode(0o755).create(state_dir)?;
        let lock = lock(state_dir)?;
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let files = Files { dir, _lock: lock };
        files.recover()?;
        let (by_name, documents) = (files.read_all()?, files.read_documents()?);
        Ok(Self { by_name, documents, files, before: Changes::default() })
    }

    /// Every override by the service's name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Override)> {
        self.by_name.iter()
    }

    /// Text of the documents' file, empty where there is none.
    pub(crate) fn documents(&self) -> &str {
        &self.documents
    }

    /// Where that file is.
    pub(crate) fn documents_path(&self) -> PathBuf {
        self.files.path(DOCUMENTS)
    }

    /// Sets or, with `None`, removes overrides of services, each named once, until [`settle`] or
    /// [`roll_back`]. One that fails changes nothing: what the disk does not let be taken back at
    /// once is taken back before the next change or when the directory is opened again.
    ///
    /// [`settle`]: Self::settle
    /// [`roll_back`]: Self::roll_back
    pub(crate) fn set(&mut self, changes: impl Into<Changes>) -> io::Result<()> {
        let changes = changes.into();
        self.roll_back()?;
        let before = |(name, _): &Change| (name.clone(), self.by_name.get(name).cloned());
        self.before = Changes {
            services: changes.services.iter().map(before).collect(),
            documents: changes.documents.as_ref().map(|_| self.documents.clone()),
        };
        if let Err(error) = self.files.replace(&contents(&self.before), &contents(&changes)) {
            // Where this fails too, it is by the same error.
            let _later = self.roll_back();
            return Err(error);
        }
        self.remember(changes);
        Ok(())
    }

    /// Makes the last change last. One that fails is in force until the directory is opened again.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if mem::take(&mut self.before).is_empty() { Ok(()) } else { self.files.remove_journal() }
    }

    /// Takes the last change back, unless it was settled.
    pub(crate) fn roll_back(&mut self) -> io::Result<()> {
        if self.before.is_empty() {
            return Ok(());
        }
        self.remember(self.before.clone());
        self.files.restore(&contents(&self.before))?;
        self.before = Changes::default();
        Ok(())
    }

    fn remember(&mut self, changes: Changes) {
        if let Some(documents) = changes.documents {
            self.documents = documents;
        }
        for (name, next) in changes.services {
            match next {
                Some(next) => self.by_name.insert(name, next),
                None => self.by_name.remove(&name),
            };
        }
    }
}

impl Files {
    fn read_all(&self) -> io::Result<BTreeMap<String, Override>> {
        let mut by_name = BTreeMap::new();
        for path in self.with_extension(EXTENSION)? {
            match read(&path) {
                Ok(found) => {
                    by_name.insert(found.service.name.clone(), found);
                }
                Err(error) => warn!(file = %path.display(), "an override is ignored: {error}"),
            }
        }
        Ok(by_name)
    }

    fn read_documents(&self) -> io::Result<String> {
        match fs::read_to_string(self.path(DOCUMENTS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            // Nothing is kept as no file.
            Ok(text) if text.is_empty() => Err(io::Error::other(format!(
                "{} is empty: what was applied is lost; remove the file to go on without",
                self.path(DOCUMENTS).display()
            ))),
            result => result,
        }
    }

    /// Takes back what was begun and not settled.
    fn recover(&self) -> io::Result<()> {
        let path = self.journal();
        let before: Vec<Content> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::other(format!(
                    "the journal {} is damaged, remove it: {error}",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.remove_leftovers();
            }
            Err(error) => return Err(error),
        };
        warn!(services = before.len(), "a change that was not finished is taken back");
        self.restore(&before)
    }

    /// Puts new files in place, once they and the journal of what was before are on the disk.
    fn replace(&self, before: &[Content], next: &[Content]) -> io::Result<()> {
        if next.is_empty() {
            return Ok(());
        }
        let new_journal = self.dir.join(NEW_JOURNAL);
        let mut journal = File::create(&new_journal)?;
        journal.write_all(&serde_json::to_vec(before)?)?;
        journal.sync_all()?;
        self.stage(next)?;
        fs::rename(new_journal, self.journal())?;
        self.sync()?;
        self.place(next)
    }

    /// Makes files what they were. Ends the same however often it is begun.
    fn restore(&self, before: &[Content]) -> io::Result<()> {
        self.remove_leftovers()?;
        self.stage(before)?;
        self.place(before)?;
        self.remove_journal()
    }

    /// Writes the files under names that nobody reads, down to the disk.
    fn stage(&self, contents: &[Content]) -> io::Result<()> {
        let texts = || contents.iter().filter_map(|c| Some((&c.service, c.text.as_ref()?)));
        let is_few = texts().count() <= FEW;
        for (service, text) in texts() {
            let mut file = File::create(self.new_path(service))?;
            file.write_all(text.as_bytes())?;
            if is_few {
                file.sync_all()?;
            }
        }
        if !is_few {
            syncfs(&File::open(&self.dir)?)?;
        }
        Ok(())
    }

    fn place(&self, contents: &[Content]) -> io::Result<()> {
        for Content { service, text } in contents {
            match text {
                Some(_) => fs::rename(self.new_path(service), self.path(service))?,
                None => fs::remove_file(self.path(service)).or_else(ignore_missing)?,
            }
        }
        self.sync()
    }

    fn remove_journal(&self) -> io::Result<()> {
        fs::remove_file(self.journal()).or_else(ignore_missing)?;
        self.sync()
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        self.with_extension(NEW)?.iter().try_for_each(fs::remove_file)
    }

    fn with_extension(&self, wanted: &str) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.dir)?.map(|entry| entry.map(|entry| entry.path()));
        let fits = |path: &PathBuf| path.extension().is_some_and(|extension| extension == wanted);
        paths.filter(|path| path.as_ref().map_or(true, fits)).collect()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn journal(&self) -> PathBuf {
        self.dir.join(JOURNAL)
    }

    /// Names of services have no `_`, so two services never share a file.
    fn path(&self, service: &str) -> PathBuf {
        let extension = if service == DOCUMENTS { DOCUMENTS_EXTENSION } else { EXTENSION };
        self.dir.join(format!("{}.{extension}", service.replace('/', "_")))
    }

    fn new_path(&self, service: &str) -> PathBuf {
        self.path(service).with_extension(NEW)
    }
}

/// Keeps other daemons out for as long as the file is open.
fn lock(state_dir: &Path) -> Result<File, StateError> {
    let lock = File::open(state_dir)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(StateError::Busy(state_dir.to_owned())),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

fn contents(changes: &Changes) -> Vec<Content> {
    let content = |(name, next): &Change| Content {
        service: name.clone(),
        text: next.as_ref().map(file_text),
    };
    let documents = changes.documents.as_ref().map(|text| Content {
        service: DOCUMENTS.to_owned(),
        text: Some(text.clone()).filter(|text| !text.is_empty()),
    });
    changes.services.iter().map(content).chain(documents).collect()
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn file_text(next: &Override) -> String {
    let base = next.base.map_or_else(|| NOTHING.to_owned(), |base| format!("{base:016x}"));
    format!("{HEAD}{base}\n{}", to_yaml(&next.service))
}

fn read(path: &Path) -> io::Result<Override> {
    let bytes = fs::read(path)?;
    let damaged = || io::Error::other("the file is damaged; remove it");
    let text = str::from_utf8(&bytes).map_err(|_| damaged())?;
    let head = text.lines().next().and_then(|line| line.strip_prefix(HEAD)).ok_or_else(damaged)?;
    let base = match head {
        NOTHING => None,
        number => Some(u64::from_str_radix(number, 16).map_err(|_| damaged())?),
    };
    // Whether it degrades was asked when it was applied.
    let source = Source::new(path.display().to_string(), bytes).degraded();
    let loaded = policy::load(&[source]).map_err(|_| damaged())?;
    let mut services = loaded.policy.services.into_iter();
    match (services.next(), services.next()) {
        (Some(service), None) => Ok(Override { service: Arc::new(service), base }),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, port: u16) -> Change {
        let text = format!(
            "apiVersion: splitter.dev/v1\nkind: Split\nmetadata: {{name: {name}}}\nspec:\n  \
             frontends: [\"127.10.0.1:{port}\"]\n  subsets:\n    v1: {{backends: \
             [\"127.0.0.1:1\"], maxConnections: 9}}\n  split: {{v1: 1}}\n"
        );
        let source = Source::new("policy.yaml", text).degraded();
        let service = policy::load(&[source]).unwrap().policy.services.remove(0);
        (name.to_owned(), Some(Override { service: Arc::new(service), base: None }))
    }

    fn names(state: &Path) -> Vec<String> {
        let entries = fs::read_dir(state.join("overrides")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn found(overrides: &Overrides) -> Vec<Change> {
        overrides.iter().map(|(name, found)| (name.clone(), Some(found.clone()))).collect()
    }

    #[test]
    fn documents_that_were_lost_are_noticed() {
        let state = tempfile::tempdir().unwrap();
        let path = Overrides::open(state.path()).unwrap().documents_path();
        fs::write(&path, "").unwrap();
        let error = Overrides::open(state.path()).unwrap_err().to_string();
        assert!(error.contains("_documents.json is empty"), "{error}");
    }

    #[test]
    fn a_change_that_was_not_settled_is_taken_back() {
        let state = tempfile::tempdir().unwrap();
        let old = vec![change("a", 1), change("b", 2)];
        let mut first = Overrides::open(state.path()).unwrap();
        first.set(old.clone()).unwrap();
        first.settle().unwrap();
        first.set(vec![change("a", 3), ("b".to_owned(), None), change("c", 4)]).unwrap();
        assert_eq!(names(state.path()), ["a.yaml", "c.yaml", "journal"]);
        drop(first);
        for _ in 0..2 {
            assert_eq!(found(&Overrides::open(state.path()).unwrap()), old);
            assert_eq!(names(state.path()), ["a.yaml", "b.yaml"]);
        }
    }

    #[test]
    fn a_change_that_was_half_written_is_taken_back() {
        let state = tempfile::tempdir().unwrap();
        let mut first = Overrides::open(state.path()).unwrap();
        first.set(vec![change("a", 1), change("b", 2)]).unwrap();
        drop(first);
        let dir = state.path().join("overrides");
        fs::rename(dir.join("b.yaml"), dir.join("b.new")).unwrap();
        assert_eq!(found(&Overrides::open(state.path()).unwrap()), []);
        assert!(names(state.path()).is_empty());
    }

    #[test]
    fn a_change_is_rolled_back_at_once() {
        let state = tempfile::tempdir().unwrap();
        let mut overrides = Overrides::open(state.path()).unwrap();
        overrides.set(vec![change("a", 1)]).unwrap();
        overrides.settle().unwrap();
        overrides.set(vec![change("a", 2), change("b", 3)]).unwrap();
        overrides.roll_back().unwrap();
        assert_eq!(found(&overrides), [change("a", 1)]);
        assert_eq!(names(state.path()), ["a.yaml"]);
    }

    #[test]
    fn leftovers_go_and_a_damaged_journal_is_named() {
        let state = tempfile::tempdir().unwrap();
        drop(Overrides::open(state.path()).unwrap());
        let dir = state.path().join("overrides");
        fs::write(dir.join("a.new"), "half").unwrap();
        fs::write(dir.join(NEW_JOURNAL), "half").unwrap();
        drop(Overrides::open(state.path()).unwrap());
        assert!(names(state.path()).is_empty());
        fs::write(dir.join(JOURNAL), "half").unwrap();
        let error = Overrides::open(state.path()).unwrap_err().to_string();
        assert!(error.contains("overrides/journal is damaged"), "{error}");
    }

    #[test]
    fn a_state_directory_has_one_daemon() {
        let state = tempfile::tempdir().unwrap();
        let _first = Overrides::open(state.path()).unwrap();
        let error = Overrides::open(state.path()).unwrap_err();
        assert!(matches!(error, StateError::Busy(_)), "{error}");
    }
}
