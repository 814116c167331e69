//! Batches with a right CRC and anything inside: never a panic, never more than the limits, and the
//! same verdict whether the records are walked in place or through a decompressor.

mod common;

use common::{NOW_MS, Plain, build, fix_crc, rules, sample_batch, with_payload};
use corelog_record::codec::compress;
use corelog_record::{BatchBuilder, BatchView, Codec, Rules, Validator, validate};
use proptest::prelude::*;
use proptest::sample::Index;

fn any_plain() -> impl Strategy<Value = Plain> {
    let field = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    (
        prop_oneof![Just(-1), NOW_MS - 10..NOW_MS + 10, any::<i64>()],
        field(),
        field(),
        proptest::collection::vec(("[a-z]{0,6}", field()), 0..4),
    )
        .prop_map(|(timestamp, key, value, headers)| Plain {
            timestamp,
            key,
            value,
            headers,
        })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(compacted, narrow, append_time)| {
        Rules {
            compacted,
            before_max_ms: if narrow { 5 } else { i64::MAX },
            after_max_ms: if narrow { 5 } else { i64::MAX },
            timestamp_type: if append_time {
                corelog_record::TimestampType::LogAppendTime
            } else {
                corelog_record::TimestampType::CreateTime
            },
            ..rules()
        }
    })
}

fn damage(bytes: &mut [u8], flips: &[(Index, u8)]) {
    for (at, value) in flips {
        if !bytes.is_empty() {
            bytes[at.index(bytes.len())] ^= value;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn r03_what_is_built_is_taken_and_read_back(
        records in proptest::collection::vec(any_plain(), 1..40),
        codec in proptest::sample::select(&Codec::ALL[..]),
    ) {
        let batch = build(BatchBuilder::new(codec, NOW_MS), &records);
        let open = Rules { before_max_ms: i64::MAX, after_max_ms: i64::MAX, ..rules() };
        let validated = validate(&batch, &open).unwrap();
        prop_assert_eq!(validated.header.records_count as usize, records.len());
        let largest = records.iter().map(|r| r.timestamp).max().unwrap().max(-1);
        prop_assert_eq!(validated.max_timestamp, largest);
        let view = BatchView::parse(&batch).unwrap();
        let decompressed = view.decompressed_records(1 << 20).unwrap();
        for (record, plain) in decompressed.iter().zip(&records) {
            let record = record.unwrap();
            prop_assert_eq!(record.key, plain.key.as_deref());
            prop_assert_eq!(record.value, plain.value.as_deref());
            prop_assert_eq!(NOW_MS.wrapping_add(record.timestamp_delta), plain.timestamp);
            for (header, (key, value)) in record.headers().zip(&plain.headers) {
                prop_assert_eq!((header.key, header.value), (key.as_bytes(), value.as_deref()));
            }
        }
        prop_assert_eq!(decompressed.iter().count(), records.len());
    }

    #[test]
    fn both_walks_give_the_same_verdict(
        records in proptest::collection::vec(any_plain(), 1..20),
        large_bytes in prop_oneof![3 => Just(0usize), 1 => 30_000..100_000usize],
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        codec in proptest::sample::select(&Codec::ALL[1..]),
        rules in any_rules(),
        step_bytes in 1usize..100_000,
    ) {
        let mut records = records;
        if large_bytes > 0 { records[0].value = Some(vec![7; large_bytes]); }
        let plain = build(BatchBuilder::new(Codec::None, NOW_MS), &records);
        let mut payload = plain[61..].to_vec();
        damage(&mut payload, &flips);
        let in_place = validate(&with_payload(&plain, &payload), &rules);
        let mut header = plain[..61].to_vec();
        header[22] |= codec.id();
        let compressed = with_payload(&header, &compress(codec, None, &payload));
        let streamed = validate(&compressed, &rules);
        match (&in_place, &streamed) {
            (Ok(a), Ok(b)) => {
                prop_assert_eq!(a.max_timestamp, b.max_timestamp);
                prop_assert_eq!(a.offset_of_max_timestamp, b.offset_of_max_timestamp);
                prop_assert_eq!(a.first_timestamp, b.first_timestamp);
                prop_assert_eq!(a.decompressed_bytes, b.decompressed_bytes);
            }
            (Err(a), Err(b)) => {
                prop_assert_eq!(a.error, b.error);
                prop_assert_eq!(&a.batch_index_errors, &b.batch_index_errors);
            }
            _ => prop_assert!(false, "{:?} in place, {:?} streamed", in_place, streamed),
        }
        let mut validator = Validator::new(&compressed, rules);
        let stepped = loop {
            if let Some(result) = validator.step(step_bytes) { break result; }
        };
        prop_assert_eq!(stepped, streamed);
    }

    #[test]
    fn damaged_batches_with_a_right_crc_never_panic(
        codec in proptest::sample::select(&Codec::ALL[..]),
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        keep in proptest::option::of(any::<Index>()),
        rules in any_rules(),
    ) {
        let mut batch = sample_batch(codec, 20, 100);
        if let Some(keep) = keep {
            batch.truncate(61 + keep.index(batch.len() - 60));
            let length = (batch.len() - 12) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
        }
        // Everything but the length and the magic.
        damage(&mut batch[21..], &flips);
        fix_crc(&mut batch);
        let limit = Rules { decompressed_bytes_max: 100_000, ..rules };
        if let Ok(validated) = validate(&batch, &limit) {
            prop_assert!(validated.decompressed_bytes <= 100_000);
            let view = BatchView::parse(&batch).unwrap();
            let records = view.decompressed_records(100_000).unwrap();
            prop_assert_eq!(records.iter().filter(Result::is_ok).count(), validated.header.records_count as usize);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), rules in any_rules()) {
        let _ = validate(&bytes, &rules);
    }
}
