//! What the tests share: rules that allow everything, and batches with known content.
#![allow(dead_code, reason = "each test file uses its part")]

use corelog_record::batch::TimestampType;
use corelog_record::{BatchBuilder, Codec, Header, Rules};

/// A time in 2023, used as now and as the base timestamp.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// Kafka's defaults: CreateTime, an hour into the future, no bound in the past.
pub fn rules() -> Rules {
    Rules {
        now_ms: NOW_MS,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        decompressed_bytes_max: 64 << 20,
        max_message_bytes: 1 << 20,
    }
}

/// A record as the tests describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A batch of `records`.
pub fn build(builder: BatchBuilder, records: &[Plain]) -> Vec<u8> {
    let mut builder = builder;
    for record in records {
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .map(|(key, value)| Header {
                key: key.as_bytes(),
                value: value.as_deref(),
            })
            .collect();
        builder.append(
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
    }
    builder.build()
}

/// `count` records with keys, values and some headers, `value_bytes` each, one millisecond apart.
pub fn sample(count: usize, value_bytes: usize) -> Vec<Plain> {
    (0..count)
        .map(|i| Plain {
            timestamp: NOW_MS + i as i64,
            key: Some(format!("key-{i}").into_bytes()),
            value: Some((0..value_bytes).map(|n| (n * 7 + i) as u8 % 61).collect()),
            headers: if i % 4 == 0 {
                vec![("trace".into(), Some(vec![i as u8])), ("none".into(), None)]
            } else {
                vec![]
            },
        })
        .collect()
}

/// A valid batch of [`sample`] records.
pub fn sample_batch(codec: Codec, count: usize, value_bytes: usize) -> Vec<u8> {
    build(
        BatchBuilder::new(codec, NOW_MS),
        &sample(count, value_bytes),
    )
}

/// Makes the CRC right again after a test changed bytes that it covers.
pub fn fix_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Makes a batch of `header`'s fields and any payload, with the right length and CRC.
pub fn with_payload(batch: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = batch[..61].to_vec();
    out.extend_from_slice(payload);
    let length = (out.len() - 12) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    fix_crc(&mut out);
    out
}
