//! The first file system of a guest.
//!
//! Everything lies where it lies on this machine, so that paths which were compiled into the tests
//! hold in the guest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use super::guest;
use crate::setup::Kernel;
use crate::test::suite::Suite;
use crate::{exec, ldd, workspace};

/// Programs of this machine that tests run.
const PROGRAMS: [&str; 5] = ["curl", "hey", "ip", "nginx", "wrk"];
/// What tests read, below the root of the repository; what does not exist is left out.
const INPUTS: [&str; 3] = ["policies", "tests", "target/bpf"];
/// Modules that the kernel would load for the tests by itself, after those they need.
const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "udp_diag", "veth"];
/// Where programs expect to be able to mount or write.
const DIRECTORIES: [&str; 11] = [
    "/dev",
    "/etc",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/usr/bin",
    "/usr/sbin",
    "/var/lib/nginx",
    "/var/log/nginx",
];
/// Names that programs look up.
const ACCOUNTS: [(&str, &str); 3] = [
    ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// All of a guest but what depends on its kernel.
pub(in crate::test) struct Image<'a> {
    suite: &'a Suite,
    archive: Archive,
}

impl<'a> Image<'a> {
    /// Collects the tests and everything they need.
    pub(in crate::test) fn new(suite: &'a Suite) -> Result<Self> {
        let mut archive = base()?;
        let mut executables = vec![suite.binary.clone()];
        executables.extend(suite.clients.iter().cloned());
        executables.extend(suite.tests.iter().map(|test| test.executable.clone()));
        for program in PROGRAMS {
            executables.push(find(program)?);
        }
        add_executables(&mut archive, &executables)?;
        for input in INPUTS {
            add_tree(&mut archive, &workspace::path(input))?;
        }
        Ok(Self { suite, archive })
    }

    /// Names of the tests, in the order in which the guest runs them.
    pub(super) fn test_names(&self) -> impl Iterator<Item = &str> {
        self.suite.tests.iter().map(|test| test.name.as_str())
    }

    /// The whole file system for one kernel.
    pub(super) fn with_modules(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = self.archive.clone();
        let mut guest_paths = Vec::new();
        for module in MODULES {
            let Some(file) = find_module(&kernel.modules(), module)? else { continue };
            let guest_path = format!("/lib/modules/{module}.ko");
            archive.file(Path::new(&guest_path), 0o644, &read_module(&file)?);
            guest_paths.push(guest_path);
        }
        let script = guest::script(self.suite, &guest_paths);
        archive.file(Path::new("/init"), 0o755, script.as_bytes());
        Ok(archive.finish())
    }
}

/// What any Linux system has.
fn base() -> Result<Archive> {
    let mut archive = Archive::default();
    archive.device(Path::new("/dev/console"), (5, 1));
    for directory in DIRECTORIES {
        archive.directory(Path::new(directory));
    }
    for (path, content) in ACCOUNTS {
        archive.file(Path::new(path), 0o644, content.as_bytes());
    }
    archive.file(Path::new("/bin/busybox"), 0o755, &read(&find("busybox")?)?);
    Ok(archive)
}

fn find(program: &str) -> Result<PathBuf> {
    let found = exec::find(program);
    found.with_context(|| format!("{program} is not installed; run `cargo xtask setup`"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Adds executables, less their debug information, and the libraries of all of them.
fn add_executables(archive: &mut Archive, executables: &[PathBuf]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for executable in executables {
        archive.file(executable, 0o755, &stripped(executable)?);
        libraries.extend(ldd::shared_libraries(executable)?);
    }
    for library in libraries {
        archive.file(&library, 0o755, &read(&library)?);
    }
    Ok(())
}

/// Debug information is nine tenths of a test executable, and the guest has to copy all of it.
fn stripped(executable: &Path) -> Result<Vec<u8>> {
    let copy = workspace::path("target/vm/stripped");
    exec::output(Command::new("strip").arg("--strip-debug").arg("-o").args([&copy, executable]))?;
    read(&copy)
}

/// Adds a directory with all that is in it; nothing where it does not exist.
fn add_tree(archive: &mut Archive, directory: &Path) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in entries(directory)? {
        if entry.is_dir() {
            add_tree(archive, &entry)?;
        } else {
            archive.file(&entry, 0o644, &read(&entry)?);
        }
    }
    Ok(())
}

/// The file of a module; `None` where the kernel has it built in.
fn find_module(modules: &Path, name: &str) -> Result<Option<PathBuf>> {
    let builtin = modules.join("modules.builtin");
    let listed = format!("/{name}.ko\n");
    if String::from_utf8_lossy(&read(&builtin)?).contains(&listed) {
        return Ok(None);
    }
    let found =
        find_file(&modules.join("kernel"), &[format!("{name}.ko"), format!("{name}.ko.xz")])?;
    match found {
        Some(file) => Ok(Some(file)),
        None => bail!("no module {name} in {}", modules.display()),
    }
}

/// Newer kernels have their modules compressed, and not every kernel can undo it by itself.
fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        return exec::output_bytes(Command::new("busybox").arg("xzcat").arg(file));
    }
    read(file)
}

fn find_file(directory: &Path, names: &[String]) -> Result<Option<PathBuf>> {
    for entry in entries(directory)? {
        if entry.is_dir() {
            if let Some(found) = find_file(&entry, names)? {
                return Ok(Some(found));
            }
        } else if entry.file_name().is_some_and(|file| names.iter().any(|name| file == &**name)) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Paths in a directory, sorted, so that equal inputs make equal images.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("list {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    Ok(paths)
}
