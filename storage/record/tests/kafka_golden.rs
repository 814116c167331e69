//! Batches and a producer snapshot that Kafka's own classes wrote (tests/golden/Generate*.java):
//! read, validated, and made again.

mod common;

use common::{Plain, build, rules};
use corelog_record::batch::{TimestampType, patch_base_offset_and_epoch};
use corelog_record::schemas::{EndTxnMarker, ProducerSnapshotEntry, producer_snapshot};
use corelog_record::{BatchBuilder, BatchView, Codec, validate};

const GOLDEN: [(Codec, &[u8]); 5] = [
    (Codec::None, include_bytes!("golden/none.batch")),
    (Codec::Gzip, include_bytes!("golden/gzip.batch")),
    (Codec::Snappy, include_bytes!("golden/snappy.batch")),
    (Codec::Lz4, include_bytes!("golden/lz4.batch")),
    (Codec::Zstd, include_bytes!("golden/zstd.batch")),
];

/// The records of the generator.
fn expected() -> Vec<Plain> {
    (0..200usize)
        .map(|i| Plain {
            timestamp: 1_700_000_000_000 + ((i * 37) % 101 * 1000) as i64,
            key: (i % 3 != 0).then(|| format!("key-{i}").into_bytes()),
            value: (i % 5 != 0)
                .then(|| format!("{}{i}", "value of the record ".repeat(i % 7)).into_bytes()),
            headers: if i % 4 == 0 {
                vec![
                    (format!("h{i}"), Some(vec![i as u8, 0])),
                    ("null".into(), None),
                ]
            } else {
                vec![]
            },
        })
        .collect()
}

#[test]
fn r03_r14_kafkas_batches_are_read_byte_for_byte() {
    for (codec, bytes) in GOLDEN {
        let view = BatchView::parse(bytes).unwrap();
        assert_eq!(view.bytes.len(), bytes.len());
        assert!(view.crc_ok(), "{codec}");
        let header = view.header;
        assert_eq!(header.codec().unwrap(), codec);
        assert_eq!(
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence
            ),
            (4242, 7, 1000)
        );
        assert_eq!(
            (
                header.records_count,
                header.last_offset(),
                header.last_sequence()
            ),
            (200, 199, 1199)
        );
        assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
        let records = view.decompressed_records(1 << 20).unwrap();
        let read: Vec<Plain> = records
            .iter()
            .enumerate()
            .map(|(i, record)| {
                let record = record.unwrap();
                assert_eq!(record.offset_delta as usize, i);
                Plain {
                    timestamp: header.base_timestamp + record.timestamp_delta,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record
                        .headers()
                        .map(|h| {
                            (
                                String::from_utf8(h.key.to_vec()).unwrap(),
                                h.value.map(<[u8]>::to_vec),
                            )
                        })
                        .collect(),
                }
            })
            .collect();
        assert_eq!(read, expected(), "{codec}");
    }
}

#[test]
fn r14_kafkas_batches_are_valid() {
    for (codec, bytes) in GOLDEN {
        let validated = validate(bytes, &rules()).unwrap_or_else(|e| panic!("{codec}: {e}"));
        assert_eq!(validated.max_timestamp, validated.header.max_timestamp);
        assert!(!validated.needs_max_timestamp_rewrite);
        assert_eq!(validated.decompressed_bytes, GOLDEN[0].1.len() - 61);
        let first = expected()
            .iter()
            .position(|r| r.timestamp == validated.max_timestamp)
            .unwrap();
        assert_eq!(validated.offset_of_max_timestamp as usize, first);
    }
}

#[test]
fn r03_an_uncompressed_batch_is_built_as_kafka_builds_it() {
    let builder = BatchBuilder::new(Codec::None, 1_700_000_000_000).producer(4242, 7, 1000);
    assert_eq!(build(builder, &expected()), GOLDEN[0].1);
}

#[test]
fn r11_a_producer_snapshot_has_kafkas_bytes() {
    let golden = include_bytes!("golden/producers.snapshot");
    let idempotent = ProducerSnapshotEntry {
        producer_id: 1000,
        producer_epoch: 3,
        last_sequence: 41,
        last_offset: 1234,
        offset_delta: 9,
        timestamp: 1_700_000_000_123,
        coordinator_epoch: -1,
        current_txn_first_offset: -1,
    };
    let transactional = ProducerSnapshotEntry {
        producer_id: 1001,
        producer_epoch: 0,
        last_sequence: i32::MAX,
        last_offset: 1300,
        offset_delta: 0,
        timestamp: 1_700_000_000_456,
        coordinator_epoch: 17,
        current_txn_first_offset: 1200,
    };
    // Kafka writes an offset delta of 0 for a producer of which it knows no batch.
    let marker_only = ProducerSnapshotEntry {
        producer_id: 1002,
        producer_epoch: 5,
        last_sequence: -1,
        last_offset: -1,
        offset_delta: 0,
        timestamp: 1_700_000_000_789,
        coordinator_epoch: 18,
        current_txn_first_offset: -1,
    };
    let entries = [idempotent, transactional, marker_only];
    assert_eq!(producer_snapshot::decode(golden).unwrap(), entries);
    assert_eq!(producer_snapshot::encode(&entries), golden);
}

#[test]
fn r12_transaction_markers_have_kafkas_bytes() {
    let abort = include_bytes!("golden/abort-marker.batch");
    let commit = include_bytes!("golden/commit-marker.batch");
    for (golden, committed) in [(abort, false), (commit, true)] {
        let marker = EndTxnMarker {
            committed,
            coordinator_epoch: 31,
        };
        assert_eq!(
            EndTxnMarker::of_batch(&BatchView::parse(golden).unwrap()),
            Some(marker)
        );
        let mut built = marker.build_batch(1_700_000_000_000, 9, 2);
        patch_base_offset_and_epoch(&mut built, 77, 4);
        assert_eq!(built, golden);
    }
}
