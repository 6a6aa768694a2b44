//! Services that were applied or reweighted by command, kept in a directory over restarts.
//!
//! One file per service holds its document, under a first line that says which file's document it
//! overrides. A file is written whole or not at all, before the policy it describes is committed. A
//! change of many services is many files: after a power failure some of them may be the new ones.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::syncfs;
use splitter_common::hash::mix;
use tracing::warn;

use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use crate::policy::{self, Source};

const HEAD: &str = "# splitter override of ";
const NOTHING: &str = "nothing";
const EXTENSION: &str = "yaml";
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

/// All overrides, in memory and in their directory.
#[derive(Debug)]
pub(crate) struct Overrides {
    dir: PathBuf,
    by_name: BTreeMap<String, Override>,
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
    /// Opens `STATE_DIR/overrides`, made if need be, and reads what is in there. A file that
    /// cannot be read is reported and left alone.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join("overrides");
        DirBuilder::new().recursive(true).mode(0o755).create(state_dir)?;
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut by_name = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            match read(&path) {
                Ok(found) => {
                    by_name.insert(found.service.name.clone(), found);
                }
                Err(error) => warn!(file = %path.display(), "an override is ignored: {error}"),
            }
        }
        Ok(Self { dir, by_name })
    }

    /// Every override by the service's name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Override)> {
        self.by_name.iter()
    }

    /// Sets or, with `None`, removes overrides of services, each named once. Answers those before.
    /// One that fails changes nothing, as far as the disk still lets it be taken back.
    pub(crate) fn set(&mut self, changes: Vec<Change>) -> io::Result<Vec<Change>> {
        if changes.is_empty() {
            return Ok(changes);
        }
        if let Err(error) = self.write(&changes) {
            let before = |(name, _): &Change| (name.clone(), self.by_name.get(name).cloned());
            let before: Vec<Change> = changes.iter().map(before).collect();
            // Where this fails too, it is by the same error.
            let _kept = self.write(&before);
            for (name, _) in &changes {
                // Nobody reads what is left over.
                let _left = fs::remove_file(self.new_path(name));
            }
            return Err(error);
        }
        let replace = |(name, next): Change| {
            let old = match next {
                Some(next) => self.by_name.insert(name.clone(), next),
                None => self.by_name.remove(&name),
            };
            (name, old)
        };
        Ok(changes.into_iter().map(replace).collect())
    }

    /// Puts new files in place once all of them are on the disk: whenever power fails, a file is
    /// found with its old content or its new.
    fn write(&self, changes: &[Change]) -> io::Result<()> {
        let dir = File::open(&self.dir)?;
        let set = || changes.iter().filter_map(|(name, next)| Some((name, next.as_ref()?)));
        let is_few = set().count() <= FEW;
        for (name, next) in set() {
            let mut file = File::create(self.new_path(name))?;
            file.write_all(file_text(next).as_bytes())?;
            if is_few {
                file.sync_all()?;
            }
        }
        if !is_few {
            syncfs(&dir)?;
        }
        for (name, next) in changes {
            match next {
                Some(_) => fs::rename(self.new_path(name), self.path(name))?,
                None => fs::remove_file(self.path(name)).or_else(ignore_missing)?,
            }
        }
        dir.sync_all()
    }

    /// Names of services have no `_`, so two services never share a file.
    fn path(&self, service: &str) -> PathBuf {
        self.dir.join(format!("{}.{EXTENSION}", service.replace('/', "_")))
    }

    fn new_path(&self, service: &str) -> PathBuf {
        self.path(service).with_extension("new")
    }
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
    let source = Source { name: path.display().to_string(), bytes: bytes.clone() };
    let loaded = policy::load(&[source]).map_err(|_| damaged())?;
    let mut services = loaded.policy.services.into_iter();
    match (services.next(), services.next()) {
        (Some(service), None) => Ok(Override { service: Arc::new(service), base }),
        _ => Err(damaged()),
    }
}
