//! Model test of the log: random operations on the simulated disk, against an in-memory model.
//! Shared by `tests/log_model.rs` and `examples/model.rs`.
#![allow(dead_code, missing_docs)]

pub mod disk;
pub mod history;
pub mod oracle;
pub mod retention;
pub mod session;
