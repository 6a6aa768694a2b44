//! Properties of a published policy, over policies that proptest makes up.
//!
//! Everything goes the whole way: model, compiler, publisher, tables in memory, and the very
//! decision that the kernel runs.

mod atomic;
mod crash;
mod fixture;
mod rooms;
mod splits;
mod tickets;
