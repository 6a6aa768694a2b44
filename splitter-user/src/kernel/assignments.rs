//! The map of subsets that clients of single cgroups are assigned.

use std::io;
use std::os::fd::OwnedFd;

use splitter_common::abi::{Assignment, AssignmentKey};

use super::sys;

/// Elements per batch call.
const CHUNK: usize = 1_024;

/// The map, opened.
pub struct AssignmentMap(OwnedFd);

impl AssignmentMap {
    pub(super) fn new(map: OwnedFd) -> Self {
        Self(map)
    }

    /// Every assignment.
    pub fn all(&self) -> io::Result<Vec<(AssignmentKey, Assignment)>> {
        let (keys, assignments) = sys::lookup_all(&self.0, CHUNK)?;
        Ok(keys.into_iter().zip(assignments).collect())
    }

    /// Makes an assignment, in place of another of the same key. Fails with `E2BIG` where there is no
    /// room.
    pub fn insert(&self, key: AssignmentKey, assignment: Assignment) -> io::Result<()> {
        sys::update(&self.0, &key, &assignment)
    }

    /// Takes an assignment back; one that is not there is no error.
    pub fn remove(&self, key: AssignmentKey) -> io::Result<()> {
        sys::delete(&self.0, &key)
    }
}
