//! The policies of the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A policy file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its name, without directories.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The text of a file, by its path from this crate.
pub fn read_policy(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// `policies/*.yaml`.
pub fn policies() -> Result<Vec<PolicyFile>> {
    read("../policies")
}

/// `tests/bad-policies/*.yaml`. Those whose name begins with `warn-` load, with a warning.
pub fn bad_policies() -> Result<Vec<PolicyFile>> {
    read("bad-policies")
}

/// Every policy of a directory, sorted by name.
fn read(folder: &str) -> Result<Vec<PolicyFile>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().context("a file has a name")?.to_string_lossy();
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.push(PolicyFile { name: name.into_owned(), text });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
