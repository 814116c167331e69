//! Flush policy, kill -9, torn files: R30, R31, R32.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use corelog_net::error_code::ErrorCode;
use corelog_record::batch::BatchIter;
use corelog_runtime::blocking;

use crate::common::requests::{BY_NAME, produce_request};
use crate::common::*;

fn flushes(broker: &Broker) -> u64 {
    broker.metric("corelog_flushes_total", &[])
}

/// Produces one by one and gives how many flushes came of it.
fn flushes_of(broker: &Broker, client: &mut Connection, acks: i16, batches: u64) -> u64 {
    let before = flushes(broker);
    for _ in 0..batches {
        let answer = client.produce_acks("t", 0, acks, text_batch(&["x"]));
        assert_eq!(answer.error_code, ErrorCode::None);
    }
    flushes(broker) - before
}

#[test]
fn r30_flush_messages_is_changed_at_run_time_and_effective_at_once() {
    let dir = DataDir::new("r30");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    for acks in [1, -1] {
        assert_eq!(
            flushes_of(&broker, &mut client, acks, 20),
            0,
            "no flush is due"
        );
        client.set_config(TOPIC, "t", "flush.messages", "1");
        let every = flushes_of(&broker, &mut client, acks, 20);
        assert!(every >= 20, "one before every acknowledgement: {every}");
        client.set_config(TOPIC, "t", "flush.messages", "5");
        let some = flushes_of(&broker, &mut client, acks, 20);
        assert!((4..20).contains(&some), "every fifth message: {some}");
        let deleted = client.alter_config(TOPIC, "t", "flush.messages", None);
        assert_eq!(deleted.0, ErrorCode::None);
        // What is still due from before may be flushed once.
        flushes_of(&broker, &mut client, acks, 1);
        assert_eq!(
            flushes_of(&broker, &mut client, acks, 20),
            0,
            "back to the default"
        );
    }
}

#[test]
fn r30_flush_ms_flushes_without_further_messages() {
    let dir = DataDir::new("r30-ms");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("flush.ms", "20")]);
    for _ in 0..3 {
        let before = flushes(&broker);
        client.produce("t", 0, text_batch(&["x"]));
        poll("the flush", || (flushes(&broker) > before).then_some(()));
    }
}

#[test]
fn r30_one_flush_serves_the_requests_that_wait_for_it() {
    let dir = DataDir::new("r30-group");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("flush.messages", "1")]);
    let before = flushes(&broker);
    for _ in 0..10 {
        let records = text_batch(&["x"]);
        let request = produce_request("t", 0, 1, records);
        // One write to the socket: they are there together.
        let frames: Vec<_> = (0..40)
            .flat_map(|_| request.encode_frame(BY_NAME, 0, None).unwrap())
            .collect();
        client.send_bytes(&frames.concat()).unwrap();
        for _ in 0..40 {
            assert!(client.try_receive().is_some());
        }
    }
    let done = flushes(&broker) - before;
    assert!(
        (10..400).contains(&done),
        "fewer flushes than messages: {done}"
    );
}

/// What a client was told: the value and its offset.
type Acknowledged = Vec<(i64, String)>;

