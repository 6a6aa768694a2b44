//! Rust components, the toolchain of the kernel programs, and programs that cargo builds.

use std::process::Command;

use anyhow::Result;

use super::{Outcome, Report, debian};
use crate::bpf::{self, Toolchain, ToolchainChoice};
use crate::{exec, workspace};

/// What Debian's way of building the kernel programs consists of.
const DEBIAN_TOOLCHAIN: [&str; 4] = ["cargo-web", "rustc-web", "rust-web-clippy", "rust-web-src"];

/// A program that `cargo install` builds.
struct CargoProgram {
    name: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
    needed_for: &'static str,
}

const CARGO_PROGRAMS: [CargoProgram; 2] = [
    CargoProgram {
        name: "bpf-linker",
        version: bpf::LINKER_VERSION,
        arguments: &[],
        needed_for: "building the kernel programs",
    },
    CargoProgram {
        name: "cargo-deny",
        version: "0.20.2",
        arguments: &["--no-default-features"],
        needed_for: "`cargo xtask lint`",
    },
];

/// Components of the pinned toolchain that check form.
///
/// They are named one by one, because `RUSTUP_AUTO_INSTALL=0` keeps rustup from installing what
/// `rust-toolchain.toml` lists.
pub(super) fn components(report: &mut Report) {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let version = exec::output(workspace::cargo().args([subcommand, "--version"]));
        let outcome = match version {
            Ok(version) => Outcome::Found(version.trim_end().to_owned()),
            Err(_) => match add_component(component) {
                Ok(()) => Outcome::Installed("by rustup".to_owned()),
                Err(error) => Outcome::Missing(format!(
                    "{error:#} (needed for `cargo xtask lint`; install the {component} of the \
                     toolchain that rust-toolchain.toml names)"
                )),
            },
        };
        report.add(component, outcome);
    }
}

/// A toolchain with the source of `core`: the pinned one if rustup can complete it, else Debian's.
pub(super) fn bpf_toolchain(report: &mut Report, choice: ToolchainChoice) {
    let outcome = match choice.find() {
        Some(toolchain) => toolchain.describe().map(Outcome::Found),
        None => complete_toolchain(choice).and_then(Toolchain::describe).map(Outcome::Installed),
    };
    let missing = |error: anyhow::Error| {
        Outcome::Missing(format!(
            "{error:#} (needed for building the kernel programs; either run `rustup component add \
             rust-src` or install Debian's packages {})",
            DEBIAN_TOOLCHAIN.join(" ")
        ))
    };
    report.add("source of core for the BPF target", outcome.unwrap_or_else(missing));
}

fn complete_toolchain(choice: ToolchainChoice) -> Result<Toolchain> {
    let by_rustup = || add_component("rust-src").map(|()| Toolchain::Pinned);
    let by_debian = || debian::install(&DEBIAN_TOOLCHAIN).map(|()| Toolchain::Debian);
    match choice {
        ToolchainChoice::Pinned => by_rustup(),
        ToolchainChoice::Debian => by_debian(),
        ToolchainChoice::Auto => by_rustup().or_else(|first| {
            println!("{first:#}; taking Debian's toolchain instead");
            by_debian().map_err(|second| second.context(format!("neither way works: {first:#}")))
        }),
    }
}

fn add_component(component: &str) -> Result<()> {
    let mut rustup = Command::new("rustup");
    exec::run(rustup.current_dir(workspace::root()).args(["component", "add", component]))
}

/// Programs that cargo builds, in the one version that is known to work.
pub(super) fn cargo_programs(report: &mut Report) {
    for program in &CARGO_PROGRAMS {
        let outcome = match installed_version(program.name) {
            Some(version) if version == program.version => Outcome::Found(version),
            other => match install(program) {
                Ok(()) => Outcome::Installed(replaced(program.version, other.as_deref())),
                Err(error) => Outcome::Missing(format!(
                    "{error:#} (needed for {}; `cargo install {} --version {}`)",
                    program.needed_for, program.name, program.version
                )),
            },
        };
        report.add(program.name, outcome);
    }
}

fn replaced(version: &str, other: Option<&str>) -> String {
    other.map_or_else(|| version.to_owned(), |other| format!("{version} (was {other})"))
}

/// Not optimized: that would take minutes, to save milliseconds of each run.
fn install(program: &CargoProgram) -> Result<()> {
    let CargoProgram { name, version, arguments, .. } = program;
    exec::run(
        workspace::cargo()
            .args(["install", name, "--version", version, "--locked", "--force"])
            .args(*arguments)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256"),
    )
}

/// The second word of what `--version` prints.
fn installed_version(name: &str) -> Option<String> {
    let path = exec::find(name)?;
    let text = exec::output(Command::new(path).arg("--version")).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}
