//! The Fetch request, both directions.

use bytes::{Bytes, BytesMut};

use super::{read_topic, served, write_topic};
use crate::api::ApiKey;
use crate::wire::{NO_TOPIC_ID, Reader, TopicId, WireError, WireStr, Writer};

/// A Fetch request. Fields that a version lacks have the protocol's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The cluster the sender thinks it talks to (tagged, from version 12).
    pub cluster_id: Option<WireStr>,
    /// The follower's broker id, -1 for a consumer, -2 for a debugging consumer. One field for all
    /// versions: its own place up to 14, in the tagged replica state from 15.
    pub replica_id: i32,
    /// The follower's broker epoch, -1 = none (from version 15).
    pub replica_epoch: i64,
    /// Longest wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// Bytes to wait for.
    pub min_bytes: i32,
    /// Bytes for the whole response; the first batch may exceed it.
    pub max_bytes: i32,
    /// 0 = read_uncommitted, 1 = read_committed.
    pub isolation_level: i8,
    /// Fetch session, 0 = none (from version 7).
    pub session_id: i32,
    /// 0 = open one, -1 = close it, else the next number of an incremental fetch (from version 7).
    pub session_epoch: i32,
    /// In the client's order.
    pub topics: Vec<FetchTopic>,
    /// Leave the session (from version 7).
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// The consumer's rack, or empty (from version 11).
    pub rack_id: WireStr,
}

impl Default for FetchRequest {
    fn default() -> FetchRequest {
        FetchRequest {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: WireStr::default(),
        }
    }
}

/// One topic of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchTopic {
    /// Up to version 12; else empty.
    pub name: WireStr,
    /// From version 13; else zero.
    pub topic_id: TopicId,
    /// In the client's order.
    pub partitions: Vec<FetchPartition>,
}

/// One partition of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartition {
    /// Partition number.
    pub index: i32,
    /// The leader epoch the client knows, -1 = none (from version 9).
    pub current_leader_epoch: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last batch fetched, -1 = none: asks for a divergence check (from version 12).
    pub last_fetched_epoch: i32,
    /// The follower's first offset, -1 for consumers (from version 5).
    pub log_start_offset: i64,
    /// Bytes for this partition; its first batch may exceed it.
    pub max_bytes: i32,
    /// The follower's log directory (tagged, from version 17).
    pub replica_directory_id: TopicId,
    /// The follower's high watermark, -1 = unknown, i64::MAX = not told (tagged, from version 18).
    pub high_watermark: i64,
}

impl Default for FetchPartition {
    fn default() -> FetchPartition {
        FetchPartition {
            index: 0,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: 0,
            replica_directory_id: NO_TOPIC_ID,
            high_watermark: i64::MAX,
        }
    }
}

/// Partitions that leave a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// Up to version 12; else empty.
    pub name: WireStr,
    /// From version 13; else zero.
    pub topic_id: TopicId,
    /// Partition numbers.
    pub partitions: Vec<i32>,
}

impl FetchRequest {
    /// Only what is below the last stable offset is wanted, with the aborted transactions.
    pub fn is_read_committed(&self) -> bool {
        self.isolation_level == 1
    }

