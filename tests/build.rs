//! Embeds the policies of the repository, so that the tests can run on machines without it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let policies = list("POLICIES", &here.join("../policies"))?;
    let bad = list("BAD_POLICIES", &here.join("bad-policies"))?;
    fs::write(out.join("policies.rs"), policies + &bad)
}

/// A constant with name and content of every policy in a directory.
fn list(name: &str, dir: &Path) -> io::Result<String> {
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut files = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path().canonicalize()?))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut text = format!("static {name}_EMBEDDED: &[(&str, &[u8])] = &[\n");
    for file in &files {
        let name = file.file_name().unwrap_or_default();
        let _ = writeln!(text, "    ({name:?}, include_bytes!({file:?})),");
    }
    text.push_str("];\n");
    Ok(text)
}
