//! Topics that choose the codec of their batches, and the clock of their records: R14, R03, R52.

use corelog_net::error_code::ErrorCode;
use corelog_record::batch::{BatchIter, BatchView};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;

use crate::common::batches::fill;
use crate::common::requests::produce_request;
use crate::common::*;

/// `compression.type` and the codec it makes; none for what the producer chose.
const TYPES: [(&str, Option<Codec>); 6] = [
    ("producer", None),
    ("uncompressed", Some(Codec::None)),
    ("gzip", Some(Codec::Gzip)),
    ("snappy", Some(Codec::Snappy)),
    ("lz4", Some(Codec::Lz4)),
    ("zstd", Some(Codec::Zstd)),
];

fn rows(count: u64, seed: u64) -> Vec<Row> {
    let now = now_ms();
    let row = |number| Row {
        timestamp: now - 500 + number as i64,
        key: Some(format!("{seed}-{number}").into_bytes()),
        value: Some([noise(seed + number % 3, 40), vec![b'a'; 200]].concat()),
        headers: vec![(b"h".to_vec(), None)],
        ..Row::default()
    };
    (0..count).map(row).collect()
}

/// The codecs of the batches of a partition.
fn codecs(client: &mut Connection, topic: &str) -> Vec<Codec> {
    let mut codecs = Vec::new();
    let mut offset = 0;
    loop {
        let bytes = client.fetch(topic, 0, offset).record_bytes();
        if bytes.is_empty() {
            return codecs;
        }
        for item in BatchIter::new(&bytes) {
            let (_, header, batch) = item.unwrap();
            assert!(BatchView::parse(batch).unwrap().crc_ok());
            codecs.push(header.codec().unwrap());
            offset = header.next_offset();
        }
    }
}

#[test]
fn r14_topics_store_batches_with_the_codec_they_name() {
    let dir = DataDir::new("r14-type");
    let broker = dir.start(2);
    let mut client = broker.connect();
    for (name, stored) in TYPES {
        client.create_topic(name, 1, &[("compression.type", name)]);
        let mut sent = Vec::new();
        for (number, codec) in (0..).zip(Codec::ALL) {
            let batch_rows = rows(20, number);
            let base = client.produce(name, 0, batch(codec, &batch_rows));
            assert_eq!(base, sent.len() as i64, "{name} of {codec}");
            sent.extend(batch_rows);
        }
        for (offset, row) in (0..).zip(&mut sent) {
            row.offset = offset;
        }
        assert!(client.read_all(name, 0) == sent, "{name}");
        let expected = Codec::ALL.map(|codec| stored.unwrap_or(codec));
        assert_eq!(codecs(&mut client, name), expected, "{name}");
    }
    broker.kill();
    let broker = dir.start(2);
    let mut client = broker.connect();
    for (name, _) in TYPES {
        assert_eq!(client.read_all(name, 0).len(), 100, "{name}");
    }
}