/// Produces with five requests in flight until the broker is gone.
fn produce_until_gone(
    mut client: Connection,
    partition: i32,
    round: usize,
    progress: &std::sync::atomic::AtomicUsize,
) -> Acknowledged {
    let mut acknowledged = Vec::new();
    let mut flight = VecDeque::new();
    for number in 0.. {
        let text = format!("p{partition} r{round} n{number}");
        let acks = if number % 2 == 0 { 1 } else { -1 };
        let request = produce_request("t", partition, acks, text_batch(&[&text]));
        match client.try_send_produce(BY_NAME, &request) {
            Ok(sent) => flight.push_back((text, sent)),
            Err(_) => break,
        }
        if flight.len() < 5 {
            continue;
        }
        let (text, sent) = flight.pop_front().unwrap();
        let Some(body) = client.try_answer(sent) else {
            break;
        };
        let answer = corelog_net::produce::ProduceResponse::decode(BY_NAME, &body).unwrap();
        let answer = &answer.topics[0].partitions[0];
        assert_eq!(answer.error_code, ErrorCode::None);
        acknowledged.push((answer.base_offset, text));
        progress.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    acknowledged
}

#[test]
fn r31_what_was_acknowledged_is_read_back_after_kill_9() {
    let dir = DataDir::new("r31");
    let mut broker = dir.start(2);
    broker
        .connect()
        .create_topic("t", 2, &[("segment.bytes", "1048576")]);
    let mut acknowledged = [const { Vec::new() }; 2];
    for round in 0..4 {
        let progress = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let producers = [0, 1].map(|partition| {
                let client = broker.connect();
                let progress = &progress;
                scope.spawn(move || produce_until_gone(client, partition, round, progress))
            });
            let enough = [1, 60, 250, 700][round];
            poll("acknowledgements", || {
                (progress.load(std::sync::atomic::Ordering::Relaxed) >= enough).then_some(())
            });
            broker.signal(libc::SIGKILL);
            for (producer, known) in producers.into_iter().zip(&mut acknowledged) {
                known.extend(producer.join().unwrap());
            }
        });
        broker.kill();
        broker = dir.start(2);
        let mut client = broker.connect();
        for (partition, known) in acknowledged.iter().enumerate() {
            let read = client.read_all("t", partition as i32);
            let offsets = read.iter().map(|row| row.offset);
            assert!(offsets.eq(0..read.len() as i64), "offsets are dense");
            let values = texts(&read);
            for (offset, text) in known {
                assert_eq!(values.get(*offset as usize), Some(text), "round {round}");
            }
            let distinct: std::collections::BTreeSet<_> = values.iter().collect();
            assert_eq!(distinct.len(), values.len(), "nothing twice");
        }
    }
    assert!(acknowledged.iter().all(|known| !known.is_empty()));
}

#[test]
fn r31_a_clean_stop_flushes_and_the_next_start_checks_nothing() {
    let dir = DataDir::new("r31-clean");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.produce("t", 1, text_batch(&["kept"]));
    broker.stop();
    let broker = dir.start(2);
    assert!(!broker.log().contains("log recovered"), "{}", broker.log());
    assert_eq!(texts(&broker.connect().read_all("t", 1)), ["kept"]);
}

/// Where the batches of a segment file end: the file may be longer by zeros.
fn end_of_batches(bytes: &[u8]) -> (usize, usize) {
    let mut last = 0;
    let mut batches = BatchIter::new(bytes);
    while let Some(Ok((at, _, _))) = batches.next() {
        last = at;
    }
    (last, batches.position())
}

#[test]
fn r32_a_torn_tail_is_cut_at_start_and_the_log_says_so() {
    let dir = DataDir::new("r32");
    let mut broker = dir.start(1);
    broker.connect().create_topic("t", 1, &[]);
    let mut expected: Vec<String> = Vec::new();
    let garbage = noise(9, 5000);
    let whole = text_batch(&["torn", "torn", "torn"]);
    let mut torn = whole[..whole.len() - 1].to_vec();
    torn[..8].copy_from_slice(&1_000_000i64.to_be_bytes());
    for round in 0..4 {
        let mut client = broker.connect();
        for number in 0..3 {
            let text = format!("r{round} n{number}");
            let base = client.produce("t", 0, text_batch(&[&text]));
            assert_eq!(base, expected.len() as i64);
            expected.push(text);
        }
        broker.kill();
        let path = dir.files("t", 0, ".log").pop().unwrap();
        let bytes = blocking::read_file(&path).unwrap();
        let (last, end) = end_of_batches(&bytes);
        let file = blocking::open_file_with(&path, OpenOptions::new().write(true)).unwrap();
        match round {
            0 => file.write_all_at(&garbage, end as u64).unwrap(),
            1 => file.write_all_at(&torn, end as u64).unwrap(),
            // Only a part of the last batch reached the disk.
            2 => file.set_len(end as u64 - 3).unwrap(),
            _ => file
                .write_all_at(&[bytes[last + 70] ^ 1], last as u64 + 70)
                .unwrap(),
        }
        if round >= 2 {
            expected.pop();
        }
        broker = dir.start(1);
        let log = broker.log();
        let mut lines = log.lines();
        let line = lines
            .find(|line| line.contains("log recovered"))
            .unwrap_or_else(|| panic!("round {round}: {log}"));
        assert!(!line.contains("bytes_cut=0 "), "round {round}: {line}");
        assert!(line.contains("reason="), "{line}");
        let mut client = broker.connect();
        assert_eq!(texts(&client.read_all("t", 0)), expected, "round {round}");
        let end = client.list_offset("t", 0, -1).offset;
        assert_eq!(end, expected.len() as i64);
    }
}

