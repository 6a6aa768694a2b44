//! systemd-resolved, which a test runs in namespaces of its own.
//!
//! It is unpacked below `target/unpacked`, because its package makes itself the machine's resolver
//! when it is installed.

use super::{Outcome, Report, unpack};
use crate::workspace;

/// Where it is unpacked.
const PLACE: &str = "target/unpacked/systemd-resolved";
/// Its package, and the libraries of it that no other program of the tests brings along. The first
/// of those has to be of the same version.
const PACKAGES: [&str; 4] = ["systemd-resolved", "libsystemd-shared", "libip4tc2", "libkmod2"];

/// Finds or fetches it.
pub(super) fn fetch(report: &mut Report) {
    let place = workspace::path(PLACE);
    let outcome = if place.is_dir() {
        Outcome::Found(place.display().to_string())
    } else {
        match unpack::with_fresh_lists(|| unpack::fetch(&PACKAGES, &place)) {
            Ok(()) => Outcome::Installed(place.display().to_string()),
            Err(error) => Outcome::Missing(format!(
                "{error:#} (needed for real-kernel tests; it comes from Debian's package {})",
                PACKAGES[0]
            )),
        }
    };
    report.add("systemd-resolved", outcome);
}
