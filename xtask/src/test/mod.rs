//! `cargo xtask test`: unit tests, real-kernel tests, and those again on other kernels.
//!
//! The same executables run here and in the guests. Every run ends with the line `N passed,
//! N failed`: the sum of what the test executables said, and one failure for every part that broke
//! without a test saying so.

mod clients;
mod run;
mod suite;
mod tally;
mod vm;

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::bpf::ToolchainChoice;
use crate::build::{self, Profile};
use crate::step::step;
use crate::{exec, setup, workspace};

pub(crate) use run::Run;
use suite::Suite;
pub(crate) use suite::{NOT_FOR_GUESTS, Only};
use tally::Tally;

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Needs no privilege and no BPF toolchain
    Unit,
    /// Real sockets on this machine's kernel; needs root
    Kernel,
    /// The same on Debian's 6.1 and 6.12 kernels, in qemu
    Vm,
}

/// Runs one kind, or sets up and runs all of them.
pub(crate) fn run(toolchain: ToolchainChoice, kind: Option<Kind>, only: Option<&Only>) -> ExitCode {
    let mut run = Run::default();
    match kind {
        None => {
            run.part(|_| setup::run(toolchain));
            all_kinds(toolchain, &mut run);
        }
        Some(Kind::Unit) => unit(&mut run),
        Some(Kind::Kernel) => {
            if let Some(suite) = build_suite(toolchain, only, &mut run) {
                kernel(&suite, &mut run);
            }
        }
        Some(Kind::Vm) => {
            if let Some(suite) = build_suite(toolchain, only, &mut run) {
                other_kernels(suite, &mut run);
            }
        }
    }
    run.close()
}

/// Builds and runs every kind.
pub(crate) fn all_kinds(toolchain: ToolchainChoice, run: &mut Run) {
    let suite = build_suite(toolchain, None, run);
    unit(run);
    if let Some(suite) = suite {
        kernel(&suite, run);
        other_kernels(suite, run);
    }
}

fn unit(run: &mut Run) {
    let everything_else = ["--workspace", "--exclude", "splitter-ebpf", "--exclude", TESTS_CRATE];
    run.part(|tally| step("unit tests", || cargo_test(&everything_else, tally)));
    let harness = ["--package", TESTS_CRATE, "--lib"];
    run.part(|tally| step("unit tests of the test harness", || cargo_test(&harness, tally)));
}

/// The member crate whose integration tests need a real kernel.
const TESTS_CRATE: &str = "splitter-tests";

fn cargo_test(packages: &[&str], tally: &mut Tally) -> Result<()> {
    count(workspace::cargo().args(["test", "--no-fail-fast"]).args(packages), tally)
}

/// Builds the kernel programs, the binary and the real-kernel tests.
fn build_suite(toolchain: ToolchainChoice, only: Option<&Only>, run: &mut Run) -> Option<Suite> {
    let mut suite = None;
    run.part(|_| {
        build::run(toolchain, Profile::Dev)?;
        suite = Some(step("build the real-kernel tests", || Suite::build(only))?);
        Ok(())
    });
    suite
}

fn kernel(suite: &Suite, run: &mut Run) {
    if !workspace::is_root() {
        run.part(|_| {
            bail!("the real-kernel tests attach programs to cgroups: run this command as root")
        });
        return;
    }
    run.part(|_| setup::mount_bpffs());
    for test in &suite.tests {
        let work = |tally: &mut Tally| {
            let mut command = Command::new(&test.executable);
            command.args(suite.arguments()).current_dir(suite::directory());
            command.envs(suite.environment());
            count(&mut command, tally)
        };
        run.part(|tally| step(&format!("kernel test {}", test.name), || work(tally)));
    }
}

fn other_kernels(suite: Suite, run: &mut Run) {
    let suite = match suite.for_guests() {
        Ok(suite) => suite,
        Err(error) => return run.part(|_| Err(error)),
    };
    let kernels = setup::installed_kernels().and_then(|kernels| {
        vm::Image::new(&suite).map(|image| (kernels, image)).context("image of the guests")
    });
    let (kernels, image) = match kernels {
        Ok(kernels) => kernels,
        Err(error) => return run.part(|_| Err(error)),
    };
    // At once: a guest verifies programs on one of its processors for most of the time.
    let told: Vec<_> = thread::scope(|threads| {
        let image = &image;
        let run = |kernel| threads.spawn(move || on_kernel(kernel, image));
        let running: Vec<_> = kernels.iter().map(run).collect();
        running.into_iter().map(|guest| guest.join().expect("it does not panic")).collect()
    });
    for (tally, result) in told {
        run.part(|all| {
            all.add(tally);
            result
        });
    }
}

/// What the tests say on one kernel, and whether all of them said something.
fn on_kernel(kernel: &setup::Kernel, image: &vm::Image<'_>) -> (Tally, Result<()>) {
    let mut tally = Tally::default();
    let name = format!("kernel tests on {}", kernel.release);
    let result = step(&name, || vm::run(kernel, image, &mut tally));
    (tally, result)
}

/// Runs test executables, counting what they say. An executable that fails without a failed test
/// crashed, or was never built.
fn count(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let failed_before = tally.failed;
    let status = exec::watch(command, |line| tally.read(line))?;
    if !status.success() && tally.failed == failed_before {
        bail!("`{}`: {status}, and no test says why", exec::show(command));
    }
    Ok(())
}
