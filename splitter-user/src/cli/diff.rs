//! `splitter diff`: what differs between two policies.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Output, complain_of, print, print_json, read_sources};
use crate::diff::diff;
use crate::policy::load;
use crate::policy::model::Policy;

/// Options of `diff`.
#[derive(Args, Debug)]
#[command(after_help = "\
Policies are compared by what they mean, not by how they are written. As with diff(1), the exit \
status is 0 where they mean the same and 1 where they differ. It is also 1, with nothing on standard \
output, where one of them does not load.")]
pub(crate) struct Options {
    /// Old policy: a file, a directory of files, or - for standard input
    old: PathBuf,
    /// New policy
    new: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `diff`.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let (old, new) = (read_policy(&options.old)?, read_policy(&options.new)?);
    let (Some(old), Some(new)) = (old, new) else { return Ok(Exit::Failure) };
    let difference = diff(&old, &new);
    match options.output {
        Output::Text => print(&difference.to_string())?,
        Output::Json => print_json(&difference)?,
    }
    Ok(if difference.is_empty() { Exit::Success } else { Exit::Failure })
}

/// A policy, or `None` after saying what is wrong with it.
fn read_policy(path: &Path) -> anyhow::Result<Option<Policy>> {
    let sources = read_sources(&[path.to_owned()])?;
    match load(&sources) {
        Ok(loaded) => Ok(Some(loaded.policy)),
        Err(diagnostics) => {
            complain_of(&diagnostics, &sources)?;
            Ok(None)
        }
    }
}
