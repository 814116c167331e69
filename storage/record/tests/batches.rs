//! Headers, views, iteration over concatenated batches, the in-place changes, and CRC-32C against
//! another implementation.

mod common;

use common::{NOW_MS, fix_crc, sample_batch};
use corelog_record::batch::{
    self, BatchHeader, HEADER_BYTES, increment_sequence, patch_base_offset_and_epoch,
    set_log_append_time, set_max_timestamp,
};
use corelog_record::{
    BatchBuilder, BatchError, BatchIter, BatchView, Codec, Crc32c, RecordError, TimestampType,
    crc32c,
};
use proptest::prelude::*;

fn any_header() -> impl Strategy<Value = BatchHeader> {
    let first = (
        any::<i64>(),
        49..=i32::MAX,
        any::<i32>(),
        any::<u32>(),
        any::<i16>(),
        any::<i32>(),
    );
    let second = (
        any::<i64>(),
        any::<i64>(),
        any::<i64>(),
        any::<i16>(),
        any::<i32>(),
        any::<i32>(),
    );
    (first, second).prop_map(|(a, b)| BatchHeader {
        base_offset: a.0,
        length: a.1,
        partition_leader_epoch: a.2,
        magic: 2,
        crc: a.3,
        attributes: a.4,
        last_offset_delta: a.5,
        base_timestamp: b.0,
        max_timestamp: b.1,
        producer_id: b.2,
        producer_epoch: b.3,
        base_sequence: b.4,
        records_count: b.5,
    })
}

#[test]
fn the_header_says_what_is_in_the_batch() {
    let mut builder = BatchBuilder::new(Codec::Zstd, NOW_MS)
        .producer(9, 3, i32::MAX - 1)
        .transactional();
    for i in 0..4 {
        assert_eq!(
            builder.append(NOW_MS + 10 - i, Some(b"k"), None, &[]),
            i as i32
        );
    }
    let bytes = builder.base_offset(1_000).leader_epoch(5).build();
    let header = BatchHeader::parse(&bytes).unwrap();
    assert_eq!(header.size_bytes(), bytes.len());
    assert_eq!(
        (
            header.base_offset,
            header.last_offset(),
            header.next_offset()
        ),
        (1_000, 1_003, 1_004)
    );
    assert_eq!(
        (header.partition_leader_epoch, header.records_count),
        (5, 4)
    );
    assert_eq!(
        (header.base_timestamp, header.max_timestamp),
        (NOW_MS, NOW_MS + 10)
    );
    assert!(header.is_transactional() && !header.is_control() && !header.has_delete_horizon());
    assert!(header.has_producer_id());
    assert_eq!(header.codec(), Ok(Codec::Zstd));
    assert_eq!(
        header.last_sequence(),
        1,
        "after the largest sequence comes 0"
    );
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(increment_sequence(i32::MAX, 0), i32::MAX);
    assert_eq!(increment_sequence(i32::MAX, 1), 0);
    assert_eq!(increment_sequence(i32::MAX - 5, 10), 4);
    assert_eq!(increment_sequence(0, i32::MAX), i32::MAX);
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let good = sample_batch(Codec::None, 1, 1);
    assert_eq!(
        BatchHeader::parse(&good[..60]),
        Err(BatchError::Truncated {
            need_bytes: 61,
            have_bytes: 60
        })
    );
    for length in [48, 0, -1, i32::MIN] {
        let mut bad = good.clone();
        bad[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(
            BatchHeader::parse(&bad),
            Err(BatchError::InvalidLength(length))
        );
    }
    for magic in [0u8, 1, 3, 0xff] {
        let mut bad = good.clone();
        bad[16] = magic;
        assert_eq!(
            BatchHeader::parse(&bad),
            Err(BatchError::UnsupportedMagic(magic as i8))
        );
    }
    for codec in 5..8u8 {
        let mut bad = good.clone();
        bad[22] = codec;
        assert_eq!(
            BatchHeader::parse(&bad).unwrap().codec(),
            Err(BatchError::UnknownCodec(codec))
        );
    }
    let view = BatchView::parse(&good[..good.len() - 1]);
    assert!(matches!(view, Err(BatchError::Truncated { .. })));
}

#[test]
fn every_flipped_bit_under_the_crc_is_noticed() {
    let good = sample_batch(Codec::None, 3, 20);
    for bit in 17 * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let view = BatchView::parse(&bad).unwrap();
        assert!(!view.crc_ok(), "bit {bit}");
        assert!(matches!(
            view.check_crc(),
            Err(BatchError::CrcMismatch { .. })
        ));
    }
}

#[test]
fn placing_a_batch_leaves_its_crc_and_records_alone() {
    let before = sample_batch(Codec::Gzip, 10, 100);
    let mut after = before.clone();
    patch_base_offset_and_epoch(&mut after, 123_456_789_012, 17);
    let view = BatchView::parse(&after).unwrap();
    assert!(view.crc_ok());
    assert_eq!(
        (view.header.base_offset, view.header.partition_leader_epoch),
        (123_456_789_012, 17)
    );
    assert_eq!(after[8..12], before[8..12]);
    assert_eq!(after[16..], before[16..]);
}

