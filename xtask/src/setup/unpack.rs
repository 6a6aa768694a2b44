//! Packages of Debian that are unpacked below `target` and never installed into the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::debian;
use crate::exec;

/// Fetches, and again with fresh lists of packages if that fails: old ones name no package, or one
/// that the servers have no more.
pub(super) fn with_fresh_lists<T>(fetch: impl Fn() -> Result<T>) -> Result<T> {
    fetch().or_else(|error| {
        println!("{error:#}");
        debian::update_lists();
        fetch()
    })
}

/// Downloads packages and unpacks them beside a place before they are moved there, so that a
/// directory in place is a whole one. `apt-get download` and `dpkg-deb` need no root.
pub(super) fn fetch(packages: &[&str], place: &Path) -> Result<()> {
    let download = place.with_file_name("download");
    if download.exists() {
        fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))?;
    }
    fs::create_dir_all(&download).with_context(|| format!("create {}", download.display()))?;
    exec::run(Command::new("apt-get").arg("download").args(packages).current_dir(&download))?;
    let unpacked = download.join("root");
    for package in packages {
        let archive = archive_of(package, &download)?;
        exec::run(Command::new("dpkg-deb").arg("--extract").args([&archive, &unpacked]))?;
    }
    fs::rename(&unpacked, place).with_context(|| format!("move {}", place.display()))?;
    fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))
}

fn archive_of(package: &str, dir: &Path) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("no archive of {package} in {}", dir.display()))
}
