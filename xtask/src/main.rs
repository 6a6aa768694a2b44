//! Every command of a developer and of CI: `cargo xtask <command>`.
//!
//! One file or directory per command. Commands run programs and say which; they know the layout of
//! the repository, but nothing of what the code in it means.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a build tool reports this way")]

mod bpf;
mod build;
mod exec;
mod ldd;
mod setup;
mod step;
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
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match cli.command {
        Command::Setup => setup::run(cli.bpf_toolchain),
        Command::Build { release } => build::run(cli.bpf_toolchain, build::Profile::new(release)),
    }
}
