//! Harness of the real-kernel tests.
//!
//! A test gets a cgroup and a pin directory of its own, moves itself into the cgroup, and opens
//! real sockets. Addresses are inside 127.0.0.0/8 and `::1`, nothing is attached to a cgroup that
//! the test did not make, and everything is removed again: at the end of the test, also when it
//! fails, or by the next test where one was killed.
//!
//! Tests move their whole process, so test binaries run with `--test-threads=1`.

pub mod daemon;
pub mod datagrams;
pub mod empty;
pub mod etc;
pub mod files;
pub mod links;
pub mod names;
pub mod net;
pub mod node;
pub mod peers;
pub mod place;
pub mod programs;
pub mod ring;
pub mod shared;

use std::env;

/// Divisor for the size of big loops, from `SPLITTER_TEST_SCALE`; 1 unless it is set.
///
/// Emulated machines set it, because an instruction costs them twenty times as much.
pub fn scale() -> u64 {
    env::var("SPLITTER_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1).max(1)
}
