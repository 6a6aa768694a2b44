//! Kernels of the guests that `test vm` boots.
//!
//! Debian's kernels for clouds, unpacked below `target/vm`; nothing is installed into the system.
//! What is unpacked is kept, so runs test the same kernels until `target/vm` is removed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Outcome, Report, unpack};
use crate::{exec, workspace};

/// The oldest supported long-term kernel and the one after it, as beginnings of releases.
const SERIES: [&str; 2] = ["6.1.", "6.12."];

/// A kernel that a guest can boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// Root of the unpacked package.
    dir: PathBuf,
}

impl Kernel {
    /// What qemu boots.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Directory of the modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

/// The unpacked kernel of every series; fails naming the series that has none.
pub(crate) fn installed() -> Result<Vec<Kernel>> {
    let find = |series: &&str| {
        unpacked(series)
            .with_context(|| format!("no kernel {series}x in target/vm; run `cargo xtask setup`"))
    };
    SERIES.iter().map(find).collect()
}

/// Finds or fetches the newest kernel of every series.
pub(super) fn fetch(report: &mut Report) {
    for series in SERIES {
        let outcome = match unpacked(series) {
            Some(kernel) => Outcome::Found(kernel.dir.display().to_string()),
            None => match unpack::with_fresh_lists(|| fetch_newest(series)) {
                Ok(kernel) => Outcome::Installed(kernel.dir.display().to_string()),
                Err(error) => Outcome::Missing(format!(
                    "{error:#} (needed for `cargo xtask test vm`; it comes from Debian's package \
                     linux-image-{series}*-cloud-amd64)"
                )),
            },
        };
        report.add(&format!("kernel {series}x"), outcome);
    }
}

fn unpacked(series: &str) -> Option<Kernel> {
    let entries = fs::read_dir(vm_dir()).ok()?;
    entries.flatten().find_map(|entry| {
        let release = entry.file_name().into_string().ok()?;
        let kernel = Kernel { release, dir: entry.path() };
        (kernel.release.starts_with(series) && kernel.image().is_file()).then_some(kernel)
    })
}

fn vm_dir() -> PathBuf {
    workspace::path("target/vm")
}

fn fetch_newest(series: &str) -> Result<Kernel> {
    let names = exec::output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
    let release = newest(&names, series).context("apt knows no such package")?;
    let kernel = Kernel { release: release.to_owned(), dir: vm_dir().join(release) };
    unpack::fetch(&[&format!("linux-image-{release}")], &kernel.dir)?;
    Ok(kernel)
}

/// The newest release of a series among names such as `linux-image-6.1.0-56-cloud-amd64`. Names
/// that end otherwise are unsigned kernels, debug symbols, and kernels for other machines; names
/// without a full release are packages that only point to another.
fn newest<'a>(names: &'a str, series: &str) -> Option<&'a str> {
    names
        .lines()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.starts_with(series) && release.ends_with("-cloud-amd64"))
        .max_by_key(|release| numbers(release))
}

/// The numbers of a release, for comparison.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-image-6.1.0-9-cloud-amd64\n\
         linux-image-6.1.0-56-cloud-amd64-unsigned\n\
         linux-image-6.1.0-10-cloud-amd64\n\
         linux-image-6.12-cloud-amd64\n\
         linux-image-6.12.9+deb12-cloud-amd64\n\
         linux-image-6.12.117+deb12-cloud-amd64\n\
         linux-image-6.12.118+deb12-amd64\n";

    #[test]
    fn the_newest_is_so_by_number_and_of_its_series() {
        assert_eq!(newest(NAMES, "6.1."), Some("6.1.0-10-cloud-amd64"));
        assert_eq!(newest(NAMES, "6.12."), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(NAMES, "6.6."), None);
    }
}
