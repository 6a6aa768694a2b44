//! The real-kernel tests in qemu guests with other kernels.
//!
//! A guest is one kernel and one initramfs: the test executables, their libraries, and busybox. It
//! has no disk and no network. Guests are emulated, not virtualized, so that they run the same
//! everywhere, in virtual machines and without rights to `/dev/kvm` too.

mod cpio;
mod guest;
mod image;
mod qemu;

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::tally::Tally;
use crate::setup::Kernel;
use guest::Transcript;
pub(super) use image::Image;

/// Boots a kernel, runs all tests in it, and counts what they say.
pub(super) fn run(kernel: &Kernel, image: &Image, tally: &mut Tally) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests' kernels are for x86_64, and this machine's tests are not");
    }
    let initramfs = kernel.image().with_file_name("initramfs.cpio");
    fs::write(&initramfs, image.with_modules(kernel)?)
        .with_context(|| format!("write {}", initramfs.display()))?;
    let mut transcript = Transcript::default();
    qemu::boot(&kernel.image(), &initramfs, |line| {
        println!("[{}] {line}", kernel.release);
        transcript.read(line);
    })?;
    let told = transcript.close(image.test_names())?;
    tally.add(told);
    Ok(())
}
