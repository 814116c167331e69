//! Batches made anew with another codec.

mod common;

use common::{NOW_MS, Plain, build, rules, sample, sample_batch};
use corelog_record::batch::{BatchHeader, BatchView};
use corelog_record::codec::{Codec, compress};
use corelog_record::{BatchBuilder, Recompress, RecompressError, validate};

const LIMIT: usize = 64 << 20;

fn to(codec: Codec) -> Recompress {
    Recompress {
        codec,
        level: None,
        batch_bytes_max: 1 << 20,
    }
}

fn records_of(batch: &[u8]) -> Vec<u8> {
    let view = BatchView::parse(batch).unwrap();
    assert!(view.crc_ok());
    view.decompressed_records(LIMIT).unwrap().payload().to_vec()
}

#[test]
fn r14_records_stay_byte_for_byte_between_any_two_codecs() {
    for from in Codec::ALL {
        let builder = BatchBuilder::new(from, NOW_MS).producer(77, 3, 19);
        for (count, value_bytes) in [(1, 10), (300, 100), (2, 60_000)] {
            let batch = build(builder.clone(), &sample(count, value_bytes));
            let before = validate(&batch, &rules()).unwrap();
            let records = records_of(&batch);
            for codec in Codec::ALL {
                let made = to(codec).batch(&batch, records.len()).unwrap();
                let after = validate(&made, &rules()).unwrap();
                assert_eq!(after.header.codec().unwrap(), codec);
                assert_eq!(records_of(&made), records, "{from} to {codec}");
                let same = BatchHeader {
                    length: after.header.length,
                    crc: after.header.crc,
                    attributes: after.header.attributes,
                    ..before.header
                };
                assert_eq!(after.header, same, "{from} to {codec}");
                assert_eq!(after.max_timestamp, before.max_timestamp);
            }
        }
    }
}

#[test]
fn a_batch_that_would_be_larger_than_allowed_is_given_up_before_it_is() {
    let value = vec![b'x'; 32 << 20];
    let record = Plain {
        timestamp: NOW_MS,
        key: None,
        value: Some(value),
        headers: Vec::new(),
    };
    let bomb = build(BatchBuilder::new(Codec::Zstd, NOW_MS), &[record]);
    assert!(bomb.len() < 16 << 10);
    let records_bytes = records_of(&bomb).len();
    let too_large = Err(RecompressError::TooLarge {
        batch_bytes_max: 1 << 20,
    });
    for codec in [Codec::None, Codec::Snappy] {
        assert_eq!(to(codec).batch(&bomb, records_bytes), too_large, "{codec}");
    }
    for codec in [Codec::Gzip, Codec::Lz4] {
        let made = to(codec).batch(&bomb, records_bytes).unwrap();
        assert!(made.len() < 1 << 20, "{codec}");
    }
    let exact = sample_batch(Codec::None, 10, 100);
    let packed = sample_batch(Codec::Gzip, 10, 100);
    let records_bytes = records_of(&packed).len();
    let bound = |batch_bytes_max| Recompress {
        batch_bytes_max,
        ..to(Codec::None)
    };
    assert_eq!(
        bound(exact.len()).batch(&packed, records_bytes),
        Ok(exact.clone())
    );
    assert!(
        bound(exact.len() - 1)
            .batch(&packed, records_bytes)
            .is_err()
    );
}

#[test]
fn levels_are_those_of_the_codec() {
    let batch = sample_batch(Codec::None, 500, 100);
    let records = records_of(&batch);
    let size = |codec, level| {
        let recompress = Recompress {
            level: Some(level),
            ..to(codec)
        };
        let made = recompress.batch(&batch, records.len()).unwrap();
        assert_eq!(records_of(&made), records);
        made.len()
    };
    assert!(size(Codec::Gzip, 9) < size(Codec::Gzip, 1));
    assert!(size(Codec::Zstd, 19) < size(Codec::Zstd, -100));
    assert_eq!(
        compress(Codec::Gzip, None, &records),
        compress(Codec::Gzip, Some(6), &records)
    );
}

#[test]
fn what_is_not_as_it_was_validated_is_an_error() {
    let batch = sample_batch(Codec::Gzip, 10, 100);
    let records_bytes = records_of(&batch).len();
    for wrong in [records_bytes - 1, records_bytes + 1] {
        for codec in Codec::ALL {
            let made = to(codec).batch(&batch, wrong);
            assert!(matches!(made, Err(RecompressError::Batch(_))), "{codec}");
        }
    }
    let cut = &batch[..batch.len() - 1];
    assert!(to(Codec::None).batch(cut, records_bytes).is_err());
}
