//! The static programs that tests run as clients: `tests/clients/*.c`, built with musl, and
//! `tests/clients/*.go`.
//!
//! Tests in a guest have no compiler, so they are built before, for all of them.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{exec, workspace};

const SOURCES: &str = "tests/clients";
const BUILT: &str = "target/clients";
/// What static programs of C are, whose symbols nobody reads.
const OPTIONS: [&str; 6] = ["-static", "-s", "-O2", "-Wall", "-Wextra", "-Werror"];

/// Builds all of them.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let built = workspace::path(BUILT);
    fs::create_dir_all(&built).with_context(|| format!("create {}", built.display()))?;
    let mut clients = Vec::new();
    for entry in fs::read_dir(workspace::path(SOURCES)).context("list tests/clients")? {
        let source = entry.context("list tests/clients")?.path();
        let client = built.join(source.file_stem().unwrap_or_default());
        let mut command = match source.extension().and_then(OsStr::to_str) {
            Some("c") => c_compiler(),
            Some("go") => go_compiler(),
            _ => continue,
        };
        exec::run(command.arg("-o").args([&client, &source]))
            .context("build a static program; `cargo xtask setup` installs its compiler")?;
        clients.push(client);
    }
    Ok(clients)
}

fn c_compiler() -> Command {
    let mut command = Command::new("musl-gcc");
    command.args(OPTIONS);
    command
}

/// Without the C library, and of nothing but the one file and the standard library.
fn go_compiler() -> Command {
    let mut command = Command::new("go");
    command.args(["build", "-ldflags=-s -w"]);
    command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOFLAGS", "");
    command.env("GOCACHE", workspace::path("target/go"));
    command
}
