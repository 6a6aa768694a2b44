//! The form of Rust files.

use super::Finding;
use super::files::File;

/// Lines that one file may have. A longer one has more than one subject.
const MAX_LINES: usize = 500;

pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is(".rs") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        findings
            .push(file.finding(lines, format!("{lines} lines; split it ({MAX_LINES} at most)")));
    }
    if !file.text.starts_with("//! ") {
        findings
            .push(file.finding(1, "no `//!` text that says what the module is responsible for"));
    }
    findings
}
