//! The files of the state directory, and how a change of many of them is one.
//!
//! What the files mean and when they change is decided elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Override, StateError};
use crate::policy::native::to_yaml;
use crate::policy::{self, Source};

const HEAD: &str = "# splitter override of ";
const NOTHING: &str = "nothing";
const EXTENSION: &str = "yaml";
/// Of files that are not in place yet.
const NEW: &str = "new";
pub(super) const JOURNAL: &str = "journal";
/// No service's file begins with `_`.
pub(super) const NEW_JOURNAL: &str = "_journal.new";
/// Stands for a service where the documents' file is meant, and is in its name.
pub(super) const DOCUMENTS: &str = "_documents";
/// The same for what is drained by command.
pub(super) const DRAINS: &str = "_drains";
/// The same for the names of egress documents, which no change waits for.
const EGRESS: &str = "_egress";
/// Of that while it is written. It is none of a change's files.
const EGRESS_NEW: &str = "_egress.part";
/// Of all of these.
const OTHER_EXTENSION: &str = "json";
/// So many new files are flushed one by one; for more, flushing the whole file system once is
/// faster, though it is others' data too.
const FEW: usize = 16;
/// What becomes of a change that a daemon did not live to settle.
const TAKEN_BACK: &str = "a change that was not finished is taken back";

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    _lock: File,
}

/// What a service's file holds, `None` where there is no file. The journal is a list of these.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) service: String,
    pub(super) text: Option<String>,
}

impl Files {
    /// Opens the directory, made if need be, and takes back what was begun and not settled.
    pub(super) fn open(state_dir: &Path) -> Result<Self, StateError> {
        let dir = state_dir.join("overrides");
        DirBuilder::new().recursive(true).mode(0o755).create(state_dir)?;
        let lock = lock(state_dir)?;
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let files = Self { dir, _lock: lock };
        files.recover()?;
        Ok(files)
    }

    /// Every override by the service's name. A file that cannot be read is reported and left alone.
    pub(super) fn read_all(&self) -> io::Result<BTreeMap<String, Override>> {
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

    /// Text of the documents' file, empty where there is none.
    pub(super) fn read_documents(&self) -> io::Result<String> {
        match self.read_text(DOCUMENTS) {
            // Nothing is kept as no file.
            Ok(Some(text)) if text.is_empty() => Err(io::Error::other(format!(
                "{} is empty: what was applied is lost; remove the file to go on without",
                self.path(DOCUMENTS).display()
            ))),
            result => Ok(result?.unwrap_or_default()),
        }
    }

    /// Text of the drains' file, empty where there is none.
    pub(super) fn read_drains(&self) -> io::Result<String> {
        Ok(self.read_text(DRAINS)?.unwrap_or_default())
    }

    /// Text of the file of egress documents' names, empty where there is none.
    pub(super) fn read_egress(&self) -> io::Result<String> {
        Ok(self.read_text(EGRESS)?.unwrap_or_default())
    }

    /// Replaces that file. The disk is not waited for: what it names is lost with the power too.
    pub(super) fn write_egress(&self, text: &str) -> io::Result<()> {
        let new = self.dir.join(EGRESS_NEW);
        fs::write(&new, text)?;
        fs::rename(new, self.path(EGRESS))
    }

    fn read_text(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

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
                if self.remove_leftovers()? > 0 {
                    warn!("{TAKEN_BACK}");
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        warn!(services = before.len(), "{TAKEN_BACK}");
        self.restore(&before)
    }

    /// Writes new files and the journal of what was before under names that nobody reads.
    pub(super) fn stage_change(&self, before: &[Content], next: &[Content]) -> io::Result<()> {
        fs::write(self.dir.join(NEW_JOURNAL), serde_json::to_vec(before)?)?;
        self.stage(next)
    }

    /// Puts staged files in place, once they and the journal are on the disk.
    pub(super) fn replace(&self, next: &[Content]) -> io::Result<()> {
        let new_journal = self.dir.join(NEW_JOURNAL);
        File::open(&new_journal)?.sync_all()?;
        self.sync_staged(next)?;
        fs::rename(new_journal, self.journal())?;
        self.sync()?;
        self.place(next)?;
        self.remove_journal()
    }

    /// Makes files what they were. Ends the same however often it is begun.
    pub(super) fn restore(&self, before: &[Content]) -> io::Result<()> {
        self.remove_leftovers()?;
        self.stage(before)?;
        self.sync_staged(before)?;
        self.place(before)?;
        self.remove_journal()
    }

    /// Writes the files under names that nobody reads.
    fn stage(&self, contents: &[Content]) -> io::Result<()> {
        texts(contents).try_for_each(|(service, text)| fs::write(self.new_path(service), text))
    }

    /// Waits until staged files are on the disk.
    fn sync_staged(&self, contents: &[Content]) -> io::Result<()> {
        if texts(contents).count() > FEW {
            return Ok(syncfs(&File::open(&self.dir)?)?);
        }
        texts(contents).try_for_each(|(service, _)| File::open(self.new_path(service))?.sync_all())
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

    /// Removes what was staged and never put in place. Answers how many files that were.
    fn remove_leftovers(&self) -> io::Result<usize> {
        let leftovers = self.with_extension(NEW)?;
        leftovers.iter().try_for_each(fs::remove_file)?;
        Ok(leftovers.len())
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

    /// Where the file of a service is.
    ///
    /// Names of services have no `_`, so two services never share a file.
    pub(super) fn path(&self, service: &str) -> PathBuf {
        let is_other = [DOCUMENTS, DRAINS, EGRESS].contains(&service);
        let extension = if is_other { OTHER_EXTENSION } else { EXTENSION };
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

/// Services whose files hold something, and what.
fn texts(contents: &[Content]) -> impl Iterator<Item = (&str, &str)> {
    contents.iter().filter_map(|content| Some((&*content.service, content.text.as_deref()?)))
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// What the file of a service holds.
pub(super) fn file_text(next: &Override) -> String {
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
