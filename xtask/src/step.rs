//! Named, timed steps.

use std::time::Instant;

use anyhow::{Context as _, Result};

/// Does a piece of work between two lines that name it; the second tells how it ended and when.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {name}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    println!("<== {name}: {verdict} after {:.1} s", start.elapsed().as_secs_f64());
    result.with_context(|| name.to_owned())
}
