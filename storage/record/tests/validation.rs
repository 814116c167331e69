//! What a broker takes and what it refuses, with Kafka's errors.

mod common;

use common::{NOW_MS, Plain, build, fix_crc, rules, sample, sample_batch, with_payload};
use corelog_record::validate::RECORD_ERRORS_MAX;
use corelog_record::{
    BatchBuilder, BatchView, Codec, Rejection, RejectionKind, Rules, TimestampType, Validated,
    Validator, validate,
};

/// Validates in one go and in slices of many sizes; all must agree.
fn check(bytes: &[u8], rules: &Rules) -> Result<Validated, Rejection> {
    let whole = validate(bytes, rules);
    for step_bytes in [0, 1, 100, 4_096, 65_536] {
        let mut validator = Validator::new(bytes, *rules);
        let mut steps = 1;
        let result = loop {
            match validator.step(step_bytes) {
                Some(result) => break result,
                None => steps += 1,
            }
        };
        assert_eq!(result, whole, "in slices of {step_bytes}");
        if result.is_ok() && step_bytes > 0 {
            assert!(
                steps > (bytes.len() - 61) / step_bytes,
                "{steps} slices of {step_bytes}"
            );
        }
    }
    whole
}

fn refused(bytes: &[u8], rules: &Rules) -> Rejection {
    check(bytes, rules).expect_err("the batch must be refused")
}

/// A batch with one 32- or 16-bit field overwritten, and a right CRC.
fn with_field(batch: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + value.len()].copy_from_slice(value);
    fix_crc(&mut batch);
    batch
}

fn keyless(timestamps: &[i64]) -> Vec<Plain> {
    timestamps
        .iter()
        .map(|&timestamp| Plain {
            timestamp,
            key: None,
            value: Some(b"v".to_vec()),
            headers: vec![],
        })
        .collect()
}

#[test]
fn r14_good_batches_of_every_codec_are_taken() {
    for codec in Codec::ALL {
        for (count, value_bytes) in [(1, 0), (10, 100), (300, 1_000), (3, 200_000)] {
            let batch = sample_batch(codec, count, value_bytes);
            let plain = sample_batch(Codec::None, count, value_bytes);
            let validated = check(&batch, &rules()).unwrap_or_else(|e| panic!("{codec}: {e}"));
            assert_eq!(validated.header, BatchView::parse(&batch).unwrap().header);
            assert_eq!(validated.first_timestamp, NOW_MS);
            assert_eq!(validated.max_timestamp, NOW_MS + count as i64 - 1);
            assert_eq!(validated.offset_of_max_timestamp, count as i32 - 1);
            assert!(!validated.needs_max_timestamp_rewrite);
            assert_eq!(validated.decompressed_bytes, plain.len() - 61);
        }
    }
}

#[test]
fn r13_bytes_that_are_not_one_batch_are_refused() {
    use RejectionKind::{CorruptMessage, InvalidRecord};
    let good = sample_batch(Codec::None, 3, 10);
    let cut = good.len() - 1;
    let small = |length: i32| with_field(&good, 8, &length.to_be_bytes());
    let magic = |magic: u8| with_field(&good, 16, &[magic]);
    for (bytes, error, part) in [
        (vec![], InvalidRecord, "0 bytes hold none"),
        (
            good[..16].to_vec(),
            InvalidRecord,
            "exactly one record batch",
        ),
        (
            good[..cut].to_vec(),
            InvalidRecord,
            "bytes of the batch are there",
        ),
        (
            [&good[..], &good].concat(),
            InvalidRecord,
            "bytes follow the first",
        ),
        (
            [&good[..], &[0]].concat(),
            InvalidRecord,
            "1 bytes follow the first",
        ),
        (small(13), CorruptMessage, "length 13"),
        (small(-1), CorruptMessage, "length -1"),
        (small(48), CorruptMessage, "length 48"),
        (small(i32::MAX), InvalidRecord, "of the 2147483659 bytes"),
        (magic(0), InvalidRecord, "magic version 2, not 0"),
        (magic(1), InvalidRecord, "magic version 2, not 1"),
        (magic(3), CorruptMessage, "Invalid magic found in record: 3"),
        (
            magic(0xff),
            CorruptMessage,
            "Invalid magic found in record: -1",
        ),
    ] {
        let rejection = refused(&bytes, &rules());
        assert_eq!(rejection.error, error, "{rejection}");
        assert!(
            rejection.message.contains(part),
            "{rejection} should contain {part:?}"
        );
        assert!(rejection.batch_index_errors.is_empty());
    }
}

