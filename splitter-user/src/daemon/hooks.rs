//! The daemon's programs on its cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::engine::PeerNameHooks;
use super::status::HookStatus;
use crate::kernel::{Attachment, Hook, HookState, Loaded, PinDir, PinError, ProgramSize};

/// Loaded programs, where they are attached, and where all of it is pinned.
pub(crate) struct KernelHooks {
    attachment: Attachment,
    loaded: Loaded,
    pins: PinDir,
    peer_name: bool,
}

impl KernelHooks {
    /// Programs for a cgroup; attaches nothing.
    pub(crate) fn new(pins: PinDir, loaded: Loaded, cgroup: &Path) -> Result<Self, PinError> {
        Ok(Self { attachment: Attachment::new(&pins, cgroup)?, loaded, pins, peer_name: false })
    }

    /// Attaches what every service needs, or replaces an earlier daemon's programs there.
    pub(crate) fn attach_connect(&mut self) -> io::Result<()> {
        self.attachment.attach(&mut self.loaded, &Hook::CONNECT)
    }

    /// The loaded programs.
    pub(crate) fn loaded_mut(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// The pins.
    pub(crate) fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// The cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        self.attachment.cgroup()
    }

    /// What the verifier and the JIT made of the programs; none where the kernel does not tell.
    pub(crate) fn program_sizes(&mut self) -> Vec<ProgramSize> {
        self.loaded.program_sizes().unwrap_or_default()
    }

    /// Every hook as the kernel has it.
    pub(crate) fn states(&self) -> Vec<HookStatus> {
        Hook::ALL.into_iter().map(|hook| self.state(hook)).collect()
    }

    fn state(&self, hook: Hook) -> HookStatus {
        let wanted = self.peer_name || Hook::CONNECT.contains(&hook);
        let status = HookStatus { hook: hook.name().to_owned(), wanted, ..HookStatus::default() };
        let word = |state: &str| HookStatus { state: state.to_owned(), ..status.clone() };
        match self.attachment.state(hook) {
            Ok(HookState::Attached { program, before, after }) => {
                HookStatus { program: Some(program), before, after, ..word("attached") }
            }
            Ok(HookState::Detached) => word("detached"),
            Ok(HookState::Severed) => word("severed"),
            Ok(HookState::Shadowed) => word("shadowed"),
            Err(error) => word(&format!("unknown: {error}")),
        }
    }

    /// Whether the cgroup was removed, so that the programs run for nobody.
    pub(crate) fn is_severed(&self) -> bool {
        matches!(self.attachment.state(Hook::Connect4), Ok(HookState::Severed))
    }

    /// Attaches to a cgroup that was made again under the same path. `false` while there is none.
    pub(crate) fn reattach(&mut self) -> io::Result<bool> {
        let path = self.attachment.cgroup().to_owned();
        if !path.is_dir() {
            return Ok(false);
        }
        self.attachment = Attachment::new(&self.pins, &path).map_err(io::Error::other)?;
        self.attachment.attach(&mut self.loaded, &Hook::CONNECT)?;
        if self.peer_name {
            self.attachment.attach(&mut self.loaded, &Hook::PEER_NAME)?;
        }
        Ok(true)
    }

    /// Detaches everything and removes all pins. Answers what was removed.
    pub(crate) fn remove(self) -> Result<Vec<String>, PinError> {
        remove_pins(self.pins)
    }
}

/// Removes all pins, which detaches the programs. Answers what was removed, links first.
pub(crate) fn remove_pins(pins: PinDir) -> Result<Vec<String>, PinError> {
    let removed = list_pins(pins.path());
    pins.remove()?;
    Ok(removed)
}

fn list_pins(dir: &Path) -> Vec<String> {
    let names = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        paths
    };
    let links = names(&dir.join("links"));
    let maps = names(dir).into_iter().filter(|path| !path.ends_with("links"));
    links.into_iter().chain(maps).map(|path| super::show(&path)).collect()
}

impl PeerNameHooks for KernelHooks {
    fn set_peer_name(&mut self, wanted: bool) -> io::Result<()> {
        if wanted {
            self.attachment.attach(&mut self.loaded, &Hook::PEER_NAME)?;
        } else {
            self.attachment.detach(&Hook::PEER_NAME)?;
        }
        self.peer_name = wanted;
        Ok(())
    }
}
