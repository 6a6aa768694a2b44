//! `cargo xtask setup`: finds or installs everything that the other commands need.
//!
//! Idempotent: what is found is left alone, so a second run takes a second. A thing that cannot be
//! had does not stop the others; all of them are told at the end, and make the command fail.

mod debian;
mod kernels;
mod mounts;
mod resolved;
mod rust;
mod unpack;

use anyhow::{Result, bail};

use crate::bpf::ToolchainChoice;
use crate::step::step;

pub(crate) use debian::install as install_packages;
pub(crate) use kernels::{Kernel, installed as installed_kernels};
pub(crate) use mounts::find_mount;

/// How one thing ended.
enum Outcome {
    /// It was there; what exactly.
    Found(String),
    /// It is there now; what exactly.
    Installed(String),
    /// It cannot be had; why, what it is needed for, and what to do.
    Missing(String),
}

/// Says how each thing ended, and keeps what is missing for the end.
#[derive(Default)]
struct Report {
    missing: Vec<String>,
}

impl Report {
    fn add(&mut self, thing: &str, outcome: Outcome) {
        match outcome {
            Outcome::Found(what) => println!("{thing}: found: {what}"),
            Outcome::Installed(what) => println!("{thing}: installed: {what}"),
            Outcome::Missing(why) => {
                println!("{thing}: cannot be had: {why}");
                self.missing.push(format!("{thing}: {why}"));
            }
        }
    }
}

/// Finds or installs everything.
pub(crate) fn run(toolchain: ToolchainChoice) -> Result<()> {
    step("setup", || {
        let mut report = Report::default();
        debian::programs(&mut report);
        rust::components(&mut report);
        rust::bpf_toolchain(&mut report, toolchain);
        rust::cargo_programs(&mut report);
        kernels::fetch(&mut report);
        resolved::fetch(&mut report);
        mounts::prepare(&mut report);
        if !report.missing.is_empty() {
            bail!("cannot be had:\n- {}", report.missing.join("\n- "));
        }
        Ok(())
    })
}

/// The one thing of [`run`] that is gone after the machine was started again.
pub(crate) fn mount_bpffs() -> Result<()> {
    mounts::mount_bpffs().map(drop)
}
