//! `splitter exec`: run a command as a client of chosen subsets.
//!
//! The command gets a cgroup of its own, below the one that it is started in, and the daemon is told
//! what the clients in it get. This process then becomes the command, so that signals, the terminal
//! and the exit status are the command's; [`super::reap`] removes the cgroup when nobody is left.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, bail};
use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::{Exit, complain, reap};
use crate::daemon::assignments::{self, CGROUP_PREFIX};
use crate::daemon::clients::{CgroupTree, own_cgroup};
use crate::daemon::control::{Request, Response};

/// What could not be run, as `env` and shells have it.
const CANNOT_EXEC: u8 = 126;
/// There is no such command.
const NOT_FOUND: u8 = 127;
/// Nothing of the command ran, because of this program or how it was used.
pub(super) const FAILED: u8 = 125;
/// The verb, as the command line has it.
pub(super) const VERB: &str = "exec";
/// How often a cgroup is made again that somebody took for the leftover of a dead command.
const ATTEMPTS: u32 = 3;

/// Options of `exec`.
#[derive(Args)]
pub(crate) struct Options {
    /// A service, and the subset that all connections of the command to it go to.
    #[arg(value_name = "SERVICE=SUBSET", required = true, value_parser = parse_choice)]
    subsets: Vec<(String, String)>,
    /// The command and its arguments, behind `--`.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
    /// Cgroup that the command runs below, as a path from the cgroup v2 root, instead of the one
    /// that this is started in.
    #[arg(long, value_name = "PATH", value_parser = super::dial::parse_cgroup)]
    cgroup: Option<String>,
    #[command(flatten)]
    daemon: Address,
}

fn parse_choice(word: &str) -> Result<(String, String), String> {
    match word.rsplit_once('=') {
        Some((service, subset)) if !service.is_empty() && !subset.is_empty() => {
            Ok((service.to_owned(), subset.to_owned()))
        }
        _ => Err(
            "write `SERVICE=SUBSET`, such as `purchase-history=v2`, and the command behind `--`"
                .to_owned(),
        ),
    }
}

/// Becomes the command, or says why not.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { subsets, command, cgroup, daemon } = options;
    if let Some(service) = find_repeated(&subsets) {
        complain(&format!(
            "splitter: the service `{service}` is given twice: a command is a client of one subset \
             of it\n"
        ))?;
        return Ok(Exit::Status(FAILED));
    }
    match prepare(subsets, cgroup.as_deref(), &daemon) {
        Ok(true) => become_command(&command),
        Ok(false) => Ok(Exit::Status(FAILED)),
        Err(error) => {
            complain(&format!("splitter: {error:#}\n"))?;
            Ok(Exit::Status(FAILED))
        }
    }
}

/// A service with more than one choice.
fn find_repeated(subsets: &[(String, String)]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    subsets.iter().map(|(service, _)| service.as_str()).find(|service| !seen.insert(*service))
}

/// Makes this process a client of the subsets. False where the daemon refused, and said why.
fn prepare(
    subsets: Vec<(String, String)>,
    cgroup: Option<&str>,
    daemon: &Address,
) -> anyhow::Result<bool> {
    let tree = CgroupTree::find_mount().context("find the cgroup2 hierarchy")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("find out the own cgroup")?;
    let own = own_cgroup(&own).context("this process is in no cgroup of version 2")?;
    let parent = cgroup.unwrap_or(own);
    let home = Home::enter(&tree, own, parent)?;
    let request =
        Request::Assign(assignments::Command { cgroup: home.name.clone(), id: home.id, subsets });
    match daemon.ask(&request)? {
        Answer::Done(Response::Assigned) => {}
        Answer::Done(_) => return Err(unexpected()),
        Answer::Refused => return Ok(false),
    }
    home.keep()?;
    Ok(true)
}

/// The cgroup that was made, which this process is in.
struct Home {
    /// Path from the v2 root.
    name: String,
    path: PathBuf,
    id: u64,
    /// Where this process was before.
    before: PathBuf,
    is_kept: bool,
}

impl Home {
    fn enter(tree: &CgroupTree, own: &str, parent: &str) -> anyhow::Result<Self> {
        let (before, above) = (tree.path_of(own), tree.path_of(parent));
        remove_leftovers(&above);
        let name = format!("{}/{CGROUP_PREFIX}{}", parent.trim_end_matches('/'), process::id());
        let path = tree.path_of(&name);
        let id = make_and_enter(&path).with_context(|| {
            let path = path.display();
            format!(
                "make the cgroup {path} and enter it (needs root, or a cgroup that is delegated)"
            )
        })?;
        Ok(Self { name, path, id, before, is_kept: false })
    }

    /// Leaves the cgroup to the command.
    fn keep(mut self) -> anyhow::Result<()> {
        reap::start(&self.path).context("start what removes the command's cgroup")?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.is_kept {
            // It is empty once this process ends, and the next command removes it.
            let _ = fs::write(self.before.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Id of the new cgroup.
fn make_and_enter(path: &Path) -> io::Result<u64> {
    let mut result = Ok(0);
    for _ in 0..ATTEMPTS {
        result = try_make_and_enter(path);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    result
}

fn try_make_and_enter(path: &Path) -> io::Result<u64> {
    let made = fs::create_dir(path);
    if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // Of a process that had this id before, and whose descendants may be in it still.
        reap::remove_tree(path)?;
        fs::create_dir(path)?;
    } else {
        made?;
    }
    fs::write(path.join("cgroup.procs"), "0")?;
    // On 64-bit kernels the id of a cgroup is the inode number of its directory.
    fs::metadata(path).map(|metadata| metadata.ino())
}

/// Removes cgroups of commands that were killed together with what would have removed them.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(CGROUP_PREFIX)) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            // The kernel removes none that has processes.
            let _ = reap::remove_tree(&entry.path());
        }
    }
}

fn become_command(command: &[OsString]) -> anyhow::Result<Exit> {
    let Some((program, arguments)) = command.split_first() else { bail!("there is no command") };
    let error = Command::new(program).args(arguments).exec();
    complain(&format!("splitter: run {}: {error}\n", program.display()))?;
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    Ok(Exit::Status(if is_missing { NOT_FOUND } else { CANNOT_EXEC }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_service_and_a_subset() {
        let choice = |service: &str, subset: &str| Ok((service.to_owned(), subset.to_owned()));
        assert_eq!(parse_choice("shop=v2"), choice("shop", "v2"));
        assert_eq!(parse_choice("prod/shop=v2"), choice("prod/shop", "v2"));
        for wrong in ["shop", "=v2", "shop=", "curl"] {
            assert!(parse_choice(wrong).is_err(), "{wrong}");
        }
    }
}
