//! Makes batches: for tools, the load generator, internal topics and tests.

use crate::batch::{
    ATTRIBUTE_CONTROL, ATTRIBUTE_LOG_APPEND_TIME, ATTRIBUTE_TRANSACTIONAL, ATTRIBUTES_OFFSET,
    BatchHeader, CRC_OFFSET, HEADER_BYTES, LOG_OVERHEAD, MAGIC_V2, NO_PARTITION_LEADER_EPOCH,
    NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, crc32c,
};
use crate::codec::{Codec, compress};
use crate::record::Header;
use crate::varint::{varlong_size_bytes, write_varlong};

/// Collects records and makes one batch of them, with base offset 0 unless told otherwise, as a
/// producer sends it.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    codec: Codec,
    level: Option<i32>,
    header: BatchHeader,
    payload: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch. Record timestamps are stored relative to `base_timestamp` (milliseconds).
    pub fn new(codec: Codec, base_timestamp: i64) -> BatchBuilder {
        BatchBuilder {
            codec,
            level: None,
            header: BatchHeader {
                base_offset: 0,
                length: 0,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                magic: MAGIC_V2,
                crc: 0,
                attributes: i16::from(codec.id()),
                last_offset_delta: -1,
                base_timestamp,
                max_timestamp: NO_TIMESTAMP,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: NO_PRODUCER_EPOCH,
                base_sequence: NO_SEQUENCE,
                records_count: 0,
            },
            payload: Vec::new(),
        }
    }

    /// The batch of an idempotent producer.
    pub fn producer(
        mut self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
    ) -> BatchBuilder {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of a transaction.
    pub fn transactional(mut self) -> BatchBuilder {
        self.header.attributes |= ATTRIBUTE_TRANSACTIONAL;
        self
    }

    /// Marks the batch as control records.
    pub fn control(mut self) -> BatchBuilder {
        self.header.attributes |= ATTRIBUTE_CONTROL;
        self
    }

    /// Marks the timestamps as the broker's.
    pub fn log_append_time(mut self) -> BatchBuilder {
        self.header.attributes |= ATTRIBUTE_LOG_APPEND_TIME;
        self
    }

    /// Compression level, see [`compress`].
    pub fn level(mut self, level: i32) -> BatchBuilder {
        self.level = Some(level);
        self
    }

    /// Sets the base offset, for batches that are already placed in a log.
    pub fn base_offset(mut self, base_offset: i64) -> BatchBuilder {
        self.header.base_offset = base_offset;
        self
    }

    /// Sets the partition leader epoch, for batches that are already placed in a log.
    pub fn leader_epoch(mut self, leader_epoch: i32) -> BatchBuilder {
        self.header.partition_leader_epoch = leader_epoch;
        self
    }

    /// Adds a record; `timestamp` is absolute, milliseconds. Returns the record's offset delta.
    ///
    /// # Panics
    /// When the batch would no longer fit its 32-bit length.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> i32 {
        let offset_delta = self.header.records_count;
        let timestamp_delta = timestamp.wrapping_sub(self.header.base_timestamp);
        let body_bytes = 1
            + varlong_size_bytes(timestamp_delta)
            + varlong_size_bytes(i64::from(offset_delta))
            + nullable_size_bytes(key)
            + nullable_size_bytes(value)
            + varlong_size_bytes(headers.len() as i64)
            + headers
                .iter()
                .map(|h| nullable_size_bytes(Some(h.key)) + nullable_size_bytes(h.value))
                .sum::<usize>();
        assert!(
            self.payload.len() + body_bytes + 5 <= i32::MAX as usize - HEADER_BYTES,
            "a batch holds less than 2 GiB"
        );
        let out = &mut self.payload;
        write_varlong(out, body_bytes as i64);
        out.push(0);
        write_varlong(out, timestamp_delta);
        write_varlong(out, i64::from(offset_delta));
        write_nullable(out, key);
        write_nullable(out, value);
        write_varlong(out, headers.len() as i64);
        for header in headers {
            write_nullable(out, Some(header.key));
            write_nullable(out, header.value);
        }
        self.header.records_count += 1;
        self.header.last_offset_delta = offset_delta;
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        offset_delta
    }

    /// Number of records so far.
    pub fn records_count(&self) -> i32 {
        self.header.records_count
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.header.records_count == 0
    }

    /// Bytes of the batch if it were built uncompressed now.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Makes the batch. The builder keeps its records and can go on.
    pub fn build(&self) -> Vec<u8> {
        let mut batch = vec![0; HEADER_BYTES];
        match self.codec {
            Codec::None => batch.extend_from_slice(&self.payload),
            codec => batch.extend_from_slice(&compress(codec, self.level, &self.payload)),
        }
        let length =
            i32::try_from(batch.len() - LOG_OVERHEAD).expect("append keeps the batch below 2 GiB");
        let header = BatchHeader {
            length,
            ..self.header
        };
        header.write(
            batch
                .first_chunk_mut::<HEADER_BYTES>()
                .expect("the header was reserved"),
        );
        let crc = crc32c(&batch[ATTRIBUTES_OFFSET..]);
        batch[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&crc.to_be_bytes());
        batch
    }
}

fn nullable_size_bytes(field: Option<&[u8]>) -> usize {
    match field {
        Some(bytes) => varlong_size_bytes(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

fn write_nullable(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            write_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => write_varlong(out, -1),
    }
}
