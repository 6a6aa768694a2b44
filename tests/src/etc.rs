//! Threads with a configuration of the system of their own, which programs that they run have too.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};

/// Runs in a thread whose names are resolved by a server of its own.
pub fn resolving_by<T: Send>(server: &str, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    with_etc(&[("resolv.conf", &format!("nameserver {server}\n"))], run)
}

/// Runs in a thread that has an `/etc` with nothing but some files and an empty `/run`, in a mount
/// namespace of its own.
pub fn with_etc<T: Send>(
    files: &[(&str, &str)],
    run: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let inside = || {
        // SAFETY: a system call on a number, for this thread, which ends after.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error()).context("make a mount namespace");
        }
        // What is mounted here stays here.
        mount(c"/", c"none", libc::MS_REC | libc::MS_PRIVATE).context("make it private")?;
        mount(c"/etc", c"tmpfs", 0).context("mount an empty /etc")?;
        mount(c"/run", c"tmpfs", 0).context("mount an empty /run")?;
        for (name, text) in files {
            let path = Path::new("/etc").join(name);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/etc")))?;
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        run()
    };
    thread::scope(|threads| threads.spawn(inside).join().expect("it does not panic"))
}

fn mount(to: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let (from, to, kind) = (c"none".as_ptr(), to.as_ptr(), kind.as_ptr());
    // SAFETY: strings that outlive the call, and no data.
    let result = unsafe { libc::mount(from, to, kind, flags, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
