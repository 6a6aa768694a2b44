//! Directories for what peers read and write.

use std::fs;
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Names of all of them begin so, followed by the process id.
const PREFIX: &str = "splitter-bench-";

/// Makes a directory that is gone when it is dropped, and removes those of benches that did not
/// live to do so.
pub fn directory() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", process::id());
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir();
    let directory = directory.context("make a directory for a peer")?;
    if let Some(beside) = directory.path().parent() {
        remove_leftovers(beside);
    }
    Ok(directory)
}

fn remove_leftovers(beside: &Path) {
    let Ok(entries) = fs::read_dir(beside) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_orphan) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the bench that made a directory of that name is gone.
fn is_orphan(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let owner = rest.and_then(|(owner, _)| owner.parse::<u32>().ok());
    owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_benches_that_are_gone_are_orphans() {
        let own = directory().unwrap();
        let name = own.path().file_name().unwrap().to_str().unwrap();
        assert!(!is_orphan(name));
        // Beyond the largest process id that the kernel gives out.
        assert!(is_orphan("splitter-bench-4194305-x"));
        assert!(!is_orphan("splitter-bench-other"));
        assert!(!is_orphan("else-4194305-x"));
    }
}
