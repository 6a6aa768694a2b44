//! The daemon: ties policy files, the control socket, cgroups and the kernel together.
//!
//! [`engine`] holds the state and is synchronous: every change of the policy is one call that
//! either takes effect in the kernel or changes nothing. Around it, `serve` waits for what may
//! change it. Nothing in here is needed for a connection to be split: the kernel does that alone.

pub(crate) mod access;
pub(crate) mod assignments;
pub(crate) mod clients;
mod congestion;
pub(crate) mod control;
mod documents;
pub(crate) mod drains;
pub(crate) mod dump;
pub(crate) mod engine;
pub(crate) mod events;
mod files;
pub(crate) mod health;
pub(crate) mod hooks;
pub(crate) mod outcomes;
mod overrides;
mod privileges;
mod requests;
pub(crate) mod resolver;
mod serve;
mod server;
mod start;
pub(crate) mod status;
pub(crate) mod sweep;
mod watch;

pub(crate) use files::policy_files;
pub(crate) use hooks::remove_pins;
pub(crate) use start::{OnExit, Settings, run};

use std::path::Path;

/// Where the control socket is unless an option says otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/splitter/splitter.sock";
/// Where maps and links are pinned unless an option says otherwise.
pub(crate) const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/splitter";
/// Where overrides are kept unless an option says otherwise.
pub(crate) const DEFAULT_STATE_DIR: &str = "/run/splitter";

/// The line before what `splitter hosts` prints, which the daemon's resolver skips.
pub(crate) const HOSTS_BEGIN: &str = "# splitter: begin";
/// The line after it.
pub(crate) const HOSTS_END: &str = "# splitter: end";

/// A path in messages.
fn show(path: &Path) -> String {
    path.display().to_string()
}