#[test]
fn r13_headers_that_lie_are_refused() {
    use RejectionKind::{InvalidRecord, InvalidTimestamp, UnsupportedCompressionType};
    let good = sample_batch(Codec::None, 3, 10);
    let with_producer = build(
        BatchBuilder::new(Codec::None, NOW_MS).producer(5, 0, -1),
        &sample(1, 1),
    );
    let control = build(
        BatchBuilder::new(Codec::None, NOW_MS).control(),
        &sample(1, 1),
    );
    let append_time = build(
        BatchBuilder::new(Codec::None, NOW_MS).log_append_time(),
        &sample(1, 1),
    );
    for (bytes, error, part) in [
        (
            with_field(&good, 0, &7i64.to_be_bytes()),
            InvalidRecord,
            "should be 0, but it is 7",
        ),
        (
            with_field(&good, 23, &(-1i32).to_be_bytes()),
            InvalidRecord,
            "invalid offset range",
        ),
        (
            with_field(&good, 23, &i32::MAX.to_be_bytes()),
            InvalidRecord,
            "Inconsistent batch offset range",
        ),
        (
            with_field(&good, 57, &0i32.to_be_bytes()),
            InvalidRecord,
            "Invalid reported count for record batch: 0",
        ),
        (
            with_field(&good, 57, &(-3i32).to_be_bytes()),
            InvalidRecord,
            "Invalid reported count",
        ),
        (
            with_field(&good, 57, &4i32.to_be_bytes()),
            InvalidRecord,
            "Inconsistent batch offset range",
        ),
        (
            with_field(&good, 21, &5i16.to_be_bytes()),
            UnsupportedCompressionType,
            "codec 5",
        ),
        (control, InvalidRecord, "control records"),
        (with_producer, InvalidRecord, "Invalid sequence number -1"),
        (append_time, InvalidTimestamp, "LogAppendTime"),
    ] {
        let rejection = refused(&bytes, &rules());
        assert_eq!(rejection.error, error, "{rejection}");
        assert!(
            rejection.message.contains(part),
            "{rejection} should contain {part:?}"
        );
    }
}

#[test]
fn r13_a_damaged_batch_is_corrupt_and_so_retriable() {
    let good = sample_batch(Codec::Lz4, 3, 100);
    for at in 21..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(
            refused(&bad, &rules()).error,
            RejectionKind::CorruptMessage,
            "byte {at}"
        );
    }
}

#[test]
fn r13_error_codes_are_those_of_the_protocol() {
    use kafka_protocol::error::ResponseError;
    for (kind, error) in [
        (RejectionKind::CorruptMessage, ResponseError::CorruptMessage),
        (RejectionKind::InvalidRecord, ResponseError::InvalidRecord),
        (
            RejectionKind::InvalidTimestamp,
            ResponseError::InvalidTimestamp,
        ),
        (
            RejectionKind::UnsupportedForMessageFormat,
            ResponseError::UnsupportedForMessageFormat,
        ),
        (
            RejectionKind::MessageTooLarge,
            ResponseError::MessageTooLarge,
        ),
        (
            RejectionKind::UnsupportedCompressionType,
            ResponseError::UnsupportedCompressionType,
        ),
    ] {
        assert_eq!(kind.error_code(), error.code());
    }
}

#[test]
fn r13_max_message_bytes_is_exact_and_counts_compressed_bytes() {
    for codec in [Codec::None, Codec::Zstd] {
        let batch = sample_batch(codec, 50, 1_000);
        let fits = Rules {
            max_message_bytes: batch.len(),
            ..rules()
        };
        assert!(check(&batch, &fits).is_ok());
        let rejection = refused(
            &batch,
            &Rules {
                max_message_bytes: batch.len() - 1,
                ..rules()
            },
        );
        assert_eq!(rejection.error, RejectionKind::MessageTooLarge);
    }
}

#[test]
fn r14_a_bomb_is_refused_at_the_limit() {
    let bomb = [Plain {
        timestamp: NOW_MS,
        key: None,
        value: Some(vec![0; 8 << 20]),
        headers: vec![],
    }];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = build(BatchBuilder::new(codec, NOW_MS), &bomb);
        let exact = validate(&batch, &rules()).unwrap().decompressed_bytes;
        assert!(
            validate(
                &batch,
                &Rules {
                    decompressed_bytes_max: exact,
                    ..rules()
                }
            )
            .is_ok()
        );
        let rejection = validate(
            &batch,
            &Rules {
                decompressed_bytes_max: exact - 1,
                ..rules()
            },
        )
        .unwrap_err();
        assert_eq!(rejection.error, RejectionKind::MessageTooLarge, "{codec}");
    }
}

