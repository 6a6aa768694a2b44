//! The kernel side: the only module that talks to BPF.

pub mod object;
