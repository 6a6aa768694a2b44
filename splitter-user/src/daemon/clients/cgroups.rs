//! Where the cgroup v2 hierarchy is, which cgroups names mean in it, and which ids they have.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::compile::Cgroup;
use crate::policy::model::CgroupName;

/// Deeper than this, nobody looks: systemd and container runtimes stay far above.
const DEEPEST: u32 = 24;
/// Links to a directory that has none below it: its name and its `.`. A cgroup has dozens of files,
/// so listing one that has nothing else is what a look would spend its time on.
const LINKS_OF_LEAF: u64 = 2;

/// The mounted hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct CgroupTree {
    mount: PathBuf,
}

impl CgroupTree {
    /// Finds the mount.
    pub(crate) fn find_mount() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mount_of_cgroup2(&mounts).ok_or_else(|| {
            io::Error::other(
                "no cgroup2 hierarchy is mounted; mount one with: mount -t cgroup2 none \
                 /sys/fs/cgroup",
            )
        })?;
        Ok(Self { mount: PathBuf::from(mount) })
    }

    /// Where it is mounted.
    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }
}

impl CgroupTree {
    /// Where in the file system a cgroup is.
    pub(crate) fn path_of(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_matches('/'))
    }

    /// Whether a cgroup exists, with this id, and there is a process in it or below it.
    pub(crate) fn is_populated(&self, path: &str, id: u64) -> bool {
        let events = fs::read_to_string(self.path_of(path).join("cgroup.events"));
        let is_populated = events.is_ok_and(|events| events.lines().any(|it| it == "populated 1"));
        is_populated && self.at(path).is_some_and(|found| found.id == id)
    }

    /// Paths and ids of all cgroups whose names begin so.
    pub(crate) fn find_named(&self, prefix: &str) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut left = vec![self.mount.clone()];
        while let Some(directory) = left.pop() {
            // A cgroup that goes meanwhile has nothing in it.
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())) {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with(prefix)
                    && let Ok(inside) = path.strip_prefix(&self.mount)
                {
                    found.push((format!("/{}", inside.display()), entry.ino()));
                }
                left.push(path);
            }
        }
        found
    }

    /// Whether sockets that this process makes now are of a cgroup, or of one below it. Also where
    /// that is not known.
    pub(crate) fn holds_this_process(&self, cgroup: &Path) -> bool {
        let own = fs::read_to_string("/proc/self/cgroup");
        let own = own.ok().and_then(|text| own_cgroup(&text).map(str::to_owned));
        let identity = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
        let (Some(own), Some(wanted)) = (own, identity(cgroup)) else { return true };
        let own = self.mount.join(own.trim_start_matches('/'));
        own.ancestors().any(|path| identity(path) == Some(wanted))
    }
}

/// The path in the cgroup2 hierarchy of `/proc/PID/cgroup`.
pub(crate) fn own_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A cgroup that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Path from the root of the hierarchy.
    pub(crate) path: String,
    pub(crate) cgroup: Cgroup,
}

/// What a search through the hierarchy came to.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Every cgroup that has one of the names.
    pub(crate) found: Vec<(CgroupName, Place)>,
    /// Directories in which a cgroup that has one of the names, or leads to one, may appear.
    pub(crate) directories: BTreeSet<PathBuf>,
}

impl CgroupTree {
    /// The cgroup at a path from the root of the hierarchy.
    pub(crate) fn at(&self, path: &str) -> Option<Cgroup> {
        let relative = path.trim_matches('/');
        let metadata = fs::metadata(self.path_of(path)).ok().filter(fs::Metadata::is_dir)?;
        let level = relative.split('/').filter(|name| !name.is_empty()).count();
        // On 64-bit kernels the id of a cgroup is the inode number of its directory.
        Some(Cgroup { id: metadata.ino(), level: u32::try_from(level).ok()? })
    }

