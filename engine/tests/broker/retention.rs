//! Retention, deleted records, and the delay before deleted files go: R05.

use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::batches::{batch, noise, now_ms};
use crate::common::*;

/// Retention is applied all the time, and deleted files go at once.
const EAGER: &[&str] = &[
    "log.initial.task.delay.ms=0",
    "log.retention.check.interval.ms=20",
    "log.segment.delete.delay.ms=0",
];
const HOUR_MS: i64 = 3_600_000;

/// Bytes of a record; two of them fill a segment.
const RECORD_BYTES: usize = 600_000;

/// Produces records of [`RECORD_BYTES`] at these ages; each goes into a segment of its own.
fn produce_large(client: &mut Connection, topic: &str, ages_ms: &[i64]) {
    for (at, age_ms) in (0u64..).zip(ages_ms) {
        let row = Row {
            value: Some(noise(at, RECORD_BYTES)),
            ..batches::value(now_ms() - age_ms, "")
        };
        client.produce(topic, 0, batch(corelog_record::codec::Codec::None, &[row]));
    }
}

fn earliest(client: &mut Connection, topic: &str) -> i64 {
    let found = client.list_offset(topic, 0, -2);
    assert_eq!(found.error_code, 0);
    found.offset
}

fn wait_for_start(client: &mut Connection, topic: &str, start: i64) {
    poll("the log start", || {
        let found = earliest(client, topic);
        assert!(found <= start, "{found} is past {start}");
        (found == start).then_some(())
    });
}

/// What consumers see of a log that starts at `start` and ends at `end`.
#[track_caller]
fn check_readers(client: &mut Connection, topic: &str, start: i64, end: i64) {
    let below = client.fetch(topic, 0, start - 1);
    assert_eq!(below.error_code, ErrorCode::OffsetOutOfRange);
    assert_eq!(earliest(client, topic), start);
    let rows = client.read_from(topic, 0, start);
    let offsets: Vec<i64> = rows.iter().map(|row| row.offset).collect();
    assert_eq!(offsets, (start..end).collect::<Vec<_>>());
}

#[test]
fn r05_retention_by_size_takes_whole_segments_and_holds_over_stops_and_kills() {
    let dir = DataDir::new("r05-size");
    let mut broker = dir.start_with(2, EAGER);
    let mut client = broker.connect();
    let small = [("segment.bytes", "1048576"), ("retention.ms", "-1")];
    client.create_topic("t", 1, &small);
    produce_large(&mut client, "t", &[0; 8]);
    assert_eq!(earliest(&mut client, "t"), 0, "no limit is set");
    // 8 records in 8 segments: three go before the rest would be less than allowed.
    let limit = (5 * RECORD_BYTES).to_string();
    client.set_config(TOPIC, "t", "retention.bytes", &limit);
    wait_for_start(&mut client, "t", 3);
    check_readers(&mut client, "t", 3, 8);
    poll("the files to go", || {
        (dir.files("t", 0, ".log").len() == 5 && dir.files("t", 0, ".deleted").is_empty())
            .then_some(())
    });
    for killed in [true, false, true] {
        let log = if killed { broker.kill() } else { broker.stop() };
        assert!(!log.contains("damaged=true"), "{log}");
        broker = dir.start_with(2, EAGER);
        client = broker.connect();
        check_readers(&mut client, "t", 3, 8);
    }
    assert_eq!(client.produce("t", 0, text_batch(&["goes on"])), 8);
}

