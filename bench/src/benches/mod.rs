//! The benches, one file each.

use anyhow::Result;

use crate::run::Run;

/// A bench.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What it is called on the command line and in files.
    pub name: &'static str,
    /// Its heading in the report.
    pub title: &'static str,
    /// Runs it.
    pub run: fn(&mut Run) -> Result<()>,
}

/// All benches, in the order of the report.
pub const ALL: &[Bench] = &[];
