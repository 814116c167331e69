//! The stories of `log_behaviour` with buffered I/O, see `stories::limits`.

#[path = "log_behaviour.rs"]
mod behaviour;
