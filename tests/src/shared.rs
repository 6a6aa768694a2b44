//! One node for all tests of an executable.
//!
//! To load the programs takes an emulated machine longer than to run dozens of tests that look at
//! single sockets. Such tests share a node and bring their own policies and networks. It is made by
//! the first of them. The test harness has no hook for the end of the last one, but it ends the
//! process by `exit(3)`, failed tests or not, which is when the node goes. Of a process that was
//! killed, the next test removes what is left, as everywhere.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};

use crate::net::in_own_network;
use crate::node::Node;

static NODE: Mutex<Option<Node>> = Mutex::new(None);

/// The node, for one test at a time.
pub struct Shared(MutexGuard<'static, Option<Node>>);

/// Why there is a node behind a [`Shared`].
const IT_IS_MADE_FIRST: &str = "`node` makes it before it hands it out, and only `end` takes it";

impl Deref for Shared {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0.as_ref().expect(IT_IS_MADE_FIRST)
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Node {
        self.0.as_mut().expect(IT_IS_MADE_FIRST)
    }
}

impl Drop for Shared {
    /// A test's servers, which outlive its node, are ended by connections to their own addresses.
    fn drop(&mut self) {
        // What cannot be taken away is replaced by the next test's policy.
        let _cleared = self.clear();
    }
}

/// The node, with all hooks attached and no policy, around this process.
pub fn node() -> Result<Shared> {
    // A test that failed left the process elsewhere, at most.
    let mut shared = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        *shared = Some(Node::whole()?);
        // SAFETY: hands over a function that lives as long as the process and does not unwind.
        ensure!(unsafe { libc::atexit(end) } == 0, "exit() has no room for another function");
    }
    let node = Shared(shared);
    node.place.enter()?;
    Ok(node)
}

/// Runs with the node in a network of the test's own.
pub fn with_node<T: Send>(run: impl FnOnce(&mut Node) -> Result<T> + Send) -> Result<T> {
    let mut node = node()?;
    let node = &mut *node;
    in_own_network(|| run(node))
}

extern "C" fn end() {
    drop(NODE.lock().unwrap_or_else(PoisonError::into_inner).take());
}
