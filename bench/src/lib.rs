//! Measures splitter side by side with direct connections and with other ways to split.
//!
//! A bench runs its *arms* in interleaved [rounds], records every single figure ([`record`]), and
//! what is reported are ratios of arms of one round ([`stats`]): a machine's moods hit all arms
//! of a round alike. Nothing here asserts a time.
//!
//! Clients are processes of their own ([`load`]) in the network namespace and the cgroup of their
//! [`arm`]; [`peers`] are the other ways to split. [`report`] turns the records of all benches into
//! a page with plots.

pub mod arm;
pub mod benches;
pub mod load;
pub mod machine;
pub mod peers;
pub mod plot;
pub mod policies;
pub mod record;
pub mod report;
pub mod rounds;
pub mod run;
pub mod stats;
pub mod suite;
