//! The errors clients see: R13.

use bytes::Bytes;
use corelog_net::api_versions::ApiVersionsAnswer;
use corelog_net::cold::ColdMessage;
use corelog_net::cold::messages::api_versions_response::ApiVersionsResponseData;
use corelog_net::error_code::ErrorCode;
use corelog_net::wire::TopicId;
use corelog_record::batch::{ATTRIBUTES_OFFSET, CRC_OFFSET, MAGIC_OFFSET, crc32c};
use corelog_record::codec::Codec;

use crate::common::requests::{fetch_request, produce_request};
use crate::common::*;

/// Versions of Produce and Fetch that go by topic id.
const BY_ID: i16 = 13;

#[test]
fn r13_unknown_topics_and_partitions() {
    let dir = DataDir::new("r13-unknown");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let unknown = ErrorCode::UnknownTopicOrPartition;
    for (topic, partition) in [("missing", 0), ("t", 2), ("t", -1), ("", 0)] {
        assert_eq!(
            client.produce_error(topic, partition, text_batch(&["x"])),
            unknown
        );
        assert_eq!(client.fetch(topic, partition, 0).error_code, unknown);
        let listed = client.list_offset(topic, partition, -1);
        assert_eq!(ErrorCode::from_code(listed.error_code), unknown);
    }
    assert_eq!(client.delete_topic("missing"), unknown);
    assert!(
        unknown.retriable(),
        "clients ask for metadata and try again"
    );
    let errors = broker.metric(
        "corelog_errors_total",
        &["Produce", "UNKNOWN_TOPIC_OR_PARTITION"],
    );
    assert_eq!(errors, 4);
}

fn by_id(client: &mut Connection, id: TopicId) -> (ErrorCode, ErrorCode) {
    let mut produce = produce_request("", 0, 1, text_batch(&["x"]));
    produce.topics[0].topic_id = id;
    let sent = client.send_produce(BY_ID, &produce);
    let produced = client.produced(sent).topics[0].partitions[0].error_code;
    let mut fetch = fetch_request("", 0, 0);
    fetch.topics[0].topic_id = id;
    let sent = client.send_fetch(BY_ID, &fetch);
    (
        produced,
        client.fetched(sent).topics[0].partitions[0].error_code,
    )
}

#[test]
fn r13_a_topic_made_again_has_another_id_and_starts_from_nothing() {
    let dir = DataDir::new("r13-id");
    let broker = dir.start(2);
    let mut client = broker.connect();
    let unknown = (ErrorCode::UnknownTopicId, ErrorCode::UnknownTopicId);
    let none = (ErrorCode::None, ErrorCode::None);
    let first = client.create_topic("t", 2, &[]);
    assert_eq!(by_id(&mut client, first), none);
    assert_eq!(client.delete_topic("t"), ErrorCode::None);
    assert_eq!(by_id(&mut client, first), unknown);
    let second = client.create_topic("t", 2, &[]);
    assert_ne!(second, first);
    assert_eq!(by_id(&mut client, first), unknown);
    assert_eq!(client.read_all("t", 0), [], "nothing of the first topic");
    assert_eq!(by_id(&mut client, second), none);
    assert_eq!(client.produce("t", 0, text_batch(&["y"])), 1);
    broker.kill();
    let broker = dir.start(2);
    let mut client = broker.connect();
    assert_eq!(by_id(&mut client, first), unknown);
    assert_eq!(texts(&client.read_all("t", 0)), ["x", "y"]);
}

#[test]
fn r13_a_message_too_large_is_refused_and_the_connection_lives() {
    let dir = DataDir::new("r13-large");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("max.message.bytes", "10000")]);
    let of_size = |size| {
        let row = Row {
            timestamp: now_ms(),
            value: Some(noise(3, size)),
            ..Row::default()
        };
        batch(Codec::None, &[row])
    };
    let overhead = of_size(9000).len() - 9000;
    let too_large = of_size(10_001 - overhead);
    assert_eq!(too_large.len(), 10_001);
    assert_eq!(
        client.produce_error("t", 0, too_large),
        ErrorCode::MessageTooLarge
    );
    assert_eq!(client.produce("t", 0, of_size(10_000 - overhead)), 0);
    client.set_config(TOPIC, "t", "max.message.bytes", "20000");
    assert_eq!(client.produce("t", 0, of_size(15_000)), 1);
    assert_eq!(
        client.produce_error("t", 0, of_size(5 << 20)),
        ErrorCode::MessageTooLarge
    );
    assert_eq!(client.read_all("t", 0).len(), 2);
}

