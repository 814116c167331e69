//! Bytes that are no requests close their own connection and nothing else: R20, R64's ground.

use bytes::Bytes;
use corelog_net::error_code::ErrorCode;
use corelog_record::batch::{HEADER_BYTES, crc32c};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::{Codec, Decompressor, compress};

use crate::common::requests::{BY_NAME, produce_request};
use crate::common::*;

/// A frame: size, api key, version, correlation id 1, null client id, and what follows.
pub fn frame(api_key: i16, version: i16, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend((10 + rest.len() as i32).to_be_bytes());
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(rest);
    frame
}

fn hostile_inputs() -> Vec<(&'static str, Vec<u8>)> {
    let sized = |size: i32| [&size.to_be_bytes()[..], &frame(3, 9, &[])[4..]].concat();
    vec![
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n".to_vec()),
        (
            "TLS",
            [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &noise(1, 300)].concat(),
        ),
        ("noise", noise(2, 4096)),
        ("a negative size", sized(-1)),
        ("the largest size", sized(i32::MAX)),
        ("a size of 1 GiB", sized(1 << 30)),
        ("a size below a header", sized(3)),
        (
            "a Fetch of 50 MB",
            [&50_000_000i32.to_be_bytes()[..], &frame(1, 12, &[])[4..]].concat(),
        ),
        ("an unknown API", frame(999, 0, &[0; 8])),
        ("a negative API", frame(-1, 0, &[0; 8])),
        ("an API of controllers", frame(52, 0, &[0; 8])),
        ("a version too high", frame(3, 99, &[0; 8])),
        ("a version below 0", frame(3, -1, &[0; 8])),
        ("Metadata without a body", frame(3, 9, &[])),
        (
            "Metadata of 2^31 topics",
            frame(3, 1, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        (
            "Metadata with compact garbage",
            frame(3, 12, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "Produce of 2^31 topics",
            frame(
                0,
                3,
                &[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0x7f, 0xff, 0xff, 0xff],
            ),
        ),
        ("Fetch with noise", frame(1, 12, &noise(3, 200))),
        ("CreateTopics with noise", frame(19, 7, &noise(4, 200))),
        ("a client id longer than the frame", {
            let mut bytes = frame(3, 1, &[0; 4]);
            bytes[12..14].copy_from_slice(&[0x7f, 0xff]);
            bytes
        }),
    ]
}

#[test]
fn r20_hostile_bytes_close_only_their_connection() {
    let dir = DataDir::new("hostile");
    let mut broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for (base, (what, bytes)) in (0..).zip(hostile_inputs()) {
        let mut hostile = broker.connect();
        // The broker may have closed before all was sent.
        let _ = hostile.send_bytes(&bytes);
        hostile.finish_sending();
        assert!(hostile.closes(), "{what}: answered");
        assert_eq!(
            client.produce("t", base as i32 % 2, text_batch(&[what])),
            base / 2,
            "{what}"
        );
    }
    assert!(broker.metric("corelog_connections_refused_total", &[]) >= 15);
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 0);
    assert!(broker.runs());
}

#[test]
fn r20_requests_cut_short_are_dropped() {
    let dir = DataDir::new("hostile-cut");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let request = produce_request("t", 0, 1, text_batch(&["never"]));
    let pieces = request.encode_frame(BY_NAME, 1, Some("cut")).unwrap();
    let whole = Bytes::from(pieces.concat());
    for cut in (0..whole.len()).step_by(11) {
        let mut hostile = broker.connect();
        hostile.send_bytes(&whole[..cut]).unwrap();
        hostile.finish_sending();
        assert!(hostile.closes(), "cut at {cut}");
    }
    // Every byte of a request damaged in turn: an answer or a closed connection, never a hang.
    for at in (4..whole.len()).step_by(3) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        let mut hostile = broker.connect();
        let _ = hostile.send_bytes(&bytes);
        hostile.finish_sending();
        let _ = hostile.try_receive();
    }
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 0);
    let answer = client.fetch("t", 0, 0);
    assert_eq!(answer.error_code, ErrorCode::None);
    client.produce("t", 0, text_batch(&["still here"]));
    let last = client.read_all("t", 0).pop().unwrap();
    assert_eq!(texts(&[last]), ["still here"]);
}

