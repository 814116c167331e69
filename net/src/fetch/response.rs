//! The Fetch response: scatter encoder for the broker, decoder for the client.

use bytes::{Bytes, BytesMut};

use super::{read_topic, served, write_topic};
use crate::api::ApiKey;
use crate::error_code::ErrorCode;
use crate::produce::{LeaderIdAndEpoch, NodeEndpoint};
use crate::response::{begin_response, close_frame};
use crate::wire::{Reader, TopicId, WireError, WireStr, Writer};

/// A Fetch response; `R` is whatever stands for record bytes: the engine's file range, or `Bytes` at the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse<R> {
    /// How long the client is muted, in milliseconds.
    pub throttle_time_ms: i32,
    /// Error of the whole fetch, such as an unknown session (sent from version 7).
    pub error_code: ErrorCode,
    /// The session, 0 = none (sent from version 7).
    pub session_id: i32,
    /// In the order of the request.
    pub topics: Vec<FetchTopicResponse<R>>,
    /// Where the leaders named in `current_leader` are (sent from version 16).
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl<R> Default for FetchResponse<R> {
    fn default() -> FetchResponse<R> {
        FetchResponse {
            throttle_time_ms: 0,
            error_code: ErrorCode::None,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

/// One topic of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTopicResponse<R> {
    /// Up to version 12; else empty.
    pub name: WireStr,
    /// From version 13; else zero.
    pub topic_id: TopicId,
    /// In the order of the request.
    pub partitions: Vec<FetchPartitionResponse<R>>,
}

/// One partition of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartitionResponse<R> {
    /// Partition number.
    pub index: i32,
    /// What became of it.
    pub error_code: ErrorCode,
    /// Committed by the in-sync replicas up to here; -1 = unknown.
    pub high_watermark: i64,
    /// No open transaction below this; -1 = unknown.
    pub last_stable_offset: i64,
    /// First offset of the log; -1 = unknown (sent from version 5).
    pub log_start_offset: i64,
    /// Where the follower's log leaves the leader's (sent from version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader to go to (sent from version 12).
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The snapshot to fetch instead (sent from version 12).
    pub snapshot_id: Option<SnapshotId>,
    /// Null for read_uncommitted.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica to read from, -1 = stay (sent from version 11).
    pub preferred_read_replica: i32,
    /// Record bytes, in order. Nothing is sent as empty records, not as null.
    pub records: Vec<RecordRange<R>>,
}

impl<R> Default for FetchPartitionResponse<R> {
    fn default() -> FetchPartitionResponse<R> {
        FetchPartitionResponse {
            index: 0,
            error_code: ErrorCode::None,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }
}

impl<R> FetchPartitionResponse<R> {
    /// Bytes of records.
    pub fn records_bytes(&self) -> usize {
        self.records.iter().map(|range| range.len).sum()
    }
}

/// Record bytes that lie somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRange<R> {
    /// Where.
    pub range: R,
    /// How many bytes, final.
    pub len: usize,
}

/// Where an epoch ends in the leader's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch; -1 = none.
    pub epoch: i32,
    /// Its end offset; -1 = none.
    pub end_offset: i64,
}

/// A snapshot of the metadata log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// First offset not in it; -1 = none.
    pub end_offset: i64,
    /// Its epoch; -1 = none.
    pub epoch: i32,
}

/// A transaction whose records a read_committed consumer skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// First offset of it in the partition.
    pub first_offset: i64,
}

/// A piece of a response, to be sent in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<R> {
    /// Bytes made here. The first part begins with the size field of the frame.
    Bytes(Bytes),
    /// Record bytes to be looked up when the socket can take them.
    Records(R, usize),
}

impl<R> Part<R> {
    /// Bytes it puts on the wire.
    pub fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Records(_, len) => *len,
        }
    }

    /// It puts nothing on the wire.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Encodes a response into parts whose sizes are final.
#[derive(Debug)]
pub struct ResponseBuilder<R> {
    version: i16,
    correlation_id: i32,
    header: BytesMut,
    holes: Vec<(usize, R, usize)>,
    records_bytes: usize,
}

