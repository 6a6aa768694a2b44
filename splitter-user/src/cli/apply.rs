//! `splitter apply`: add or replace services of the running policy.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::client::{Address, Answer, check_services, show_problems, texts, unexpected};
use super::reading::ReadingOptions;
use super::{Exit, Output, complain, print, print_json, read_sources};
use crate::daemon::control::{Applied, Request, Response};

/// Options of `apply`.
#[derive(Args)]
pub(crate) struct Options {
    /// Files, directories, or `-` for standard input; services that they do not name stay.
    #[arg(value_name = "FILE", required_unless_present = "remove")]
    files: Vec<PathBuf>,
    /// Remove a service or document that was applied, or what was applied over a policy file.
    #[arg(
        long,
        value_name = "SERVICE|KIND/NAMESPACE/NAME",
        conflicts_with_all = ["files", "namespace", "degrade"],
    )]
    remove: Vec<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Address,
    #[command(flatten)]
    reading: ReadingOptions,
}

/// Sends the policy and tells what it changed. Returns when the change is in force.
pub(crate) fn run(options: Options) -> anyhow::Result<Exit> {
    let request = if options.remove.is_empty() {
        let sources = read_sources(&options.files, &options.reading.reading())?;
        if !check_services(&sources)? {
            complain("splitter: nothing was changed\n")?;
            return Ok(Exit::Failure);
        }
        let (namespace, degrade) = options.reading.into_parts();
        Request::Apply { sources: texts(sources)?, namespace, degrade }
    } else {
        Request::Remove { services: options.remove }
    };
    match options.daemon.ask(&request)? {
        Answer::Done(Response::Applied { applied, problems, sources }) => {
            show_problems(problems, sources)?;
            report(&applied, options.output)?;
            Ok(Exit::Success)
        }
        Answer::Done(_) => Err(unexpected()),
        Answer::Refused => Ok(Exit::Failure),
    }
}

fn report(applied: &Applied, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(applied);
    }
    let lists = [
        ("added", &applied.added),
        ("changed", &applied.changed),
        ("removed", &applied.removed),
        ("unchanged", &applied.unchanged),
        ("kept", &applied.documents),
        ("dropped", &applied.dropped),
    ];
    let mut text = String::new();
    for (what, services) in lists {
        for service in services {
            writeln!(text, "{what:<10} {service}")?;
        }
    }
    writeln!(text, "generation {}", applied.generation)?;
    print(&text)
}
