//! Formats of internal files and topics, written by hand: few, stable, and read back from disk without trust.

pub mod producer_snapshot;

pub use producer_snapshot::ProducerSnapshotEntry;