#[test]
fn r20_a_produce_larger_than_socket_request_max_bytes_is_not_read() {
    let dir = DataDir::new("hostile-large");
    let broker = dir.start_with(1, &["socket.request.max.bytes=100000"]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let mut large = broker.connect();
    let row = Row {
        timestamp: now_ms(),
        value: Some(noise(1, 200_000)),
        ..Row::default()
    };
    let records = batch(corelog_record::codec::Codec::None, &[row]);
    // The broker may have closed before all was sent.
    let _ = large.try_send_produce(BY_NAME, &produce_request("t", 0, 1, records));
    assert!(large.closes());
    assert_eq!(client.produce("t", 0, text_batch(&["fits"])), 0);
}

#[test]
fn r20_clients_that_stand_still_inside_large_requests_stop_no_small_ones() {
    let dir = DataDir::new("hostile-stalled");
    let broker = dir.start(1);
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut connection = broker.connect();
        // 90 MB are announced, and nothing follows.
        let head = [&90_000_000i32.to_be_bytes()[..], &[0, 0, 0, 9, 0, 0, 0, 1]];
        connection.send_bytes(&head.concat()).unwrap();
        stalled.push(connection);
    }
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    assert_eq!(client.produce("t", 0, text_batch(&["passes"])), 0);
    assert_eq!(texts(&client.read_all("t", 0)), ["passes"]);
}

#[test]
fn r20_a_refused_batch_with_acks_0_frees_its_connection() {
    let dir = DataDir::new("hostile-acks0");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    for _ in 0..10 {
        let mut refused = broker.connect();
        let request = produce_request("no-such-topic", 0, 0, text_batch(&["x"]));
        let _ = refused.try_send_produce(BY_NAME, &request).unwrap();
        // What follows is not answered, and must not keep the connection.
        let _ = refused.send_bytes(&frame(3, 9, &[0, 0, 0, 0, 0]));
        assert!(refused.closes());
    }
    poll("the connections to end", || {
        (broker.metric("corelog_connections", &[]) <= 1).then_some(())
    });
}

/// A record of a value of 1 GiB of zeros, compressed as far as `size_bytes_max` lets it: frames of
/// a MiB, one after the other, in a batch whose checksum is right. With the bytes that come out.
fn bomb(codec: Codec, size_bytes_max: usize) -> (Bytes, usize) {
    const ZEROS: usize = 1 << 20;
    const LZ4_ZEROS: usize = 320 << 20;
    // Length, attributes, timestamp and offset deltas, no key, a value: 2^30 bytes and some.
    let record = [
        &[0xa0, 0x80, 0x80, 0x80, 0x08][..],
        &[0, 0, 0, 1],
        &[0x80, 0x80, 0x80, 0x80, 0x08],
    ];
    let zeros = vec![0; ZEROS];
    let mut payload = compress(codec, None, &[&record.concat()[..], &zeros[..]].concat());
    let next = compress(codec, None, &zeros);
    // Snappy's framing begins once.
    let next = if codec == Codec::Snappy {
        &next[16..]
    } else {
        &next[..]
    };
    if codec == Codec::Lz4 {
        // One frame is all that is read of it.
        payload = compress(codec, None, &[record.concat(), vec![0; LZ4_ZEROS]].concat());
    }
    for _ in 1..1024 {
        let is_full = HEADER_BYTES + payload.len() + next.len() > size_bytes_max;
        if is_full || codec == Codec::Lz4 {
            break;
        }
        payload.extend_from_slice(next);
    }
    let mut builder = BatchBuilder::new(codec, now_ms());
    builder.append(now_ms(), None, Some(b"x"), &[]);
    let mut batch = builder.build()[..HEADER_BYTES].to_vec();
    batch.extend_from_slice(&payload);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut decompressor = Decompressor::new(codec, &payload, 2 << 30).unwrap();
    let mut chunk = vec![0; ZEROS];
    while decompressor.read_chunk(&mut chunk).unwrap() > 0 {}
    (Bytes::from(batch), decompressor.produced_bytes())
}

#[test]
fn r20_compression_bombs_are_refused_in_bounded_memory() {
    const RSS_KIB_MAX: u64 = 256 << 10;
    let dir = DataDir::new("hostile-bombs");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 4, &[("max.message.bytes", "8388608")]);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        // What a batch of a MiB becomes; a frame of lz4 that is too large takes a little more.
        let (size, least) = match codec {
            Codec::Lz4 => (2 << 20, 320 << 20),
            Codec::Snappy => (1 << 20, 20 << 20),
            _ => (1 << 20, 900 << 20),
        };
        let (bomb, becomes) = bomb(codec, size);
        assert!(
            becomes >= least && bomb.len() <= size,
            "{codec:?}: {becomes}"
        );
        let mut senders: Vec<_> = (0..4).map(|_| broker.connect()).collect();
        let sent: Vec<_> = (0..)
            .zip(&mut senders)
            .map(|(p, c)| c.send_produce(BY_NAME, &produce_request("t", p, 1, bomb.clone())))
            .collect();
        for (sender, sent) in senders.iter_mut().zip(sent) {
            let answer = sender.produced(sent).topics.remove(0).partitions.remove(0);
            assert_ne!(answer.error_code, ErrorCode::None, "{codec:?}");
            assert_eq!(answer.base_offset, -1, "{codec:?}");
        }
    }
    let peak = broker.peak_rss_kib();
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
    assert_eq!(client.produce("t", 0, text_batch(&["still here"])), 0);
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 0);
}