impl<R> ResponseBuilder<R> {
    /// For a request of this version and correlation id.
    pub fn new(version: i16, correlation_id: i32) -> Result<ResponseBuilder<R>, WireError> {
        served(version)?;
        Ok(ResponseBuilder {
            version,
            correlation_id,
            header: BytesMut::new(),
            holes: Vec::new(),
            records_bytes: 0,
        })
    }

    /// Encodes the response. The parts make one whole frame, size field included; ranges of no length are left out.
    /// Fails when the frame would be longer than its size field can say.
    pub fn build(mut self, response: FetchResponse<R>) -> Result<Vec<Part<R>>, WireError> {
        let partitions: usize = response
            .topics
            .iter()
            .map(|topic| topic.partitions.len())
            .sum();
        self.header
            .reserve(64 + 48 * response.topics.len() + 64 * partitions);
        begin_response(
            &mut self.header,
            ApiKey::Fetch,
            self.version,
            self.correlation_id,
        );
        self.encode_body(response);
        close_frame(&mut self.header, self.records_bytes)?;
        let header = self.header.freeze();
        let mut parts = Vec::with_capacity(1 + 2 * self.holes.len());
        let mut from = 0;
        for (at, range, len) in self.holes {
            if at > from {
                parts.push(Part::Bytes(header.slice(from..at)));
                from = at;
            }
            parts.push(Part::Records(range, len));
        }
        if header.len() > from {
            parts.push(Part::Bytes(header.slice(from..)));
        }
        Ok(parts)
    }

    fn encode_body(&mut self, response: FetchResponse<R>) {
        let version = self.version;
        let flexible = ApiKey::Fetch.is_flexible(version);
        let mut w = Writer::new(&mut self.header, flexible);
        w.i32(response.throttle_time_ms);
        if version >= 7 {
            w.i16(response.error_code.code());
            w.i32(response.session_id);
        }
        w.length(Some(response.topics.len()));
        for topic in response.topics {
            let mut w = Writer::new(&mut self.header, flexible);
            write_topic(version, &mut w, &topic.name, &topic.topic_id);
            w.length(Some(topic.partitions.len()));
            for partition in topic.partitions {
                self.encode_partition(partition);
            }
            Writer::new(&mut self.header, flexible).no_tags();
        }
        let mut w = Writer::new(&mut self.header, flexible);
        if version >= 16 && !response.node_endpoints.is_empty() {
            w.tag_count(1);
            w.tag(0, |w| NodeEndpoint::encode_all(&response.node_endpoints, w));
        } else {
            w.no_tags();
        }
    }

    fn encode_partition(&mut self, partition: FetchPartitionResponse<R>) {
        let version = self.version;
        let mut w = Writer::new(&mut self.header, ApiKey::Fetch.is_flexible(version));
        w.i32(partition.index);
        w.i16(partition.error_code.code());
        w.i64(partition.high_watermark);
        w.i64(partition.last_stable_offset);
        if version >= 5 {
            w.i64(partition.log_start_offset);
        }
        w.length(partition.aborted_transactions.as_ref().map(Vec::len));
        for aborted in partition.aborted_transactions.iter().flatten() {
            w.i64(aborted.producer_id);
            w.i64(aborted.first_offset);
            w.no_tags();
        }
        if version >= 11 {
            w.i32(partition.preferred_read_replica);
        }
        let records_bytes = partition.records_bytes();
        w.length(Some(records_bytes));
        self.records_bytes = self.records_bytes.saturating_add(records_bytes);
        for RecordRange { range, len } in partition.records {
            if len > 0 {
                self.holes.push((w.buffer().len(), range, len));
            }
        }
        let diverging = partition
            .diverging_epoch
            .filter(|e| (e.epoch, e.end_offset) != (-1, -1));
        let leader = partition.current_leader.filter(LeaderIdAndEpoch::is_set);
        let snapshot = partition
            .snapshot_id
            .filter(|s| (s.end_offset, s.epoch) != (-1, -1));
        if version < 12 {
            return;
        }
        w.tag_count(
            usize::from(diverging.is_some())
                + usize::from(leader.is_some())
                + usize::from(snapshot.is_some()),
        );
        if let Some(diverging) = diverging {
            w.tag(0, |w| {
                w.i32(diverging.epoch);
                w.i64(diverging.end_offset);
                w.no_tags();
            });
        }
        if let Some(leader) = leader {
            w.tag(1, |w| leader.encode(w));
        }
        if let Some(snapshot) = snapshot {
            w.tag(2, |w| {
                w.i64(snapshot.end_offset);
                w.i32(snapshot.epoch);
                w.no_tags();
            });
        }
    }
}

