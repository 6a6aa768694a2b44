//! Letting go of privileges that a running daemon does not need.

use std::io;

use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

/// Attach to a cgroup, read and write maps.
const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// Keeps the two needed capabilities and gives up every other, for good; programs that are run
/// get none. Threads that start later inherit this, so it must be called before there are any.
pub(crate) fn drop_privileges() -> io::Result<()> {
    let before = capabilities(None)?;
    // Else a program run as root would have the two again. Who may not ask for this is not root,
    // or is so without a right to more, and hands on at most the two.
    if before.effective.contains(CapabilitySet::SETPCAP) {
        let no_root = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        // Others may be locked, and those that are cannot be cleared.
        set_capabilities_secure_bits(capabilities_secure_bits()? | no_root)?;
    }
    let permitted = before.permitted & NEEDED;
    let sets =
        CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_no_new_privs(true)?;
    set_capabilities(None, sets)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn programs_have_no_capabilities() {
        // Privileges are a thread's own, and this one ends.
        let thread = thread::spawn(|| {
            drop_privileges().unwrap();
            let output = Command::new("/bin/cat").arg("/proc/self/status").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        let status = thread.join().unwrap();
        for line in
            ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(|set| format!("{set}\t{:016x}\n", 0))
        {
            assert!(status.contains(&line), "{line}{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
}
