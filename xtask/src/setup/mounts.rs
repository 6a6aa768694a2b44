//! File systems that the daemon and its tests work in.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Outcome, Report};
use crate::{exec, workspace};

/// Finds the cgroup2 hierarchy and the BPF file system; mounts the latter where there is none.
pub(super) fn prepare(report: &mut Report) {
    let hierarchy = match find_mount("cgroup2") {
        Ok(place) => Outcome::Found(place.display().to_string()),
        Err(error) => Outcome::Missing(format!("{error:#}")),
    };
    report.add("cgroup2 mount", hierarchy);
    let bpffs = match mount_bpffs() {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Missing(format!("{error:#}")),
    };
    report.add("bpf mount", bpffs);
}

/// The BPF file system, mounted where every distribution with systemd has it from boot on. Only the
/// superuser may.
pub(super) fn mount_bpffs() -> Result<Outcome> {
    if let Ok(place) = find_mount("bpf") {
        return Ok(Outcome::Found(place.display().to_string()));
    }
    if !workspace::is_root() {
        bail!("none, which the daemon and the tests on this kernel need: run setup as root");
    }
    let place = usual_place("bpf");
    exec::run(Command::new("mount").args(["-t", "bpf", "bpf", place]))?;
    Ok(Outcome::Installed(place.to_owned()))
}

/// Where a file system of a kind is mounted.
pub(crate) fn find_mount(kind: &str) -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    mount_point(&table, kind).map(PathBuf::from).with_context(|| {
        format!("no {kind} is mounted; as root: `mount -t {kind} {kind} {}`", usual_place(kind))
    })
}

fn usual_place(kind: &str) -> &'static str {
    if kind == "bpf" { "/sys/fs/bpf" } else { "/sys/fs/cgroup" }
}

/// Lines are `device place kind options 0 0`.
fn mount_point<'a>(table: &'a str, kind: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == kind).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_kind_not_by_its_name() {
        let table = "cgroup2 /a tmpfs rw 0 0\nx /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(table, "cgroup2"), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point(table, "bpf"), None);
    }
}
