//! User space: policy text to a running split.
//!
//! Data flows one way: [`policy`] reads text into a model, [`compile`] turns the model into plain
//! records, [`publish`] writes the difference to the running policy and commits it with one store,
//! and [`kernel`] is the only module that talks to BPF.

pub mod compile;
pub mod kernel;
pub mod policy;
pub mod publish;
pub mod tables;
