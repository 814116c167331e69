//! Batches to send, and records as they come back.

use bytes::Bytes;
use corelog_record::batch::{BatchIter, BatchView, TimestampType};
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_record::record::Header;

/// A timestamp within every topic's limits.
pub fn now_ms() -> i64 {
    corelog_runtime::blocking::wall_clock_ms()
}

/// A record with everything a client can see of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A row with a value alone.
pub fn value(timestamp: i64, value: &str) -> Row {
    Row {
        timestamp,
        value: Some(value.as_bytes().to_vec()),
        ..Row::default()
    }
}

/// Appends rows to a builder; their offsets do not matter.
pub fn fill(mut builder: BatchBuilder, rows: &[Row]) -> Bytes {
    for row in rows {
        let headers: Vec<_> = row
            .headers
            .iter()
            .map(|(key, value)| Header {
                key,
                value: value.as_deref(),
            })
            .collect();
        let (key, value) = (row.key.as_deref(), row.value.as_deref());
        builder.append(row.timestamp, key, value, &headers);
    }
    Bytes::from(builder.build())
}

/// A batch of rows.
pub fn batch(codec: Codec, rows: &[Row]) -> Bytes {
    let base = rows.first().map_or(0, |row| row.timestamp);
    fill(BatchBuilder::new(codec, base), rows)
}

/// A batch of values without keys.
pub fn text_batch(values: &[&str]) -> Bytes {
    let now = now_ms();
    let rows: Vec<_> = values.iter().map(|text| value(now, text)).collect();
    batch(Codec::None, &rows)
}

/// A batch of an idempotent producer.
pub fn sequenced(
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    values: &[&str],
) -> Bytes {
    let now = now_ms();
    let rows: Vec<_> = values.iter().map(|text| value(now, text)).collect();
    let builder = BatchBuilder::new(Codec::None, now);
    fill(
        builder.producer(producer_id, producer_epoch, base_sequence),
        &rows,
    )
}

/// Bytes that do not repeat soon, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Records of fetched bytes, whose checksums must hold.
pub fn parse_rows(bytes: &[u8]) -> Vec<Row> {
    let mut parsed = Vec::new();
    for item in BatchIter::new(bytes) {
        let (_, header, bytes) = item.unwrap();
        let view = BatchView::parse(bytes).unwrap();
        assert!(view.crc_ok(), "the checksum of {header:?}");
        let records = view.decompressed_records(64 << 20).unwrap();
        for record in &records {
            let record = record.unwrap();
            let timestamp = match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp,
                TimestampType::CreateTime => header.base_timestamp + record.timestamp_delta,
            };
            let headers = record.headers();
            let headers = headers.map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)));
            parsed.push(Row {
                offset: header.base_offset + i64::from(record.offset_delta),
                timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: headers.collect(),
            });
        }
    }
    parsed
}

/// Values as text.
pub fn texts(rows: &[Row]) -> Vec<String> {
    let text = |row: &Row| String::from_utf8(row.value.clone().unwrap_or_default()).unwrap();
    rows.iter().map(text).collect()
}
