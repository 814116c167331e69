//! The stories of `log_rolls` with buffered I/O: the name of this test crate says so.

#[path = "log_rolls.rs"]
mod rolls;
