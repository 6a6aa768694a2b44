//! Options that say who dials what, shared by verbs that ask the decision.

use clap::Args;

use crate::policy;
use crate::policy::model::{CgroupName, Frontend, NetnsName};
use crate::rehearsal::Role;

/// The address that is dialled and the client that dials it.
#[derive(Args, Debug)]
pub(crate) struct Dial {
    /// Address that the client dials; TCP unless it ends in /udp
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
    #[arg(long, value_name = "PATH", value_parser = parse_cgroup, group = "place")]
    cgroup: Option<String>,
    /// Systemd unit of the client, such as web.service
    #[arg(long, value_name = "NAME", value_parser = policy::parse_unit, group = "place")]
    unit: Option<String>,
    /// Container of the client, by its id
    #[arg(long, value_name = "ID", value_parser = policy::parse_container, group = "place")]
    container: Option<String>,
    /// Kubernetes pod of the client, by its uid
    #[arg(long, value_name = "UID", value_parser = policy::parse_pod, group = "place")]
    pod: Option<String>,
    /// Process id of the client
    #[arg(long, value_name = "ID")]
    process: Option<u32>,
    /// Network namespace of the client's socket: a number is its cookie, anything else as in a match
    #[arg(long, value_name = "NAME", value_parser = parse_netns)]
    netns: Option<Netns>,
    /// Mark of the client's socket.
    #[arg(long, help = "SO_MARK of the client's socket", value_name = "MARK", value_parser = parse_number)]
    mark: Option<u32>,
    /// Type of service of the client's socket.
    #[arg(long, help = "IP_TOS of the client's socket", value_name = "TOS", value_parser = parse_tos)]
    tos: Option<u8>,
}

/// A network namespace of a client.
#[derive(Clone, Debug)]
enum Netns {
    Cookie(u64),
    Named(NetnsName),
}

impl Dial {
    /// The client as far as the options say.
    pub(crate) fn role(&self) -> Role {
        Role {
            uid: self.uid,
            gid: self.gid,
            command: self.command.clone(),
            cgroup: self.place(),
            process: self.process,
            netns: match self.netns {
                Some(Netns::Cookie(cookie)) => Some(cookie),
                _ => None,
            },
            netns_name: match &self.netns {
                Some(Netns::Named(name)) => Some(name.clone()),
                _ => None,
            },
            mark: self.mark,
            tos: self.tos,
        }
    }

    fn place(&self) -> Option<CgroupName> {
        let path = self.cgroup.clone().map(CgroupName::Path);
        let unit = self.unit.clone().map(CgroupName::Unit);
        let container = self.container.clone().map(CgroupName::Container);
        path.or(unit).or(container).or_else(|| self.pod.clone().map(CgroupName::Pod))
    }
}

fn parse_command(text: &str) -> Result<String, String> {
    match text.len() {
        1..=15 => Ok(text.to_owned()),
        _ => Err("the kernel keeps 1 to 15 bytes of a command name".to_owned()),
    }
}

pub(super) fn parse_cgroup(text: &str) -> Result<String, String> {
    if text.starts_with("/sys/fs/cgroup") {
        return Err("leave the mount point /sys/fs/cgroup out".to_owned());
    }
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

fn parse_netns(text: &str) -> Result<Netns, String> {
    if let Ok(cookie) = text.parse() {
        return Ok(Netns::Cookie(cookie));
    }
    let why = "write its cookie, a name of `ip netns`, an absolute path, or net:[INODE]";
    policy::parse_netns(text).map(Netns::Named).ok_or_else(|| why.to_owned())
}

fn parse_number(text: &str) -> Result<u32, String> {
    policy::parse_number(text).ok_or_else(|| "write a number of 32 bits, such as 0x2a".to_owned())
}

fn parse_tos(text: &str) -> Result<u8, String> {
    let tos = parse_number(text)?;
    u8::try_from(tos).map_err(|_| "write a number from 0 to 255, such as 0x28".to_owned())
}