#[test]
fn r05_compacted_topics_want_a_key_and_name_the_records_without() {
    let mut records = sample(5, 10);
    records[1].key = None;
    records[4].key = None;
    for codec in Codec::ALL {
        let batch = build(BatchBuilder::new(codec, NOW_MS), &records);
        assert!(check(&batch, &rules()).is_ok());
        let rejection = refused(
            &batch,
            &Rules {
                compacted: true,
                ..rules()
            },
        );
        assert_eq!(rejection.error, RejectionKind::InvalidRecord);
        let indexes: Vec<i32> = rejection
            .batch_index_errors
            .iter()
            .map(|(index, _)| *index)
            .collect();
        assert_eq!(indexes, [1, 4]);
        assert!(rejection.batch_index_errors[0].1.contains("without key"));
    }
    // An empty key is a key.
    records[1].key = Some(vec![]);
    records[4].key = Some(vec![]);
    let batch = build(BatchBuilder::new(Codec::None, NOW_MS), &records);
    assert!(
        check(
            &batch,
            &Rules {
                compacted: true,
                ..rules()
            }
        )
        .is_ok()
    );
}

#[test]
fn the_description_of_a_refused_batch_is_bounded() {
    let records = keyless(&vec![NOW_MS; RECORD_ERRORS_MAX * 3]);
    let batch = build(BatchBuilder::new(Codec::Zstd, NOW_MS), &records);
    let rejection = refused(
        &batch,
        &Rules {
            compacted: true,
            ..rules()
        },
    );
    assert_eq!(rejection.batch_index_errors.len(), RECORD_ERRORS_MAX);
    assert!(rejection.message.contains("3000 record errors"));
    assert!(rejection.message.len() < 1_000);
}

#[test]
fn r03_timestamps_must_lie_within_the_bounds_of_the_topic() {
    let bounds = Rules {
        before_max_ms: 1_000,
        after_max_ms: 500,
        ..rules()
    };
    for (timestamp, allowed) in [
        (NOW_MS - 1_000, true),
        (NOW_MS - 1_001, false),
        (NOW_MS + 500, true),
        (NOW_MS + 501, false),
        (-1, true),
        (-2, false),
        (i64::MAX, false),
        (i64::MIN, false),
    ] {
        for codec in [Codec::None, Codec::Gzip] {
            let batch = build(
                BatchBuilder::new(codec, NOW_MS),
                &keyless(&[NOW_MS, timestamp]),
            );
            let result = check(&batch, &bounds);
            assert_eq!(result.is_ok(), allowed, "{timestamp}");
            if let Err(rejection) = result {
                assert_eq!(rejection.error, RejectionKind::InvalidTimestamp);
                assert_eq!(rejection.batch_index_errors[0].0, 1);
            }
        }
    }
    let unbounded = Rules {
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        ..rules()
    };
    for timestamp in [i64::MIN, -2, 0, i64::MAX] {
        let batch = build(BatchBuilder::new(Codec::None, 0), &keyless(&[timestamp]));
        assert!(check(&batch, &unbounded).is_ok(), "{timestamp}");
    }
}

#[test]
fn r24_the_largest_timestamp_is_recomputed_and_its_first_record_found() {
    let batch = build(
        BatchBuilder::new(Codec::None, NOW_MS),
        &keyless(&[NOW_MS + 5, NOW_MS + 9, NOW_MS, NOW_MS + 9]),
    );
    let mut lying = with_field(&batch, 35, &(NOW_MS + 77).to_be_bytes());
    let validated = check(&lying, &rules()).unwrap();
    assert_eq!(
        (validated.max_timestamp, validated.offset_of_max_timestamp),
        (NOW_MS + 9, 1)
    );
    assert_eq!(validated.first_timestamp, NOW_MS + 5);
    assert!(validated.needs_max_timestamp_rewrite);
    validated.rewrite_timestamps(&mut lying);
    assert_eq!(lying, batch);

    let none = build(BatchBuilder::new(Codec::None, -1), &keyless(&[-1, -1]));
    let validated = check(&none, &rules()).unwrap();
    assert_eq!(
        (validated.max_timestamp, validated.offset_of_max_timestamp),
        (-1, -1)
    );
    assert!(!validated.needs_max_timestamp_rewrite);
}

#[test]
fn r03_log_append_time_overrides_what_the_producer_says() {
    let rules = Rules {
        timestamp_type: TimestampType::LogAppendTime,
        before_max_ms: 0,
        after_max_ms: 0,
        ..rules()
    };
    let mut batch = build(
        BatchBuilder::new(Codec::Snappy, 5),
        &keyless(&[5, i64::MAX]),
    );
    let payload = batch[61..].to_vec();
    let validated = check(&batch, &rules).unwrap();
    assert!(validated.needs_max_timestamp_rewrite);
    assert_eq!(
        (validated.max_timestamp, validated.first_timestamp),
        (NOW_MS, NOW_MS)
    );
    assert_eq!(validated.offset_of_max_timestamp, 0);
    validated.rewrite_timestamps(&mut batch);
    let view = BatchView::parse(&batch).unwrap();
    assert!(view.crc_ok());
    assert_eq!(
        (view.header.timestamp_type(), view.header.max_timestamp),
        (TimestampType::LogAppendTime, NOW_MS)
    );
    assert_eq!(view.payload(), payload);
}

