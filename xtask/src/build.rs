//! `cargo xtask build`: the kernel programs, then the binary that embeds them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::bpf::{self, ToolchainChoice};
use crate::step::step;
use crate::{exec, workspace};

/// How the `splitter` binary is built. The kernel programs are always optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For development and tests.
    Dev,
    /// For use and benchmarks.
    Release,
}

impl Profile {
    /// What the `--release` flag stands for.
    pub(crate) fn new(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// What cargo is told.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }
}

/// Builds everything.
pub(crate) fn run(toolchain: ToolchainChoice, profile: Profile) -> Result<()> {
    step("build the kernel programs", || build_object(toolchain))?;
    step("build splitter", || build_binary(profile))
}

/// Where [`run`] leaves the `splitter` binary.
pub(crate) fn binary(profile: Profile) -> PathBuf {
    let dir = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    workspace::target_dir().join(dir).join("splitter")
}

fn build_object(choice: ToolchainChoice) -> Result<()> {
    let toolchain = choice.find().context(bpf::NO_TOOLCHAIN)?;
    println!("with {}", toolchain.describe()?);
    exec::run(toolchain.cargo()?.arg("build").args(bpf::CARGO_ARGS))?;
    let linked = bpf::linked_object();
    let object = fs::read(&linked).with_context(|| format!("read {}", linked.display()))?;
    let stripped = strip(&object).with_context(|| format!("strip {}", linked.display()))?;
    install(&stripped)
}

/// Removes DWARF, which is most of the object and which no loader reads. BTF stays.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        let name = section.name.to_vec();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections among those of symbols; the writer wants them apart.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// Writes the object where `splitter-user` embeds it, unless it is there: an untouched file spares
/// rebuilding everything that depends on it.
fn install(object: &[u8]) -> Result<()> {
    let path = workspace::bpf_object();
    if fs::read(&path).is_ok_and(|present| present == object) {
        println!("{} is up to date ({} bytes)", path.display(), object.len());
        return Ok(());
    }
    let dir = path.parent().expect("the object has a directory");
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(&path, object).with_context(|| format!("write {}", path.display()))?;
    println!("{} written ({} bytes)", path.display(), object.len());
    Ok(())
}

fn build_binary(profile: Profile) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "splitter-user", "--bin", "splitter"]).args(profile.flags());
    exec::run(&mut cargo)?;
    println!("{}", binary(profile).display());
    Ok(())
}
