//! RecordBatch v2: the 61-byte header, a view of a whole batch, and the few in-place changes a
//! broker makes.
//!
//! All integers are big-endian. Bytes 0..8 (base offset), 8..12 (length) and 12..16 (partition
//! leader epoch) lie before the CRC field and outside its range, so a broker gives a batch its
//! place in the log without touching the CRC, which covers everything from the attributes (byte 21)
//! to the end of the batch.

use crate::codec::{Codec, CodecError, decompress};
use crate::record::{RecordError, RecordIter};
use std::borrow::Cow;
use std::fmt;

/// Offset of the base offset, i64.
pub const BASE_OFFSET_OFFSET: usize = 0;
/// Offset of the length field, i32: bytes of the batch after this field.
pub const LENGTH_OFFSET: usize = 8;
/// Offset of the partition leader epoch, i32.
pub const PARTITION_LEADER_EPOCH_OFFSET: usize = 12;
/// Offset of the magic byte, i8: the format version, 2.
pub const MAGIC_OFFSET: usize = 16;
/// Offset of the CRC-32C, u32.
pub const CRC_OFFSET: usize = 17;
/// Offset of the attributes, i16. The CRC covers the batch from here to its end.
pub const ATTRIBUTES_OFFSET: usize = 21;
/// Offset of the last offset delta, i32.
pub const LAST_OFFSET_DELTA_OFFSET: usize = 23;
/// Offset of the base timestamp, i64, milliseconds.
pub const BASE_TIMESTAMP_OFFSET: usize = 27;
/// Offset of the largest timestamp, i64, milliseconds.
pub const MAX_TIMESTAMP_OFFSET: usize = 35;
/// Offset of the producer id, i64.
pub const PRODUCER_ID_OFFSET: usize = 43;
/// Offset of the producer epoch, i16.
pub const PRODUCER_EPOCH_OFFSET: usize = 51;
/// Offset of the base sequence, i32.
pub const BASE_SEQUENCE_OFFSET: usize = 53;
/// Offset of the number of records, i32.
pub const RECORDS_COUNT_OFFSET: usize = 57;
/// Bytes of the header; the records follow.
pub const HEADER_BYTES: usize = 61;
/// Bytes of the fields that come before what the length field counts: base offset and length.
pub const LOG_OVERHEAD: usize = 12;
/// The smallest value of the length field: a header without records.
pub const LENGTH_MIN: i32 = (HEADER_BYTES - LOG_OVERHEAD) as i32;
/// The format version of every batch Corelog stores.
pub const MAGIC_V2: i8 = 2;
/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;
/// The producer id of a batch that is neither idempotent nor transactional.
pub const NO_PRODUCER_ID: i64 = -1;
/// The producer epoch of such a batch.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// The base sequence of such a batch.
pub const NO_SEQUENCE: i32 = -1;
/// The leader epoch before a leader has set one.
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;

/// Attribute bits that name the codec.
pub const ATTRIBUTE_CODEC_MASK: i16 = 0x07;
/// Attribute bit: timestamps are LogAppendTime.
pub const ATTRIBUTE_LOG_APPEND_TIME: i16 = 0x08;
/// Attribute bit: the batch belongs to a transaction.
pub const ATTRIBUTE_TRANSACTIONAL: i16 = 0x10;
/// Attribute bit: control records (transaction markers), not user data.
pub const ATTRIBUTE_CONTROL: i16 = 0x20;
/// Attribute bit: the base timestamp field holds the delete horizon of tombstones and markers.
pub const ATTRIBUTE_DELETE_HORIZON: i16 = 0x40;

/// Who sets the timestamps of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer.
    CreateTime,
    /// The broker, when it appends.
    LogAppendTime,
}

