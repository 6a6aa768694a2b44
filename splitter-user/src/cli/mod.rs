//! The command line: one file per verb, and what they share.
//!
//! A verb parses its options, asks the daemon or the library, and prints. It decides nothing about
//! policy. Standard output is for results, standard error for problems.

mod apply;
mod check;
mod client;
mod detach;
mod dial;
mod diff;
mod drain;
mod dump;
mod events;
mod exec;
mod explain;
mod get;
mod hosts;
mod namespaces;
mod reading;
mod reap;
mod run;
mod simulate;
mod status;
mod weight;

use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::policy::diagnostic::{Diagnostic, render};
use crate::policy::{Reading, Source};

/// Splits connections between versions of a service, inside the kernel.
#[derive(Parser)]
#[command(name = "splitter", version, max_term_width = 100)]
struct Splitter {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon.
    Run(run::Options),
    /// Add or replace services of the running policy.
    Apply(apply::Options),
    /// Show the running policy.
    Get(get::Options),
    /// Show the names of hosts and where to dial them, as lines of /etc/hosts.
    Hosts(hosts::Options),
    /// Shift the weights of a running service.
    Weight(weight::Options),
    /// Send no connections to a subset or a backend any more, and close those that it has.
    Drain(drain::Options),
    /// Run a command as a client of a chosen subset; nothing changes for anybody else.
    Exec(exec::Options),
    /// Show what the kernel does: hooks, connections, problems.
    Status(status::Options),
    /// Show what clients were not allowed to reach.
    Events(events::Options),
    /// Show the tables as the kernel reads them.
    Dump(dump::Options),
    /// Remove the hooks and maps: traffic is no longer split.
    Detach(detach::Options),
    /// Say everything that is wrong with a policy.
    Check(check::Options),
    /// Show what differs between two policies, or what one would change.
    Diff(diff::Options),
    /// Make connections to a policy in memory and count where they go.
    Simulate(simulate::Options),
    /// Show why a connection goes where it goes.
    Explain(explain::Options),
    /// Enter network namespaces for a daemon, which starts this itself.
    #[command(hide = true)]
    Namespaces,
    /// Remove the cgroup of a command once it has ended; `exec` starts this itself.
    #[command(hide = true)]
    Reap(reap::Options),
}

/// How a verb that was used rightly ended. Wrong usage ends with status 2, but for `exec`, whose
/// other statuses are those of a command: see [`exec::FAILED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Status 0.
    Success,
    /// Status 1: a policy or a state is wrong.
    Failure,
    /// The status of a command that was to run.
    Status(u8),
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Runs the verb that the process's arguments name.
pub fn main() -> ExitCode {
    let verb = match Splitter::try_parse() {
        Ok(Splitter { verb }) => verb,
        Err(error) => return misused(&error),
    };
    let result = match verb {
        Verb::Run(options) => run::run(options),
        Verb::Apply(options) => apply::run(options),
        Verb::Get(options) => get::run(options),
        Verb::Hosts(options) => hosts::run(&options),
        Verb::Weight(options) => weight::run(options),
        Verb::Drain(options) => drain::run(options),
        Verb::Status(options) => status::run(options),
        Verb::Dump(options) => dump::run(options),
        Verb::Detach(options) => detach::run(options),
        Verb::Check(options) => check::run(&options),
        Verb::Diff(options) => diff::run(&options),
        Verb::Simulate(options) => simulate::run(&options),
        Verb::Explain(options) => explain::run(&options),
        Verb::Events(options) => events::run(options),
        Verb::Exec(options) => exec::run(options),
        Verb::Namespaces => namespaces::run(),
        Verb::Reap(options) => reap::run(&options),
    };
    match result {
        Ok(Exit::Success) => ExitCode::SUCCESS,
        Ok(Exit::Failure) => ExitCode::FAILURE,
        Ok(Exit::Status(status)) => ExitCode::from(status),
        Err(error) => {
            // With standard error gone there is nobody left to tell.
            let _ = complain(&format!("splitter: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with the arguments, or what was asked for, as `--help` does.
fn misused(error: &clap::Error) -> ExitCode {
    // With standard error gone there is nobody left to tell.
    let _ = error.print();
    let is_exec = std::env::args_os().nth(1).is_some_and(|verb| verb == exec::VERB);
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_exec => ExitCode::from(exec::FAILED),
        status => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
    }
}

/// The whole command line, for completions and manual pages.
pub fn command() -> clap::Command {
    Splitter::command()
}

/// Writes a result. A reader that went away, as `head` does, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a value as JSON, indented, with a line feed.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A number of things whose name takes an `s` where there are several.
pub(crate) fn count<N: Copy + PartialEq + From<u8> + Display>(n: N, what: &str) -> String {
    let ending = if n == N::from(1) { "" } else { "s" };
    format!("{n} {what}{ending}")
}

/// Writes a problem.
pub(crate) fn complain(text: &str) -> anyhow::Result<()> {
    io::stderr().lock().write_all(text.as_bytes()).context("write to standard error")
}

/// Writes diagnostics, in colour where standard error is a terminal that wants it.
pub(crate) fn complain_of(diagnostics: &[Diagnostic], sources: &[Source]) -> anyhow::Result<()> {
    if diagnostics.is_empty() {
        return Ok(());
    }
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    complain(&format!("{}\n", render(diagnostics, sources, color)))
}

/// Reads policy sources: files, directories (their `*.yaml` and `*.yml` that are not hidden, in
/// the order of their names), `-` for standard input.
pub(crate) fn read_sources(paths: &[PathBuf], reading: &Reading) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(read_stdin(reading)?);
            continue;
        }
        for file in crate::daemon::policy_files(path).with_context(|| describe(path))? {
            let bytes = fs::read(&file).with_context(|| describe(&file))?;
            sources.push(source(file.display().to_string(), bytes, reading));
        }
    }
    Ok(sources)
}

fn describe(path: &Path) -> String {
    format!("read the policy {}", path.display())
}

fn source(name: String, bytes: Vec<u8>, reading: &Reading) -> Source {
    Source { name, bytes, reading: reading.clone() }
}

fn read_stdin(reading: &Reading) -> anyhow::Result<Source> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("read the policy from standard input")?;
    Ok(source("-".to_owned(), bytes, reading))
}
