//! The hooks' own log lines.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya_log::EbpfLogger;

use super::load::Loaded;

/// Reads what programs log that were loaded with [`super::LogLevel::Debug`].
pub struct HookLog(EbpfLogger<&'static dyn log::Log>);

impl HookLog {
    /// Opens the ring. The lines go to the logger of the `log` crate that is set by now. Fails
    /// where the ring was opened before.
    pub fn new(loaded: &mut Loaded) -> io::Result<Self> {
        EbpfLogger::init(loaded.ebpf_mut()).map(Self).map_err(io::Error::other)
    }

    /// Logs what is in the ring. Its descriptor is readable when there is something.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for HookLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// An event loop asks for both.
impl AsRawFd for HookLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
