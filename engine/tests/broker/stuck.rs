//! Consumers that ask and do not read hold no memory of the broker: R20.

use corelog_record::codec::Codec;

use crate::common::requests::{BY_NAME, fetch_request};
use crate::common::*;

const ROW_BYTES: usize = 200_000;
const ROWS_PER_ROUND: i64 = 8;
const MEMORY_BYTES: u64 = 32 << 20;

fn row(offset: i64) -> Row {
    Row {
        timestamp: now_ms(),
        value: Some(noise(offset as u64, ROW_BYTES)),
        ..Row::default()
    }
}

#[test]
fn r20_consumers_that_do_not_read_pin_no_written_buffers() {
    const STUCK: i64 = 48;
    let dir = DataDir::new("r20-stuck");
    let memory = format!("corelog.memory.bytes={MEMORY_BYTES}");
    let broker = dir.start_with(2, &[&memory, "log.segment.bytes=16777216"]);
    let mut other = broker.connect();
    other.create_topic("t", 1, &[]);
    let mut stuck = Vec::new();
    for round in 0..STUCK {
        let first = round * ROWS_PER_ROUND;
        for offset in first..first + ROWS_PER_ROUND {
            let base = other.produce("t", 0, batch(Codec::None, &[row(offset)]));
            assert_eq!(base, offset);
        }
        // Asks for what lies in memory now, more often than sockets hold, and takes nothing of it.
        let mut consumer = broker.connect();
        let mut request = fetch_request("t", 0, first);
        request.topics[0].partitions[0].max_bytes = 8 << 20;
        let sent: Vec<_> = (0..6)
            .map(|_| consumer.send_fetch(BY_NAME, &request))
            .collect();
        poll("an answer to begin", || {
            (!consumer.is_silent()).then_some(())
        });
        stuck.push((first, consumer, sent));
        // Others go on, and find what they ask for in memory.
        let last = other.fetch("t", 0, first + ROWS_PER_ROUND - 1);
        assert_eq!(parse_rows(&last.record_bytes()).len(), 1);
    }
    let produced = broker.metric("corelog_produce_bytes_total", &[]);
    assert!(produced > 64 << 20, "{produced}");
    poll("memory within its bound", || {
        let tail = broker.metric("corelog_memory_bytes", &["purpose=\"tail\""]);
        let buffers = broker.metric("corelog_memory_bytes", &["purpose=\"buffers\""]);
        (tail <= MEMORY_BYTES / 2 && buffers <= MEMORY_BYTES).then_some(())
    });
    // What was promised is there when they read after all, wherever it lies by now.
    for (first, mut consumer, sent) in stuck {
        let rows: Vec<_> = (first..first + ROWS_PER_ROUND).map(row).collect();
        for sent in sent {
            let answer = consumer.fetched(sent).topics.remove(0).partitions.remove(0);
            let got = parse_rows(&answer.record_bytes());
            assert!(!got.is_empty(), "a read may end with its segment");
            for (offset, (got, row)) in (first..).zip(got.iter().zip(&rows)) {
                assert!(got.offset == offset && got.value == row.value);
            }
        }
    }
    let from = |path: &str| broker.metric("corelog_fetch_bytes_total", &[path]);
    for path in ["tail", "sendfile", "ring"] {
        assert!(from(path) > 0, "bytes came by {path}");
    }
}