    /// Decodes the body of a request.
    pub fn decode(version: i16, body: &Bytes) -> Result<FetchRequest, WireError> {
        served(version)?;
        let mut r = Reader::new(body, ApiKey::Fetch.is_flexible(version));
        let mut request = FetchRequest::default();
        if version <= 14 {
            request.replica_id = r.i32("replica_id")?;
        }
        request.max_wait_ms = r.i32("max_wait_ms")?;
        request.min_bytes = r.i32("min_bytes")?;
        request.max_bytes = r.i32("max_bytes")?;
        request.isolation_level = r.i8("isolation_level")?;
        if version >= 7 {
            request.session_id = r.i32("session_id")?;
            request.session_epoch = r.i32("session_epoch")?;
        }
        let count = r.array("topics", 3)?;
        request.topics.reserve_exact(count);
        for _ in 0..count {
            request.topics.push(FetchTopic::decode(version, &mut r)?);
        }
        if version >= 7 {
            let count = r.array("forgotten_topics_data", 3)?;
            request.forgotten_topics.reserve_exact(count);
            for _ in 0..count {
                request
                    .forgotten_topics
                    .push(ForgottenTopic::decode(version, &mut r)?);
            }
        }
        if version >= 11 {
            request.rack_id = r.string("rack_id")?;
        }
        r.tags("fetch request", |tag, r| {
            match tag {
                0 => request.cluster_id = r.nullable_string("cluster_id")?,
                1 if version >= 15 => {
                    request.replica_id = r.i32("replica_id")?;
                    request.replica_epoch = r.i64("replica_epoch")?;
                    r.skip_tags("replica_state")?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(request)
    }

    /// Appends the body of a request. What the version lacks is left out.
    pub fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError> {
        served(version)?;
        let mut w = Writer::new(buf, ApiKey::Fetch.is_flexible(version));
        if version <= 14 {
            w.i32(self.replica_id);
        }
        w.i32(self.max_wait_ms);
        w.i32(self.min_bytes);
        w.i32(self.max_bytes);
        w.i8(self.isolation_level);
        if version >= 7 {
            w.i32(self.session_id);
            w.i32(self.session_epoch);
        }
        w.length(Some(self.topics.len()));
        for topic in &self.topics {
            write_topic(version, &mut w, &topic.name, &topic.topic_id);
            w.length(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                partition.encode(version, &mut w);
            }
            w.no_tags();
        }
        if version >= 7 {
            w.length(Some(self.forgotten_topics.len()));
            for topic in &self.forgotten_topics {
                write_topic(version, &mut w, &topic.name, &topic.topic_id);
                w.length(Some(topic.partitions.len()));
                for partition in &topic.partitions {
                    w.i32(*partition);
                }
                w.no_tags();
            }
        }
        if version >= 11 {
            w.string(&self.rack_id);
        }
        let replica_state = version >= 15 && (self.replica_id, self.replica_epoch) != (-1, -1);
        w.tag_count(usize::from(self.cluster_id.is_some()) + usize::from(replica_state));
        if let Some(cluster_id) = self.cluster_id.as_deref().filter(|_| version >= 12) {
            w.tag(0, |w| w.string(cluster_id));
        }
        if replica_state {
            w.tag(1, |w| {
                w.i32(self.replica_id);
                w.i64(self.replica_epoch);
                w.no_tags();
            });
        }
        Ok(())
    }
}

impl FetchTopic {
    fn decode(version: i16, r: &mut Reader<'_>) -> Result<FetchTopic, WireError> {
        let (name, topic_id) = read_topic(version, r)?;
        let count = r.array("partitions", 16)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(FetchPartition::decode(version, r)?);
        }
        r.skip_tags("topics")?;
        Ok(FetchTopic {
            name,
            topic_id,
            partitions,
        })
    }
}

impl ForgottenTopic {
    fn decode(version: i16, r: &mut Reader<'_>) -> Result<ForgottenTopic, WireError> {
        let (name, topic_id) = read_topic(version, r)?;
        let count = r.array("forgotten partitions", 4)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(r.i32("forgotten partition")?);
        }
        r.skip_tags("forgotten_topics_data")?;
        Ok(ForgottenTopic {
            name,
            topic_id,
            partitions,
        })
    }
}

impl FetchPartition {
    fn decode(version: i16, r: &mut Reader<'_>) -> Result<FetchPartition, WireError> {
        let mut partition = FetchPartition {
            index: r.i32("partition")?,
            ..FetchPartition::default()
        };
        if version >= 9 {
            partition.current_leader_epoch = r.i32("current_leader_epoch")?;
        }
        partition.fetch_offset = r.i64("fetch_offset")?;
        if version >= 12 {
            partition.last_fetched_epoch = r.i32("last_fetched_epoch")?;
        }
        if version >= 5 {
            partition.log_start_offset = r.i64("log_start_offset")?;
        }
        partition.max_bytes = r.i32("partition_max_bytes")?;
        r.tags("partitions", |tag, r| {
            match tag {
                0 if version >= 17 => {
                    partition.replica_directory_id = r.uuid("replica_directory_id")?
                }
                1 if version >= 18 => partition.high_watermark = r.i64("high_watermark")?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(partition)
    }

    fn encode(&self, version: i16, w: &mut Writer<'_>) {
        w.i32(self.index);
        if version >= 9 {
            w.i32(self.current_leader_epoch);
        }
        w.i64(self.fetch_offset);
        if version >= 12 {
            w.i32(self.last_fetched_epoch);
        }
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        w.i32(self.max_bytes);
        let directory = version >= 17 && self.replica_directory_id != NO_TOPIC_ID;
        let high_watermark = version >= 18 && self.high_watermark != i64::MAX;
        w.tag_count(usize::from(directory) + usize::from(high_watermark));
        if directory {
            w.fixed_tag(0, &self.replica_directory_id);
        }
        if high_watermark {
            w.fixed_tag(1, &self.high_watermark.to_be_bytes());
        }
    }
}