impl FetchResponse<Bytes> {
    /// Decodes the body of a response; records are slices of it.
    pub fn decode(version: i16, body: &Bytes) -> Result<FetchResponse<Bytes>, WireError> {
        served(version)?;
        let mut r = Reader::new(body, ApiKey::Fetch.is_flexible(version));
        let mut response = FetchResponse {
            throttle_time_ms: r.i32("throttle_time_ms")?,
            ..FetchResponse::default()
        };
        if version >= 7 {
            response.error_code = ErrorCode::from_code(r.i16("error_code")?);
            response.session_id = r.i32("session_id")?;
        }
        let count = r.array("responses", 3)?;
        response.topics.reserve_exact(count);
        for _ in 0..count {
            let (name, topic_id) = read_topic(version, &mut r)?;
            let count = r.array("partitions", 24)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(FetchPartitionResponse::decode(version, &mut r)?);
            }
            r.skip_tags("responses")?;
            response.topics.push(FetchTopicResponse {
                name,
                topic_id,
                partitions,
            });
        }
        r.tags("fetch response", |tag, r| {
            if tag == 0 && version >= 16 {
                response.node_endpoints = NodeEndpoint::decode_all(r)?;
            }
            Ok(())
        })?;
        Ok(response)
    }
}

impl FetchPartitionResponse<Bytes> {
    /// All record bytes of the partition as one slice of the response.
    pub fn record_bytes(&self) -> Bytes {
        match self.records.as_slice() {
            [] => Bytes::new(),
            [one] => one.range.clone(),
            many => many
                .iter()
                .flat_map(|range| range.range.iter().copied())
                .collect(),
        }
    }

    fn decode(
        version: i16,
        r: &mut Reader<'_>,
    ) -> Result<FetchPartitionResponse<Bytes>, WireError> {
        let mut partition = FetchPartitionResponse {
            index: r.i32("partition_index")?,
            error_code: ErrorCode::from_code(r.i16("error_code")?),
            high_watermark: r.i64("high_watermark")?,
            last_stable_offset: r.i64("last_stable_offset")?,
            ..FetchPartitionResponse::default()
        };
        if version >= 5 {
            partition.log_start_offset = r.i64("log_start_offset")?;
        }
        if let Some(count) = r.nullable_array("aborted_transactions", 16)? {
            let mut aborted = Vec::with_capacity(count);
            for _ in 0..count {
                let producer_id = r.i64("producer_id")?;
                let first_offset = r.i64("first_offset")?;
                r.skip_tags("aborted_transactions")?;
                aborted.push(AbortedTransaction {
                    producer_id,
                    first_offset,
                });
            }
            partition.aborted_transactions = Some(aborted);
        }
        if version >= 11 {
            partition.preferred_read_replica = r.i32("preferred_read_replica")?;
        }
        if let Some(records) = r
            .nullable_bytes("records")?
            .filter(|records| !records.is_empty())
        {
            partition.records.push(RecordRange {
                len: records.len(),
                range: records,
            });
        }
        r.tags("partitions", |tag, r| {
            match tag {
                0 => {
                    let (epoch, end_offset) = (r.i32("epoch")?, r.i64("end_offset")?);
                    r.skip_tags("diverging_epoch")?;
                    partition.diverging_epoch = Some(EpochEndOffset { epoch, end_offset });
                }
                1 => partition.current_leader = LeaderIdAndEpoch::decode(r)?,
                2 => {
                    let (end_offset, epoch) = (r.i64("end_offset")?, r.i32("epoch")?);
                    r.skip_tags("snapshot_id")?;
                    partition.snapshot_id = Some(SnapshotId { end_offset, epoch });
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(partition)
    }
}
