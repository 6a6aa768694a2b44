//! Where the demo takes place: a cgroup, a pin directory, a network namespace and a directory,
//! all of its own.
//!
//! Nothing else on the machine is touched. Hooks are attached to a child cgroup that only the
//! demo's clients enter. In the namespace there is nothing but loopback, so no port of the machine
//! is taken, no connection can leave, and the ports that short connections use up are nobody
//! else's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exec;
use crate::setup::find_mount;

/// Name of everything that the demo makes.
pub(super) const NAME: &str = "splitter-demo";
/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who runs a program, which is to say in which cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A client, whose connections the hooks see.
    Client,
    /// Anybody else.
    Beside,
}

impl Role {
    /// Name of the cgroup, and of the shell function that the demo's commands are shown with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Beside => "beside",
        }
    }
}

/// The paths of the demo.
#[derive(Clone, Debug)]
pub(super) struct Place {
    cgroup: PathBuf,
    pins: PathBuf,
    dir: PathBuf,
    netns: PathBuf,
}

impl Place {
    /// Finds out where things will be; makes nothing.
    pub(super) fn find() -> Result<Self> {
        Ok(Self {
            cgroup: find_mount("cgroup2")?.join(NAME),
            pins: find_mount("bpf")?.join(NAME),
            dir: Path::new("/run").join(NAME),
            netns: Path::new("/run/netns").join(NAME),
        })
    }

    /// The cgroup of a role.
    pub(super) fn cgroup(&self, role: Role) -> PathBuf {
        self.cgroup.join(role.name())
    }

    /// For the daemon's pins; made by the daemon.
    pub(super) fn pins(&self) -> &Path {
        &self.pins
    }

    /// For files.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs in the namespace, in the cgroup of its role.
    pub(super) fn command(&self, role: Role, words: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &self.enter(role), role.name()]).args(words);
        command
    }

    /// What a shell does to take a role. The writer of `0` is what moves.
    pub(super) fn enter(&self, role: Role) -> String {
        let (cgroup, netns) = (self.cgroup(role), self.netns.display());
        format!("echo 0 >{}/cgroup.procs; exec nsenter --net={netns} \"$@\"", cgroup.display())
    }

    /// Makes everything; nothing of it is there.
    pub(super) fn make(&self) -> Result<()> {
        for dir in [&self.dir, &self.cgroup] {
            fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        for role in [Role::Client, Role::Beside] {
            let cgroup = self.cgroup(role);
            fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        }
        exec::output(Command::new("ip").args(["netns", "add", NAME]))?;
        exec::output(Command::new("ip").args(["-n", NAME, "link", "set", "lo", "up"]))?;
        // The namespace's own. More ports than the usual 28,000, for short connections.
        let ports = "echo 10000 65535 >/proc/sys/net/ipv4/ip_local_port_range";
        let mut widen = self.command(Role::Beside, &["sh", "-c", ports]);
        exec::output(&mut widen).map(drop)
    }

    /// Removes everything that is there, and ends the processes in the demo's cgroups, which only
    /// the demo ever put there.
    pub(super) fn remove(&self) -> Result<()> {
        // In this order: a hook must not outlive its policy, nor a cgroup its processes.
        self.kill_processes()?;
        remove_tree(&self.pins.join("links"))?;
        remove_tree(&self.pins)?;
        for cgroup in [self.cgroup(Role::Client), self.cgroup(Role::Beside), self.cgroup.clone()] {
            gone(fs::remove_dir(&cgroup))
                .with_context(|| format!("remove {}", cgroup.display()))?;
        }
        if self.netns.exists() {
            exec::output(Command::new("ip").args(["netns", "delete", NAME]))?;
        }
        remove_tree(&self.dir)
    }

    fn kill_processes(&self) -> Result<()> {
        let kill = self.cgroup.join("cgroup.kill");
        gone(write_existing(&kill, "1")).with_context(|| format!("write {}", kill.display()))?;
        let start = Instant::now();
        while fs::read_to_string(self.cgroup.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 1"))
        {
            if start.elapsed() > PATIENCE {
                bail!("processes in {} do not end", self.cgroup.display());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

fn remove_tree(path: &Path) -> Result<()> {
    gone(fs::remove_dir_all(path)).with_context(|| format!("remove {}", path.display()))
}

/// What is to be gone may never have been.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
