//! What the process that enters namespaces cannot do.
//!
//! Of `CAP_SYS_ADMIN` it is left the right to enter network namespaces; of `CAP_SYS_PTRACE`, to see
//! which ones processes are in. Files can be opened for reading only, sockets be made of one kind
//! only, of bpf(2) lists be opened whose link it has, nothing can be executed, mounted, traced or killed. A call that is not allowed fails with
//! `EPERM`.

use std::collections::BTreeMap;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::kernel::OPENING;

/// Enter namespaces, and see those of processes of other users.
pub(super) const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE);

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: u64 = 4;

/// System calls that are allowed whatever their arguments: memory of its own, files that are open,
/// looking at directories and metadata, and ending.
const HARMLESS: [libc::c_long; 26] = [
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendmsg,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
];

/// Keeps two capabilities and gives up every other.
pub(super) fn keep_capabilities() -> io::Result<()> {
    let sets = CapabilitySets {
        effective: NEEDED,
        permitted: NEEDED,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Allows the calling thread nothing but its task, for good; sets "no new privileges".
pub(super) fn forbid_system_calls() -> io::Result<()> {
    let filter = build_filter().map_err(io::Error::other)?;
    apply_filter(&filter).map_err(io::Error::other)
}

fn build_filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let harmless = HARMLESS.into_iter().map(|call| (call, Vec::new()));
    let rules: BTreeMap<_, _> = harmless.chain(rules()?).collect();
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()
}

/// System calls that are allowed with some arguments.
fn rules() -> Result<[(libc::c_long, Vec<SeccompRule>); 5], seccompiler::BackendError> {
    let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    let executable = libc::PROT_EXEC;
    let (opening, list) = OPENING;
    Ok([
        (opening, only(vec![equals(0, list)?])?),
        (libc::SYS_openat, only(vec![lacks(2, writing)?])?),
        (libc::SYS_mmap, only(vec![lacks(2, executable)?])?),
        (libc::SYS_setns, only(vec![is(1, libc::CLONE_NEWNET)?])?),
        (libc::SYS_socket, only(vec![is(0, libc::AF_NETLINK)?, equals(2, SOCK_DIAG)?])?),
    ])
}

fn only(all_of: Vec<SeccompCondition>) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    Ok(vec![SeccompRule::new(all_of)?])
}

fn is(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    equals(argument, u64::from(value.cast_unsigned()))
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// None of the bits is set.
fn lacks(argument: u8, bits: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    let mask = SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        build_filter().unwrap();
    }
}
