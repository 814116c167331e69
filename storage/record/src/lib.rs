//! RecordBatch v2, the unit in which Corelog receives, stores and serves records: header and record
//! views, a builder, the compression codecs, CRC-32C, and the checks a broker makes before it takes
//! a batch.
//!
//! This crate knows bytes only. It must never know of files, sockets, time, threads, topics or
//! partitions: the caller passes in the time and the rules of the topic. Nothing it reads is
//! trusted; every length is bounded by the bytes that are present before anything is allocated.
//!
//! Start reading at [`batch`] (the 61-byte header and the view of a batch), then [`mod@validate`]
//! (what a broker checks on produce). [`record`] is the layout of one record, [`codec`] the
//! compression, [`builder`] makes batches, and [`schemas`] holds the formats of internal files and
//! topics.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod builder;
pub mod codec;
pub mod recompress;
pub mod record;
pub mod schemas;
pub mod validate;
pub mod varint;

pub use batch::{BatchError, BatchHeader, BatchIter, BatchView, Crc32c, TimestampType, crc32c};
pub use builder::BatchBuilder;
pub use codec::{Codec, CodecError};
pub use recompress::{Recompress, RecompressError};
pub use record::{Header, Record, RecordError, RecordIter};
pub use validate::{Rejection, RejectionKind, Rules, Validated, Validator, validate};