/// What is wrong with the bytes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than the header or the length field ask for.
    Truncated {
        /// Bytes needed.
        need_bytes: usize,
        /// Bytes there.
        have_bytes: usize,
    },
    /// The length field is smaller than a header.
    InvalidLength(i32),
    /// Not format version 2.
    UnsupportedMagic(i8),
    /// The codec bits name no codec.
    UnknownCodec(u8),
    /// The stored and the computed CRC-32C differ.
    CrcMismatch {
        /// As stored in the header.
        stored: u32,
        /// As computed over the bytes.
        computed: u32,
    },
    /// The payload does not decompress, or to more than the limit.
    Codec(CodecError),
    /// A record is malformed.
    Record(RecordError),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Truncated {
                need_bytes,
                have_bytes,
            } => {
                write!(
                    f,
                    "the batch needs {need_bytes} bytes and {have_bytes} are there"
                )
            }
            BatchError::InvalidLength(n) => {
                write!(f, "batch length {n} is less than the least of {LENGTH_MIN}")
            }
            BatchError::UnsupportedMagic(n) => write!(f, "batch magic {n} is not {MAGIC_V2}"),
            BatchError::UnknownCodec(n) => write!(f, "unknown compression codec {n}"),
            BatchError::CrcMismatch { stored, computed } => {
                write!(
                    f,
                    "batch is corrupt (stored crc = {stored}, computed crc = {computed})"
                )
            }
            BatchError::Codec(e) => e.fmt(f),
            BatchError::Record(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for BatchError {}

impl From<CodecError> for BatchError {
    fn from(e: CodecError) -> BatchError {
        BatchError::Codec(e)
    }
}

impl From<RecordError> for BatchError {
    fn from(e: RecordError) -> BatchError {
        BatchError::Record(e)
    }
}

/// The header of a batch, field by field. `length` is at least [`LENGTH_MIN`] and `magic` is 2 when
/// it comes from [`BatchHeader::parse`]; every other field is as the bytes say and unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes of the batch after this field.
    pub length: i32,
    /// Epoch of the leader that appended the batch.
    pub partition_leader_epoch: i32,
    /// Format version.
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control and delete-horizon bits.
    pub attributes: i16,
    /// Offset of the last record, relative to the base offset.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas count from, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, or -1.
    pub producer_id: i64,
    /// Producer epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records.
    pub records_count: i32,
}

/// Copies `N` bytes at `at`. The caller has checked that they are there.
#[inline]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("the caller checked the length")
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`. Only the header must be there; the records need
    /// not. Fails when fewer than 61 bytes are there, the magic is not 2, or the length field is
    /// below 49.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(h) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated {
                need_bytes: HEADER_BYTES,
                have_bytes: bytes.len(),
            });
        };
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(field(h, BASE_OFFSET_OFFSET)),
            length: i32::from_be_bytes(field(h, LENGTH_OFFSET)),
            partition_leader_epoch: i32::from_be_bytes(field(h, PARTITION_LEADER_EPOCH_OFFSET)),
            magic: h[MAGIC_OFFSET] as i8,
            crc: u32::from_be_bytes(field(h, CRC_OFFSET)),
            attributes: i16::from_be_bytes(field(h, ATTRIBUTES_OFFSET)),
            last_offset_delta: i32::from_be_bytes(field(h, LAST_OFFSET_DELTA_OFFSET)),
            base_timestamp: i64::from_be_bytes(field(h, BASE_TIMESTAMP_OFFSET)),
            max_timestamp: i64::from_be_bytes(field(h, MAX_TIMESTAMP_OFFSET)),
            producer_id: i64::from_be_bytes(field(h, PRODUCER_ID_OFFSET)),
            producer_epoch: i16::from_be_bytes(field(h, PRODUCER_EPOCH_OFFSET)),
            base_sequence: i32::from_be_bytes(field(h, BASE_SEQUENCE_OFFSET)),
            records_count: i32::from_be_bytes(field(h, RECORDS_COUNT_OFFSET)),
        };
        if header.length < LENGTH_MIN {
            return Err(BatchError::InvalidLength(header.length));
        }
        if header.magic != MAGIC_V2 {
            return Err(BatchError::UnsupportedMagic(header.magic));
        }
        Ok(header)
    }

    /// Writes all fields, the stored CRC included, as they are.
    pub fn write(&self, out: &mut [u8; HEADER_BYTES]) {
        out[BASE_OFFSET_OFFSET..LENGTH_OFFSET].copy_from_slice(&self.base_offset.to_be_bytes());
        out[LENGTH_OFFSET..PARTITION_LEADER_EPOCH_OFFSET]
            .copy_from_slice(&self.length.to_be_bytes());
        out[PARTITION_LEADER_EPOCH_OFFSET..MAGIC_OFFSET]
            .copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        out[MAGIC_OFFSET] = self.magic as u8;
        out[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&self.crc.to_be_bytes());
        out[ATTRIBUTES_OFFSET..LAST_OFFSET_DELTA_OFFSET]
            .copy_from_slice(&self.attributes.to_be_bytes());
        out[LAST_OFFSET_DELTA_OFFSET..BASE_TIMESTAMP_OFFSET]
            .copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[BASE_TIMESTAMP_OFFSET..MAX_TIMESTAMP_OFFSET]
            .copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[MAX_TIMESTAMP_OFFSET..PRODUCER_ID_OFFSET]
            .copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[PRODUCER_ID_OFFSET..PRODUCER_EPOCH_OFFSET]
            .copy_from_slice(&self.producer_id.to_be_bytes());
        out[PRODUCER_EPOCH_OFFSET..BASE_SEQUENCE_OFFSET]
            .copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[BASE_SEQUENCE_OFFSET..RECORDS_COUNT_OFFSET]
            .copy_from_slice(&self.base_sequence.to_be_bytes());
        out[RECORDS_COUNT_OFFSET..HEADER_BYTES].copy_from_slice(&self.records_count.to_be_bytes());
    }

    /// Bytes of the whole batch: 12 + length.
    #[inline]
    pub fn size_bytes(&self) -> usize {
        LOG_OVERHEAD + usize::try_from(self.length).unwrap_or(0)
    }

    /// Offset of the last record. Wraps for a hostile header, as the sum of two untrusted fields.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .wrapping_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record. Wraps as [`BatchHeader::last_offset`] does.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// The codec of the records; fails for the ids 5, 6 and 7.
    #[inline]
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let id = (self.attributes & ATTRIBUTE_CODEC_MASK) as u8;
        Codec::from_id(id).ok_or(BatchError::UnknownCodec(id))
    }

    /// Who set the timestamps.
    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether the batch belongs to a transaction.
    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records.
    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon.
    #[inline]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & ATTRIBUTE_DELETE_HORIZON != 0
    }

    /// Whether an idempotent or transactional producer wrote the batch.
    #[inline]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Sequence of the last record, or -1 without sequences. After `i32::MAX` comes 0.
    #[inline]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence + increment` on the circle 0..=`i32::MAX`.
