//! The log on disk: segment files, indexes, checkpoints and recovery of every partition.
//!
//! It knows batches, offsets and files. It must never know of sockets, requests, topics'
//! placement, replicas or groups. Clock, files and chance come from `corelog_runtime` alone, so
//! that all of it runs under the seeded twin.
//!
//! Start reading at [`marks`] (the seven offsets everything turns on), then [`flush_policy`] (what
//! an acknowledgement waits for), then the [`log`] itself; [`shard`] is what the logs of one shard
//! share, [`cold`] reads planned ranges from disk. `tests/model` holds the log against a model on
//! the simulated disk; `cargo run --release -p corelog-storage --example model -- --seeds N` runs it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checkpoint_files;
pub mod cold;
pub mod config;
mod fill;
pub mod flush_policy;
pub mod guard;
pub mod index;
pub mod leader_epochs;
pub mod log;
pub mod log_dir;
pub mod marks;
mod open_files;
pub mod producer_state;
pub mod retention;
pub mod scrub;
pub mod shard;
