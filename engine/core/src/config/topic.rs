//! What one topic's keys resolve to.

use super::broker::BrokerConfig;
use super::describe::{Layers, resolve_topic_key};
use super::error::ConfigError;
use super::keys::topic_key;
use super::value::Value;
use crate::metadata::Image;

/// `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's clock at the append.
    LogAppendTime,
}

/// `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As the producer made it.
    Producer,
    /// None.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// `cleanup.policy`; neither = everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Old segments are deleted.
    pub delete: bool,
    /// Keys are compacted.
    pub compact: bool,
}

/// The configuration of one topic, every value in its key's unit. `None` in an optional field
/// is "no limit" or "never".
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// `segment.bytes`, or `internal.segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: u64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: u64,
    /// `segment.index.bytes`.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `preallocate`.
    pub preallocate: bool,
    /// `flush.messages`.
    pub flush_messages: Option<u64>,
    /// `flush.ms`.
    pub flush_ms: Option<u64>,
    /// `retention.bytes`.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`.
    pub retention_ms: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: u64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: u64,
    /// `max.message.bytes`: of a batch, after compression.
    pub max_message_bytes: u32,
    /// `compression.type`.
    pub compression: Compression,
    /// `compression.gzip.level`; `None` is gzip's own default.
    pub compression_gzip_level: Option<i32>,
    /// `compression.lz4.level`: kept and shown; lz4 has one level here.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`.
    pub compression_zstd_level: i32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: u64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election_enable: bool,
}

impl TopicConfig {
    /// What a topic of the image resolves to on this broker; a topic without overrides, or one
    /// that does not exist, gets the broker's values.
    ///
    /// # Errors
    /// A stored value that is not legal for this version.
    pub fn of(image: &Image, broker: &BrokerConfig, topic: &str) -> Result<Self, ConfigError> {
        Self::resolve(&Layers::of(image, broker, Some(topic)))
    }

    /// Resolves every key through the layers.
    ///
    /// # Errors
    /// A stored value that is not legal for this version.
    pub fn resolve(layers: &Layers<'_>) -> Result<Self, ConfigError> {
        let get = Getter { layers };
        let policy = get.list("cleanup.policy")?;
        Ok(Self {
            segment_bytes: match get.optional("internal.segment.bytes")? {
                Some(bytes) => bytes,
                None => get.integer("segment.bytes")?,
            },
            segment_ms: get.integer("segment.ms")?,
            segment_jitter_ms: get.integer("segment.jitter.ms")?,
            segment_index_bytes: get.integer("segment.index.bytes")?,
            index_interval_bytes: get.integer("index.interval.bytes")?,
            preallocate: get.boolean("preallocate")?,
            flush_messages: get.optional("flush.messages")?.filter(never),
            flush_ms: get.optional("flush.ms")?.filter(never),
            retention_bytes: get.optional("retention.bytes")?,
            retention_ms: get.optional("retention.ms")?,
            cleanup_policy: CleanupPolicy {
                delete: policy.iter().any(|policy| policy == "delete"),
                compact: policy.iter().any(|policy| policy == "compact"),
            },
            delete_retention_ms: get.integer("delete.retention.ms")?,
            min_compaction_lag_ms: get.integer("min.compaction.lag.ms")?,
            max_compaction_lag_ms: get.integer("max.compaction.lag.ms")?,
            min_cleanable_dirty_ratio: match get.value("min.cleanable.dirty.ratio")? {
                Some(Value::Double(ratio)) => ratio,
                _ => 0.5,
            },
            file_delete_delay_ms: get.integer("file.delete.delay.ms")?,
            max_message_bytes: get.integer("max.message.bytes")?,
            compression: match get.text("compression.type")?.as_str() {
                "uncompressed" => Compression::Uncompressed,
                "gzip" => Compression::Gzip,
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::Producer,
            },
            compression_gzip_level: get
                .optional("compression.gzip.level")?
                .filter(|level| *level > 0),
            compression_lz4_level: get.integer("compression.lz4.level")?,
            compression_zstd_level: get.integer("compression.zstd.level")?,
            timestamp_type: match get.text("message.timestamp.type")?.as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: get.integer("message.timestamp.before.max.ms")?,
            timestamp_after_max_ms: get.integer("message.timestamp.after.max.ms")?,
            min_insync_replicas: get.integer("min.insync.replicas")?,
            unclean_leader_election_enable: get.boolean("unclean.leader.election.enable")?,
        })
    }
}

/// Long.MAX is how Kafka writes "never".
fn never(value: &u64) -> bool {
    *value < i64::MAX as u64
}

struct Getter<'a> {
    layers: &'a Layers<'a>,
}

impl Getter<'_> {
    fn value(&self, key: &'static str) -> Result<Option<Value>, ConfigError> {
        let row =
            topic_key(key).ok_or_else(|| ConfigError::new(key, "", "Unknown topic config name"))?;
        resolve_topic_key(row, self.layers)
    }

    /// `None` where the key is unset or negative: no limit.
    fn optional<T: TryFrom<i64>>(&self, key: &'static str) -> Result<Option<T>, ConfigError> {
        match self.value(key)? {
            Some(Value::Integer(value)) => Ok(T::try_from(value).ok()),
            _ => Ok(None),
        }
    }

    fn integer<T: TryFrom<i64>>(&self, key: &'static str) -> Result<T, ConfigError> {
        self.optional(key)?
            .ok_or_else(|| ConfigError::new(key, "", "no value in its range"))
    }

    fn boolean(&self, key: &'static str) -> Result<bool, ConfigError> {
        Ok(matches!(self.value(key)?, Some(Value::Boolean(true))))
    }

    fn text(&self, key: &'static str) -> Result<String, ConfigError> {
        match self.value(key)? {
            Some(Value::Text(text)) => Ok(text),
            _ => Ok(String::new()),
        }
    }

    fn list(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        match self.value(key)? {
            Some(Value::List(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }
}
