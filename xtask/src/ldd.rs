//! The shared libraries that an executable loads.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::exec;

/// Absolute paths of the libraries, the dynamic loader included; none for a static executable.
pub(crate) fn shared_libraries(executable: &Path) -> Result<Vec<PathBuf>> {
    if !exec::succeeds(Command::new("ldd").arg(executable)) {
        return Ok(Vec::new());
    }
    // The libraries of a toolchain that started this program must not stand in for the system's.
    let listing = exec::output(Command::new("ldd").arg(executable).env_remove("LD_LIBRARY_PATH"))?;
    parse(&listing)
}

/// Reads lines of the forms `name => /path (address)`, `/path (address)` and `name (address)`; the
/// last is the kernel's vdso, which is no file.
fn parse(listing: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        if line.ends_with("not found") {
            bail!("shared library missing: {}", line.trim());
        }
        libraries
            .extend(line.split_whitespace().find(|word| word.starts_with('/')).map(Into::into));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_all_forms_of_lines() {
        let listing = "\tlinux-vdso.so.1 (0x00007fff)\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(listing).unwrap(), expected);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse("\tlibfoo.so.1 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "shared library missing: libfoo.so.1 => not found");
    }
}
