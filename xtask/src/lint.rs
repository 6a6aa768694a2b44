//! `cargo xtask lint`: everything that is checked without running the code.
//!
//! Warnings are errors here and nowhere else, so that half-done work still builds. All checks run,
//! whatever the earlier ones found.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf::{self, ToolchainChoice};
use crate::step::step;
use crate::{exec, tidy, workspace};

/// Runs all checks; the error counts and names those that failed.
pub(crate) fn run(toolchain: ToolchainChoice) -> Result<()> {
    let failures = check(toolchain);
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{} checks failed:\n- {}", failures.len(), failures.join("\n- "))
}

/// Runs all checks and returns what the failed ones say.
pub(crate) fn check(toolchain: ToolchainChoice) -> Vec<String> {
    let results = [
        step("lock file", lock_file),
        step("rustfmt", || exec::run(workspace::cargo().args(["fmt", "--all", "--check"]))),
        step("clippy for the host", clippy_host),
        step("clippy for the BPF target", || clippy_bpf(toolchain)),
        step("cargo-deny: bans, licences, sources", || deny(&["bans", "licenses", "sources"])),
        step("cargo-deny: advisories", advisories),
        step("rustdoc", rustdoc),
        step("tidy", || tidy::run(false)),
    ];
    let failures = results.into_iter().filter_map(Result::err);
    failures.map(|error| format!("{error:#}")).collect()
}

/// A build that has to change `Cargo.lock` is not the build that was tested.
fn lock_file() -> Result<()> {
    let metadata = ["metadata", "--locked", "--format-version", "1"];
    exec::output(workspace::cargo().args(metadata)).map(drop)
}

fn clippy_host() -> Result<()> {
    exec::run(
        workspace::cargo().args(["clippy", "--workspace", "--exclude", "splitter-ebpf"]).args([
            "--all-targets",
            "--all-features",
            "--",
            "--deny",
            "warnings",
        ]),
    )
}

fn clippy_bpf(choice: ToolchainChoice) -> Result<()> {
    let toolchain = choice.find().context(bpf::NO_TOOLCHAIN)?;
    let mut cargo = toolchain.cargo()?;
    exec::run(cargo.arg("clippy").args(bpf::CARGO_ARGS).args(["--", "--deny", "warnings"]))
}

fn rustdoc() -> Result<()> {
    exec::run(
        workspace::cargo()
            .args(["doc", "--workspace", "--exclude", "splitter-ebpf", "--no-deps"])
            .arg("--document-private-items")
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

fn deny(checks: &[&str]) -> Result<()> {
    exec::run(cargo_deny()?.args(["--all-features", "check"]).args(checks))
}

/// The advisories are a repository on the network. Where it is out of reach there is nothing to
/// compare with, and a lint that fails for the weather would be ignored, so that is only said.
fn advisories() -> Result<()> {
    match exec::output(cargo_deny()?.args(["fetch", "db"])) {
        Ok(_) => deny(&["advisories"]),
        Err(error) => {
            println!("NOT CHECKED: the advisory database cannot be fetched: {error:#}");
            Ok(())
        }
    }
}

fn cargo_deny() -> Result<Command> {
    let path =
        exec::find("cargo-deny").context("cargo-deny is not installed; run `cargo xtask setup`")?;
    let mut command = Command::new(path);
    command.arg("deny").current_dir(workspace::root());
    Ok(command)
}
