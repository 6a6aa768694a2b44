//! Policy text in, diagnostics or a model out.
//!
//! Nothing in here does I/O, and a [`model::Policy`] that exists is valid.

pub mod model;
