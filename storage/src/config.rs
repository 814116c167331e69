//! What one partition's log is told by its topic's configuration.

use crate::flush_policy::FlushPolicy;

/// Whose clock stamps the records of a topic (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampRule {
    /// The producer's: timestamps are kept as sent.
    #[default]
    CreateTime,
    /// The broker's, at append: the batch header is stamped and its CRC recomputed.
    LogAppendTime,
}

/// Settings of one log. Plain data; a new value is given with `Log::set_config` and binds the
/// appends from then on.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`: the active file rolls before an append that would pass it.
    pub segment_bytes: u64,
    /// `segment.ms`: the active file rolls at the first append this long after its first batch.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: at most this much is taken off `segment_ms`, by chance per segment.
    pub segment_jitter_ms: u64,
    /// `index.interval.bytes`: about one index entry per this many bytes of log.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: the active file rolls when its offset index would pass it.
    pub segment_index_bytes: u64,
    /// `max.message.bytes`: the largest batch taken from a client, header included.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp: TimestampRule,
    /// `flush.messages` and `flush.ms`.
    pub flush: FlushPolicy,
    /// `cleanup.policy` contains `delete`: what retention says is over may go.
    pub deletes: bool,
    /// `retention.bytes`; `None` keeps everything. Read by retention, not by appends.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`; `None` keeps everything. Read by retention, not by appends.
    pub retention_ms: Option<u64>,
    /// `file.delete.delay.ms`: how long deleted files keep their bytes.
    pub file_delete_delay_ms: u64,
    /// Idle producers are forgotten after this long (`producer.id.expiration.ms`).
    pub producer_id_expiration_ms: i64,
    /// On a full disk the log may use the directory's reserve: it is one of the broker's own.
    pub uses_reserve: bool,
}

impl Default for LogConfig {
    /// Kafka's defaults: 1 GiB or 7 days per segment, no flush policy, 1 MiB messages, kept for 7
    /// days, unlinked a minute later.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            segment_index_bytes: 10 << 20,
            max_message_bytes: 1_048_588,
            timestamp: TimestampRule::CreateTime,
            flush: FlushPolicy {
                messages: None,
                ms: None,
            },
            deletes: true,
            retention_bytes: None,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            file_delete_delay_ms: 60_000,
            producer_id_expiration_ms: 24 * 3600 * 1000,
            uses_reserve: false,
        }
    }
}
