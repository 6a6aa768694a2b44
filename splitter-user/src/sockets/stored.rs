//! What is stored on the connected UDP sockets of one network namespace, as the kernel's list has it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};

use bytemuck::pod_read_unaligned;
use splitter_common::abi::{SocketState, StoredSocket};

/// As much as the kernel writes at a time.
const BUFFER: usize = 32 << 10;
/// Bytes of a record.
const RECORD: usize = size_of::<StoredSocket>();

/// What is stored on those that are wanted, by their cookies. Reads the list to its end.
pub(super) fn read(
    list: &mut File,
    is_wanted: impl Fn(&SocketState) -> bool,
) -> io::Result<HashMap<u64, SocketState>> {
    let mut found = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let n = list.read(&mut buffer[filled..])?;
        if n == 0 {
            return Ok(found);
        }
        filled += n;
        let whole = filled - filled % RECORD;
        for record in buffer[..whole].chunks_exact(RECORD) {
            let StoredSocket { cookie, state } = pod_read_unaligned(record);
            if is_wanted(&state) {
                found.insert(cookie, state);
            }
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}
