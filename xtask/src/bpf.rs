//! The Rust that builds the kernel programs, and its flags.
//!
//! The BPF target has no prebuilt `core`, so cargo builds one, which needs the library's source and
//! the unstable `-Z build-std`. Two toolchains can do it: the pinned one with its `rust-src`
//! component, and, where rustup cannot fetch that component, Debian's own, which ships the source.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{exec, ldd, workspace};

/// Version of bpf-linker whose LLVM both toolchains have.
pub(crate) const LINKER_VERSION: &str = "0.10.3";

/// What to say where [`ToolchainChoice::find`] found none.
pub(crate) const NO_TOOLCHAIN: &str = "no Rust toolchain here has the source of `core`, which is \
    built for the BPF target; run `cargo xtask setup`";

/// Debug information becomes BTF. Instruction set v3 has the atomics that return a value; without
/// it the linker emits a `lock +=` whose fetched value is garbage.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
const DEBIAN_SYSROOT: &str = "/usr";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Which toolchain the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ToolchainChoice {
    /// The pinned one where it has the library's source, else Debian's
    #[default]
    Auto,
    /// The one that `rust-toolchain.toml` names
    Pinned,
    /// Debian's packages `cargo-web`, `rustc-web` and `rust-web-src`
    Debian,
}

/// A toolchain that has what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The one that `rust-toolchain.toml` names.
    Pinned,
    /// Debian's.
    Debian,
}

impl ToolchainChoice {
    /// The toolchain to use, if it is there.
    pub(crate) fn find(self) -> Option<Toolchain> {
        let candidates: &[Toolchain] = match self {
            Self::Auto => &[Toolchain::Pinned, Toolchain::Debian],
            Self::Pinned => &[Toolchain::Pinned],
            Self::Debian => &[Toolchain::Debian],
        };
        candidates.iter().copied().find(|toolchain| toolchain.is_complete())
    }
}

impl Toolchain {
    /// Its name and version.
    pub(crate) fn describe(self) -> Result<String> {
        let version = exec::output(self.rustc().arg("--version"))?;
        Ok(format!("{} ({})", self.name(), version.trim_end()))
    }

    /// Its cargo, to be run in the root of the repository with everything set that building for
    /// the BPF target needs; what is left to add is the subcommand and [`CARGO_ARGS`].
    pub(crate) fn cargo(self) -> Result<Command> {
        let linker = find_linker()?;
        let mut cargo = match self {
            Self::Pinned => workspace::cargo(),
            Self::Debian => debian_cargo()?,
        };
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", RUSTFLAGS)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            .env("CARGO_TARGET_DIR", target_dir());
        Ok(cargo)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pinned => "the pinned toolchain",
            Self::Debian => "Debian's toolchain",
        }
    }

    fn rustc(self) -> Command {
        match self {
            Self::Pinned => {
                let mut rustc = Command::new("rustc");
                rustc.current_dir(workspace::root());
                rustc
            }
            Self::Debian => {
                let mut rustc = Command::new(DEBIAN_RUSTC);
                rustc.env_remove("LD_LIBRARY_PATH");
                rustc
            }
        }
    }

    /// Whether it has the source of `core` and, if it is Debian's, a clippy; the pinned one's is
    /// looked for with its other components.
    fn is_complete(self) -> bool {
        let Ok(sysroot) = exec::output(self.rustc().args(["--print", "sysroot"])) else {
            return false;
        };
        let sysroot = Path::new(sysroot.trim_end());
        let expected = match self {
            Self::Pinned => sysroot != Path::new(DEBIAN_SYSROOT),
            Self::Debian => Path::new(DEBIAN_CLIPPY).is_file(),
        };
        expected && sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    }
}

/// Arguments that follow the subcommand.
pub(crate) const CARGO_ARGS: [&str; 8] = [
    "--package",
    "splitter-ebpf",
    "--target",
    "bpfel-unknown-none",
    "-Z",
    "build-std=core",
    "--profile",
    "ebpf",
];

/// What [`CARGO_ARGS`] make, before it is stripped.
pub(crate) fn linked_object() -> PathBuf {
    target_dir().join("bpfel-unknown-none/ebpf/splitter")
}

/// Apart from the host's, so that neither build waits for or invalidates the other.
fn target_dir() -> PathBuf {
    workspace::path("target/bpf-build")
}

fn find_linker() -> Result<PathBuf> {
    exec::find("bpf-linker").context("bpf-linker is not installed; run `cargo xtask setup`")
}

/// Plain `cargo` may be rustup's proxy, so everything is named by its absolute path.
fn debian_cargo() -> Result<Command> {
    let mut path = OsString::from("/usr/bin:");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut cargo = Command::new(DEBIAN_CARGO);
    cargo
        .current_dir(workspace::root())
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", DEBIAN_RUSTC)
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", debian_llvm_dir()?);
    Ok(cargo)
}

/// A directory with the LLVM of Debian's rustc and nothing else.
///
/// bpf-linker loads the first `libLLVM*` that it finds in `LD_LIBRARY_PATH`, and it must be the
/// LLVM of the rustc that wrote the bitcode. Debian keeps several in one directory.
fn debian_llvm_dir() -> Result<PathBuf> {
    let libraries = ldd::shared_libraries(Path::new(DEBIAN_RUSTC))?;
    let is_llvm = |path: &&PathBuf| path.to_string_lossy().contains("libLLVM");
    let Some(llvm) = libraries.iter().find(is_llvm) else {
        bail!("{DEBIAN_RUSTC} does not load libLLVM, so bpf-linker has no LLVM to use with it");
    };
    let dir = target_dir().join("llvm");
    let link = dir.join("libLLVM.so");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    if fs::read_link(&link).ok().as_ref() != Some(llvm) {
        fs::remove_file(&link).or_else(ignore_missing)?;
        symlink(llvm, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(dir)
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
