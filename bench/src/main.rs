//! `splitter-bench`: runs benches, records their figures and writes the report.
//!
//! Run it by `cargo xtask bench`, which builds it and everything that it needs in release.

fn main() {}
