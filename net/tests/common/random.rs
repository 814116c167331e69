//! Messages of chance, in each version only what that version carries.

use bytes::Bytes;
use corelog_net::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchPartitionResponse, FetchRequest,
    FetchResponse, FetchTopic, FetchTopicResponse, ForgottenTopic, LeaderIdAndEpoch, NodeEndpoint,
    RecordRange, SnapshotId,
};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse, RecordError,
};
use corelog_net::wire::NO_TOPIC_ID;
use corelog_net::{ErrorCode, TopicId, WireStr};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = WireStr> {
    prop_oneof![8 => "[a-zA-Z0-9._-]{0,20}", 1 => "\\PC{0,12}", 1 => "x{120,300}"]
        .prop_map(WireStr::from)
}

fn blob() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 120..400)].prop_map(Bytes::from)
}

fn error() -> impl Strategy<Value = ErrorCode> {
    select(ErrorCode::ALL)
}

fn leader() -> impl Strategy<Value = Option<LeaderIdAndEpoch>> {
    option::of(
        (0i32.., any::<i32>()).prop_map(|(leader_id, leader_epoch)| LeaderIdAndEpoch {
            leader_id,
            leader_epoch,
        }),
    )
}

/// Ids are unique: in Kafka's schema the node id is a map key.
fn nodes() -> impl Strategy<Value = Vec<NodeEndpoint>> {
    vec((text(), any::<i32>(), option::of(text())), 0..3).prop_map(|nodes| {
        let endpoint = |(id, (host, port, rack))| NodeEndpoint {
            node_id: id as i32,
            host,
            port,
            rack,
        };
        nodes.into_iter().enumerate().map(endpoint).collect()
    })
}

fn topic(version: i16, topic_id_version: i16) -> impl Strategy<Value = (WireStr, TopicId)> {
    (text(), any::<TopicId>()).prop_map(move |(name, id)| match version >= topic_id_version {
        true => (WireStr::default(), id),
        false => (name, NO_TOPIC_ID),
    })
}

pub fn produce_request(version: i16) -> impl Strategy<Value = ProduceRequest> {
    let partition = (any::<i32>(), option::of(blob()))
        .prop_map(|(index, records)| ProducePartition { index, records });
    let topic =
        (topic(version, 13), vec(partition, 0..4)).prop_map(|((name, topic_id), partitions)| {
            ProduceTopic {
                name,
                topic_id,
                partitions,
            }
        });
    (
        option::of(text()),
        any::<i16>(),
        any::<i32>(),
        vec(topic, 0..4),
    )
        .prop_map(
            |(transactional_id, acks, timeout_ms, topics)| ProduceRequest {
                transactional_id,
                acks,
                timeout_ms,
                topics,
            },
        )
}

fn produce_partition_response(version: i16) -> impl Strategy<Value = ProducePartitionResponse> {
    let record_error =
        (any::<i32>(), option::of(text())).prop_map(|(batch_index, message)| RecordError {
            batch_index,
            message,
        });
    let fixed = (
        any::<i32>(),
        error(),
        any::<i64>(),
        any::<i64>(),
        any::<i64>(),
    );
    (fixed, vec(record_error, 0..3), option::of(text()), leader()).prop_map(
        move |(
            (index, error_code, base_offset, log_append_time_ms, log_start_offset),
            errors,
            message,
            leader,
        )| {
            ProducePartitionResponse {
                index,
                error_code,
                base_offset,
                log_append_time_ms,
                log_start_offset: if version >= 5 { log_start_offset } else { -1 },
                record_errors: if version >= 8 { errors } else { vec![] },
                error_message: message.filter(|_| version >= 8),
                current_leader: leader.filter(|_| version >= 10),
            }
        },
    )
}

pub fn produce_response(version: i16) -> impl Strategy<Value = ProduceResponse> {
    let topic = (
        topic(version, 13),
        vec(produce_partition_response(version), 0..4),
    )
        .prop_map(|((name, topic_id), partitions)| ProduceTopicResponse {
            name,
            topic_id,
            partitions,
        });
    (vec(topic, 0..4), any::<i32>(), nodes()).prop_map(move |(topics, throttle_time_ms, nodes)| {
        ProduceResponse {
            topics,
            throttle_time_ms,
            node_endpoints: if version >= 10 { nodes } else { vec![] },
        }
    })
}

