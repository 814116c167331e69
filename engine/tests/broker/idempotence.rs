//! Retries neither duplicate nor reorder: R11.

use corelog_net::error_code::ErrorCode;

use crate::common::*;

/// Batches of a producer whose duplicates are known (as many as a client has in flight).
const REMEMBERED: i32 = 5;

/// Sends batches `from..to` of three records each, and expects them where their numbers say.
fn send(client: &mut Connection, producer: (i64, i16), from: i32, to: i32) {
    for number in from..to {
        let texts: Vec<_> = (0..3).map(|n| format!("{number}.{n}")).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let records = sequenced(producer.0, producer.1, number * 3, &texts);
        let base = client.produce("t", 0, records);
        assert_eq!(base, i64::from(number * 3), "batch {number}");
    }
}

fn refused(client: &mut Connection, producer: (i64, i16), sequence: i32) -> ErrorCode {
    let records = sequenced(producer.0, producer.1, sequence, &["refused"]);
    client.produce_error("t", 0, records)
}

#[test]
fn r11_duplicates_get_their_first_offsets_also_after_restarts() {
    let dir = DataDir::new("r11");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let producer = client.init_producer_id();
    assert!(producer.0 >= 0 && producer.1 == 0, "{producer:?}");
    send(&mut client, producer, 0, 7);
    send(&mut client, producer, 7 - REMEMBERED, 7);
    // A retry comes over another connection as well.
    send(&mut broker.connect(), producer, 6, 7);
    assert_eq!(broker.metric("corelog_duplicate_batches_total", &[]), 6);
    broker.stop();

    // All that a client has in flight over a clean stop are told from new ones; earlier ones are
    // refused: they are not told apart from a gap, but are not appended twice either.
    let broker = dir.start(2);
    let mut client = broker.connect();
    let out_of_order = ErrorCode::OutOfOrderSequenceNumber;
    assert_eq!(refused(&mut client, producer, 3), out_of_order);
    send(&mut client, producer, 7 - REMEMBERED, 7);
    assert_eq!(broker.metric("corelog_duplicate_batches_total", &[]), 5);
    send(&mut client, producer, 6, 9);
    broker.kill();

    let broker = dir.start(2);
    let mut client = broker.connect();
    send(&mut client, producer, 6, 12);
    assert_eq!(refused(&mut client, producer, 12 * 3 + 1), out_of_order);
    let expected: Vec<_> = (0..12)
        .flat_map(|b| (0..3).map(move |n| format!("{b}.{n}")))
        .collect();
    assert_eq!(
        texts(&client.read_all("t", 0)),
        expected,
        "no duplicate, no gap"
    );
}

#[test]
fn r11_five_batches_in_flight_are_known_over_clean_restarts_also_across_segments() {
    let dir = DataDir::new("r11-clean");
    let overrides = ["log.segment.bytes=1048576"];
    let mut broker = dir.start_with(2, &overrides);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let producers: Vec<_> = (0..3).map(|_| client.init_producer_id()).collect();
    let text = "x".repeat(300_000);
    let mut bases = Vec::new();
    for restart in 0..3 {
        // The newest five of every producer, interleaved, over several segments.
        for number in 5 * restart..5 * restart + 5 {
            for &(id, epoch) in &producers {
                let records = sequenced(id, epoch, number, &[&text]);
                bases.push((records.clone(), client.produce("t", 0, records)));
            }
        }
        broker.stop();
        broker = dir.start_with(2, &overrides);
        client = broker.connect();
        let recent = bases.len() - 5 * producers.len();
        for (records, base) in &bases[recent..] {
            assert_eq!(client.produce("t", 0, records.clone()), *base);
        }
    }
    assert!(dir.files("t", 0, ".log").len() > 3, "several segments");
    assert_eq!(client.read_all("t", 0).len(), bases.len(), "no duplicates");
}

#[test]
fn r11_all_batches_in_flight_are_known_after_kill_9() {
    let dir = DataDir::new("r11-kill");
    let mut broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let producer = client.init_producer_id();
    send(&mut client, producer, 0, 7);
    for next in 7..10 {
        broker.kill();
        broker = dir.start(2);
        send(&mut broker.connect(), producer, next - REMEMBERED, next + 1);
    }
    assert_eq!(broker.connect().read_all("t", 0).len(), 30);
}

#[test]
fn r11_sequence_gaps_and_old_epochs_are_refused() {
    let dir = DataDir::new("r11-gaps");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let (id, epoch) = client.init_producer_id();
    send(&mut client, (id, epoch), 0, 3);
    let out_of_order = ErrorCode::OutOfOrderSequenceNumber;
    for sequence in [10, 11, 100, 8, 1] {
        assert_eq!(
            refused(&mut client, (id, epoch), sequence),
            out_of_order,
            "{sequence}"
        );
    }
    // A new epoch begins at sequence 0, and the old one is over.
    assert_eq!(refused(&mut client, (id, epoch + 1), 9), out_of_order);
    assert_eq!(
        client.produce("t", 0, sequenced(id, epoch + 1, 0, &["new epoch"])),
        9
    );
    let old = refused(&mut client, (id, epoch), 9);
    assert_eq!(old, ErrorCode::InvalidProducerEpoch);
    assert_eq!(
        client.produce("t", 0, sequenced(id, epoch + 1, 1, &["goes on"])),
        10
    );
    // Refused batches took no offsets, and other producers are not touched.
    let other = client.init_producer_id();
    assert_ne!(other.0, id);
    assert_eq!(
        client.produce("t", 0, sequenced(other.0, other.1, 0, &["other"])),
        11
    );
    assert_eq!(client.read_all("t", 0).len(), 12);
}

#[test]
fn r11_producer_ids_are_never_given_twice() {
    let dir = DataDir::new("r11-ids");
    let mut given = std::collections::BTreeSet::new();
    for round in 0..3 {
        let broker = dir.start(2);
        // Connections of both shards, which take ids from blocks of their own.
        for client in &mut [broker.connect(), broker.connect()] {
            for _ in 0..5 {
                let (id, _) = client.init_producer_id();
                assert!(given.insert(id), "{id} again in round {round}");
            }
        }
        broker.kill();
    }
}
