//! Bytes that Apache Kafka's own classes made (tests/golden/Golden.java) must decode to what went in,
//! and our encoders must make the same bytes.

mod common;

use bytes::{Bytes, BytesMut};
use common::{assemble, body_of, unhex};
use corelog_net::api_versions::{ApiVersionsAnswer, FINALIZED_FEATURES, SUPPORTED_FEATURES};
use corelog_net::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchPartitionResponse, FetchRequest,
    FetchResponse, FetchTopic, FetchTopicResponse, ForgottenTopic, LeaderIdAndEpoch, NodeEndpoint,
    RecordRange, ResponseBuilder, SnapshotId,
};
use corelog_net::frame::{RequestFrame, begin_request};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse, RecordError,
};
use corelog_net::wire::NO_TOPIC_ID;
use corelog_net::{ApiKey, ErrorCode, TopicId, WireStr};

const TOPIC: TopicId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const DIRECTORY: TopicId = [
    0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20,
];

/// The golden bodies of one message: version and bytes, every version that is served.
fn golden(message: &str) -> Vec<(i16, Bytes)> {
    let rows: Vec<_> = include_str!("golden/kafka-4.3.1.txt")
        .lines()
        .filter_map(|line| {
            line.strip_prefix(message)?
                .strip_prefix(' ')?
                .split_once(' ')
        })
        .map(|(version, hex)| (version.parse().unwrap(), unhex(hex)))
        .collect();
    assert!(!rows.is_empty(), "{message}");
    rows
}

fn assert_versions(api: ApiKey, rows: &[(i16, Bytes)]) {
    assert!(
        rows.iter().map(|row| row.0).eq(api.versions()),
        "{api}: golden bytes for each version"
    );
}

fn topic_of(version: i16, name: &'static str, id: TopicId) -> (WireStr, TopicId) {
    match version >= 13 {
        true => (WireStr::default(), id),
        false => (WireStr::from_static(name), NO_TOPIC_ID),
    }
}

#[test]
fn produce_requests_are_kafkas() {
    let rows = golden("produce_request");
    assert_versions(ApiKey::Produce, &rows);
    for (version, bytes) in rows {
        let (name, topic_id) = topic_of(version, "orders", TOPIC);
        let expected = ProduceRequest {
            transactional_id: Some(WireStr::from_static("tx-1")),
            acks: -1,
            timeout_ms: 30_000,
            topics: vec![ProduceTopic {
                name,
                topic_id,
                partitions: vec![
                    ProducePartition {
                        index: 7,
                        records: Some(Bytes::from_static(&[0, 1, 2, 3, 4, 5, 6])),
                    },
                    ProducePartition {
                        index: 8,
                        records: None,
                    },
                ],
            }],
        };
        assert_eq!(
            ProduceRequest::decode(version, &bytes).unwrap(),
            expected,
            "v{version}"
        );
        let mut buf = BytesMut::new();
        expected.encode(version, &mut buf).unwrap();
        assert_eq!(buf, bytes, "v{version}");
    }
}

#[test]
fn records_of_a_produce_request_are_slices_of_its_frame() {
    for (version, bytes) in golden("produce_request") {
        let request = ProduceRequest::decode(version, &bytes).unwrap();
        let records = request.topics[0].partitions[0].records.clone().unwrap();
        assert!(
            bytes.as_ptr_range().contains(&records.as_ptr()),
            "v{version}"
        );
    }
}