#[inline]
pub fn increment_sequence(sequence: i32, increment: i32) -> i32 {
    (i64::from(sequence) + i64::from(increment)).rem_euclid(1 << 31) as i32
}

/// A whole batch in memory. The header is parsed; the CRC and the records are not checked until
/// asked.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    /// The parsed header.
    pub header: BatchHeader,
    /// Exactly the bytes of the batch, header included.
    pub bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the front of `bytes`, all of which must be there; bytes after it are ignored.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let need_bytes = header.size_bytes();
        match bytes.get(..need_bytes) {
            Some(bytes) => Ok(BatchView { header, bytes }),
            None => Err(BatchError::Truncated {
                need_bytes,
                have_bytes: bytes.len(),
            }),
        }
    }

    /// Whether the stored CRC is that of the bytes.
    #[inline]
    pub fn crc_ok(&self) -> bool {
        self.computed_crc() == self.header.crc
    }

    /// Fails with both values when the stored CRC is not that of the bytes.
    #[inline]
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = self.computed_crc();
        if computed == self.header.crc {
            return Ok(());
        }
        Err(BatchError::CrcMismatch {
            stored: self.header.crc,
            computed,
        })
    }

    /// CRC-32C of the bytes it covers.
    #[inline]
    pub fn computed_crc(&self) -> u32 {
        crc32c(&self.bytes[ATTRIBUTES_OFFSET..])
    }

    /// The bytes after the header, compressed or not.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The records of an uncompressed batch, without a copy. For a compressed batch the items are
    /// errors or nonsense: ask `header.codec()` first, or use [`BatchView::decompressed_records`].
    #[inline]
    pub fn records(&self) -> RecordIter<'a> {
        RecordIter::new(self.payload(), self.header.records_count)
    }

    /// The records of any batch; a compressed payload is decompressed into memory, up to
    /// `limit_bytes`.
    pub fn decompressed_records(
        &self,
        limit_bytes: usize,
    ) -> Result<DecompressedRecords<'a>, BatchError> {
        let payload = match self.header.codec()? {
            Codec::None => Cow::Borrowed(self.payload()),
            codec => Cow::Owned(decompress(codec, self.payload(), limit_bytes)?),
        };
        Ok(DecompressedRecords {
            payload,
            count: self.header.records_count,
        })
    }
}