fn fetch_partition(version: i16) -> impl Strategy<Value = FetchPartition> {
    let ints = (any::<i32>(), any::<i32>(), any::<i32>(), any::<i32>());
    let longs = (any::<i64>(), any::<i64>(), any::<i64>());
    (ints, longs, any::<TopicId>()).prop_map(
        move |(
            (index, epoch, last_epoch, max_bytes),
            (fetch_offset, start, high_watermark),
            directory,
        )| {
            FetchPartition {
                index,
                current_leader_epoch: if version >= 9 { epoch } else { -1 },
                fetch_offset,
                last_fetched_epoch: if version >= 12 { last_epoch } else { -1 },
                log_start_offset: if version >= 5 { start } else { -1 },
                max_bytes,
                replica_directory_id: if version >= 17 {
                    directory
                } else {
                    NO_TOPIC_ID
                },
                high_watermark: if version >= 18 {
                    high_watermark
                } else {
                    i64::MAX
                },
            }
        },
    )
}

pub fn fetch_request(version: i16) -> impl Strategy<Value = FetchRequest> {
    let fetch_topic = (topic(version, 13), vec(fetch_partition(version), 0..4)).prop_map(
        |((name, topic_id), partitions)| FetchTopic {
            name,
            topic_id,
            partitions,
        },
    );
    let forgotten =
        (topic(version, 13), vec(any::<i32>(), 0..4)).prop_map(|((name, topic_id), partitions)| {
            ForgottenTopic {
                name,
                topic_id,
                partitions,
            }
        });
    let ints = (
        any::<i32>(),
        any::<i32>(),
        any::<i32>(),
        any::<i8>(),
        any::<i32>(),
        any::<i32>(),
    );
    let replica = (any::<i32>(), any::<i64>(), option::of(text()));
    (ints, replica, vec(fetch_topic, 0..4), vec(forgotten, 0..3), text()).prop_map(
        move |(ints, (replica_id, replica_epoch, cluster_id), topics, forgotten_topics, rack)| {
            let (max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch) = ints;
            FetchRequest {
                cluster_id: cluster_id.filter(|_| version >= 12),
                replica_id,
                replica_epoch: if version >= 15 { replica_epoch } else { -1 },
                max_wait_ms,
                min_bytes,
                max_bytes,
                isolation_level,
                session_id: if version >= 7 { session_id } else { 0 },
                session_epoch: if version >= 7 { session_epoch } else { -1 },
                topics,
                forgotten_topics: if version >= 7 { forgotten_topics } else { vec![] },
                rack_id: if version >= 11 { rack } else { WireStr::default() },
            }
        },
    )
}

fn fetch_partition_response(version: i16) -> impl Strategy<Value = FetchPartitionResponse<Bytes>> {
    let aborted =
        (any::<i64>(), any::<i64>()).prop_map(|(producer_id, first_offset)| AbortedTransaction {
            producer_id,
            first_offset,
        });
    let fixed = (
        any::<i32>(),
        error(),
        any::<i64>(),
        any::<i64>(),
        any::<i64>(),
        any::<i32>(),
    );
    let diverging = option::of(
        (0i32.., any::<i64>()).prop_map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
    );
    let snapshot = option::of(
        (0i64.., any::<i32>()).prop_map(|(end_offset, epoch)| SnapshotId { end_offset, epoch }),
    );
    (
        fixed,
        option::of(vec(aborted, 0..3)),
        blob(),
        diverging,
        leader(),
        snapshot,
    )
        .prop_map(
            move |(
                (index, error_code, high_watermark, stable, start, replica),
                aborted,
                records,
                diverging,
                leader,
                snapshot,
            )| {
                FetchPartitionResponse {
                    index,
                    error_code,
                    high_watermark,
                    last_stable_offset: stable,
                    log_start_offset: if version >= 5 { start } else { -1 },
                    diverging_epoch: diverging.filter(|_| version >= 12),
                    current_leader: leader.filter(|_| version >= 12),
                    snapshot_id: snapshot.filter(|_| version >= 12),
                    aborted_transactions: aborted,
                    preferred_read_replica: if version >= 11 { replica } else { -1 },
                    records: match records.len() {
                        0 => vec![],
                        len => vec![RecordRange {
                            range: records,
                            len,
                        }],
                    },
                }
            },
        )
}

pub fn fetch_response(version: i16) -> impl Strategy<Value = FetchResponse<Bytes>> {
    let topic = (
        topic(version, 13),
        vec(fetch_partition_response(version), 0..4),
    )
        .prop_map(|((name, topic_id), partitions)| FetchTopicResponse {
            name,
            topic_id,
            partitions,
        });
    (
        any::<i32>(),
        error(),
        any::<i32>(),
        vec(topic, 0..4),
        nodes(),
    )
        .prop_map(
            move |(throttle_time_ms, error_code, session_id, topics, nodes)| FetchResponse {
                throttle_time_ms,
                error_code: if version >= 7 {
                    error_code
                } else {
                    ErrorCode::None
                },
                session_id: if version >= 7 { session_id } else { 0 },
                topics,
                node_endpoints: if version >= 16 { nodes } else { vec![] },
            },
        )
}
