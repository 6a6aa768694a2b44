//! The list of connected UDP sockets with what the hooks stored on them: what a program tells that
//! runs for each while it is read (`Documentation/bpf/bpf_iterators.rst`).
//!
//! A list is of the network namespace in which it was opened, whoever reads it. What is in it is in
//! `splitter_common::abi::StoredSocket`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys;

/// Number of the system call by which a list is opened, and its first argument: for who allows no
/// other.
pub const OPENING: (libc::c_long, u64) = (libc::SYS_bpf, sys::ITERATION as u64);

/// Opens the list of the network namespace of the calling thread, by the link of
/// [`super::Loaded::socket_list`]. Needs no privilege.
pub fn open_socket_list(link: &impl AsFd) -> io::Result<OwnedFd> {
    sys::open_iteration(link)
}
