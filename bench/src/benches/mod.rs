//! The benches, one file each.

mod apply;
mod contention;
mod memory;
mod requests;
mod rest;
mod torn;
mod udp_connect;
mod wrk;

use anyhow::Result;

use crate::run::Run;

/// A bench.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What it is called on the command line and in files.
    pub name: &'static str,
    /// Its heading in the report.
    pub title: &'static str,
    /// What it does, for the report.
    pub about: &'static str,
    /// The arm that the others are divided by; none where figures stand for themselves.
    pub base: Option<&'static str>,
    /// Runs it.
    pub run: fn(&mut Run) -> Result<()>,
}

/// All benches, in the order of the report.
pub const ALL: &[Bench] = &[
    udp_connect::BENCH,
    apply::BENCH,
    requests::BENCH,
    wrk::BENCH,
    memory::BENCH,
    contention::BENCH,
    torn::BENCH,
    rest::BENCH,
];
