//! `splitter simulate`: connections to a policy in memory, counted.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::dial::Dial;
use super::reading::{ReadingOptions, VipOptions, load_files};
use super::{Exit, Output, print, print_json};
use crate::simulate::{Load, simulate};

/// Options of `simulate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every connection is decided by the very code that runs in the kernel, on a policy in memory: neither \
privilege nor a daemon is needed, and nothing is dialled. Cgroups and network namespaces that the \
policy names are taken to exist.")]
pub(crate) struct Options {
    /// Policy files, directories of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    dial: Dial,
    /// Connections to make
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    connections: u64,
    /// Clients that take turns. They differ in everything that no option gives: client I, from 0,
    /// has user, group and process id I, and I for its network namespace
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    clients: u32,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    vips: VipOptions,
}

/// Runs `simulate`.
pub(crate) fn run(options: &Options) -> anyhow::Result<Exit> {
    let loaded = load_files(&options.files, &options.reading, &options.vips)?;
    let Some((loaded, _)) = loaded else { return Ok(Exit::Failure) };
    let load = Load {
        to: options.dial.to,
        connections: options.connections,
        clients: options.clients,
        role: options.dial.role(),
        seed: options.seed,
    };
    let simulation = simulate(&loaded.policy, &load).context("put the policy into memory")?;
    match options.output {
        Output::Text => print(&simulation.to_string())?,
        Output::Json => print_json(&simulation)?,
    }
    Ok(Exit::Success)
}
