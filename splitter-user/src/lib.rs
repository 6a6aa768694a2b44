//! User space: policy text to a running split.
//!
//! Data flows one way: [`policy`] reads text into a model, [`compile`] turns the model into plain
//! records, [`publish`] writes the difference to the running policy and commits it with one store,
//! and [`kernel`] is the only module that talks to BPF. The daemon ties them together, and [`cli`] is
//! how people talk to it.
//!
//! [`rehearsal`] has a policy in plain memory, where [`simulate`] and [`explain`] ask the very
//! decision that the kernel runs; [`diff`] compares models. [`sockets`] finds and closes connections
//! that were rewritten.

pub mod cli;
pub mod compile;
mod daemon;
pub mod diff;
pub mod explain;
pub mod kernel;
pub mod policy;
pub mod publish;
pub mod rehearsal;
pub mod simulate;
pub mod sockets;
pub mod tables;
mod telemetry;
