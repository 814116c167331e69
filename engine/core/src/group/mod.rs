//! The coordinator of consumer groups (classic protocol) of ONE partition of
//! `__consumer_offsets`, as a pure state machine.
//!
//! An [`Event`] and its [`Input`] (clock and chance) go in, [`Command`]s come out: replies to the
//! askers and records to write. Whoever hosts the machine loads it with the partition's records,
//! writes what it asks for, tells it how the writes ended, and wakes it at
//! [`GroupCoordinator::next_deadline_ms`].
//!
//! What binds the two sides:
//! * Every request gets exactly one reply, unless it was cancelled.
//! * Writes are appended in the order of their commands and their ends are told in that order.
//! * A reply that reports something durable comes after its [`Event::Written`]; after an error the
//!   state is as if nobody had asked. Offsets are visible only once they are written.
//! * Loading the written records into a new machine gives the same groups and offsets.
//!
//! Start reading at [`GroupCoordinator::handle`].

mod admin;
mod context;
mod coordinator;
mod join;
mod membership;
mod offsets;
mod rebalance;
mod records;
mod responses;
mod state;
pub mod subscription;
mod timers;
mod types;
mod written;

pub use coordinator::GroupCoordinator;
pub use responses::error_response;
pub use types::{
    Client, Command, CommitPartition, CommitTopic, Event, GroupCounts, GroupSettings, Input,
    LoadRecord, Request, Response, WriteError, WriteRecord,
};

/// Longest text that a record of the partition holds.
const TEXT_BYTES_MAX: usize = corelog_record::schemas::STRING_BYTES_MAX;

/// The partition of `__consumer_offsets` that holds a group: the absolute value of Java's
/// `String.hashCode` (over UTF-16 units), modulo `partitions`, which must be positive.
pub fn partition_of(group_id: &str, partitions: i32) -> i32 {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka counts the one value that has no absolute value as 0.
    hash.checked_abs().unwrap_or(0) % partitions.max(1)
}
