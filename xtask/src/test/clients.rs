//! The static programs that tests run as clients: `tests/clients/*.c`, built with musl.
//!
//! Tests in a guest have no compiler, so they are built before, for all of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{exec, workspace};

const SOURCES: &str = "tests/clients";
const BUILT: &str = "target/clients";
/// What static programs are, whose symbols nobody reads.
const OPTIONS: [&str; 6] = ["-static", "-s", "-O2", "-Wall", "-Wextra", "-Werror"];

/// Builds all of them.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let built = workspace::path(BUILT);
    fs::create_dir_all(&built).with_context(|| format!("create {}", built.display()))?;
    let mut clients = Vec::new();
    for entry in fs::read_dir(workspace::path(SOURCES)).context("list tests/clients")? {
        let source = entry.context("list tests/clients")?.path();
        if source.extension().is_some_and(|extension| extension == "c") {
            let client = built.join(source.file_stem().unwrap_or_default());
            exec::run(Command::new("musl-gcc").args(OPTIONS).arg("-o").args([&client, &source]))
                .context("build a static program; `cargo xtask setup` installs musl-gcc")?;
            clients.push(client);
        }
    }
    Ok(clients)
}