#[test]
fn produce_responses_are_kafkas() {
    let rows = golden("produce_response");
    assert_versions(ApiKey::Produce, &rows);
    for (version, bytes) in rows {
        let (name, topic_id) = topic_of(version, "orders", TOPIC);
        let ok = ProducePartitionResponse {
            index: 7,
            base_offset: 1_234_567_890_123,
            log_append_time_ms: 1_700_000_000_000,
            log_start_offset: if version >= 5 { 42 } else { -1 },
            ..Default::default()
        };
        let mut moved = ProducePartitionResponse {
            index: 8,
            error_code: ErrorCode::NotLeaderOrFollower,
            ..Default::default()
        };
        if version >= 8 {
            moved.error_message = Some("moved".into());
            moved.record_errors = vec![
                RecordError {
                    batch_index: 3,
                    message: Some("bad".into()),
                },
                RecordError {
                    batch_index: 4,
                    message: None,
                },
            ];
        }
        let mut node_endpoints = vec![];
        if version >= 10 {
            moved.current_leader = Some(LeaderIdAndEpoch {
                leader_id: 2,
                leader_epoch: 9,
            });
            node_endpoints.push(NodeEndpoint {
                node_id: 2,
                host: "b2".into(),
                port: 9092,
                rack: Some("r1".into()),
            });
        }
        let expected = ProduceResponse {
            topics: vec![ProduceTopicResponse {
                name,
                topic_id,
                partitions: vec![ok, moved],
            }],
            throttle_time_ms: 11,
            node_endpoints,
        };
        assert_eq!(
            ProduceResponse::decode(version, &bytes).unwrap(),
            expected,
            "v{version}"
        );
        let frame = expected.encode_frame(version, 77).unwrap().freeze();
        assert_eq!(
            body_of(ApiKey::Produce, version, 77, &frame),
            bytes,
            "v{version}"
        );
    }
}

#[test]
fn fetch_requests_are_kafkas() {
    let rows = golden("fetch_request");
    assert_versions(ApiKey::Fetch, &rows);
    for (version, bytes) in rows {
        let (name, topic_id) = topic_of(version, "orders", TOPIC);
        let (gone, gone_id) = topic_of(version, "gone", DIRECTORY);
        let since =
            |first: i16, value: i64, default: i64| if version >= first { value } else { default };
        let expected = FetchRequest {
            cluster_id: (version >= 12).then(|| "cluster-x".into()),
            replica_id: 3,
            replica_epoch: since(15, 17, -1),
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 52_428_800,
            isolation_level: 1,
            session_id: since(7, 55, 0) as i32,
            session_epoch: since(7, 6, -1) as i32,
            topics: vec![FetchTopic {
                name,
                topic_id,
                partitions: vec![FetchPartition {
                    index: 7,
                    current_leader_epoch: since(9, 4, -1) as i32,
                    fetch_offset: 99,
                    last_fetched_epoch: since(12, 3, -1) as i32,
                    log_start_offset: since(5, 5, -1),
                    max_bytes: 1_048_576,
                    replica_directory_id: if version >= 17 {
                        DIRECTORY
                    } else {
                        NO_TOPIC_ID
                    },
                    high_watermark: since(18, 77, i64::MAX),
                }],
            }],
            forgotten_topics: (version >= 7)
                .then(|| ForgottenTopic {
                    name: gone,
                    topic_id: gone_id,
                    partitions: vec![1, 2],
                })
                .into_iter()
                .collect(),
            rack_id: WireStr::from_static(if version >= 11 { "r1" } else { "" }),
        };
        assert_eq!(
            FetchRequest::decode(version, &bytes).unwrap(),
            expected,
            "v{version}"
        );
        let mut buf = BytesMut::new();
        expected.encode(version, &mut buf).unwrap();
        assert_eq!(buf, bytes, "v{version}");
    }
}

