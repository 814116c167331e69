//! Formats of internal files and topics, written by hand: few, stable, and read back from disk
//! without trust.

pub mod consumer_offsets;
pub mod end_txn_marker;
mod fields;
pub mod producer_snapshot;

pub use end_txn_marker::EndTxnMarker;
pub use fields::{STRING_BYTES_MAX, SchemaError};
pub use producer_snapshot::ProducerSnapshotEntry;
