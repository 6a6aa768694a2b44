//! `cargo xtask ci`: what continuous integration runs.

use std::process::ExitCode;

use crate::bpf::ToolchainChoice;
use crate::{demo, lint, setup, test};

/// Sets up, lints, tests and plays the short demos. A part that fails does not stop the others and
/// counts as one failure in the closing line.
pub(crate) fn run(toolchain: ToolchainChoice) -> ExitCode {
    let mut run = test::Run::default();
    run.part(|_| setup::run(toolchain));
    run.part(|_| lint::run(toolchain));
    test::all_kinds(toolchain, &mut run);
    for options in demo::Options::quick() {
        run.part(|_| demo::run(toolchain, options));
    }
    run.close()
}
