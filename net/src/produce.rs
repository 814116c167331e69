//! Produce, versions 3 to 13: the hot way in.
//!
//! The decoder allocates a vector of topics and one of partitions per topic; names and records are
//! slices of the frame. Topics go by name up to version 12 and by topic id in version 13. Both
//! directions of both messages are here: the broker decodes requests, the client responses.
//! Source: ProduceRequest.json and ProduceResponse.json of Kafka 4.3.

use bytes::{Bytes, BytesMut};

use crate::api::ApiKey;
use crate::error_code::ErrorCode;
use crate::frame::begin_request;
use crate::response::{begin_response, close_frame};
use crate::wire::{NO_TOPIC_ID, Reader, TopicId, WireError, WireStr, Writer};

/// First version that names topics by id.
pub const TOPIC_ID_VERSION: i16 = 13;

/// Records from this size on go out of a client without a copy, in bytes.
pub const SHARED_RECORDS_BYTES_MIN: usize = 4096;

/// A Produce request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProduceRequest {
    /// Set by transactional producers.
    pub transactional_id: Option<WireStr>,
    /// 0 = no answer, 1 = the leader, -1 = all in-sync replicas. Anything else is INVALID_REQUIRED_ACKS, which is the engine's to say.
    pub acks: i16,
    /// How long to wait for the replicas, in milliseconds.
    pub timeout_ms: i32,
    /// In the client's order.
    pub topics: Vec<ProduceTopic>,
}

/// One topic of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProduceTopic {
    /// Up to version 12; else empty.
    pub name: WireStr,
    /// From version 13; else zero.
    pub topic_id: TopicId,
    /// In the client's order.
    pub partitions: Vec<ProducePartition>,
}

/// One partition of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducePartition {
    /// Partition number.
    pub index: i32,
    /// Record batches, not looked into: a slice of the frame.
    pub records: Option<Bytes>,
}

impl ProduceRequest {
    /// Decodes the body of a request.
    pub fn decode(version: i16, body: &Bytes) -> Result<ProduceRequest, WireError> {
        served(version)?;
        let mut r = Reader::new(body, ApiKey::Produce.is_flexible(version));
        let transactional_id = r.nullable_string("transactional_id")?;
        let acks = r.i16("acks")?;
        let timeout_ms = r.i32("timeout_ms")?;
        let count = r.array("topic_data", 2)?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            topics.push(ProduceTopic::decode(version, &mut r)?);
        }
        r.skip_tags("produce request")?;
        Ok(ProduceRequest {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        })
    }

    /// Appends the body of a request.
    pub fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError> {
        served(version)?;
        self.write(version, buf, |w, records| {
            w.nullable_bytes(records.as_deref())
        });
        Ok(())
    }

    /// A whole request frame, size field included, as pieces to be sent in order: records of
    /// [`SHARED_RECORDS_BYTES_MIN`] and more are not copied.
    pub fn encode_frame(
        &self,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
    ) -> Result<Vec<Bytes>, WireError> {
        served(version)?;
        let mut buf = BytesMut::with_capacity(256);
        begin_request(
            &mut buf,
            ApiKey::Produce,
            version,
            correlation_id,
            client_id,
        );
        let mut holes = Vec::new();
        self.write(version, &mut buf, |w, records| match records {
            Some(records) if records.len() >= SHARED_RECORDS_BYTES_MIN => {
                w.length(Some(records.len()));
                holes.push((w.buffer().len(), records.clone()));
            }
            _ => w.nullable_bytes(records.as_deref()),
        });
        close_frame(&mut buf, holes.iter().map(|hole| hole.1.len()).sum())?;
        let header = buf.freeze();
        let mut pieces = Vec::with_capacity(1 + 2 * holes.len());
        let mut from = 0;
        for (at, records) in holes {
            pieces.push(header.slice(from..at));
            pieces.push(records);
            from = at;
        }
        if from < header.len() {
            pieces.push(header.slice(from..));
        }
        Ok(pieces)
    }

    fn write(
        &self,
        version: i16,
        buf: &mut BytesMut,
        mut records: impl FnMut(&mut Writer<'_>, &Option<Bytes>),
    ) {
        let mut w = Writer::new(buf, ApiKey::Produce.is_flexible(version));
        w.nullable_string(self.transactional_id.as_deref());
        w.i16(self.acks);
        w.i32(self.timeout_ms);
        w.length(Some(self.topics.len()));
        for topic in &self.topics {
            write_topic(version, &mut w, &topic.name, &topic.topic_id);
            w.length(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                w.i32(partition.index);
                records(&mut w, &partition.records);
                w.no_tags();
            }
            w.no_tags();
        }
        w.no_tags();
    }
}

