//! Where the cgroup v2 hierarchy is, and which ids the paths in it have.

use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::compile::Cgroup;

/// Answers where a cgroup is, by its path from the v2 root.
pub(crate) trait CgroupSource {
    /// `None` where no such cgroup exists.
    fn find(&self, path: &str) -> Option<Cgroup>;
}

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
        is_populated && self.find(path).is_some_and(|found| found.id == id)
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

impl CgroupSource for CgroupTree {
    fn find(&self, path: &str) -> Option<Cgroup> {
        let relative = path.trim_matches('/');
        let metadata = fs::metadata(self.path_of(path)).ok().filter(fs::Metadata::is_dir)?;
        let level = relative.split('/').filter(|name| !name.is_empty()).count();
        // On 64-bit kernels the id of a cgroup is the inode number of its directory.
        Some(Cgroup { id: metadata.ino(), level: u32::try_from(level).ok()? })
    }
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
