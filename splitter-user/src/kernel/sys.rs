//! The bpf(2) calls that aya does not make: batches, link updates, queries, maps of maps; and the
//! cookie of a network namespace, which programs compare and no crate asks for.
//!
//! Each wrapper takes and returns owned or borrowed file descriptors and slices; the argument
//! blocks follow `union bpf_attr` in `include/uapi/linux/bpf.h`. A block shorter than the kernel's
//! is read as if it ended in zeros (`bpf_check_uarg_tail_zero`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

/// Commands of bpf(2): `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: u32 = 0;
    pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
    pub(super) const MAP_UPDATE_ELEM: u32 = 2;
    pub(super) const MAP_DELETE_ELEM: u32 = 3;
    pub(super) const OBJ_PIN: u32 = 6;
    pub(super) const OBJ_GET: u32 = 7;
    pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub(super) const PROG_QUERY: u32 = 16;
    pub(super) const MAP_LOOKUP_BATCH: u32 = 24;
    pub(super) const MAP_UPDATE_BATCH: u32 = 26;
    pub(super) const MAP_DELETE_BATCH: u32 = 27;
    pub(super) const LINK_CREATE: u32 = 28;
    pub(super) const LINK_UPDATE: u32 = 29;
    pub(super) const ITER_CREATE: u32 = super::ITERATION;
    pub(super) const LINK_DETACH: u32 = 34;
}

