//! Links between programs and a cgroup.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use super::load::Loaded;
use super::pins::{self, PinDir, PinError};
use super::sys;
use crate::compile::image::Need;

/// `CGROUP2_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// A place in the kernel where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// `connect(2)` on `AF_INET`.
    Connect4,
    /// `connect(2)` on `AF_INET6`.
    Connect6,
    /// `getpeername(2)` on `AF_INET`.
    PeerName4,
    /// `getpeername(2)` on `AF_INET6`.
    PeerName6,
    /// `sendto(2)` and its kin, of IPv4.
    SendMsg4,
    /// `sendto(2)` and its kin, of IPv6.
    SendMsg6,
    /// `recvfrom(2)` and its kin on `AF_INET`.
    RecvMsg4,
    /// `recvfrom(2)` and its kin on `AF_INET6`.
    RecvMsg6,
    /// Callbacks of TCP sockets.
    SockOps,
    /// The end of a socket.
    SockRelease,
    /// A packet that leaves.
    Egress,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 11] = [
        Self::Connect4,
        Self::Connect6,
        Self::PeerName4,
        Self::PeerName6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::SockOps,
        Self::SockRelease,
        Self::Egress,
    ];
    /// The hooks without which nothing is split.
    pub const CONNECT: [Self; 2] = [Self::Connect4, Self::Connect6];
    /// The hooks that only services with `getpeername: frontend` need.
    pub const PEER_NAME: [Self; 2] = [Self::PeerName4, Self::PeerName6];
    /// The hooks that only services need whose datagrams are split.
    pub const DATAGRAMS: [Self; 4] =
        [Self::SendMsg4, Self::SendMsg6, Self::RecvMsg4, Self::RecvMsg6];
    /// The hooks of datagrams that name where they go.
    pub const SEND: [Self; 2] = [Self::SendMsg4, Self::SendMsg6];
    /// The hooks that only services whose connections are followed need.
    pub const FOLLOW: [Self; 1] = [Self::SockOps];
    /// The hooks that only services with limits need.
    pub const RELEASE: [Self; 1] = [Self::SockRelease];
    /// The hooks that only services whose faults drop packets need.
    pub const DROP: [Self; 1] = [Self::Egress];

    /// The hooks that a need of services is about.
    pub const fn of(need: Need) -> &'static [Self] {
        match need {
            Need::PeerName => &Self::PEER_NAME,
            Need::Datagrams => &Self::DATAGRAMS,
            Need::Follow => &Self::FOLLOW,
            Need::Release => &Self::RELEASE,
            Need::Drop => &Self::DROP,
            Need::Egress => &Self::SEND,
        }
    }

    /// Name of the program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "split_connect4",
            Self::Connect6 => "split_connect6",
            Self::PeerName4 => "split_peername4",
            Self::PeerName6 => "split_peername6",
            Self::SendMsg4 => "split_sendmsg4",
            Self::SendMsg6 => "split_sendmsg6",
            Self::RecvMsg4 => "answer_recvmsg4",
            Self::RecvMsg6 => "answer_recvmsg6",
            Self::SockOps => "follow_sockets",
            Self::SockRelease => "release_sockets",
            Self::Egress => "drop_packets",
        }
    }

    /// Name in `status` and of the pinned link.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::PeerName4 => "getpeername4",
            Self::PeerName6 => "getpeername6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
            Self::RecvMsg4 => "recvmsg4",
            Self::RecvMsg6 => "recvmsg6",
            Self::SockOps => "sock_ops",
            Self::SockRelease => "sock_release",
            Self::Egress => "egress",
        }
    }

    /// Kernel id of the program that this process loaded for the hook.
    pub fn program_id(self, loaded: &mut Loaded) -> io::Result<u32> {
        let program = loaded.ebpf_mut().program_mut(self.program());
        let program = program.expect("the object has a program per hook");
        Ok(program.info().map_err(io::Error::other)?.id())
    }

    /// `enum bpf_attach_type`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::PeerName4 => 29,
            Self::PeerName6 => 30,
            Self::SendMsg4 => 14,
            Self::SendMsg6 => 15,
            Self::RecvMsg4 => 19,
            Self::RecvMsg6 => 20,
            Self::SockOps => 3,
            Self::SockRelease => 34,
            Self::Egress => 1,
        }
    }
}