impl ProduceTopic {
    fn decode(version: i16, r: &mut Reader<'_>) -> Result<ProduceTopic, WireError> {
        let (name, topic_id) = read_topic(version, r)?;
        let count = r.array("partition_data", 5)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let index = r.i32("index")?;
            let records = r.nullable_bytes("records")?;
            r.skip_tags("partition_data")?;
            partitions.push(ProducePartition { index, records });
        }
        r.skip_tags("topic_data")?;
        Ok(ProduceTopic {
            name,
            topic_id,
            partitions,
        })
    }
}

/// A Produce response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProduceResponse {
    /// In the order of the request.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client is muted, in milliseconds.
    pub throttle_time_ms: i32,
    /// Where the leaders named in `current_leader` are (sent from version 10).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// One topic of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProduceTopicResponse {
    /// Up to version 12; else empty.
    pub name: WireStr,
    /// From version 13; else zero.
    pub topic_id: TopicId,
    /// In the order of the request.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// One partition of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartitionResponse {
    /// Partition number.
    pub index: i32,
    /// What became of it.
    pub error_code: ErrorCode,
    /// Offset of the first record; -1 at an error.
    pub base_offset: i64,
    /// The broker's time in milliseconds for LogAppendTime topics; -1 for CreateTime.
    pub log_append_time_ms: i64,
    /// First offset of the log; -1 when unknown (sent from version 5).
    pub log_start_offset: i64,
    /// The records that made the batch be refused (sent from version 8).
    pub record_errors: Vec<RecordError>,
    /// Why, for a person (sent from version 8).
    pub error_message: Option<WireStr>,
    /// The leader to go to, at NOT_LEADER_OR_FOLLOWER (sent from version 10).
    pub current_leader: Option<LeaderIdAndEpoch>,
}

impl Default for ProducePartitionResponse {
    fn default() -> ProducePartitionResponse {
        ProducePartitionResponse {
            index: 0,
            error_code: ErrorCode::None,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// A record that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordError {
    /// Its place in the batch.
    pub batch_index: i32,
    /// Why, for a person.
    pub message: Option<WireStr>,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// Broker id; -1 = unknown.
    pub leader_id: i32,
    /// Leader epoch; -1 = unknown.
    pub leader_epoch: i32,
}

impl LeaderIdAndEpoch {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Option<LeaderIdAndEpoch>, WireError> {
        let leader_id = r.i32("leader_id")?;
        let leader_epoch = r.i32("leader_epoch")?;
        r.skip_tags("current_leader")?;
        Ok(Some(LeaderIdAndEpoch {
            leader_id,
            leader_epoch,
        })
        .filter(|leader| leader.is_set()))
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.i32(self.leader_id);
        w.i32(self.leader_epoch);
        w.no_tags();
    }

    /// It says more than the protocol's default of -1, -1, which is not sent.
    pub(crate) fn is_set(&self) -> bool {
        (self.leader_id, self.leader_epoch) != (-1, -1)
    }
}

/// Where a broker listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Broker id.
    pub node_id: i32,
    /// Host.
    pub host: WireStr,
    /// Port.
    pub port: i32,
    /// Rack, if it has one.
    pub rack: Option<WireStr>,
}

impl NodeEndpoint {
    pub(crate) fn encode_all(endpoints: &[NodeEndpoint], w: &mut Writer<'_>) {
        w.length(Some(endpoints.len()));
        for node in endpoints {
            w.i32(node.node_id);
            w.string(&node.host);
            w.i32(node.port);
            w.nullable_string(node.rack.as_deref());
            w.no_tags();
        }
    }

    pub(crate) fn decode_all(r: &mut Reader<'_>) -> Result<Vec<NodeEndpoint>, WireError> {
        let count = r.array("node_endpoints", 11)?;
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            let node_id = r.i32("node_id")?;
            let host = r.string("host")?;
            let port = r.i32("port")?;
            let rack = r.nullable_string("rack")?;
            r.skip_tags("node_endpoints")?;
            endpoints.push(NodeEndpoint {
                node_id,
                host,
                port,
                rack,
            });
        }
        Ok(endpoints)
    }
}

impl ProduceResponse {
    /// A whole response frame, size field included.
    pub fn encode_frame(&self, version: i16, correlation_id: i32) -> Result<BytesMut, WireError> {
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let mut buf = BytesMut::with_capacity(64 + 64 * self.topics.len() + 48 * partitions);
        begin_response(&mut buf, ApiKey::Produce, version, correlation_id);
        self.encode(version, &mut buf)?;
        close_frame(&mut buf, 0)?;
        Ok(buf)
    }

