//! Batches that Kafka's own classes wrote (tests/golden/GenerateBatches.java): read, validated, and built again.

mod common;

use common::{Plain, build, rules};
use corelog_record::batch::TimestampType;
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
