//! Letting go of privileges that a running daemon does not need.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// Attach to a cgroup, read and write maps.
const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// Keeps the two needed capabilities and gives up every other, for good. Threads that start later
/// inherit this, so it must be called before there are any.
pub(crate) fn drop_privileges() -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & NEEDED;
    let sets =
        CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_no_new_privs(true)?;
    set_capabilities(None, sets)?;
    Ok(())
}