/// `BPF_MAP_TYPE_ARRAY`.
const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_QUERY_EFFECTIVE`.
const QUERY_EFFECTIVE: u32 = 1;
/// `BPF_ITER_CREATE`.
pub(super) const ITERATION: u32 = 33;
/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;
/// More programs than this never run at one hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGS: usize = 64;

fn bpf<T: Pod>(command: u32, attr: &mut T) -> io::Result<RawFd> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a live block of `size` bytes; pointers inside it were made by the caller
    // from slices that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    match RawFd::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bpf_fd<T: Pod>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the commands that use this answer a new file descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// Makes an array of eight-byte values.
pub(super) fn create_array(entries: u32) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        ..CreateAttr::default()
    };
    bpf_fd(command::MAP_CREATE, &mut attr)
}

/// Makes an array of one map like `inner`.
pub(super) fn create_map_of_maps(inner: &impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: MAP_TYPE_ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: raw(inner),
    };
    bpf_fd(command::MAP_CREATE, &mut attr)
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr() as u64
}

/// Sets one element. The sizes of `K` and `V` must be the map's.
pub(super) fn update<K: Pod, V: Pod>(map: &impl AsFd, key: &K, value: &V) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: raw(map),
        pad: 0,
        key: address(std::slice::from_ref(key)),
        value: address(std::slice::from_ref(value)),
        flags: 0,
    };
    bpf(command::MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes one element; one that is not there is no error.
pub(super) fn delete<K: Pod>(map: &impl AsFd, key: &K) -> io::Result<()> {
    let key = address(std::slice::from_ref(key));
    let mut attr = ElemAttr { map_fd: raw(map), key, ..ElemAttr::default() };
    match bpf(command::MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Reads one element.
pub(super) fn lookup<K: Pod, V: Pod>(map: &impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let mut attr = ElemAttr {
        map_fd: raw(map),
        pad: 0,
        key: address(std::slice::from_ref(key)),
        value: address_mut(std::slice::from_mut(&mut value)),
        flags: 0,
    };
    match bpf(command::MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn count_of<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// Sets many elements in one call.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: &impl AsFd,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: address(keys),
        values: address(values),
        count: count_of(keys),
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    bpf(command::MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Deletes many elements. Answers how many were deleted before the first that failed, if one did.
pub(super) fn delete_batch<K: Pod>(map: &impl AsFd, keys: &[K]) -> (usize, io::Result<()>) {
    if keys.is_empty() {
        return (0, Ok(()));
    }
    let mut attr = BatchAttr {
        keys: address(keys),
        count: count_of(keys),
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    let result = bpf(command::MAP_DELETE_BATCH, &mut attr).map(drop);
    (attr.count as usize, result)
}

/// Reads all elements of a map, `chunk` at a time.
pub(super) fn lookup_all<K: Pod, V: Pod>(
    map: &impl AsFd,
    chunk: usize,
) -> io::Result<(Vec<K>, Vec<V>)> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut chunk_keys = vec![K::zeroed(); chunk];
    let mut chunk_values = vec![V::zeroed(); chunk];
    // The cursor is opaque: a bucket number for hashes, an index for arrays.
    let (mut cursor, mut next) = ([0_u64; 4], [0_u64; 4]);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { address(&cursor) },
            out_batch: address_mut(&mut next),
            keys: address_mut(&mut chunk_keys),
            values: address_mut(&mut chunk_values),
            count: count_of(&chunk_keys),
            map_fd: raw(map),
            ..BatchAttr::default()
        };
        let result = bpf(command::MAP_LOOKUP_BATCH, &mut attr);
        let done = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let n = attr.count as usize;
        keys.extend_from_slice(&chunk_keys[..n]);
        values.extend_from_slice(&chunk_values[..n]);
        if done {
            return Ok((keys, values));
        }
        (cursor, first) = (next, false);
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Pins an object under a path on bpffs.
pub(super) fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    bpf(command::OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, ..ObjectAttr::default() };
    bpf_fd(command::OBJ_GET, &mut attr)
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

fn info<T: Pod>(object: &impl AsFd) -> io::Result<T> {
    let mut value = T::zeroed();
    let mut attr = InfoAttr {
        fd: raw(object),
        len: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: address_mut(std::slice::from_mut(&mut value)),
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(value)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct MapInfo {
    pub(super) map_type: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
}

/// What the kernel knows of a map. Fails with `EINVAL` for a descriptor of something else.
pub(super) fn map_info(map: &impl AsFd) -> io::Result<MapInfo> {
    info(map)
}

/// The beginning of `struct bpf_link_info`, as it is for cgroup links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct LinkInfo {
    /// `BPF_LINK_TYPE_CGROUP` is 3.
    pub(super) link_type: u32,
    pub(super) id: u32,
    pub(super) prog_id: u32,
    pad: u32,
    /// 0 once the cgroup was removed.
    pub(super) cgroup_id: u64,
    pub(super) attach_type: u32,
    pad2: u32,
}

/// `BPF_LINK_TYPE_CGROUP`.
pub(super) const LINK_TYPE_CGROUP: u32 = 3;

/// What the kernel knows of a link.
pub(super) fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    info(link)
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct LinkAttr {
    /// Program to attach, or link to update.
    first: u32,
    /// Cgroup to attach to, or program to put in.
    second: u32,
    /// Attach type, or flags.
    third: u32,
    fourth: u32,
}

/// Attaches a program to a cgroup.
pub(super) fn link_create(
    program: &impl AsFd,
    cgroup: &impl AsFd,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr =
        LinkAttr { first: raw(program), second: raw(cgroup), third: attach_type, fourth: 0 };
    bpf_fd(command::LINK_CREATE, &mut attr)
}

/// Has a program run for each of what it is about when the link is read.
pub(super) fn link_iteration(program: &impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr { first: raw(program), third: TRACE_ITER, ..LinkAttr::default() };
    bpf_fd(command::LINK_CREATE, &mut attr)
}

/// Begins to read what the program behind a link writes.
pub(super) fn open_iteration(link: &impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr { first: raw(link), ..LinkAttr::default() };
    bpf_fd(command::ITER_CREATE, &mut attr)
}

/// Replaces the program behind a link. Every connection runs the old one or the new one.
pub(super) fn link_update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkAttr { first: raw(link), second: raw(program), ..LinkAttr::default() };
    bpf(command::LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a program off its cgroup. When this returns, no new connection runs it; a link that is
/// only unpinned goes when the kernel gets round to it.
pub(super) fn link_detach(link: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkAttr { first: raw(link), ..LinkAttr::default() };
    bpf(command::LINK_DETACH, &mut attr).map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    pad: u32,
}

/// Ids of the programs that run for a cgroup at a hook, in the order in which they run.
pub(super) fn effective_programs(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGS];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type,
        query_flags: QUERY_EFFECTIVE,
        prog_ids: address_mut(&mut ids),
        prog_count: count_of(&ids),
        ..QueryAttr::default()
    };
    bpf(command::PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.prog_count as usize).collect())
}

/// The cookie of the network namespace that a socket is in, as `bpf_get_netns_cookie` answers it.
pub(crate) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    /// Linux 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight");
    // SAFETY: the kernel writes `length` bytes at most, which is what there is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