#[test]
fn r13_topics_that_cannot_be_created() {
    let dir = DataDir::new("r13-create");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t.1", 1, &[]);
    let long = "x".repeat(250);
    let names = ["", ".", "..", "a b", "a/b", "ä", "t_1", long.as_str()];
    for name in names {
        let answer = client.try_create_topic(name, 1, 1, &[]);
        let code = ErrorCode::from_code(answer.error_code);
        assert_eq!(
            code,
            ErrorCode::InvalidTopicException,
            "{name:?}: {answer:?}"
        );
        assert!(answer.error_message.is_some());
    }
    let mut refuse = |name: &str, partitions, factor, expected| {
        let answer = client.try_create_topic(name, partitions, factor, &[]);
        assert_eq!(
            ErrorCode::from_code(answer.error_code),
            expected,
            "{answer:?}"
        );
    };
    refuse("t.1", 1, 1, ErrorCode::TopicAlreadyExists);
    refuse("u", 0, 1, ErrorCode::InvalidPartitions);
    refuse("u", -2, 1, ErrorCode::InvalidPartitions);
    refuse("u", 1, 3, ErrorCode::InvalidReplicationFactor);
    refuse("u", 1, 0, ErrorCode::InvalidReplicationFactor);
    let all = client.metadata(None, false);
    assert_eq!(all.topics.len(), 1, "nothing was made: {all:?}");
    let defaults = client.try_create_topic("u", -1, -1, &[]);
    assert_eq!(
        (defaults.num_partitions, defaults.replication_factor),
        (1, 1)
    );
    assert_eq!(client.create_topic(&"y".repeat(249), 1, &[]).len(), 16);
}

#[test]
fn r13_invalid_configs_name_key_value_and_bound() {
    let dir = DataDir::new("r13-config");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let cases = [
        ("segment.bytes", "1000", "1048576"),
        ("max.message.bytes", "-5", "0"),
        ("flush.messages", "0", "1"),
        ("min.insync.replicas", "0", "1"),
        ("cleanup.policy", "burn", "compact"),
        ("message.timestamp.type", "Never", "CreateTime"),
        ("retention.ms", "soon", "number"),
    ];
    for (key, value, bound) in cases {
        let created = client.try_create_topic("u", 1, 1, &[(key, value)]);
        let message = created.error_message.map(|text| text.to_string());
        let created = (
            ErrorCode::from_code(created.error_code),
            message.unwrap_or_default(),
        );
        let altered = client.alter_config(TOPIC, "t", key, Some(value));
        for (code, message) in [created, altered] {
            assert_eq!(code, ErrorCode::InvalidConfig, "{key}={value}: {message}");
            for part in [key, value, bound] {
                assert!(message.contains(part), "{part:?} in {message:?}");
            }
        }
    }
    let (code, message) = client.alter_config(TOPIC, "t", "no.such.key", Some("1"));
    assert_eq!(code, ErrorCode::InvalidConfig);
    assert!(message.contains("no.such.key"), "{message}");
    let (code, _) = client.alter_config(TOPIC, "missing", "flush.messages", Some("1"));
    assert_eq!(code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(client.metadata(None, false).topics.len(), 1);
}

fn with_byte(batch: &Bytes, at: usize, change: impl Fn(u8) -> u8, fix_crc: bool) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at] = change(bytes[at]);
    if fix_crc {
        let crc = crc32c(&bytes[ATTRIBUTES_OFFSET..]);
        bytes[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&crc.to_be_bytes());
    }
    Bytes::from(bytes)
}