#[test]
fn r32_a_start_after_kill_9_rebuilds_indexes_that_are_gone() {
    let dir = DataDir::new("r32-index");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("segment.bytes", "1048576")]);
    let mut sent = Vec::new();
    for number in 0..12 {
        let row = Row {
            timestamp: now_ms(),
            value: Some(noise(number, 250_000)),
            ..Row::default()
        };
        client.produce(
            "t",
            0,
            batch(
                corelog_record::codec::Codec::None,
                std::slice::from_ref(&row),
            ),
        );
        sent.push(row.value);
    }
    broker.kill();
    for suffix in [".index", ".timeindex", ".snapshot"] {
        for file in dir.files("t", 0, suffix) {
            blocking::remove_file(file).unwrap();
        }
    }
    let broker = dir.start(1);
    let mut client = broker.connect();
    for offset in [11, 0, 5, 3] {
        let read = client.read_from("t", 0, offset);
        let values: Vec<_> = read.into_iter().map(|row| row.value).collect();
        assert!(values == sent[offset as usize..], "from {offset}");
    }
}

fn stray(dir: &DataDir, of: &str) -> bool {
    let entries = blocking::read_dir(dir.logs()).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.any(|name| name.starts_with(&format!("{of}.")) && name.ends_with("-stray"))
}

fn copy_partition(from: &std::path::Path, to: &std::path::Path) {
    blocking::create_dir_all(to).unwrap();
    for entry in blocking::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let bytes = blocking::read_file(entry.path()).unwrap();
        blocking::write_file(to.join(entry.file_name()), bytes).unwrap();
    }
}

#[test]
fn r32_a_directory_that_no_topic_claims_is_renamed_and_never_read() {
    let dir = DataDir::new("r32-stray");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["old"]));
    broker.stop();
    let saved = dir.logs().join("../saved");
    copy_partition(&dir.logs().join("t-0"), &saved);
    copy_partition(&saved, &dir.logs().join("ghost-0"));

    let broker = dir.start(1);
    assert!(stray(&dir, "ghost-0"));
    let mut client = broker.connect();
    client.create_topic("ghost", 1, &[]);
    assert_eq!(client.produce("ghost", 0, text_batch(&["new"])), 0);
    // A topic made again, and a crash that left the files of the first one under its name.
    assert_eq!(client.delete_topic("t"), ErrorCode::None);
    client.create_topic("t", 1, &[]);
    broker.stop();
    blocking::remove_dir_all(dir.logs().join("t-0")).unwrap();
    copy_partition(&saved, &dir.logs().join("t-0"));

    let broker = dir.start(1);
    assert!(stray(&dir, "t-0"));
    let mut client = broker.connect();
    assert!(client.read_all("t", 0).is_empty());
    assert_eq!(texts(&client.read_all("ghost", 0)), ["new"]);
}