#[test]
fn r05_retention_by_time_goes_by_the_records_and_empties_a_log_that_is_all_over() {
    let dir = DataDir::new("r05-time");
    let broker = dir.start_with(2, EAGER);
    let mut client = broker.connect();
    let small = [("segment.bytes", "1048576"), ("retention.ms", "-1")];
    client.create_topic("t", 1, &small);
    let ages = [5, 5, 5, 1, 5].map(|hours| hours * HOUR_MS);
    produce_large(&mut client, "t", &ages);
    let three_hours = (3 * HOUR_MS).to_string();
    client.set_config(TOPIC, "t", "retention.ms", &three_hours);
    wait_for_start(&mut client, "t", 3);
    check_readers(&mut client, "t", 3, 5);
    // All of it is over: the active segment rolls and goes too. Offsets go on.
    client.set_config(TOPIC, "t", "retention.ms", &(HOUR_MS / 2).to_string());
    wait_for_start(&mut client, "t", 5);
    assert_eq!(client.list_offset("t", 0, -1).offset, 5);
    assert!(broker.metric("corelog_retention_rolls_total", &[]) >= 1);
    assert_eq!(client.produce("t", 0, text_batch(&["young"])), 5);
    check_readers(&mut client, "t", 5, 6);
    broker.kill();
    let broker = dir.start_with(2, EAGER);
    check_readers(&mut broker.connect(), "t", 5, 6);
}

#[test]
fn r05_the_brokers_defaults_hold_and_policies_without_delete_keep_everything() {
    let dir = DataDir::new("r05-defaults");
    let defaults = [
        EAGER,
        &["log.retention.hours=2", "log.segment.bytes=1048576"],
    ]
    .concat();
    let broker = dir.start_with(1, &defaults);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.create_topic("kept", 1, &[("cleanup.policy", "")]);
    client.create_topic("long", 1, &[("retention.ms", "-1")]);
    for topic in ["kept", "long", "t"] {
        produce_large(&mut client, topic, &[9 * HOUR_MS, 9 * HOUR_MS, 0]);
    }
    wait_for_start(&mut client, "t", 2);
    assert_eq!(earliest(&mut client, "kept"), 0);
    assert_eq!(earliest(&mut client, "long"), 0);
    assert_eq!(client.read_all("kept", 0).len(), 3);
}

#[test]
fn r05_deleted_records_are_gone_for_every_reader_and_after_kill_9() {
    let dir = DataDir::new("r05-delete");
    let mut broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for number in 0..20 {
        client.produce("t", 0, text_batch(&[&number.to_string()]));
    }
    let none = ErrorCode::None;
    assert_eq!(client.delete_records("t", 0, 7), (7, none));
    check_readers(&mut client, "t", 7, 20);
    assert_eq!(client.delete_records("t", 0, 3), (7, none), "never back");
    assert_eq!(client.list_offset("t", 0, 0).offset, 7, "by time too");
    for (offset, start) in [(7, 7), (12, 12), (15, 15)] {
        assert_eq!(client.delete_records("t", 0, offset), (start, none));
        let _killed = broker.kill(); // right after the answer
        broker = dir.start(2);
        client = broker.connect();
        check_readers(&mut client, "t", start, 20);
    }
    // All of it: -1 is the high watermark.
    assert_eq!(client.delete_records("t", 0, -1), (20, none));
    assert_eq!(client.delete_records("t", 1, -1), (0, none));
    broker.stop();
    let broker = dir.start(2);
    let mut client = broker.connect();
    check_readers(&mut client, "t", 20, 20);
    assert_eq!(client.produce("t", 0, text_batch(&["next"])), 20);
}