    /// Looks for all of these names at once.
    pub(crate) fn survey<'a>(&self, names: impl IntoIterator<Item = &'a CgroupName>) -> Survey {
        let (paths, others): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.path().is_some());
        let mut survey = Survey::default();
        for (name, path) in paths.into_iter().filter_map(|name| Some((name, name.path()?))) {
            self.look_at(name, path, &mut survey);
        }
        if !others.is_empty() {
            self.walk("", 0, &others, &mut survey);
        }
        survey
    }

    /// One that is named by its path, and where it would appear.
    fn look_at(&self, name: &CgroupName, path: &str, survey: &mut Survey) {
        if let Some(cgroup) = self.at(path) {
            survey.found.push((name.clone(), Place { path: path.to_owned(), cgroup }));
        }
        let above = Path::new(path.trim_start_matches('/')).ancestors().skip(1);
        survey.directories.extend(above.map(|path| self.mount.join(path)).filter(|it| it.is_dir()));
    }

    /// The cgroups below one, down to where none of the names can be any more.
    fn walk(&self, path: &str, level: u32, names: &[&CgroupName], survey: &mut Survey) {
        let directory = self.mount.join(path.trim_start_matches('/'));
        // Listed after it is watched, if it is: what appears in between is seen by one of the two.
        let Ok(entries) = fs::read_dir(&directory) else { return };
        survey.directories.insert(directory);
        let is_directory = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        for entry in entries.flatten().filter(is_directory) {
            if let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) {
                self.visit(&format!("{path}/{name}"), level + 1, &metadata, names, survey);
            }
        }
    }

    /// One cgroup, and those below it.
    fn visit(
        &self,
        path: &str,
        level: u32,
        metadata: &fs::Metadata,
        names: &[&CgroupName],
        survey: &mut Survey,
    ) {
        let place =
            || Place { path: path.to_owned(), cgroup: Cgroup { id: metadata.ino(), level } };
        let here = names.iter().filter(|name| name.is_at(path));
        survey.found.extend(here.map(|name| ((*name).clone(), place())));
        let below = names.iter().copied().filter(|name| may_be_below(name, path, metadata));
        let below: Vec<&CgroupName> = below.collect();
        if below.is_empty() || level >= DEEPEST {
            return;
        }
        if metadata.nlink() == LINKS_OF_LEAF {
            survey.directories.insert(self.mount.join(path.trim_start_matches('/')));
        } else {
            self.walk(path, level, &below, survey);
        }
    }
}

/// Whether a name may mean a cgroup below one. In those of other users than root, whoever they belong
/// to makes directories of any name, and could pass for somebody else: there, only units of the user
/// whose manager the name says are looked for.
fn may_be_below(name: &CgroupName, path: &str, metadata: &fs::Metadata) -> bool {
    let is_of_user = matches!(name, CgroupName::Unit(unit) if unit.contains('/'));
    name.may_be_below(path) && (metadata.uid() == 0 || is_of_user)
}

/// The mount point of the whole hierarchy: a bind mount of a part of it has another root.
fn mount_of_cgroup2(mountinfo: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (file_system.starts_with("cgroup2 ") && root == "/").then(|| unescape(point))
    })
}

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_that_of_the_second_version() {
        let hybrid = "12:net_cls,net_prio:/a\n1:name=systemd:/b\n0::/system.slice/c.service\n";
        assert_eq!(own_cgroup(hybrid), Some("/system.slice/c.service"));
        assert_eq!(own_cgroup("1:name=systemd:/b\n"), None);
    }

    #[test]
    fn every_process_is_below_the_root() {
        let tree = CgroupTree::find_mount().unwrap();
        assert!(tree.holds_this_process(tree.mount()));
        assert!(!tree.holds_this_process(Path::new("/proc")));
    }

    #[test]
    fn the_mount_is_found_in_unified_and_hybrid_layouts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of_cgroup2(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        let unified = "29 22 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_of_cgroup2(unified).as_deref(), Some("/sys/fs/cgroup"));
        let bind = "29 22 0:26 /pod /mnt/pod rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of_cgroup2(bind), None);
    }
}
