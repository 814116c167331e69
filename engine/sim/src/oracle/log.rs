//! The model of one partition: which batch stands where, as far as clients know.

use std::collections::BTreeMap;

use bytes::Bytes;
use corelog_storage::flush_policy::FlushPolicy;

use crate::plan::Retention;

/// A topic id of the wire.
pub type TopicId = [u8; 16];

/// A partition everywhere.
pub type Key = (TopicId, i32);

/// A batch that a producer made.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where to.
    pub key: Key,
    /// As sent.
    pub bytes: Bytes,
    /// Records.
    pub count: i64,
    /// Bytes it may take in a log, at most.
    pub bytes_max: u64,
    /// Its greatest timestamp, ms.
    pub timestamp_ms: i64,
    /// Of an idempotent producer.
    pub idempotent: bool,
    /// When it was first sent, ns.
    pub sent_ns: u64,
    /// Times it was sent without the outcome being known, and not met in the log since.
    pub pending: u32,
    /// Base offsets at which it stands.
    pub places: Vec<i64>,
}

/// A batch known to stand at its base offset.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// Which.
    pub batch: u64,
    /// Offset after its last record.
    pub next: i64,
    /// When its producer heard of it, ns.
    pub acked_ns: Option<u64>,
    /// A consumer has read it.
    pub seen: bool,
}

/// A batch as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Which.
    pub batch: u64,
    /// Its base offset.
    pub base: i64,
    /// Offset after its last record.
    pub next: i64,
    /// Producer id, epoch and first sequence.
    pub producer: Option<(i64, i16, i32)>,
}

/// The begin of a partition.
#[derive(Debug, Default)]
pub struct Begin {
    /// Largest log start told.
    pub start: i64,
    /// It was there at this moment, ns.
    pub since_ns: u64,
    /// DeleteRecords was asked for up to here.
    pub deleted: i64,
    /// Requests to delete up to the high watermark, whichever it was, that have no answer.
    pub unknown: u64,
    /// The last request with an offset, while it has no answer.
    pub unanswered: Option<i64>,
}

/// One partition.
#[derive(Debug, Default)]
pub struct PartitionModel {
    /// By base offset; also those below the log start, whose offsets nobody gets again.
    pub placed: BTreeMap<i64, Placed>,
    /// Where it begins.
    pub begin: Begin,
    /// Largest high watermark seen.
    pub high_watermark: i64,
    /// Power losses that took something from it, or may have.
    pub power_losses: u64,
}

/// A policy and when it may have bound appends: from its sending to its successor's acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct PolicySpan {
    /// Which.
    pub policy: FlushPolicy,
    /// From, ns.
    pub from_ns: u64,
    /// To, ns; `None` = still.
    pub to_ns: Option<u64>,
}

/// Rules of retention and when they may have been looked at, as [`PolicySpan`].
#[derive(Debug, Clone, Copy)]
pub struct Retained {
    /// Which.
    pub rules: Retention,
    /// From, ns.
    pub from_ns: u64,
    /// To, ns; `None` = still.
    pub to_ns: Option<u64>,
}

/// The policies that may have bound an append between two moments.
pub fn policies(spans: &[PolicySpan], from_ns: u64, to_ns: u64) -> Vec<FlushPolicy> {
    let mut found: Vec<FlushPolicy> = Vec::new();
    for span in spans {
        let touches = span.from_ns <= to_ns && span.to_ns.is_none_or(|end| end >= from_ns);
        if touches && !found.contains(&span.policy) {
            found.push(span.policy);
        }
    }
    found
}
