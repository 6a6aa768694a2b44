//! Options that say who dials what, shared by verbs that ask the decision.

use clap::Args;

use crate::policy::model::Frontend;
use crate::rehearsal::Role;

/// The address that is dialled and the client that dials it.
#[derive(Args, Debug)]
pub(crate) struct Dial {
    /// Frontend that the client dials; TCP unless it ends in /udp
    #[arg(long, value_name = "ADDR:PORT[/udp]")]
    pub(crate) to: Frontend,
    /// Effective user id of the client
    #[arg(long, value_name = "ID")]
    uid: Option<u32>,
    /// Effective group id of the client
    #[arg(long, value_name = "ID")]
    gid: Option<u32>,
    /// Command name of the client, at most 15 bytes
    #[arg(long, value_name = "NAME", value_parser = parse_command)]
    command: Option<String>,
    /// Cgroup of the client, as a path from the cgroup v2 root
    #[arg(long, value_name = "PATH", value_parser = parse_cgroup)]
    cgroup: Option<String>,
    /// Process id of the client
    #[arg(long, value_name = "ID")]
    process: Option<u32>,
    /// Cookie of the client's network namespace
    #[arg(long, value_name = "COOKIE")]
    netns: Option<u64>,
}

impl Dial {
    /// The client as far as the options say.
    pub(crate) fn role(&self) -> Role {
        Role {
            uid: self.uid,
            gid: self.gid,
            command: self.command.clone(),
            cgroup: self.cgroup.clone(),
            process: self.process,
            netns: self.netns,
        }
    }
}

fn parse_command(text: &str) -> Result<String, String> {
    match text.len() {
        1..=15 => Ok(text.to_owned()),
        _ => Err("the kernel keeps 1 to 15 bytes of a command name".to_owned()),
    }
}

pub(super) fn parse_cgroup(text: &str) -> Result<String, String> {
    let mut names = text.split('/').skip(1);
    let is_clean = text.starts_with('/') && names.all(|name| !matches!(name, "" | "." | ".."));
    if text == "/" || is_clean {
        Ok(text.to_owned())
    } else {
        Err("write a clean path from the root of the cgroup2 hierarchy, such as \
             /system.slice/foo.service"
            .to_owned())
    }
}
