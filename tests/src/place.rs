//! A cgroup and a pin directory of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

/// Names of everything that a test makes begin so, followed by its process id. Those of cgroups end
/// as slices do, so that units may be in them.
const PREFIX: &str = "splitter-test-";

/// Where the BPF file system is.
const BPFFS: &str = "/sys/fs/bpf";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup that this process is in, and a path for pins; both are gone when this is dropped.
pub struct Place {
    cgroup: PathBuf,
    home: PathBuf,
    pins: PathBuf,
}

impl Place {
    /// Makes the cgroup and moves this process into it.
    pub fn new() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("real-kernel tests need root: run them with sudo, or as root");
        }
        let root = cgroup2_mount()?;
        remove_leftovers(&root);
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let home = root.join(own_cgroup()?.trim_start_matches('/'));
        let cgroup = root.join(format!("{name}.slice"));
        fs::create_dir(&cgroup).with_context(|| format!("make the cgroup {}", cgroup.display()))?;
        let place = Self { cgroup, home, pins: Path::new(BPFFS).join(&name) };
        enter(&place.cgroup)?;
        Ok(place)
    }

    /// Moves the process into the cgroup, wherever it was.
    pub fn enter(&self) -> Result<()> {
        enter(&self.cgroup)
    }

    /// The cgroup to attach to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The directory for pins, which does not exist yet.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Another directory for pins, which does not exist yet. Whoever makes it removes it.
    pub fn more_pins(&self, name: &str) -> PathBuf {
        let mut path = self.pins.clone().into_os_string();
        path.push("-");
        path.push(name);
        path.into()
    }

    /// Path of the cgroup from the root of the hierarchy, as policies write it.
    pub fn cgroup_path(&self) -> String {
        let name = self.cgroup.file_name().unwrap_or_default();
        format!("/{}", name.to_string_lossy())
    }

    /// Makes a cgroup below this one, moves the process into it, and back when it is dropped.
    pub fn enter_child(&self, name: &str) -> Result<Inside> {
        let child = self.cgroup.join(name);
        fs::create_dir(&child).with_context(|| format!("make the cgroup {}", child.display()))?;
        enter(&child)?;
        Ok(Inside { child, outside: self.cgroup.clone() })
    }

    /// Makes a cgroup below this one and those on the way to it, and moves the process into it.
    pub fn enter_path(&self, path: &str) -> Result<()> {
        let cgroup = self.cgroup.join(path);
        fs::create_dir_all(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        enter(&cgroup)
    }

    /// Moves the process back into this cgroup, and removes one below it with all that is in it.
    pub fn remove_path(&self, path: &str) -> Result<()> {
        enter(&self.cgroup)?;
        let cgroup = self.cgroup.join(path);
        remove_cgroup(&cgroup).with_context(|| format!("remove {}", cgroup.display()))
    }

    /// Moves another process out of the cgroup, to where this one came from.
    pub fn put_outside(&self, pid: u32) -> Result<()> {
        fs::write(self.home.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("move process {pid} into {}", self.home.display()))
    }

    /// Leaves the cgroup: connections are no longer the hooks' business.
    pub fn outside<T>(&self, run: impl FnOnce() -> T) -> Result<T> {
        enter(&self.home)?;
        let result = run();
        enter(&self.cgroup)?;
        Ok(result)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = enter(&self.home);
        let _ = fs::remove_dir_all(&self.pins);
        let _ = remove_cgroup(&self.cgroup);
    }
}

/// The process is in a cgroup further down.
pub struct Inside {
    child: PathBuf,
    outside: PathBuf,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = enter(&self.outside);
        let _ = fs::remove_dir(&self.child);
    }
}

fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("move this process into {}", cgroup.display()))
}

/// Where cgroup2 is mounted: at `/sys/fs/cgroup`, or below it on hybrid systems.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup2 "))
        .find_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .context("no cgroup2 hierarchy is mounted")
}

/// Path of this process's v2 cgroup from the root of the hierarchy.
fn own_cgroup() -> Result<String> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").context("read the own cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).context("this process is in no v2 cgroup")
}

/// Removes what tests left that did not live to do so.
fn remove_leftovers(root: &Path) {
    for parent in [root, Path::new(BPFFS)] {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let owner = rest.split('-').next().unwrap_or_default();
            if Path::new("/proc").join(owner).exists() {
                continue;
            }
            let _ = if parent == root {
                remove_cgroup(&entry.path())
            } else {
                fs::remove_dir_all(entry.path())
            };
        }
    }
}

/// Cgroups go leaf by leaf; their files are not removed.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