#[test]
fn r13_records_are_not_deleted_where_kafka_does_not() {
    let dir = DataDir::new("r13-delete");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.create_topic("compacted", 1, &[("cleanup.policy", "compact")]);
    client.create_topic("both", 1, &[("cleanup.policy", "compact,delete")]);
    client.create_topic("neither", 1, &[("cleanup.policy", "")]);
    client.produce("t", 0, text_batch(&["a", "b"]));
    client.find_coordinator(&broker, "g");
    let refused = [
        ("t", 0, 3, ErrorCode::OffsetOutOfRange),
        ("t", 0, -2, ErrorCode::OffsetOutOfRange),
        ("t", 1, 0, ErrorCode::UnknownTopicOrPartition),
        ("nope", 0, 0, ErrorCode::UnknownTopicOrPartition),
        ("compacted", 0, 0, ErrorCode::PolicyViolation),
        ("__consumer_offsets", 0, 0, ErrorCode::InvalidTopicException),
    ];
    for (topic, partition, offset, error) in refused {
        let found = client.delete_records(topic, partition, offset);
        assert_eq!(found, (-1, error), "{topic}-{partition} at {offset}");
    }
    let none = ErrorCode::None;
    for topic in ["both", "neither"] {
        assert_eq!(client.delete_records(topic, 0, 0), (0, none), "{topic}");
    }
    assert_eq!(client.read_all("t", 0).len(), 2);
    // Several partitions at once, and a time-out that leaves no time for other replicas.
    let mut request = requests::deletion("t", &[(0, 1), (5, 1)]);
    request.timeout_ms = 0;
    let answer = client.call(&request);
    let found: Vec<_> = answer.topics[0].partitions.iter().collect();
    assert_eq!((found[0].low_watermark, found[0].error_code), (1, 0));
    assert_eq!(
        (found[1].low_watermark, found[1].error_code),
        (-1, ErrorCode::UnknownTopicOrPartition.code())
    );
}

#[test]
fn r05_a_topic_made_again_does_not_begin_where_the_old_one_began() {
    let dir = DataDir::new("r05-again");
    let mut broker = dir.start(2);
    for stopped in [true, false] {
        let mut client = broker.connect();
        client.create_topic("t", 1, &[]);
        client.produce("t", 0, text_batch(&["a", "b", "c"]));
        assert_eq!(client.delete_records("t", 0, 2), (2, ErrorCode::None));
        assert_eq!(client.delete_topic("t"), ErrorCode::None);
        client.create_topic("t", 1, &[]);
        client.produce("t", 0, text_batch(&["d", "e", "f"]));
        let _log = if stopped {
            broker.stop()
        } else {
            broker.kill()
        };
        broker = dir.start(2);
        let mut client = broker.connect();
        assert_eq!(client.read_all("t", 0).len(), 3);
        assert_eq!(client.delete_topic("t"), ErrorCode::None);
    }
}

#[test]
fn r61_lag_counts_records_that_are_still_there() {
    let dir = DataDir::new("r61-lag");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["a", "b", "c", "d", "e"]));
    client.find_coordinator(&broker, "g");
    assert_eq!(client.commit("g", "t", 0, 1), ErrorCode::None);
    let lag = || broker.metric("corelog_group_lag", &["group=\"g\"", "topic=\"t\""]);
    assert_eq!(lag(), 4);
    assert_eq!(client.delete_records("t", 0, 3), (3, ErrorCode::None));
    assert_eq!(lag(), 2);
}

#[test]
fn r05_deleted_files_keep_their_bytes_for_the_delay_and_not_over_a_start() {
    let dir = DataDir::new("r05-delay");
    let slow = [
        "log.initial.task.delay.ms=0",
        "log.retention.check.interval.ms=20",
    ];
    let broker = dir.start_with(1, &slow);
    let mut client = broker.connect();
    let small = [("segment.bytes", "1048576"), ("retention.bytes", "0")];
    client.create_topic("t", 1, &small);
    client.create_topic("u", 1, &[]);
    client.produce("u", 0, text_batch(&["a"]));
    produce_large(&mut client, "t", &[0; 4]);
    wait_for_start(&mut client, "t", 4);
    assert_eq!(dir.files("t", 0, ".log.deleted").len(), 4);
    assert_eq!(client.delete_topic("u"), ErrorCode::None);
    let doomed = || {
        let entries = blocking::read_dir(dir.logs()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with("-delete")).count()
    };
    assert_eq!(doomed(), 1);
    broker.kill();
    let _broker = dir.start_with(1, &slow);
    poll("the deleted files to go", || {
        (doomed() == 0 && dir.files("t", 0, ".deleted").is_empty()).then_some(())
    });
}
