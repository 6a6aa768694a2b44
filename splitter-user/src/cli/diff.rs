//! `splitter diff`: what differs between two policies, or what a policy would change.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::client::{Answer, LiveAddress, check_services, texts, unexpected};
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::{Exit, Output, print, print_json, read_sources};
use crate::daemon::control::{Compared, Request, Response};
use crate::diff::diff;

/// Options of `diff`.
#[derive(Args, Debug)]
#[command(allow_missing_positional = true)]
#[command(after_help = "\
Policies are compared by what they mean, not by how they are written. With one policy, the daemon is \
asked what `splitter apply` of it would change now; services that it does not name are left alone, \
and counted. As with diff(1), the exit status is 0 where nothing differs and 1 where something does. \
It is also 1, with nothing on standard output, where a policy does not load, would be refused, or no \
daemon answers.")]
#[command(mut_arg("socket", |socket| socket.conflicts_with("offline")))]
pub(crate) struct Options {
    /// Old policy: a file, a directory of files, or - for standard input; the one that the daemon
    /// runs where only NEW is given
    #[arg(group = "offline")]
    old: Option<PathBuf>,
    /// New policy
    new: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: LiveAddress,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
}

/// Runs `diff`.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    match &options.old {
        Some(old) => compare_files(old, options),
        None => compare_with_running(options),
    }
}

fn compare_files(old: &Path, options: &Options) -> anyhow::Result<Exit> {
    let read = |path: &Path| load_files(&[path.to_owned()], &options.reading, &options.vips);
    let (old, new) = (read(old)?, read(&options.new)?);
    let (Some((old, _)), Some((new, _))) = (old, new) else { return Ok(Exit::Failure) };
    let difference = diff(&old.policy, &new.policy);
    match options.output {
        Output::Text => print(&difference.to_string())?,
        Output::Json => print_json(&difference)?,
    }
    Ok(exit(difference.is_empty()))
}

fn compare_with_running(options: &Options) -> anyhow::Result<Exit> {
    options.vips.refuse_without_files();
    let sources = read_sources(std::slice::from_ref(&options.new), &options.reading.reading())?;
    if !check_services(&sources)? {
        return Ok(Exit::Failure);
    }
    let (namespace, degrade) = options.reading.clone().into_parts();
    let request = Request::Compare { sources: texts(sources)?, namespace, degrade };
    match options.daemon.find().ask(&request)? {
        Answer::Done(Response::Compared(compared)) => {
            match options.output {
                Output::Text => print(&text(&compared)?)?,
                Output::Json => print_json(&compared)?,
            }
            Ok(exit(compared.difference.is_empty()))
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn text(compared: &Compared) -> Result<String, std::fmt::Error> {
    let mut text = compared.difference.to_string();
    match compared.left_alone {
        0 => {}
        1 => writeln!(text, "1 other running service is left alone")?,
        n => writeln!(text, "{n} other running services are left alone")?,
    }
    Ok(text)
}

fn exit(is_same: bool) -> Exit {
    if is_same { Exit::Success } else { Exit::Failure }
}
