//! Hands the kernel programs to the library, which embeds them.
//!
//! `cargo xtask build` leaves them in `target/bpf`. Where they were not built, the library embeds
//! nothing, so that everything that needs no kernel is built and tested without a BPF toolchain.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf");
    // The directory is watched rather than the file, and made if need be: cargo would run this
    // again with every build for a path that does not exist.
    fs::create_dir_all(&built)?;
    println!("cargo:rerun-if-changed={}", built.display());

    let object = match fs::read(built.join("splitter.o")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        result => result?,
    };
    let out_dir = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    fs::write(out_dir.join("splitter.o"), object)
}
