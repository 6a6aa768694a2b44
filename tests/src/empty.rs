//! Programs that do nothing: what any program at a hook costs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE` of `enum bpf_cmd`.
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;
/// `BPF_PROG_QUERY` of `enum bpf_cmd`.
const PROG_QUERY: u32 = 16;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const CGROUP_SOCK_ADDR: u32 = 18;
/// `BPF_CGROUP_INET4_CONNECT`.
const INET4_CONNECT: u32 = 10;
/// `BPF_CGROUP_UDP4_SENDMSG` and `BPF_CGROUP_UDP4_RECVMSG`.
const UDP4_DATAGRAMS: [u32; 2] = [14, 19];

/// `r0 = 1; exit`.
static PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// The program, attached to a cgroup until this is dropped.
pub struct EmptyProgram {
    _link: OwnedFd,
}

impl EmptyProgram {
    /// Attaches to the `connect4` hook of a cgroup.
    pub fn attach(cgroup: &Path) -> io::Result<Self> {
        Self::attach_at(cgroup, INET4_CONNECT)
    }

    /// Attaches to both hooks of a cgroup for IPv4 datagrams that name an address.
    pub fn attach_to_datagrams(cgroup: &Path) -> io::Result<[Self; 2]> {
        let [send, receive] = UDP4_DATAGRAMS.map(|hook| Self::attach_at(cgroup, hook));
        Ok([send?, receive?])
    }

    fn attach_at(cgroup: &Path, hook: u32) -> io::Result<Self> {
        let license = c"GPL";
        // insn_cnt, insns, license, log (3 words), kern_version and flags, name (2), ifindex and
        // expected_attach_type: `union bpf_attr` as eight-byte words.
        let mut load = [0_u64; 9];
        load[0] = u64::from(CGROUP_SOCK_ADDR) | 2 << 32;
        load[1] = PROGRAM.as_ptr() as u64;
        load[2] = license.as_ptr() as u64;
        load[8] = u64::from(hook) << 32;
        let program = bpf(PROG_LOAD, &mut load)?;
        let cgroup = File::open(cgroup)?;
        let fds =
            |a: RawFd, b: RawFd| u64::from(a.cast_unsigned()) | u64::from(b.cast_unsigned()) << 32;
        let mut link = [fds(program.as_raw_fd(), cgroup.as_raw_fd()), u64::from(hook)];
        Ok(Self { _link: bpf(LINK_CREATE, &mut link)? })
    }
}

/// Number of programs, anybody's, at the `connect4` hook of a cgroup.
pub fn attached(cgroup: &Path) -> io::Result<u64> {
    let cgroup = File::open(cgroup)?;
    // target_fd and attach_type, two words of flags, prog_ids (none wanted), prog_cnt.
    let mut query = [0_u64; 8];
    query[0] = u64::from(cgroup.as_raw_fd().cast_unsigned()) | u64::from(INET4_CONNECT) << 32;
    call(PROG_QUERY, &mut query)?;
    Ok(query[3] & u64::from(u32::MAX))
}

fn bpf(command: u32, attr: &mut [u64]) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the callers' commands answer a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: u32, attr: &mut [u64]) -> io::Result<RawFd> {
    // SAFETY: a live block of that size; the pointers in it outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    RawFd::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