#[test]
fn r14_r52_the_codec_of_the_broker_and_its_levels_are_changed_while_running() {
    let dir = DataDir::new("r14-broker");
    let broker = dir.start_with(1, &["compression.type=gzip"]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let records = batch(Codec::Lz4, &rows(50, 1));
    client.produce("t", 0, records.clone());
    client.set_config(BROKER, "", "compression.type", "zstd");
    client.produce("t", 0, records.clone());
    client.set_config(TOPIC, "t", "compression.type", "producer");
    client.produce("t", 0, records.clone());
    assert_eq!(
        codecs(&mut client, "t"),
        [Codec::Gzip, Codec::Zstd, Codec::Lz4]
    );
    client.set_config(TOPIC, "t", "compression.type", "gzip");
    let mut sizes = Vec::new();
    for level in ["1", "9"] {
        client.set_config(TOPIC, "t", "compression.gzip.level", level);
        let base = client.produce("t", 0, records.clone());
        sizes.push(client.fetch("t", 0, base).record_bytes().len());
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn r14_max_message_bytes_is_held_against_what_is_stored_too() {
    let dir = DataDir::new("r14-size");
    let broker = dir.start(1);
    let mut client = broker.connect();
    let configs = [
        ("compression.type", "uncompressed"),
        ("max.message.bytes", "20000"),
    ];
    client.create_topic("t", 1, &configs);
    let zeros = |len: usize| Row {
        timestamp: now_ms(),
        value: Some(vec![0; len]),
        ..Row::default()
    };
    // A few bytes that become more than may be stored, and far more than the broker would hold.
    for len in [20_000, 100 << 20] {
        let bomb = batch(Codec::Zstd, &[zeros(len)]);
        assert!(bomb.len() < 20_000, "{}", bomb.len());
        let before = broker.peak_rss_kib();
        let answer = client.produce_acks("t", 0, 1, bomb);
        assert_eq!(answer.error_code, ErrorCode::MessageTooLarge, "{answer:?}");
        let grown = broker.peak_rss_kib() - before;
        assert!(grown < 32 << 10, "{grown} KiB for {len} bytes");
    }
    assert_eq!(
        client.produce("t", 0, batch(Codec::Zstd, &[zeros(19_000)])),
        0
    );
    assert_eq!(client.read_all("t", 0)[0].value, Some(vec![0; 19_000]));
}

#[test]
fn r11_r14_batches_made_anew_keep_their_order_and_their_retries_are_known() {
    let dir = DataDir::new("r11-type");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("compression.type", "gzip")]);
    let producer = client.init_producer_id();
    let made = |number: i32| {
        // Large ones that take long to compress, and small ones that come as they are stored.
        let (codec, count) = match number % 3 {
            0 => (Codec::Lz4, 3_000),
            1 => (Codec::Gzip, 1),
            _ => (Codec::None, 5),
        };
        let value_rows: Vec<_> = (0..count)
            .map(|n| value(now_ms(), &format!("{number}.{n} {}", "x".repeat(100))))
            .collect();
        let builder = BatchBuilder::new(codec, now_ms());
        let sequence = |number: i32| (0..number).map(|n| [3_000, 1, 5][n as usize % 3]).sum();
        let builder = builder.producer(producer.0, producer.1, sequence(number));
        (fill(builder, &value_rows), sequence(number), value_rows)
    };
    // All at once on one connection: none waits for the answer of the one before.
    let requests: Vec<_> = (0..12).map(made).collect();
    let sent: Vec<_> = requests
        .iter()
        .map(|(records, _, _)| {
            client.send_produce(9, &produce_request("t", 0, -1, records.clone()))
        })
        .collect();
    for (sent, (_, base, _)) in sent.into_iter().zip(&requests) {
        let answer = client.produced(sent);
        let partition = &answer.topics[0].partitions[0];
        assert_eq!(partition.error_code, ErrorCode::None, "{partition:?}");
        assert_eq!(partition.base_offset, i64::from(*base));
    }
    // Retries get their first offsets, over another connection, too.
    let mut other = broker.connect();
    for (records, base, _) in &requests[12 - 5..] {
        assert_eq!(other.produce("t", 0, records.clone()), i64::from(*base));
    }
    let expected: Vec<_> = requests
        .iter()
        .flat_map(|(_, _, rows)| texts(rows))
        .collect();
    assert!(texts(&client.read_all("t", 0)) == expected);
    assert_eq!(codecs(&mut client, "t"), [Codec::Gzip; 12]);
}

#[test]
fn r03_r14_log_append_time_and_a_wrong_maximum_are_put_right_in_batches_made_anew() {
    let dir = DataDir::new("r03-type");
    let broker = dir.start(1);
    let mut client = broker.connect();
    let stamped = [
        ("compression.type", "zstd"),
        ("message.timestamp.type", "LogAppendTime"),
    ];
    client.create_topic("stamped", 1, &stamped);
    client.create_topic("created", 1, &stamped[..1]);
    let before = now_ms();
    let sent = [
        value(5, "long ago"),
        value(before - 7, "later"),
        value(6, "as well"),
    ];
    let answer = client.produce_acks("stamped", 0, 1, batch(Codec::Snappy, &sent));
    let stamp = answer.log_append_time_ms;
    assert!((before..=now_ms()).contains(&stamp), "{answer:?}");
    let read = client.read_all("stamped", 0);
    assert!(read.iter().all(|row| row.timestamp == stamp), "{read:?}");
    // A producer that leaves the largest timestamp unset.
    let mut unset = batch(Codec::None, &sent).to_vec();
    corelog_record::batch::set_max_timestamp(&mut unset, -1);
    client.produce("created", 0, unset.into());
    let fetched = client.fetch("created", 0, 0).record_bytes();
    let header = BatchView::parse(&fetched).unwrap().header;
    assert_eq!(header.max_timestamp, before - 7);
    assert_eq!(client.read_all("created", 0)[0].timestamp, 5);
}

#[test]
fn r13_timestamps_out_of_bounds_are_refused_and_their_records_named() {
    let dir = DataDir::new("r13-time");
    let broker = dir.start(1);
    let mut client = broker.connect();
    let minute = "60000";
    let bounds = [
        ("message.timestamp.before.max.ms", minute),
        ("message.timestamp.after.max.ms", minute),
    ];
    client.create_topic("t", 1, &bounds);
    client.create_topic(
        "stamped",
        1,
        &[&bounds[..], &[("message.timestamp.type", "LogAppendTime")]].concat(),
    );
    client.create_topic("default", 1, &[]);
    let now = now_ms();
    let far = 10 * 60_000;
    let sent = [
        value(now, "now"),
        value(now - far, "before"),
        value(now + 1, "now"),
        value(now + far, "after"),
    ];
    for codec in [Codec::None, Codec::Zstd] {
        let answer = client.produce_acks("t", 0, 1, batch(codec, &sent));
        assert_eq!(answer.error_code, ErrorCode::InvalidTimestamp);
        let named: Vec<_> = answer.record_errors.iter().map(|e| e.batch_index).collect();
        assert_eq!(named, [1, 3], "{codec}");
        let why = answer.record_errors[0]
            .message
            .as_deref()
            .unwrap_or_default();
        assert!(why.contains("is out of range"), "{why}");
        assert_eq!(answer.base_offset, -1);
        assert_eq!(
            client.produce_error("t", 0, batch(codec, &sent[3..])),
            ErrorCode::InvalidTimestamp
        );
        assert_eq!(
            client.produce_error("t", 0, batch(codec, &sent[1..2])),
            ErrorCode::InvalidTimestamp
        );
    }
    assert_eq!(client.produce("t", 0, batch(Codec::None, &sent[..1])), 0);
    // The broker's own clock stamps them: theirs does not matter.
    assert_eq!(client.produce("stamped", 0, batch(Codec::None, &sent)), 0);
    // Without a bound in the past, and with an hour into the future.
    let hours = [value(5, "long ago"), value(now + 30 * 60_000, "soon")];
    assert_eq!(client.produce("default", 0, batch(Codec::None, &hours)), 0);
    // A change binds at once.
    client.set_config(TOPIC, "t", "message.timestamp.before.max.ms", "3600000");
    assert_eq!(client.produce("t", 0, batch(Codec::None, &sent[1..2])), 1);
}

#[test]
fn r43_more_in_sync_replicas_than_there_are_replicas_are_not_asked_for() {
    let dir = DataDir::new("r43-one");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("min.insync.replicas", "2")]);
    // As in Kafka: the bound is cut to the replicas of the topic, and one of one is in sync.
    assert_eq!(
        client
            .produce_acks("t", 0, -1, text_batch(&["a"]))
            .error_code,
        ErrorCode::None
    );
    let shown = client.config(TOPIC, "t", "min.insync.replicas").value;
    assert_eq!(shown.map(|value| value.to_string()).as_deref(), Some("2"));
}
