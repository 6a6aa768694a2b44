//! `cargo xtask ci`: what continuous integration runs.

use std::process::ExitCode;

use crate::bpf::ToolchainChoice;
use crate::{bench, demo, lint, setup, test};

/// Sets up, lints, tests, plays the short demos and shows that all benches run. A part that fails
/// does not stop the others and counts as one failure in the closing line.
pub(crate) fn run(toolchain: ToolchainChoice) -> ExitCode {
    let mut run = test::Run::default();
    run.part(|_| setup::run(toolchain));
    run.part(|_| lint::run(toolchain));
    test::all_kinds(toolchain, &mut run);
    for options in demo::Options::quick() {
        run.part(|_| demo::run(toolchain, options));
    }
    run.part(|_| bench::run(toolchain, &bench::Options::smoke()));
    run.close()
}
