//! Services that were applied or reweighted by command, kept in a directory over restarts.
//!
//! One file per service holds its document, under a first line that says which file's document it
//! overrides. A file is written whole or not at all, before the policy it describes is committed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use splitter_common::hash::mix;
use tracing::warn;

use crate::policy::model::Service;
use crate::policy::native::to_yaml;
use crate::policy::{self, Source};

const HEAD: &str = "# splitter override of ";
const NOTHING: &str = "nothing";
const EXTENSION: &str = "yaml";

/// A service that stands instead of what the policy files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// The service in force.
    pub(crate) service: Arc<Service>,
    /// [`fingerprint`] of the service in the policy files, `None` where they had none.
    pub(crate) base: Option<u64>,
}

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

    /// Sets or, with `None`, removes an override. Answers the one before.
    pub(crate) fn set(
        &mut self,
        service: &str,
        next: Option<Override>,
    ) -> io::Result<Option<Override>> {
        let path = self.dir.join(file_name(service));
        if let Some(next) = next {
            write_whole(&path, &file_text(&next))?;
            return Ok(self.by_name.insert(service.to_owned(), next));
        }
        if self.by_name.contains_key(service) {
            fs::remove_file(&path).or_else(ignore_missing)?;
        }
        Ok(self.by_name.remove(service))
    }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Names of services have no `_`, so two services never share a file.
fn file_name(service: &str) -> String {
    format!("{}.{EXTENSION}", service.replace('/', "_"))
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

/// The new content under a name of its own first, so that the file is never seen in between.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}