#[test]
fn r03_timestamps_are_set_with_a_right_crc_and_the_payload_stays() {
    let before = sample_batch(Codec::None, 10, 100);
    let mut bytes = before.clone();
    set_log_append_time(&mut bytes, 42);
    let view = BatchView::parse(&bytes).unwrap();
    assert!(view.crc_ok());
    assert_eq!(
        (view.header.timestamp_type(), view.header.max_timestamp),
        (TimestampType::LogAppendTime, 42)
    );
    set_max_timestamp(&mut bytes, 43);
    let view = BatchView::parse(&bytes).unwrap();
    assert!(view.crc_ok());
    assert_eq!(
        (view.header.timestamp_type(), view.header.max_timestamp),
        (TimestampType::CreateTime, 43)
    );
    assert_eq!(view.payload(), &before[HEADER_BYTES..]);
}

#[test]
fn r32_iteration_ends_at_a_partial_batch_and_reports_a_bad_one_once() {
    let batches: Vec<Vec<u8>> = (1..5).map(|n| sample_batch(Codec::None, n, 30)).collect();
    let whole = batches.concat();
    let mut position = 0;
    for (item, batch) in BatchIter::new(&whole).zip(&batches) {
        let (at, header, bytes) = item.unwrap();
        assert_eq!(
            (at, bytes, header.size_bytes()),
            (position, &batch[..], batch.len())
        );
        position += batch.len();
    }
    assert_eq!(position, whole.len());
    let last_at = whole.len() - batches[3].len();
    for cut in last_at..whole.len() {
        let mut iter = BatchIter::new(&whole[..cut]);
        assert_eq!(iter.by_ref().filter(Result::is_ok).count(), 3);
        assert_eq!(iter.position(), last_at);
    }
    // Prepared space after the last batch reads as zeros.
    let mut zeros = whole.clone();
    zeros.resize(whole.len() + 4096, 0);
    let items: Vec<_> = BatchIter::new(&zeros).collect();
    assert_eq!(items.len(), 5);
    assert_eq!(items[4], Err(BatchError::InvalidLength(0)));
}

#[test]
fn records_report_bytes_that_are_left_or_missing() {
    let batch = sample_batch(Codec::None, 2, 5);
    let more = common::with_payload(&batch, &[&batch[61..], &[0][..]].concat());
    let last = BatchView::parse(&more).unwrap().records().last();
    assert_eq!(last, Some(Err(RecordError::BytesAfterLastRecord(1))));
    let less = common::with_payload(&batch, &batch[61..batch.len() - 1]);
    let items: Vec<_> = BatchView::parse(&less).unwrap().records().collect();
    assert_eq!(items.len(), 2);
    assert_eq!(items[1], Err(RecordError::Truncated));
}

#[test]
fn malformed_records_are_named() {
    use corelog_record::Record;
    for (bytes, error) in [
        (&[][..], RecordError::Truncated),
        (&[0x80], RecordError::Truncated),
        (&[0x01], RecordError::InvalidLength(-1)),
        (&[0x00], RecordError::InvalidLength(0)),
        (&[0x0e, 0, 0, 0], RecordError::Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f], RecordError::VarintOverflow),
        (&[0x0c, 0, 0, 0, 0x7e, 1, 0], RecordError::FieldBeyondRecord),
        (
            &[0x0c, 0, 0, 0, 1, 1, 0x01],
            RecordError::InvalidHeaderCount(-1),
        ),
        (
            &[0x0c, 0, 0, 0, 1, 1, 0x7e],
            RecordError::InvalidHeaderCount(63),
        ),
        (
            &[0x10, 0, 0, 0, 1, 1, 0x02, 1, 1],
            RecordError::NullHeaderKey,
        ),
        (
            &[0x0e, 0, 0, 0, 1, 1, 0, 9],
            RecordError::BytesLeftInRecord(1),
        ),
    ] {
        assert_eq!(Record::parse(bytes), Err(error), "{bytes:?}");
    }
    assert!(Record::parse(&[0x0c, 0, 0, 0, 1, 1, 0]).is_ok());
}

proptest! {
    #[test]
    fn headers_round_trip(header in any_header()) {
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes);
        prop_assert_eq!(BatchHeader::parse(&bytes), Ok(header));
        // Untrusted fields add up without a panic.
        let _ = (header.next_offset(), header.last_sequence(), header.size_bytes(), header.codec());
    }

    #[test]
    fn crc32c_agrees_with_another_implementation(
        bytes in proptest::collection::vec(any::<u8>(), 0..5_000),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let expected = crc32c::crc32c(&bytes);
        prop_assert_eq!(crc32c(&bytes), expected);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut incremental = Crc32c::new();
        let mut from = 0;
        for cut in cuts {
            incremental.update(&bytes[from..cut]);
            from = cut;
        }
        incremental.update(&bytes[from..]);
        prop_assert_eq!(incremental.value(), expected);
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), fix in any::<bool>()) {
        let mut bytes = bytes;
        if fix && bytes.len() >= HEADER_BYTES {
            bytes[batch::MAGIC_OFFSET] = 2;
            let length = (bytes.len() - 12) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            fix_crc(&mut bytes);
        }
        for (at, header, batch) in BatchIter::new(&bytes).flatten() {
            prop_assert!(at + batch.len() <= bytes.len());
            prop_assert_eq!(header.size_bytes(), batch.len());
            let view = BatchView::parse(batch).unwrap();
            for record in view.records().flatten() { let _ = record.headers().count(); }
            if let Ok(records) = view.decompressed_records(10_000) { let _ = records.iter().count(); }
        }
    }
}