#[test]
fn r13_batches_that_are_not_valid_append_nothing() {
    let dir = DataDir::new("r13-batches");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.create_topic("compacted", 1, &[("cleanup.policy", "compact")]);
    let good = text_batch(&["one", "two"]);
    let last = good.len() - 1;
    let corrupt = ErrorCode::CorruptMessage;
    let invalid = ErrorCode::InvalidRecord;
    let far = batch(
        Codec::None,
        &[value(now_ms() + 10 * 86_400_000, "from the future")],
    );
    let cases = [
        (
            "a flipped byte",
            with_byte(&good, last, |b| b ^ 1, false),
            corrupt,
        ),
        (
            "a flipped checksum",
            with_byte(&good, CRC_OFFSET, |b| b ^ 1, false),
            corrupt,
        ),
        (
            "a count too high",
            with_byte(&good, 60, |_| 9, true),
            invalid,
        ),
        (
            "a control batch",
            with_byte(&good, ATTRIBUTES_OFFSET + 1, |b| b | 0x20, true),
            invalid,
        ),
        (
            "two batches",
            [good.clone(), good.clone()].concat().into(),
            invalid,
        ),
        (
            "another codec",
            with_byte(&good, ATTRIBUTES_OFFSET + 1, |b| b | 7, true),
            ErrorCode::UnsupportedCompressionType,
        ),
        (
            "a timestamp of the future",
            far,
            ErrorCode::InvalidTimestamp,
        ),
    ];
    for (what, records, expected) in cases {
        assert_eq!(client.produce_error("t", 0, records), expected, "{what}");
    }
    // What exactly is said of these depends on where the bytes stop making sense.
    let more = [
        ("nothing", Bytes::new()),
        ("the first half", good.slice(..good.len() / 2)),
        ("a byte too many", [&good[..], &[0]].concat().into()),
        ("magic 0", with_byte(&good, MAGIC_OFFSET, |_| 0, false)),
        ("magic 3", with_byte(&good, MAGIC_OFFSET, |_| 3, false)),
    ];
    for (what, records) in more {
        let code = client.produce_error("t", 0, records);
        assert!(
            ![ErrorCode::None, ErrorCode::UnknownServerError].contains(&code),
            "{what}: {code}"
        );
    }
    let answer = client.produce_acks("compacted", 0, 1, good.clone());
    assert_eq!(answer.error_code, invalid, "records without keys");
    let indexes: Vec<_> = answer.record_errors.iter().map(|e| e.batch_index).collect();
    assert_eq!(indexes, [0, 1], "each such record is named");
    assert_eq!(
        client.produce("t", 0, good),
        0,
        "refused batches took no offsets"
    );
}

#[test]
fn r13_fetching_outside_the_log() {
    let dir = DataDir::new("r13-range");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["a", "b"]));
    for offset in [3, 1000, i64::MAX, -1, i64::MIN] {
        assert_eq!(
            client.fetch("t", 0, offset).error_code,
            ErrorCode::OffsetOutOfRange,
            "{offset}"
        );
    }
    let end = client.fetch("t", 0, 2);
    assert_eq!((end.error_code, end.high_watermark), (ErrorCode::None, 2));
    assert!(end.record_bytes().is_empty());
    let mut fenced = fetch_request("t", 0, 0);
    fenced.topics[0].partitions[0].current_leader_epoch = 1000;
    let sent = client.send_fetch(12, &fenced);
    let code = client.fetched(sent).topics[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::UnknownLeaderEpoch);
}

#[test]
fn r13_an_api_versions_request_of_the_future_is_answered_in_version_0() {
    let dir = DataDir::new("r13-versions");
    let broker = dir.start(1);
    let mut client = broker.connect();
    // size, api key 18, version 99, correlation id 7, client id null, and a body nobody knows
    let mut frame = vec![0, 0, 0, 15, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff];
    frame.extend([9, 9, 9, 9, 9]);
    client.send_bytes(&frame).unwrap();
    let answer = client.try_receive().expect("an answer");
    assert_eq!(answer[..4], [0, 0, 0, 7]);
    let body = ApiVersionsResponseData::decode(0, &answer.slice(4..)).unwrap();
    assert_eq!(
        ErrorCode::from_code(body.error_code),
        ErrorCode::UnsupportedVersion
    );
    let apis: Vec<_> = body.api_keys.iter().map(|row| row.api_key).collect();
    assert!(apis.contains(&18), "{apis:?}");
    assert!(!ApiVersionsAnswer::default().apis.is_empty());
    client.create_topic("lives", 1, &[]);
}
