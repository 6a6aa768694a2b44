//! The daemon's programs on its cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::engine::{Engine, OptionalHooks};
use crate::compile::image::Need;
use crate::kernel::{Attachment, Hook, HookState, Loaded, PinDir, PinError, ProgramSize};
use crate::tables::Maps;

/// Most services that a hook is said to be there for.
const MOST_NAMES: usize = 8;

/// One hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookStatus {
    /// Its name.
    pub(crate) hook: String,
    /// Whether the policy needs it.
    pub(crate) wanted: bool,
    /// `attached`, `detached`, `severed` (the cgroup is gone), `shadowed` (another program's
    /// attachment keeps ours from running), `foreign` (another program is pinned where ours was),
    /// or why it is not known.
    pub(crate) state: String,
    /// Id of our program where it is attached.
    pub(crate) program: Option<u32>,
    /// Programs that run before ours.
    pub(crate) before: usize,
    /// Programs that run after ours and may rewrite the address again.
    pub(crate) after: usize,
    /// Services that need it, where it is not there for all of them; the first few.
    #[serde(default)]
    pub(crate) needed_by: Vec<String>,
    /// How many services need it.
    #[serde(default)]
    pub(crate) n_needed_by: usize,
}

/// Loaded programs, where they are attached, and where all of it is pinned.
pub(crate) struct KernelHooks {
    attachment: Attachment,
    loaded: Loaded,
    pins: PinDir,
    /// Every hook with the id of our program there.
    programs: Vec<(Hook, u32)>,
    /// What services need besides.
    needs: Vec<Need>,
}

impl KernelHooks {
    /// Programs for a cgroup; attaches nothing.
    pub(crate) fn new(pins: PinDir, mut loaded: Loaded, cgroup: &Path) -> anyhow::Result<Self> {
        let attachment = Attachment::new(&pins, cgroup)?;
        let programs = Hook::ALL
            .into_iter()
            .map(|hook| Ok((hook, hook.program_id(&mut loaded)?)))
            .collect::<io::Result<_>>()
            .context("ask the kernel for the ids of the programs")?;
        Ok(Self { attachment, loaded, pins, programs, needs: Vec::new() })
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
        self.programs.iter().map(|(hook, own)| self.state(*hook, *own)).collect()
    }

    fn wants(&self, hook: Hook) -> bool {
        let is_needed = |need: &Need| Hook::of(*need).contains(&hook);
        Hook::CONNECT.contains(&hook) || self.needs.iter().any(is_needed)
    }

    fn state(&self, hook: Hook, own: u32) -> HookStatus {
        let wanted = self.wants(hook);
        let status = HookStatus { hook: hook.name().to_owned(), wanted, ..HookStatus::default() };
        let word = |state: &str| HookStatus { state: state.to_owned(), ..status.clone() };
        match self.attachment.state(hook, own) {
            Ok(HookState::Attached { program, before, after }) => {
                HookStatus { program: Some(program), before, after, ..word("attached") }
            }
            Ok(HookState::Detached) => word("detached"),
            Ok(HookState::Severed) => word("severed"),
            Ok(HookState::Shadowed) => word("shadowed"),
            Ok(HookState::Foreign) => word("foreign"),
            Err(error) => word(&format!("unknown: {error}")),
        }
    }

    /// Attaches again where our link is gone: its cgroup was removed, and is back under the same
    /// path, or its pin was removed. Hooks with somebody else's program are left alone. Answers
    /// the names of the hooks that were attached.
    pub(crate) fn mend(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let lost = self.lost();
        let path = self.attachment.cgroup().to_owned();
        if lost.is_empty() || !path.is_dir() {
            return Ok(Vec::new());
        }
        if !self.pins.path().exists() {
            // The lock that we hold is on the directory that was removed.
            self.pins = PinDir::open(self.pins.path())?;
            warn!("the pins were removed: the next daemon takes over no maps, it starts anew");
        }
        self.attachment = Attachment::new(&self.pins, &path)?;
        self.attachment.attach(&mut self.loaded, &lost)?;
        Ok(lost.into_iter().map(Hook::name).collect())
    }

    fn lost(&self) -> Vec<Hook> {
        let is_lost = |(hook, own): &&(Hook, u32)| {
            let state = self.attachment.state(*hook, *own);
            self.wants(*hook) && matches!(state, Ok(HookState::Detached | HookState::Severed))
        };
        self.programs.iter().filter(is_lost).map(|(hook, _)| *hook).collect()
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

impl OptionalHooks for KernelHooks {
    fn set(&mut self, need: Need, wanted: bool) -> io::Result<()> {
        let hooks = Hook::of(need);
        self.needs.retain(|other| *other != need);
        if wanted {
            self.attachment.attach(&mut self.loaded, hooks)?;
            self.needs.push(need);
            Ok(())
        } else {
            let unneeded = hooks.iter().copied().filter(|hook| !self.wants(*hook));
            self.attachment.detach(&unneeded.collect::<Vec<_>>())
        }
    }
}

/// Says of each hook which services it is there for.
pub(crate) fn tell_needs<M: Maps, H: OptionalHooks>(
    hooks: &mut [HookStatus],
    engine: &Engine<M, H>,
) {
    for (need, n) in engine.needs() {
        let is_for =
            |hook: &&mut HookStatus| Hook::of(need).iter().any(|other| *other.name() == *hook.hook);
        for hook in hooks.iter_mut().filter(is_for) {
            hook.needed_by = engine.needing(need).take(MOST_NAMES).collect();
            hook.n_needed_by = n;
        }
    }
}

/// Says what is wrong with hooks that the policy needs.
pub(crate) fn hook_problems(hooks: &[HookStatus], cgroup: &str) -> Vec<String> {
    let broken = hooks.iter().filter(|hook| hook.wanted && hook.state != "attached");
    broken
        .map(|hook| {
            let cause = match hook.state.as_str() {
                "severed" => "its cgroup was removed; it is attached again when the path is back",
                "detached" => "its pin was removed; the daemon attaches it again within 5 seconds",
                "foreign" => {
                    "another program is pinned where ours was; restart the daemon to replace it"
                }
                "shadowed" => "another program's attachment overrides it: see bpftool cgroup tree",
                _ => "restart the daemon",
            };
            format!("the hook {} on {cgroup} is {}: {cause}", hook.hook, hook.state)
        })
        .collect()
}
