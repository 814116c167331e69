//! Long polls, slow consumers, what consumers see: R20, R21.

use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchPartition, FetchRequest};
use corelog_record::codec::Codec;

use crate::common::connection::Sent;
use crate::common::requests::{BY_NAME, fetch_request};
use crate::common::*;

/// Longer than any wait of a test: an answer before it was not due by time.
const FOREVER_MS: i32 = 600_000;

fn waiting(topic: &str, partition: i32, offset: i64, min_bytes: usize) -> FetchRequest {
    FetchRequest {
        max_wait_ms: FOREVER_MS,
        min_bytes: min_bytes as i32,
        ..fetch_request(topic, partition, offset)
    }
}

/// Sends a Fetch and returns when the broker has taken it.
fn send_taken(broker: &Broker, client: &mut Connection, request: &FetchRequest) -> Sent {
    let taken = || broker.metric("corelog_requests_total", &["api=\"Fetch\""]);
    let before = taken();
    let sent = client.send_fetch(BY_NAME, request);
    poll("the fetch to be taken", || (taken() > before).then_some(()));
    sent
}

#[test]
fn r20_a_long_poll_is_woken_by_a_produce_on_any_connection_and_shard() {
    let dir = DataDir::new("r20-wake");
    let broker = dir.start(2);
    let mut connections = [broker.connect(), broker.connect()];
    connections[0].create_topic("t", 2, &[]);
    for partition in 0..2 {
        for consumer in 0..2 {
            let text = format!("p{partition} c{consumer}");
            let offset = consumer as i64;
            let [first, second] = &mut connections;
            let (consuming, producing) = if consumer == 0 {
                (first, second)
            } else {
                (second, first)
            };
            let sent = send_taken(&broker, consuming, &waiting("t", partition, offset, 1));
            assert!(consuming.is_silent(), "nothing to give yet");
            assert_eq!(
                producing.produce("t", partition, text_batch(&[&text])),
                offset
            );
            let answer = &consuming.fetched(sent).topics[0].partitions[0];
            assert_eq!(texts(&parse_rows(&answer.record_bytes())), [text]);
        }
    }
}

#[test]
fn r20_a_long_poll_over_partitions_of_several_shards_is_woken_by_each() {
    let dir = DataDir::new("r20-many");
    let broker = dir.start(2);
    let (mut consumer, mut producer) = (broker.connect(), broker.connect());
    producer.create_topic("t", 4, &[]);
    let mut next = [0i64; 4];
    for partition in [2usize, 1, 3, 0, 0, 3] {
        let mut request = waiting("t", 0, next[0], 1);
        request.topics[0].partitions = (0i32..)
            .zip(next)
            .map(|(index, fetch_offset)| FetchPartition {
                index,
                fetch_offset,
                max_bytes: 1 << 20,
                ..FetchPartition::default()
            })
            .collect();
        let sent = send_taken(&broker, &mut consumer, &request);
        assert!(consumer.is_silent());
        producer.produce("t", partition as i32, text_batch(&["x"]));
        next[partition] += 1;
        let answer = consumer.fetched(sent);
        let got: Vec<_> = answer.topics[0]
            .partitions
            .iter()
            .filter(|p| !p.record_bytes().is_empty())
            .map(|p| p.index)
            .collect();
        assert_eq!(got, [partition as i32]);
    }
}

#[test]
fn r20_a_fetch_waits_for_min_bytes_or_max_wait() {
    let dir = DataDir::new("r20-min");
    let broker = dir.start(2);
    let (mut consumer, mut producer) = (broker.connect(), broker.connect());
    producer.create_topic("t", 2, &[]);
    let one = text_batch(&["one"]);
    for partition in 0..2 {
        let request = waiting("t", partition, 0, one.len() + 1);
        let sent = send_taken(&broker, &mut consumer, &request);
        producer.produce("t", partition, one.clone());
        producer.produce("t", partition, one.clone());
        let answer = &consumer.fetched(sent).topics[0].partitions[0];
        assert_eq!(
            parse_rows(&answer.record_bytes()).len(),
            2,
            "one was not enough"
        );
        // By time: with what is there, and with nothing.
        for (offset, rows) in [(0, 2), (2, 0)] {
            let request = FetchRequest {
                max_wait_ms: 50,
                ..waiting("t", partition, offset, 1 << 20)
            };
            let sent = consumer.send_fetch(BY_NAME, &request);
            let answer = &consumer.fetched(sent).topics[0].partitions[0];
            assert_eq!(answer.error_code, ErrorCode::None);
            assert_eq!(parse_rows(&answer.record_bytes()).len(), rows);
        }
    }
}

#[test]
fn r20_an_error_ends_a_long_poll() {
    let dir = DataDir::new("r20-error");
    let broker = dir.start(2);
    let (mut consumer, mut admin) = (broker.connect(), broker.connect());
    admin.create_topic("t", 2, &[]);
    for (partition, offset) in [(0, 5), (1, 5), (7, 0)] {
        let sent = consumer.send_fetch(BY_NAME, &waiting("t", partition, offset, 1));
        let code = consumer.fetched(sent).topics[0].partitions[0].error_code;
        assert_ne!(code, ErrorCode::None);
    }
    // Also one that comes while it waits.
    let sent = send_taken(&broker, &mut consumer, &waiting("t", 1, 0, 1));
    assert_eq!(admin.delete_topic("t"), ErrorCode::None);
    let code = consumer.fetched(sent).topics[0].partitions[0].error_code;
    // Which of the two depends on what it sees first: its log gone, or the topic.
    let (log, topic) = (
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::UnknownTopicOrPartition,
    );
    assert!([log, topic].contains(&code), "{code}");
    assert_eq!(consumer.fetch("t", 1, 0).error_code, topic);
}

