//! The process that a daemon starts beside itself to enter network namespaces. Not for people.

use std::io;
use std::os::fd::AsFd as _;

use anyhow::Context as _;

use super::Exit;
use crate::sockets;

/// Serves the daemon at the other end of standard input, until it is gone.
pub(crate) fn run() -> anyhow::Result<Exit> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("take the daemon's socket")?;
    sockets::serve(socket)?;
    Ok(Exit::Success)
}
