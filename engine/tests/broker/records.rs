//! What is in a record, codecs, offsets by time: R03, R14, R24.

use corelog_net::error_code::ErrorCode;
use corelog_record::batch::{ATTRIBUTES_OFFSET, BatchView, MAGIC_OFFSET, TimestampType};
use corelog_record::codec::Codec;

use crate::common::*;

fn kinds_of_records(now: i64) -> Vec<Row> {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let header = |number: usize| {
        let value = (!number.is_multiple_of(3)).then(|| noise(number as u64, number));
        (format!("header-{number}").into_bytes(), value)
    };
    let row = |key, value, headers| Row {
        timestamp: now,
        key,
        value,
        headers,
        ..Row::default()
    };
    vec![
        row(bytes("key"), bytes("value"), Vec::new()),
        row(None, bytes("null key"), Vec::new()),
        row(bytes("null value"), None, Vec::new()),
        row(None, None, Vec::new()),
        row(bytes(""), bytes(""), vec![(Vec::new(), bytes(""))]),
        row(
            bytes("64 headers"),
            bytes("v"),
            (0..64).map(header).collect(),
        ),
        row(
            bytes("the same name twice"),
            Some(vec![0, 255, 0, 128]),
            vec![header(1), header(1), header(3)],
        ),
    ]
}

#[test]
fn r03_bytes_in_are_bytes_out() {
    let dir = DataDir::new("r03");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("max.message.bytes", "2000000")]);
    let now = now_ms();
    let mut sent = kinds_of_records(now);
    for (number, row) in sent.iter_mut().enumerate() {
        // Timestamps need not grow.
        row.timestamp = now - [0, 7, 3, 60_000, 1, 2, 5][number];
    }
    let small = batch(Codec::None, &sent);
    let large = Row {
        timestamp: now,
        key: Some(noise(1, 1000)),
        value: Some(noise(2, 1 << 20)),
        ..Row::default()
    };
    let one = batch(Codec::None, std::slice::from_ref(&large));
    assert_eq!(client.produce("t", 0, small.clone()), 0);
    assert_eq!(client.produce("t", 0, one.clone()), sent.len() as i64);
    sent.push(large);
    for (offset, row) in sent.iter_mut().enumerate() {
        row.offset = offset as i64;
    }
    assert!(client.read_all("t", 0) == sent);
    // From the magic on, a batch is served as it came: base offset and leader epoch stand before.
    let fetched = client.fetch("t", 0, 0).record_bytes();
    let view = BatchView::parse(&fetched).unwrap();
    assert_eq!(view.bytes[MAGIC_OFFSET..], small[MAGIC_OFFSET..]);
    let fetched = client.fetch("t", 0, sent.len() as i64 - 1).record_bytes();
    assert!(fetched[MAGIC_OFFSET..] == one[MAGIC_OFFSET..]);
    broker.kill();
    let broker = dir.start(1);
    assert!(broker.connect().read_all("t", 0) == sent);
}

#[test]
fn r03_log_append_time_replaces_the_producers_timestamps() {
    let dir = DataDir::new("r03-time");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    client.create_topic("c", 1, &[]);
    let before = now_ms();
    for (number, codec) in [Codec::None, Codec::Lz4].into_iter().enumerate() {
        let records = batch(codec, &[value(5, "long ago"), value(6, "as well")]);
        let answer = client.produce_acks("t", 0, 1, records);
        assert_eq!(answer.error_code, ErrorCode::None, "{answer:?}");
        let stamp = answer.log_append_time_ms;
        assert!((before..=now_ms()).contains(&stamp), "{stamp}");
        let fetched = client.fetch("t", 0, 2 * number as i64).record_bytes();
        let view = BatchView::parse(&fetched).unwrap();
        assert_eq!(view.header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(view.header.max_timestamp, stamp);
        assert!(
            parse_rows(&fetched)
                .iter()
                .all(|row| row.timestamp == stamp)
        );
    }
    let created = client.produce_acks("c", 0, 1, batch(Codec::None, &[value(before, "x")]));
    assert_eq!(created.log_append_time_ms, -1);
    assert_eq!(client.read_all("c", 0)[0].timestamp, before);
}

#[test]
fn r14_batches_of_every_codec_are_stored_and_served_as_made() {
    let dir = DataDir::new("r14");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 5, &[]);
    let now = now_ms();
    let mut sent = kinds_of_records(now);
    for number in 0..50u64 {
        let mut text = noise(number % 3, 100);
        text.extend([b'a'; 400]);
        sent.push(Row {
            timestamp: now + number as i64,
            value: Some(text),
            ..Row::default()
        });
    }
    for (offset, row) in sent.iter_mut().enumerate() {
        row.offset = offset as i64;
    }
    for (partition, codec) in (0..).zip(Codec::ALL) {
        let made = batch(codec, &sent);
        assert_eq!(
            client.produce("t", partition, made.clone()),
            0,
            "{}",
            codec.name()
        );
        let fetched = client.fetch("t", partition, 0).record_bytes();
        assert!(
            fetched[MAGIC_OFFSET..] == made[MAGIC_OFFSET..],
            "{}",
            codec.name()
        );
        assert_eq!(fetched[ATTRIBUTES_OFFSET + 1] & 7, codec.id());
        assert!(client.read_all("t", partition) == sent, "{}", codec.name());
    }
}

#[test]
fn r24_offsets_by_timestamp_and_at_both_ends() {
    let dir = DataDir::new("r24");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let found = |client: &mut Connection, timestamp| {
        let answer = client.list_offset("t", 1, timestamp);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        (answer.offset, answer.timestamp)
    };
    for (empty, expected) in [(-1, 0), (-2, 0), (-3, -1), (0, -1)] {
        assert_eq!(
            found(&mut client, empty),
            (expected, -1),
            "{empty} of an empty log"
        );
    }
    let start = now_ms() - 100_000;
    // Timestamps 0, 10, 20, ...: batches of 4, every second one compressed; the last goes back.
    let times: Vec<i64> = (0..39).map(|n| start + n * 10).chain([start + 5]).collect();
    for (number, chunk) in times.chunks(4).enumerate() {
        let codec = if number % 2 == 0 {
            Codec::None
        } else {
            Codec::Gzip
        };
        let rows: Vec<_> = chunk.iter().map(|&time| value(time, "x")).collect();
        client.produce("t", 1, batch(codec, &rows));
    }
    assert_eq!(found(&mut client, -1), (40, -1));
    assert_eq!(found(&mut client, -2), (0, -1));
    assert_eq!(found(&mut client, -3), (38, start + 380));
    assert_eq!(found(&mut client, 0), (0, start));
    assert_eq!(found(&mut client, start + 101), (11, start + 110));
    assert_eq!(found(&mut client, start + 110), (11, start + 110));
    assert_eq!(found(&mut client, start + 371), (38, start + 380));
    assert_eq!(found(&mut client, start + 381), (-1, -1));
    let unknown = client.list_offset("t", 9, -1);
    assert_eq!(
        ErrorCode::from_code(unknown.error_code),
        ErrorCode::UnknownTopicOrPartition
    );
    broker.kill();
    let broker = dir.start(2);
    let mut client = broker.connect();
    assert_eq!(found(&mut client, -3), (38, start + 380));
    assert_eq!(found(&mut client, start + 101), (11, start + 110));
}
