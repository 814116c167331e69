//! From a topic's resolved configuration to what its log and its validation need.

use corelog_core::config::{BrokerConfig, Compression, TimestampType, TopicConfig};
use corelog_core::metadata::Image;
use corelog_core::metadata::names::is_internal;
use corelog_record::Codec;
use corelog_storage::config::{LogConfig, TimestampRule};
use corelog_storage::flush_policy::FlushPolicy;

use crate::shard::partition::{AppendRules, StoredCodec};

/// Settings of one topic at one version of the metadata.
#[derive(Debug, Clone)]
pub struct TopicSettings {
    /// For the log.
    pub log: LogConfig,
    /// For validation.
    pub rules: AppendRules,
}

/// Resolves a topic's settings. Values in the image were validated when they were set; one that a
/// newer build refuses falls back to the broker's, with a warning.
pub fn resolve(image: &Image, broker: &BrokerConfig, topic: &str) -> TopicSettings {
    let mut settings = match TopicConfig::of(image, broker, topic) {
        Ok(config) => of(&config, broker),
        Err(error) => {
            tracing::warn!(topic, %error, "a stored topic config is not valid; broker defaults are used");
            let defaults = TopicConfig::of(&Image::new(), broker, topic);
            of(
                &defaults.expect("the broker's own defaults were parsed at start"),
                broker,
            )
        }
    };
    settings.log.uses_reserve = is_internal(topic);
    settings
}

fn of(config: &TopicConfig, broker: &BrokerConfig) -> TopicSettings {
    let (rule, stamp) = match config.timestamp_type {
        TimestampType::CreateTime => (
            TimestampRule::CreateTime,
            corelog_record::batch::TimestampType::CreateTime,
        ),
        TimestampType::LogAppendTime => (
            TimestampRule::LogAppendTime,
            corelog_record::batch::TimestampType::LogAppendTime,
        ),
    };
    TopicSettings {
        log: LogConfig {
            segment_bytes: u64::from(config.segment_bytes),
            segment_ms: config.segment_ms,
            segment_jitter_ms: config.segment_jitter_ms,
            index_interval_bytes: u64::from(config.index_interval_bytes),
            segment_index_bytes: u64::from(config.segment_index_bytes),
            max_message_bytes: config.max_message_bytes as usize,
            timestamp: rule,
            flush: FlushPolicy {
                messages: config.flush_messages,
                ms: config.flush_ms,
            },
            deletes: config.cleanup_policy.delete,
            retention_bytes: config.retention_bytes,
            retention_ms: config.retention_ms,
            file_delete_delay_ms: config.file_delete_delay_ms,
            producer_id_expiration_ms: i64::try_from(broker.producer_id_expiration_ms)
                .unwrap_or(i64::MAX),
            uses_reserve: false,
        },
        rules: AppendRules {
            compacted: config.cleanup_policy.compact,
            timestamp_type: stamp,
            before_max_ms: i64::try_from(config.timestamp_before_max_ms).unwrap_or(i64::MAX),
            after_max_ms: i64::try_from(config.timestamp_after_max_ms).unwrap_or(i64::MAX),
            max_message_bytes: config.max_message_bytes as usize,
            stored_codec: stored_codec(config),
        },
    }
}

fn stored_codec(config: &TopicConfig) -> Option<StoredCodec> {
    let (codec, level) = match config.compression {
        Compression::Producer => return None,
        Compression::Uncompressed => (Codec::None, None),
        Compression::Gzip => (Codec::Gzip, config.compression_gzip_level),
        Compression::Snappy => (Codec::Snappy, None),
        Compression::Lz4 => (Codec::Lz4, None),
        Compression::Zstd => (Codec::Zstd, Some(config.compression_zstd_level)),
    };
    Some(StoredCodec { codec, level })
}