#[test]
fn r01_records_must_be_numbered_densely() {
    let plain = sample_batch(Codec::None, 3, 10);
    let payload = BatchView::parse(&plain).unwrap().payload();
    let first_bytes = BatchView::parse(&plain)
        .unwrap()
        .records()
        .next()
        .unwrap()
        .unwrap()
        .size_bytes;
    // The first record twice: offset deltas 0, 0, and the third.
    let repeated = [&payload[..first_bytes], &payload[..first_bytes]].concat();
    for codec in Codec::ALL {
        let header = with_field(&sample_batch(codec, 2, 1), 57, &2i32.to_be_bytes());
        let bytes = with_payload(
            &header,
            &corelog_record::codec::compress(codec, None, &repeated),
        );
        let rejection = refused(&bytes, &rules());
        assert_eq!(rejection.error, RejectionKind::InvalidRecord);
        assert_eq!(rejection.batch_index_errors.len(), 1, "{rejection}");
        assert!(
            rejection.batch_index_errors[0]
                .1
                .contains("offset delta 0 instead of 1")
        );
    }
}

#[test]
fn payloads_with_too_much_or_too_little_are_refused() {
    let plain = sample_batch(Codec::None, 4, 50_000);
    let payload = &plain[61..];
    for codec in Codec::ALL {
        let header = sample_batch(codec, 4, 1);
        for wrong in [
            &payload[..payload.len() - 1],
            &payload[..60_000],
            &[payload, &[0; 3]].concat(),
            &[],
        ] {
            let bytes = with_payload(
                &header,
                &corelog_record::codec::compress(codec, None, wrong),
            );
            let rejection = refused(&bytes, &rules());
            assert_eq!(
                rejection.error,
                RejectionKind::InvalidRecord,
                "{codec}: {rejection}"
            );
        }
        if codec != Codec::None {
            let bytes = with_payload(&header, b"not a compressed stream");
            assert_eq!(
                refused(&bytes, &rules()).error,
                RejectionKind::InvalidRecord
            );
        }
    }
}

/// A record with a value of 100,000 bytes, larger than what a walk looks at together, and `tail`
/// for its headers; the length says `length_more` bytes more than there are fields.
fn large_record(tail: &[u8], length_more: i64) -> Vec<u8> {
    use corelog_record::varint::write_varlong;
    let mut body = vec![0, 0, 0, 1];
    write_varlong(&mut body, 100_000);
    body.resize(body.len() + 100_000, b'v');
    body.extend_from_slice(tail);
    let mut record = Vec::new();
    write_varlong(&mut record, body.len() as i64 + length_more);
    record.extend_from_slice(&body);
    record
}

#[test]
fn malformed_records_that_are_larger_than_the_window_are_refused() {
    let more_headers = [&[0x04][..], b"\x02h\x02v", b"\x02h\x01"].concat();
    for (record, part) in [
        (large_record(&[0x00], 0), None),
        (large_record(&more_headers, 0), None),
        (
            large_record(&[0x00, 0x09], 0),
            Some("1 bytes are left after the fields"),
        ),
        (
            large_record(&[0x00], -1),
            Some("a field is longer than its record"),
        ),
        (
            large_record(&[0x00], -50_000),
            Some("a field is longer than its record"),
        ),
        (
            large_record(&[0x00], 1),
            Some("1 bytes are left after the fields"),
        ),
        (
            large_record(&[0x01], 0),
            Some("invalid number of record headers -1"),
        ),
        (
            large_record(&[0x08, 0, 0], 0),
            Some("invalid number of record headers 4"),
        ),
        (large_record(&[0x02, 0x01, 0x01], 0), Some("a null key")),
        (
            large_record(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 0),
            Some("a varint is longer"),
        ),
    ] {
        for codec in Codec::ALL {
            let header = sample_batch(codec, 1, 1);
            let payload = corelog_record::codec::compress(codec, None, &record);
            let result = check(&with_payload(&header, &payload), &rules());
            let message = result
                .as_ref()
                .err()
                .map(|rejection| rejection.message.clone());
            match part {
                None => assert!(result.is_ok(), "{codec}: {message:?}"),
                // The walk in place knows first that a record is not whole.
                Some(_) if codec == Codec::None => assert!(result.is_err()),
                Some(part) => {
                    let message = message.expect("the batch must be refused");
                    assert!(
                        message.contains(part),
                        "{codec}: {message} should contain {part:?}"
                    );
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "a validator gives one result")]
fn a_validator_is_not_asked_twice() {
    let mut validator = Validator::new(&[], rules());
    assert!(validator.step(1).unwrap().is_err());
    validator.step(1);
}