fn golden_fetch_response(version: i16) -> FetchResponse<Bytes> {
    let (name, topic_id) = topic_of(version, "orders", TOPIC);
    let whole = Bytes::from_static(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let full = FetchPartitionResponse {
        index: 7,
        high_watermark: 100,
        last_stable_offset: 90,
        log_start_offset: if version >= 5 { 5 } else { -1 },
        aborted_transactions: Some(vec![AbortedTransaction {
            producer_id: 1001,
            first_offset: 80,
        }]),
        preferred_read_replica: if version >= 11 { 2 } else { -1 },
        records: vec![RecordRange {
            len: whole.len(),
            range: whole,
        }],
        ..Default::default()
    };
    let tagged = version >= 12;
    let moved = FetchPartitionResponse {
        index: 8,
        error_code: ErrorCode::NotLeaderOrFollower,
        diverging_epoch: tagged.then_some(EpochEndOffset {
            epoch: 3,
            end_offset: 60,
        }),
        current_leader: tagged.then_some(LeaderIdAndEpoch {
            leader_id: 2,
            leader_epoch: 9,
        }),
        snapshot_id: tagged.then_some(SnapshotId {
            end_offset: 50,
            epoch: 1,
        }),
        ..Default::default()
    };
    FetchResponse {
        throttle_time_ms: 11,
        error_code: ErrorCode::None,
        session_id: if version >= 7 { 55 } else { 0 },
        topics: vec![FetchTopicResponse {
            name,
            topic_id,
            partitions: vec![full, moved],
        }],
        node_endpoints: (version >= 16)
            .then(|| NodeEndpoint {
                node_id: 2,
                host: "b2".into(),
                port: 9092,
                rack: None,
            })
            .into_iter()
            .collect(),
    }
}

#[test]
fn fetch_responses_are_kafkas_and_records_may_come_in_pieces() {
    let rows = golden("fetch_response");
    assert_versions(ApiKey::Fetch, &rows);
    for (version, bytes) in rows {
        let expected = golden_fetch_response(version);
        assert_eq!(
            FetchResponse::decode(version, &bytes).unwrap(),
            expected,
            "v{version}"
        );

        let parts = ResponseBuilder::new(version, 77)
            .unwrap()
            .build(expected.clone())
            .unwrap();
        assert_eq!(parts.len(), 3, "v{version}: bytes, one hole, bytes");
        assert_eq!(
            body_of(ApiKey::Fetch, version, 77, &assemble(parts)),
            bytes,
            "v{version}"
        );

        let mut pieces = expected;
        let whole = pieces.topics[0].partitions[0].records.remove(0).range;
        for (from, to) in [(0, 3), (3, 3), (3, 8)] {
            let piece = RecordRange {
                range: whole.slice(from..to),
                len: to - from,
            };
            pieces.topics[0].partitions[0].records.push(piece);
        }
        let parts = ResponseBuilder::new(version, 77)
            .unwrap()
            .build(pieces)
            .unwrap();
        assert_eq!(parts.len(), 4, "v{version}: the empty range is left out");
        assert_eq!(
            body_of(ApiKey::Fetch, version, 77, &assemble(parts)),
            bytes,
            "v{version}"
        );
    }
}

#[test]
fn api_versions_responses_are_kafkas() {
    let rows = golden("api_versions_response");
    assert_versions(ApiKey::ApiVersions, &rows);
    for (version, bytes) in rows {
        let answer = ApiVersionsAnswer {
            apis: &[ApiKey::Produce, ApiKey::ApiVersions],
            supported: SUPPORTED_FEATURES,
            finalized: FINALIZED_FEATURES,
            finalized_epoch: 8,
            throttle_time_ms: 11,
        };
        let frame = answer.encode_frame(version, 77).unwrap().freeze();
        assert_eq!(
            body_of(ApiKey::ApiVersions, version, 77, &frame),
            bytes,
            "v{version}"
        );
    }
}

#[test]
fn request_headers_are_kafkas() {
    for (header_version, bytes) in golden("request_header") {
        let version = if header_version == 1 { 8 } else { 9 };
        let mut buf = BytesMut::new();
        begin_request(&mut buf, ApiKey::Metadata, version, 77, Some("app"));
        assert_eq!(buf[4..], bytes[..], "header v{header_version}");
        let mut frame = BytesMut::from(&bytes[..]);
        frame.extend_from_slice(b"body");
        let request = RequestFrame::decode(&frame.freeze()).unwrap();
        assert_eq!(
            (request.api, request.version, request.correlation_id),
            (ApiKey::Metadata, version, 77)
        );
        assert_eq!(
            (request.client_id.as_deref(), &request.body[..]),
            (Some("app"), &b"body"[..])
        );
    }
}
