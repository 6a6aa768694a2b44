//! `cargo xtask bench`: measures splitter side by side with direct connections and other ways to
//! split.
//!
//! The measuring is the crate `bench`'s; this builds it and what it measures, in release, and runs
//! it where its records belong.

use anyhow::{Result, bail};

use crate::bpf::ToolchainChoice;
use crate::build::{self, Profile};
use crate::step::step;
use crate::{exec, setup, workspace};

/// Packages of what splitter is measured beside, and of what measures.
const PACKAGES: [&str; 8] = [
    "bpftool",
    "haproxy",
    "iproute2",
    "iptables",
    "libnginx-mod-stream",
    "nftables",
    "nginx-light",
    "wrk",
];

/// What a caller may choose.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Benches to run; all where none is named
    names: Vec<String>,
    /// Take three minutes rather than thirty: wider intervals
    #[arg(long)]
    quick: bool,
    /// Only show that everything runs; the figures mean nothing
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Write the report to `docs/benchmarks`; benches that are not named keep the figures of their
    /// last full run
    #[arg(long, conflicts_with_all = ["quick", "smoke"])]
    write: bool,
    /// List the benches and run none
    #[arg(long)]
    list: bool,
    /// First install what splitter is compared with, where it is missing
    #[arg(long)]
    install: bool,
}

impl Options {
    /// For continuous integration.
    pub(crate) fn smoke() -> Self {
        Self { smoke: true, ..Self::default() }
    }

    /// What is built: figures that mean nothing need no optimization.
    fn profile(&self) -> Profile {
        if self.smoke { Profile::Dev } else { Profile::Release }
    }

    /// Where records go: those of short runs must not take the place of a report's.
    fn records(&self) -> &'static str {
        match self {
            Self { smoke: true, .. } => "bench-smoke",
            Self { quick: true, .. } => "bench-quick",
            _ => "bench",
        }
    }

    /// The words for `splitter-bench`.
    fn arguments(&self) -> Vec<&str> {
        let flags = [
            ("--quick", self.quick),
            ("--smoke", self.smoke),
            ("--write", self.write),
            ("--list", self.list),
            ("--install", self.install),
        ];
        let given = flags.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag);
        given.chain(self.names.iter().map(String::as_str)).collect()
    }
}

/// Builds what is measured and what measures, and runs it.
pub(crate) fn run(toolchain: ToolchainChoice, options: &Options) -> Result<()> {
    if !workspace::is_root() && !options.list {
        bail!(
            "benches attach programs to cgroups of their own: run `cargo xtask bench` as root, or \
             with --list"
        );
    }
    if options.install {
        step("install what is compared", || setup::install_packages(&PACKAGES))?;
    }
    if !options.list {
        setup::mount_bpffs()?;
        build::run(toolchain, options.profile())?;
    }
    step("build the benches", || {
        let mut build = workspace::cargo();
        build.args(["build", "--package", "splitter-bench"]).args(options.profile().flags());
        exec::run(&mut build)
    })?;
    let splitter = build::binary(options.profile());
    let mut bench = std::process::Command::new(splitter.with_file_name("splitter-bench"));
    bench.args(options.arguments()).current_dir(workspace::root()).env("SPLITTER_BIN", splitter);
    bench.arg("--out").arg(workspace::target_dir().join(options.records()));
    exec::run(&mut bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_handed_on() {
        let names = vec!["apply".to_owned()];
        let options = Options { quick: true, names, ..Options::default() };
        assert_eq!(options.arguments(), ["--quick", "apply"]);
        assert_eq!(Options::smoke().arguments(), ["--smoke"]);
    }
}
