//! Programs that come as Debian packages.

use std::process::Command;
use std::sync::Once;

use anyhow::{Result, bail};

use super::{Outcome, Report};
use crate::{exec, workspace};

/// A program, the package that has it, and who runs it.
struct Program {
    name: &'static str,
    package: &'static str,
    needed_for: &'static str,
}

const PROGRAMS: [Program; 18] = [
    Program { name: "cc", package: "gcc", needed_for: "linking every Rust program" },
    Program { name: "strip", package: "binutils", needed_for: "small guests: `test vm`" },
    Program { name: "curl", package: "curl", needed_for: "real-kernel tests and the demo" },
    Program { name: "wrk", package: "wrk", needed_for: "benchmarks and the demo" },
    Program { name: "nginx", package: "nginx-light", needed_for: "real-kernel tests and the demo" },
    Program { name: "bpftool", package: "bpftool", needed_for: "benchmarks" },
    Program { name: "ip", package: "iproute2", needed_for: "real-kernel tests" },
    Program { name: "python3", package: "python3", needed_for: "real-kernel tests" },
    Program { name: "musl-gcc", package: "musl-tools", needed_for: "static programs in tests" },
    Program { name: "go", package: "golang-go", needed_for: "static programs in tests" },
    Program { name: "hey", package: "hey", needed_for: "real-kernel tests, of programs in Go" },
    Program { name: "node", package: "nodejs", needed_for: "real-kernel tests" },
    Program { name: "javac", package: "default-jdk-headless", needed_for: "real-kernel tests" },
    Program { name: "redis-server", package: "redis-server", needed_for: "real-kernel tests" },
    Program { name: "dnsmasq", package: "dnsmasq-base", needed_for: "real-kernel tests" },
    Program { name: "unbound-host", package: "unbound-host", needed_for: "real-kernel tests" },
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        needed_for: "other kernels: `test vm`",
    },
    Program {
        name: "busybox",
        package: "busybox-static",
        needed_for: "the guests' shell: `test vm`",
    },
];

/// Finds or installs all programs, with at most one run of apt-get.
pub(super) fn programs(report: &mut Report) {
    let absent = |program: &&Program| exec::find(program.name).is_none();
    let packages: Vec<_> = PROGRAMS.iter().filter(absent).map(|program| program.package).collect();
    let installed = if packages.is_empty() { Ok(()) } else { install(&packages) };
    for program in &PROGRAMS {
        let outcome = match (exec::find(program.name), &installed) {
            (Some(path), _) if packages.contains(&program.package) => {
                Outcome::Installed(format!("{} (package {})", path.display(), program.package))
            }
            (Some(path), _) => Outcome::Found(path.display().to_string()),
            (None, Err(error)) => missing(program, &format!("{error:#}")),
            (None, Ok(())) => missing(program, "its package is installed without it"),
        };
        report.add(program.name, outcome);
    }
}

fn missing(program: &Program, why: &str) -> Outcome {
    let Program { package, needed_for, .. } = program;
    Outcome::Missing(format!("{why} (needed for {needed_for}; install the package {package})"))
}

/// Installs packages without questions and without what they merely recommend.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if exec::find("apt-get").is_none() {
        bail!("there is no apt-get here to install {}", packages.join(" "));
    }
    if !workspace::is_root() {
        bail!("apt-get needs root; run `sudo apt-get install {}`", packages.join(" "));
    }
    update_lists();
    exec::run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Updates the lists of packages, once in a run, if this is root. A source that cannot be reached
/// need not be the one that matters, so failing is only said.
pub(super) fn update_lists() {
    static ONCE: Once = Once::new();
    if !workspace::is_root() {
        return;
    }
    ONCE.call_once(|| {
        if let Err(error) = exec::run(apt_get().arg("update")) {
            println!("{error:#}; going on with the lists that are there");
        }
    });
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive");
    command
}