    /// Appends the body of a response.
    pub fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), WireError> {
        served(version)?;
        let mut w = Writer::new(buf, ApiKey::Produce.is_flexible(version));
        w.length(Some(self.topics.len()));
        for topic in &self.topics {
            write_topic(version, &mut w, &topic.name, &topic.topic_id);
            w.length(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                partition.encode(version, &mut w);
            }
            w.no_tags();
        }
        w.i32(self.throttle_time_ms);
        if version >= 10 && !self.node_endpoints.is_empty() {
            w.tag_count(1);
            w.tag(0, |w| NodeEndpoint::encode_all(&self.node_endpoints, w));
        } else {
            w.no_tags();
        }
        Ok(())
    }

    /// Decodes the body of a response.
    pub fn decode(version: i16, body: &Bytes) -> Result<ProduceResponse, WireError> {
        served(version)?;
        let mut r = Reader::new(body, ApiKey::Produce.is_flexible(version));
        let count = r.array("responses", 2)?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, topic_id) = read_topic(version, &mut r)?;
            let count = r.array("partition_responses", 22)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(ProducePartitionResponse::decode(version, &mut r)?);
            }
            r.skip_tags("responses")?;
            topics.push(ProduceTopicResponse {
                name,
                topic_id,
                partitions,
            });
        }
        let throttle_time_ms = r.i32("throttle_time_ms")?;
        let mut node_endpoints = Vec::new();
        r.tags("produce response", |tag, r| {
            if tag == 0 && version >= 10 {
                node_endpoints = NodeEndpoint::decode_all(r)?;
            }
            Ok(())
        })?;
        Ok(ProduceResponse {
            topics,
            throttle_time_ms,
            node_endpoints,
        })
    }
}

impl ProducePartitionResponse {
    fn encode(&self, version: i16, w: &mut Writer<'_>) {
        w.i32(self.index);
        w.i16(self.error_code.code());
        w.i64(self.base_offset);
        w.i64(self.log_append_time_ms);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        if version >= 8 {
            w.length(Some(self.record_errors.len()));
            for error in &self.record_errors {
                w.i32(error.batch_index);
                w.nullable_string(error.message.as_deref());
                w.no_tags();
            }
            w.nullable_string(self.error_message.as_deref());
        }
        match self.current_leader.filter(LeaderIdAndEpoch::is_set) {
            Some(leader) if version >= 10 => {
                w.tag_count(1);
                w.tag(0, |w| leader.encode(w));
            }
            _ => w.no_tags(),
        }
    }

    fn decode(version: i16, r: &mut Reader<'_>) -> Result<ProducePartitionResponse, WireError> {
        let mut partition = ProducePartitionResponse {
            index: r.i32("index")?,
            error_code: ErrorCode::from_code(r.i16("error_code")?),
            base_offset: r.i64("base_offset")?,
            log_append_time_ms: r.i64("log_append_time_ms")?,
            ..ProducePartitionResponse::default()
        };
        if version >= 5 {
            partition.log_start_offset = r.i64("log_start_offset")?;
        }
        if version >= 8 {
            let count = r.array("record_errors", 5)?;
            partition.record_errors.reserve_exact(count);
            for _ in 0..count {
                let batch_index = r.i32("batch_index")?;
                let message = r.nullable_string("batch_index_error_message")?;
                r.skip_tags("record_errors")?;
                partition.record_errors.push(RecordError {
                    batch_index,
                    message,
                });
            }
            partition.error_message = r.nullable_string("error_message")?;
        }
        r.tags("partition_responses", |tag, r| {
            if tag == 0 && version >= 10 {
                partition.current_leader = LeaderIdAndEpoch::decode(r)?;
            }
            Ok(())
        })?;
        Ok(partition)
    }
}

fn served(version: i16) -> Result<(), WireError> {
    match ApiKey::Produce.serves(version) {
        true => Ok(()),
        false => Err(WireError::unsupported(
            "produce",
            ApiKey::Produce.number(),
            version,
        )),
    }
}

fn read_topic(version: i16, r: &mut Reader<'_>) -> Result<(WireStr, TopicId), WireError> {
    Ok(match version >= TOPIC_ID_VERSION {
        true => (WireStr::default(), r.uuid("topic_id")?),
        false => (r.string("name")?, NO_TOPIC_ID),
    })
}

fn write_topic(version: i16, w: &mut Writer<'_>, name: &WireStr, topic_id: &TopicId) {
    match version >= TOPIC_ID_VERSION {
        true => w.uuid(topic_id),
        false => w.string(name),
    }
}
