//! One node for all tests of an executable.
//!
//! To load the programs takes an emulated machine longer than to run dozens of tests that look at
//! single sockets. Such tests share a node and bring their own policies and networks. It is made by
//! the first of them. The test harness has no hook for the end of the last one, but it ends the
//! process by `exit(3)`, failed tests or not, which is when the node goes. Of a process that was
//! killed, the next test removes what is left, as everywhere.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

use crate::net::in_own_network;
use crate::node::Node;

static NODE: Mutex<Option<Node>> = Mutex::new(None);

/// Runs with the node, all of whose hooks are attached, in a network of the test's own.
pub fn with_node<T: Send>(run: impl FnOnce(&mut Node) -> Result<T> + Send) -> Result<T> {
    // A test that failed left a policy at most, and the process elsewhere.
    let mut shared = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        *shared = Some(Node::whole()?);
        // SAFETY: hands over a function that lives as long as the process and does not unwind.
        ensure!(unsafe { libc::atexit(end) } == 0, "exit() has no room for another function");
    }
    let node = shared.as_mut().expect("it was just made");
    node.place.enter()?;
    node.clear()?;
    in_own_network(|| run(node))
}

extern "C" fn end() {
    drop(NODE.lock().unwrap_or_else(PoisonError::into_inner).take());
}
