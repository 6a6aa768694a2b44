//! `splitter detach`: traffic is no longer split.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use super::client::{Address, Answer, unexpected};
use super::{Exit, Output, print, print_json};
use crate::daemon::control::{Request, Response};
use crate::daemon::{DEFAULT_PIN_DIR, remove_pins};
use crate::kernel::PinDir;

/// Options of `detach`.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory on bpffs with the maps and links of a daemon that is gone [default: those of the
    /// running daemon, or else, where it would listen at the default socket, /sys/fs/bpf/splitter].
    #[arg(long, value_name = "PATH")]
    pin_dir: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
}

/// Removes our links and maps, and nobody else's: through the daemon, which then ends, or, where
/// none runs, by itself.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let Options { pin_dir, output, daemon } = options;
    // A directory that was named is what goes, whatever daemon listens at the socket; one that a
    // daemon uses is refused.
    let direct = pin_dir.is_some() || daemon.is_vacant();
    if direct && pin_dir.is_none() && !daemon.is_default() {
        bail!(
            "{}; a socket does not say which pins were its daemon's: name them, with --pin-dir PATH",
            daemon.describe_vacancy()
        );
    }
    let pin_dir = pin_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_PIN_DIR));
    let removed = if direct {
        remove(&pin_dir)?
    } else {
        match daemon.ask(&Request::Detach)? {
            Answer::Done(Response::Detached { removed }) => removed,
            Answer::Done(_) => return Err(unexpected()),
            Answer::Refused => return Ok(Exit::Failure),
        }
    };
    match output {
        Output::Json => print_json(&removed)?,
        Output::Text if removed.is_empty() => {
            print(&format!("nothing is pinned in {}\n", pin_dir.display()))?;
        }
        Output::Text => {
            print(&format!("removed {}\n", removed.join("\nremoved ")))?;
        }
    }
    Ok(Exit::Success)
}

fn remove(pin_dir: &Path) -> anyhow::Result<Vec<String>> {
    let exists = pin_dir
        .try_exists()
        .with_context(|| format!("look for {} (run this as root)", pin_dir.display()))?;
    if !exists {
        return Ok(Vec::new());
    }
    let pins = PinDir::open(pin_dir).context("open the pin directory (--pin-dir)")?;
    remove_pins(pins).context("remove the pins")
}
