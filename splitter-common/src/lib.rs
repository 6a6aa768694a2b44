//! What crosses the kernel boundary, and the decision itself.
//!
//! This crate is compiled twice: for the host and for the BPF target.
//! [`abi`] is the only description of the maps' keys and values, and [`decide`] is the only
//! implementation of the policy: the kernel hook, the simulator, `explain` and every test call it.
//! Nothing here does I/O, allocates, or can panic.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod decide;
pub mod hash;
pub mod life;
