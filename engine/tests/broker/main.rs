//! Tests of the broker as a process: the real binary on a directory of its own, spoken to over TCP.
//!
//! A test that shows a promise carries its number in its name. Nothing here asserts a duration; waits are polls with a
//! bound.

mod common;

mod admin;
mod compression;
mod configuration;
mod consuming;
mod daemon;
mod durability;
mod errors;
mod groups;
mod heavy;
mod hostile;
mod idempotence;
mod leaving;
mod limits;
mod log_dirs;
mod metrics;
mod model;
mod offline;
mod operating;
#[cfg(feature = "planted")]
mod planted;
mod producing;
mod records;
mod retention;
mod scrub;
mod sessions;
mod stuck;
mod versions;
mod versions_of_tools;