/// What the kernel says of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookState {
    /// No link of ours.
    Detached,
    /// Our program runs.
    Attached {
        /// Id of our program.
        program: u32,
        /// Programs that run after ours and may rewrite the address again.
        after: usize,
        /// Programs that run before ours.
        before: usize,
    },
    /// The link is there and its cgroup is gone.
    Severed,
    /// The link is there, and the kernel does not run its program for the cgroup.
    Shadowed,
    /// Another program is pinned where ours was.
    Foreign,
}

/// Programs on one cgroup.
pub struct Attachment {
    cgroup: File,
    path: PathBuf,
    links: PathBuf,
}

impl Attachment {
    /// Opens a directory of the cgroup2 hierarchy.
    pub fn new(pins: &PinDir, cgroup: &Path) -> Result<Self, PinError> {
        let file = File::open(cgroup).map_err(PinError::io(cgroup))?;
        let file_system = statfs(cgroup).map_err(|errno| PinError::io(cgroup)(errno.into()))?;
        if file_system.f_type.cast_unsigned() != CGROUP2_MAGIC {
            let advice = "not a cgroup2 directory; on hybrid systems the hierarchy is at /sys/fs/cgroup/unified";
            return Err(PinError::io(cgroup)(io::Error::other(advice)));
        }
        Ok(Self { cgroup: file, path: cgroup.to_owned(), links: pins.links()? })
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.path
    }

    /// Makes the programs run at these hooks, replacing those of an earlier daemon without a gap.
    pub fn attach(&self, loaded: &mut Loaded, hooks: &[Hook]) -> io::Result<()> {
        for hook in hooks {
            self.attach_hook(loaded, *hook).map_err(|error| {
                let place = format!("attach {} to {}", hook.name(), self.path.display());
                io::Error::new(error.kind(), format!("{place}: {error}{}", advice(&error)))
            })?;
        }
        Ok(())
    }

    fn attach_hook(&self, loaded: &mut Loaded, hook: Hook) -> io::Result<()> {
        let pin = self.links.join(hook.name());
        match sys::open_pinned(&pin) {
            Ok(link) if self.is_ours(&link, hook)? => {
                loaded.with_program(hook, |program| sys::link_update(&link, &program))
            }
            Ok(_) => self.replace_link(loaded, hook, &pin),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = self.create_link(loaded, hook)?;
                sys::pin(&link, &pin)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a link is for this hook of this cgroup.
    fn is_ours(&self, link: &OwnedFd, hook: Hook) -> io::Result<bool> {
        let info = sys::link_info(link)?;
        Ok(info.link_type == sys::LINK_TYPE_CGROUP
            && info.attach_type == hook.attach_type()
            && info.cgroup_id == self.cgroup.metadata()?.ino())
    }

    /// The new link first: for a moment both run, and the second finds no frontend to rewrite.
    fn replace_link(&self, loaded: &mut Loaded, hook: Hook, pin: &Path) -> io::Result<()> {
        let link = self.create_link(loaded, hook)?;
        fs::remove_file(pin)?;
        sys::pin(&link, pin)
    }

    fn create_link(&self, loaded: &mut Loaded, hook: Hook) -> io::Result<OwnedFd> {
        loaded.with_program(hook, |program| {
            sys::link_create(&program, &self.cgroup, hook.attach_type())
        })
    }

    /// Removes our links from these hooks. Other programs are never touched.
    pub fn detach(&self, hooks: &[Hook]) -> io::Result<()> {
        for hook in hooks {
            match pins::remove_link(&self.links.join(hook.name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the kernel runs at a hook, not what was once asked for. `own` is the id of our program
    /// there: see [`Hook::program_id`].
    pub fn state(&self, hook: Hook, own: u32) -> io::Result<HookState> {
        let link = match sys::open_pinned(&self.links.join(hook.name())) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(HookState::Detached);
            }
            Err(error) => return Err(error),
        };
        let info = sys::link_info(&link)?;
        if info.prog_id != own {
            return Ok(HookState::Foreign);
        }
        if info.cgroup_id == 0 {
            return Ok(HookState::Severed);
        }
        let running = sys::effective_programs(&self.cgroup.as_fd(), hook.attach_type())?;
        Ok(match running.iter().position(|id| *id == own) {
            Some(at) => {
                HookState::Attached { program: own, before: at, after: running.len() - at - 1 }
            }
            None => HookState::Shadowed,
        })
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (needs CAP_NET_ADMIN; or an exclusive program without BPF_F_ALLOW_MULTI is attached to \
             the cgroup or above it: see bpftool cgroup tree)"
        }
        Some(libc::ENOENT) => " (the cgroup was removed)",
        _ => "",
    }
}