/// The uncompressed payload of a batch, to iterate over.
#[derive(Debug, Clone)]
pub struct DecompressedRecords<'a> {
    payload: Cow<'a, [u8]>,
    count: i32,
}

impl DecompressedRecords<'_> {
    /// The records.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.payload, self.count)
    }

    /// The uncompressed bytes of all records.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl<'a> IntoIterator for &'a DecompressedRecords<'_> {
    type Item = Result<crate::record::Record<'a>, RecordError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

/// Iterator over batches that lie one after the other: `(position in the slice, header, bytes of
/// the batch)`. A batch that is not all there ends it without an error; a bad length or magic is
/// one error, and then the end. CRCs are not checked.
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> BatchIter<'a> {
    /// Iterates from the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> BatchIter<'a> {
        BatchIter {
            bytes,
            position: 0,
            failed: false,
        }
    }

    /// Where the next batch begins: the bytes of all batches given so far.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<(usize, BatchHeader, &'a [u8]), BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let position = self.position;
        match BatchView::parse(&self.bytes[position..]) {
            Ok(view) => {
                self.position += view.bytes.len();
                Some(Ok((position, view.header, view.bytes)))
            }
            Err(BatchError::Truncated { .. }) => None,
            Err(e) => {
                self.failed = true;
                Some(Err(e))
            }
        }
    }
}

/// Gives a batch its place in the log. Both fields lie outside the CRC.
///
/// # Panics
/// When `batch` is shorter than a header; parse it first.
#[inline]
pub fn patch_base_offset_and_epoch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    let header = header_mut(batch);
    header[BASE_OFFSET_OFFSET..LENGTH_OFFSET].copy_from_slice(&base_offset.to_be_bytes());
    header[PARTITION_LEADER_EPOCH_OFFSET..MAGIC_OFFSET]
        .copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Marks the batch as LogAppendTime with `timestamp_ms` for all its records, and recomputes the
/// CRC.
///
/// # Panics
/// When `batch` is shorter than a header; `batch` must be exactly one batch.
pub fn set_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    set_timestamp(batch, timestamp_ms, TimestampType::LogAppendTime);
}

/// Sets the largest timestamp of a CreateTime batch, and recomputes the CRC.
///
/// # Panics
/// When `batch` is shorter than a header; `batch` must be exactly one batch.
pub fn set_max_timestamp(batch: &mut [u8], timestamp_ms: i64) {
    set_timestamp(batch, timestamp_ms, TimestampType::CreateTime);
}

fn set_timestamp(batch: &mut [u8], timestamp_ms: i64, timestamp_type: TimestampType) {
    let header = header_mut(batch);
    let attributes = i16::from_be_bytes(field(header, ATTRIBUTES_OFFSET));
    let attributes = match timestamp_type {
        TimestampType::CreateTime => attributes & !ATTRIBUTE_LOG_APPEND_TIME,
        TimestampType::LogAppendTime => attributes | ATTRIBUTE_LOG_APPEND_TIME,
    };
    header[ATTRIBUTES_OFFSET..LAST_OFFSET_DELTA_OFFSET].copy_from_slice(&attributes.to_be_bytes());
    header[MAX_TIMESTAMP_OFFSET..PRODUCER_ID_OFFSET].copy_from_slice(&timestamp_ms.to_be_bytes());
    let crc = crc32c(&batch[ATTRIBUTES_OFFSET..]);
    batch[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&crc.to_be_bytes());
}

fn header_mut(batch: &mut [u8]) -> &mut [u8; HEADER_BYTES] {
    batch
        .first_chunk_mut()
        .expect("a parsed batch holds at least a header")
}

/// CRC-32C (Castagnoli) of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C over several slices, one after the other.
#[derive(Debug, Clone)]
pub struct Crc32c(crc_fast::Digest);

impl Crc32c {
    /// The CRC of no bytes.
    pub fn new() -> Crc32c {
        Crc32c(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC of all bytes so far.
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c::new()
    }
}
