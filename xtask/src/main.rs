//! Every command of a developer and of CI: `cargo xtask <command>`.
//!
//! One file or directory per command. Commands run programs and say which; they know the layout of
//! the repository, but nothing of what the code in it means.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a build tool reports this way")]

mod bench;
mod bpf;
mod build;
mod ci;
mod demo;
mod exec;
mod ldd;
mod lint;
mod setup;
mod step;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::bpf::ToolchainChoice;

/// Every command of a developer and of CI.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Which Rust builds the kernel programs
    #[arg(long, global = true, value_name = "WHICH", env = "SPLITTER_BPF_TOOLCHAIN")]
    #[arg(value_enum, default_value_t)]
    bpf_toolchain: ToolchainChoice,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Find or install everything that the other commands need
    Setup,
    /// Build the kernel programs, then the `splitter` binary that embeds them
    Build {
        /// Build the binary with optimizations
        #[arg(long)]
        release: bool,
    },
    /// Show a canary with real servers, clients and a daemon, and check what it shows; needs root
    Demo(demo::Options),
    /// Measure splitter beside direct connections and other ways to split; needs root
    Bench(bench::Options),
    /// Check form: rustfmt, clippy for both targets, cargo-deny, rustdoc, tidy
    Lint,
    /// Run tests; without an argument: setup, build and every kind
    Test {
        /// Run this kind only
        kind: Option<test::Kind>,
        /// Of the real-kernel tests, run those of this file only, or those of it whose names contain a
        /// text: `life`, or `life::times`
        #[arg(long, value_name = "FILE[::TEXT]", requires = "kind")]
        only: Option<test::Only>,
    },
    /// Check the house rules that no other tool knows
    Tidy {
        /// First record that `docs/maps.md` describes `abi.rs` as it is now
        #[arg(long)]
        bless: bool,
    },
    /// Do what continuous integration does: setup, lint, test, the short demos, benches without figures
    Ci,
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(Cli { command, bpf_toolchain }: Cli) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::run(bpf_toolchain)?,
        Command::Build { release } => build::run(bpf_toolchain, build::Profile::new(release))?,
        Command::Demo(options) => demo::run(bpf_toolchain, options)?,
        Command::Bench(options) => bench::run(bpf_toolchain, &options)?,
        Command::Lint => lint::run(bpf_toolchain)?,
        Command::Test { kind, only } => {
            return Ok(test::run(bpf_toolchain, kind, only.as_ref()));
        }
        Command::Tidy { bless } => tidy::run(bless)?,
        Command::Ci => return Ok(ci::run(bpf_toolchain)),
    }
    Ok(ExitCode::SUCCESS)
}
