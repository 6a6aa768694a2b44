//! The benches, one file each.

mod apply;
mod contention;
mod effect;
mod exactness;
pub(crate) mod goals;
mod memory;
mod requests;
mod rest;
mod tcp_connect;
mod torn;
mod udp_connect;
mod udp_send;
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
    /// Whether it is set up anew several times, because what is measured depends on where things
    /// happen to lie: in memory, in a table, on a CPU.
    pub sits_again: bool,
    /// Runs it once.
    pub run: fn(&mut Run) -> Result<()>,
}

/// All benches, in the order of the report.
pub const ALL: &[Bench] = &[
    udp_connect::BENCH,
    udp_send::BENCH,
    tcp_connect::BENCH,
    requests::BENCH,
    wrk::BENCH,
    apply::BENCH,
    effect::BENCH,
    memory::BENCH,
    rest::BENCH,
    exactness::BENCH,
    contention::BENCH,
    torn::BENCH,
];