#[test]
fn r20_clients_that_leave_during_a_long_poll_are_gone_when_it_ends() {
    let dir = DataDir::new("r20-gone");
    let broker = dir.start(2);
    let mut producer = broker.connect();
    producer.create_topic("t", 2, &[]);
    for number in 0..20 {
        let mut gone = broker.connect();
        let partition = number % 2;
        let _ = send_taken(&broker, &mut gone, &waiting("t", partition, 0, 1));
    }
    for partition in 0..2 {
        assert_eq!(producer.produce("t", partition, text_batch(&["x"])), 0);
    }
    poll("abandoned connections to end", || {
        (broker.metric("corelog_connections", &[]) == 1).then_some(())
    });
    assert_eq!(producer.read_all("t", 0).len(), 1);
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 0);
}

#[test]
fn r20_a_consumer_that_does_not_read_stops_no_other() {
    let dir = DataDir::new("r20-slow");
    let broker = dir.start(1);
    let mut other = broker.connect();
    other.create_topic("t", 1, &[]);
    other.create_topic("u", 1, &[]);
    let mut sent = Vec::new();
    for number in 0..8 {
        let row = Row {
            timestamp: now_ms(),
            value: Some(noise(number, 500_000)),
            ..Row::default()
        };
        other.produce("t", 0, batch(Codec::None, std::slice::from_ref(&row)));
        sent.push(row.value);
    }
    // 80 MB asked for and not read: far more than sockets hold.
    let mut slow = broker.connect();
    let mut flight = Vec::new();
    for number in 0..160 {
        let offset = number % 8;
        flight.push((
            offset,
            slow.send_fetch(BY_NAME, &fetch_request("t", 0, offset)),
        ));
    }
    for number in 0..30 {
        assert_eq!(other.produce("u", 0, text_batch(&["x"])), number);
        assert_eq!(other.read_from("u", 0, number).len(), 1);
        assert_eq!(other.fetch("t", 0, number % 8).error_code, ErrorCode::None);
    }
    let answered = broker.metric("corelog_requests_total", &["api=\"Fetch\""]);
    assert!(
        answered < 160,
        "its requests wait in its socket: {answered}"
    );
    for (offset, fetch) in flight {
        let answer = &slow.fetched(fetch).topics[0].partitions[0];
        let row = parse_rows(&answer.record_bytes()).remove(0);
        assert!(row.offset == offset && row.value == sent[offset as usize]);
    }
}

#[test]
fn r20_a_fetch_gives_whole_batches_within_its_limits() {
    let dir = DataDir::new("r20-limits");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let row = Row {
        timestamp: now_ms(),
        value: Some(noise(1, 10_000)),
        ..Row::default()
    };
    let one = batch(Codec::None, std::slice::from_ref(&row));
    for _ in 0..5 {
        client.produce("t", 0, one.clone());
        client.produce("t", 1, one.clone());
    }
    let mut fetch = |partition_bytes: usize, max_bytes: usize| {
        let mut request = fetch_request("t", 0, 0);
        request.max_bytes = max_bytes as i32;
        let mut second = request.topics[0].partitions[0].clone();
        second.index = 1;
        request.topics[0].partitions.push(second);
        for partition in &mut request.topics[0].partitions {
            partition.max_bytes = partition_bytes as i32;
        }
        let sent = client.send_fetch(BY_NAME, &request);
        let answer = client.fetched(sent);
        let rows = |p: usize| parse_rows(&answer.topics[0].partitions[p].record_bytes()).len();
        (rows(0), rows(1))
    };
    let size = one.len();
    assert_eq!(fetch(2 * size, 100 * size), (2, 2), "by partition");
    assert_eq!(fetch(100 * size, 3 * size), (3, 0), "in all");
    assert_eq!(
        fetch(1, 1),
        (1, 0),
        "the first batch is given even when it is larger"
    );
}

#[test]
fn r21_consumers_see_records_below_the_high_watermark() {
    let dir = DataDir::new("r21");
    let broker = dir.start(2);
    let (mut producer, mut consumer) = (broker.connect(), broker.connect());
    producer.create_topic("t", 2, &[]);
    for number in 0..50 {
        for partition in 0..2 {
            let acks = if number % 2 == 0 { 1 } else { -1 };
            let answer = producer.produce_acks("t", partition, acks, text_batch(&["x"]));
            assert_eq!(answer.base_offset, number);
            let fetched = consumer.fetch("t", partition, 0);
            assert_eq!(fetched.last_stable_offset, fetched.high_watermark);
            let rows = parse_rows(&fetched.record_bytes());
            assert!(rows.len() as i64 <= fetched.high_watermark);
            if acks == -1 {
                assert_eq!(
                    fetched.high_watermark,
                    number + 1,
                    "acknowledged is committed"
                );
            }
        }
    }
    broker.kill();
    let broker = dir.start(2);
    let mut client = broker.connect();
    assert_eq!(client.fetch("t", 0, 0).high_watermark, 50);
    assert_eq!(client.list_offset("t", 1, -1).offset, 50);
}
