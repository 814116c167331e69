//! Limits of connections and their memory, and rolls by time: R04, R20.

use std::sync::{Arc, Barrier};

use corelog_net::cold::messages::metadata_request::MetadataRequestData;
use corelog_net::error_code::ErrorCode;
use corelog_record::codec::Codec;
use corelog_runtime::blocking;

use crate::common::requests::{BY_NAME, produce_request};
use crate::common::*;

#[test]
fn r04_segments_roll_by_log_roll_ms_and_by_a_topics_segment_ms() {
    let dir = DataDir::new("r04-time");
    let broker = dir.start_with(2, &["log.roll.ms=1"]);
    let mut client = broker.connect();
    client.create_topic("broker", 1, &[]);
    client.create_topic("week", 1, &[("segment.ms", "604800000")]);
    let segments = |topic| dir.files(topic, 0, ".log").len();
    poll("rolls by the broker's time", || {
        client.produce("broker", 0, text_batch(&["x"]));
        client.produce("week", 0, text_batch(&["x"]));
        (segments("broker") >= 4).then_some(())
    });
    assert_eq!(segments("week"), 1);
    client.set_config(TOPIC, "week", "segment.ms", "1");
    poll("rolls by the topic's time", || {
        client.produce("week", 0, text_batch(&["x"]));
        (segments("week") >= 3).then_some(())
    });
    let written = client.list_offset("week", 0, -1).offset;
    assert_eq!(client.read_all("week", 0).len() as i64, written);
}

#[test]
fn r20_max_connections_is_a_limit_and_leaves_room_again() {
    let dir = DataDir::new("r20-max");
    let broker = dir.start_with(2, &["max.connections=3"]);
    let mut open: Vec<_> = (0..3).map(|_| broker.connect()).collect();
    for client in &mut open {
        client.metadata(None, false);
    }
    for _ in 0..5 {
        assert!(broker.connect().closes(), "one too many");
    }
    for client in &mut open {
        client.metadata(None, false);
    }
    open.pop();
    poll("room for another", || {
        (broker.metric("corelog_connections", &[]) == 2).then_some(())
    });
    broker.connect().metadata(None, false);
}

#[test]
fn r20_idle_connections_are_closed_and_no_others() {
    let dir = DataDir::new("r20-idle");
    let broker = dir.start_with(2, &["connections.max.idle.ms=3000"]);
    let (mut idle, mut busy) = (broker.connect(), broker.connect());
    idle.metadata(None, false);
    let gone = || broker.metric("corelog_connections", &[]) == 1;
    poll("the idle one to go", || {
        busy.metadata(None, false);
        gone().then_some(())
    });
    assert!(idle.closes());
    busy.metadata(None, false);
}

#[test]
fn r20_a_thousand_connections_with_large_requests_stay_within_the_memory() {
    const CONNECTIONS: usize = 1000;
    /// Of them a development build takes 35 MiB before anybody connects, its code included.
    const RSS_KIB_MAX: u64 = 144 << 10;
    let dir = DataDir::new("r20-rss");
    let broker = dir.start_with(2, &["corelog.memory.bytes=33554432"]);
    let mut client = broker.connect();
    client.create_topic("t", 4, &[]);
    let barrier = Arc::new(Barrier::new(CONNECTIONS));
    let row = Row {
        timestamp: now_ms(),
        value: Some(noise(1, 400_000)),
        ..Row::default()
    };
    let records = batch(Codec::None, &[row]);
    let frames: Vec<Arc<Vec<u8>>> = (0..4)
        .map(|partition| {
            let request = produce_request("t", partition, 1, records.clone());
            let pieces = request.encode_frame(BY_NAME, 1, Some("large")).unwrap();
            Arc::new(pieces.concat())
        })
        .collect();
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (barrier, frame) = (Arc::clone(&barrier), Arc::clone(&frames[number % 4]));
            let mut connection = broker.connect();
            if number % 32 == 0 {
                // The queue of connections that wait to be accepted is short.
                poll("connections to be accepted", || {
                    let open = broker.metric("corelog_connections", &[]);
                    (open as usize > number).then_some(())
                });
            }
            let send = move || {
                barrier.wait();
                connection.send_bytes(&frame).unwrap();
                assert!(connection.try_receive().is_some(), "answered");
            };
            blocking::spawn("sender", send).unwrap()
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    for partition in 0..4 {
        let end = client.list_offset("t", partition, -1).offset;
        assert_eq!(end, CONNECTIONS as i64 / 4, "each was appended once");
    }
    let peak = broker.peak_rss_kib();
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
}

#[test]
fn r20_max_connections_per_ip_and_its_overrides_are_kept() {
    let dir = DataDir::new("r20-per-ip");
    let broker = dir.start_with(2, &["max.connections.per.ip=2"]);
    let mut open: Vec<_> = (0..2).map(|_| broker.connect()).collect();
    for client in &mut open {
        client.metadata(None, false);
    }
    assert!(broker.connect().closes(), "one too many");
    assert_eq!(
        broker.metric("corelog_connections_over_limit_total", &[]),
        1
    );
    let key = "max.connections.per.ip.overrides";
    let (refused, why) = open[0].alter_config(BROKER, "", key, Some("localhost:9"));
    assert_eq!(refused, ErrorCode::InvalidConfig, "{why}");
    open[0].set_config(BROKER, "", key, "10.1.1.1:1,127.0.0.1:4");
    for _ in 0..2 {
        let mut client = broker.connect();
        client.metadata(None, false);
        open.push(client);
    }
    assert!(broker.connect().closes(), "one too many");
    open.pop();
    poll("room for another", || {
        let mut client = broker.connect();
        // It may be closed before it has sent anything.
        let sent = client.try_send(12, &MetadataRequestData::default()).ok()?;
        client.try_answer(sent).map(drop)
    });
}

#[test]
fn r20_connections_above_the_creation_rate_wait_for_their_turn() {
    let dir = DataDir::new("r20-rate");
    let broker = dir.start_with(2, &["max.connection.creation.rate=2"]);
    let mut waiting: Vec<_> = (0..8).map(|_| broker.connect()).collect();
    let request = MetadataRequestData::default();
    let sent: Vec<_> = waiting.iter_mut().map(|c| c.send(12, &request)).collect();
    for (client, sent) in waiting.iter_mut().zip(sent) {
        client.answer(sent);
    }
    assert!(broker.metric("corelog_connections_muted_total", &[]) > 0);
    assert_eq!(
        broker.metric("corelog_connections_over_limit_total", &[]),
        0
    );
}

#[test]
fn r20_a_connection_with_many_requests_lets_the_others_go_first() {
    const REQUESTS: usize = 640;
    let dir = DataDir::new("r20-turns");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let before = broker.metric("corelog_connection_yields_total", &[]);
    let request = produce_request("t", 0, 1, text_batch(&["x"]));
    let sent: Vec<_> = (0..REQUESTS)
        .map(|_| client.send_produce(BY_NAME, &request))
        .collect();
    for (offset, sent) in (0..).zip(sent) {
        let answer = client.produced(sent);
        assert_eq!(answer.topics[0].partitions[0].base_offset, offset);
    }
    let yields = broker.metric("corelog_connection_yields_total", &[]) - before;
    assert!(yields >= REQUESTS as u64 / 32, "{yields}");
}
