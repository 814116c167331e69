//! Formats of internal files and topics, written by hand: few, stable, and read back from disk
//! without trust.

pub mod end_txn_marker;
pub mod producer_snapshot;

pub use end_txn_marker::EndTxnMarker;
pub use producer_snapshot::ProducerSnapshotEntry;
