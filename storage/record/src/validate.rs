//! What a broker checks before it takes a batch from a producer, in Kafka's order and with Kafka's
//! outcomes.
//!
//! First the batch: exactly one, format version 2, base offset 0, not larger than allowed, CRC
//! right, a codec that exists, a count that matches the offsets, no control records, a sequence
//! when there is a producer id. Then every record, decompressed by stream where needed: well
//! formed, offsets 0, 1, 2 ..., a key where the topic is compacted, a timestamp the topic allows.
//!
//! Where Corelog differs from Kafka, it refuses more, so that whatever is stored can be read by
//! every client:
//! - the batch must fill the bytes (Kafka cuts off a partial batch that follows);
//! - the records of an uncompressed batch must be numbered densely, too, and a compressed batch
//!   with wrong inner offsets is refused instead of rebuilt;
//! - the fields of a record must fill its length in a compressed batch, too;
//! - a batch marked LogAppendTime is refused whatever the topic's timestamp type;
//! - a payload that does not decompress is INVALID_RECORD and an unknown codec
//!   UNSUPPORTED_COMPRESSION_TYPE (Kafka: UNKNOWN_SERVER_ERROR for both).
//!
//! Nothing is allocated per record, except to describe the records of a batch that is refused.

mod walk;

pub use crate::batch::TimestampType;
use crate::batch::{
    ATTRIBUTES_OFFSET, BatchError, BatchHeader, BatchView, Crc32c, HEADER_BYTES, LENGTH_OFFSET,
    LOG_OVERHEAD, MAGIC_OFFSET, MAGIC_V2, set_log_append_time, set_max_timestamp,
};
use crate::codec::{Codec, CodecError};
use std::fmt;
use walk::{Progress, Tally, Walk};

/// Most records of a refused batch that are described one by one. Clients treat the others as
/// refused with the batch.
pub const RECORD_ERRORS_MAX: usize = 1_000;
/// Least value of the length field that any format version has; below it the bytes are corrupt.
const LENGTH_MIN_ANY_MAGIC: i32 = 14;

/// What the topic allows, and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The time of the check, milliseconds since the epoch.
    pub now_ms: i64,
    /// Whether `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`; `i64::MAX` is no bound.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`; `i64::MAX` is no bound.
    pub after_max_ms: i64,
    /// Most bytes that the records of a compressed batch may decompress to.
    pub decompressed_bytes_max: usize,
    /// `max.message.bytes`: most bytes of a batch as sent, header included.
    pub max_message_bytes: usize,
}

/// A batch that may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validated {
    /// The header as the producer sent it.
    pub header: BatchHeader,
    /// `message.timestamp.type` of the topic at the time of the check.
    pub timestamp_type: TimestampType,
    /// Largest timestamp in milliseconds: of all records (-1 when none has one), or the time of the
    /// check for LogAppendTime.
    pub max_timestamp: i64,
    /// Offset delta of the first record with that timestamp; -1 when no record has one.
    pub offset_of_max_timestamp: i32,
    /// Timestamp of the first record in milliseconds; the time of the check for LogAppendTime.
    pub first_timestamp: i64,
    /// Whether the header does not say so yet: [`Validated::rewrite_timestamps`] must run before
    /// the append.
    pub needs_max_timestamp_rewrite: bool,
    /// Bytes of all records, uncompressed.
    pub decompressed_bytes: usize,
}

impl Validated {
    /// Writes timestamp type and largest timestamp into `batch` and recomputes its CRC. `batch` is
    /// the validated bytes.
    pub fn rewrite_timestamps(&self, batch: &mut [u8]) {
        match self.timestamp_type {
            TimestampType::CreateTime => set_max_timestamp(batch, self.max_timestamp),
            TimestampType::LogAppendTime => set_log_append_time(batch, self.max_timestamp),
        }
    }
}

/// Why a batch is refused, one variant per error of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// The bytes are not what the producer wrote: CORRUPT_MESSAGE, retriable.
    CorruptMessage,
    /// The producer wrote what it must not: INVALID_RECORD.
    InvalidRecord,
    /// A timestamp outside the bounds of the topic, or a timestamp type that only brokers set:
    /// INVALID_TIMESTAMP.
    InvalidTimestamp,
    /// A feature the batch's format version does not have: UNSUPPORTED_FOR_MESSAGE_FORMAT. The
    /// checks here never give it, because versions 0 and 1 are refused as INVALID_RECORD before;
    /// callers with older requests use it.
    UnsupportedForMessageFormat,
    /// Larger than `max.message.bytes`, or decompresses to more than allowed: MESSAGE_TOO_LARGE.
    /// Producers split the batch.
    MessageTooLarge,
    /// The codec bits name no codec: UNSUPPORTED_COMPRESSION_TYPE.
    UnsupportedCompressionType,
}

impl RejectionKind {
    /// The error code of the Kafka protocol.
    pub fn error_code(self) -> i16 {
        match self {
            RejectionKind::CorruptMessage => 2,
            RejectionKind::MessageTooLarge => 10,
            RejectionKind::InvalidTimestamp => 32,
            RejectionKind::UnsupportedForMessageFormat => 43,
            RejectionKind::UnsupportedCompressionType => 76,
            RejectionKind::InvalidRecord => 87,
        }
    }
}

/// A batch that must not be appended, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The protocol's error.
    pub error: RejectionKind,
    /// Records that caused it: index in the batch and what is wrong. At most [`RECORD_ERRORS_MAX`];
    /// empty when the batch as a whole is at fault.
    pub batch_index_errors: Vec<(i32, String)>,
    /// One sentence for the client.
    pub message: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Rejection {}

impl Rejection {
    fn new(error: RejectionKind, message: impl Into<String>) -> Rejection {
        Rejection {
            error,
            batch_index_errors: Vec::new(),
            message: message.into(),
        }
    }
}

impl From<BatchError> for Rejection {
    fn from(e: BatchError) -> Rejection {
        let kind = match &e {
            BatchError::InvalidLength(_)
            | BatchError::UnsupportedMagic(_)
            | BatchError::CrcMismatch { .. } => RejectionKind::CorruptMessage,
            BatchError::UnknownCodec(_) => RejectionKind::UnsupportedCompressionType,
            // A producer that is told so splits its batch, which helps unless one record is the
            // bomb.
            BatchError::Codec(CodecError::LimitExceeded { .. }) => RejectionKind::MessageTooLarge,
            // The CRC was right, so a retry of the same bytes cannot help.
            BatchError::Truncated { .. } | BatchError::Codec(_) | BatchError::Record(_) => {
                RejectionKind::InvalidRecord
            }
        };
        Rejection::new(kind, e.to_string())
    }
}

/// Checks the records of one partition of a produce request in one go. See [`Validator`] for large
/// ones.
pub fn validate(batch_bytes: &[u8], rules: &Rules) -> Result<Validated, Rejection> {
    let mut validator = Validator::new(batch_bytes, *rules);
    loop {
        if let Some(result) = validator.step(usize::MAX) {
            return result;
        }
    }
}

/// The same checks in slices, so that a shard can do other work in between.
pub struct Validator<'a> {
    bytes: &'a [u8],
    rules: Rules,
    phase: Phase<'a>,
}

// One of these lives per batch under validation; boxing the large variant would cost an allocation
// per small batch.
#[allow(clippy::large_enum_variant)]
enum Phase<'a> {
    Start,
    Crc {
        view: BatchView<'a>,
        crc: Crc32c,
        position: usize,
    },
    Records {
        header: BatchHeader,
        walk: Walk<'a>,
        tally: Tally,
    },
    Done,
}

impl<'a> Validator<'a> {
    /// Begins with the records of one partition of a produce request; nothing is read yet.
    pub fn new(bytes: &'a [u8], rules: Rules) -> Validator<'a> {
        Validator {
            bytes,
            rules,
            phase: Phase::Start,
        }
    }

    /// Works on about `max_bytes` (checksummed, walked or decompressed; overshoots by at most one
    /// buffer or one snappy block). `None` means that there is more to do.
    ///
    /// # Panics
    /// When called again after it gave a result.
    pub fn step(&mut self, max_bytes: usize) -> Option<Result<Validated, Rejection>> {
        let mut budget = max_bytes.max(1);
        while budget > 0 {
            match self.advance(&mut budget) {
                Ok(None) => {}
                Ok(Some(validated)) => return Some(Ok(validated)),
                Err(rejection) => {
                    self.phase = Phase::Done;
                    return Some(Err(rejection));
                }
            }
        }
        None
    }

    /// Does some work of the current phase, and takes what it cost off the budget.
    fn advance(&mut self, budget: &mut usize) -> Result<Option<Validated>, Rejection> {
        match &mut self.phase {
            Phase::Start => {
                let view = single_batch(self.bytes, &self.rules)?;
                self.phase = Phase::Crc {
                    view,
                    crc: Crc32c::new(),
                    position: ATTRIBUTES_OFFSET,
                };
            }
            Phase::Crc {
                view,
                crc,
                position,
            } => {
                let n = (view.bytes.len() - *position).min(*budget);
                crc.update(&view.bytes[*position..*position + n]);
                *position += n;
                *budget -= n;
                if *position == view.bytes.len() {
                    let (stored, computed) = (view.header.crc, crc.value());
                    if stored != computed {
                        return Err(BatchError::CrcMismatch { stored, computed }.into());
                    }
                    self.phase = start_records(*view, &self.rules)?;
                }
            }
            Phase::Records {
                header,
                walk,
                tally,
            } => {
                if walk.step(budget, tally)? == Progress::End {
                    let validated = tally.finish(header, walk.decompressed_bytes())?;
                    self.phase = Phase::Done;
                    return Ok(Some(validated));
                }
            }
            Phase::Done => panic!("a validator gives one result"),
        }
        Ok(None)
    }
}

/// Checks everything that needs neither the CRC nor the records.
fn single_batch<'a>(bytes: &'a [u8], rules: &Rules) -> Result<BatchView<'a>, Rejection> {
    use RejectionKind::{CorruptMessage, InvalidRecord, MessageTooLarge};
    const NOT_ONE: &str = "Produce requests must have exactly one record batch per partition";
    let (Some(&magic), Some(length)) = (
        bytes.get(MAGIC_OFFSET),
        bytes.get(LENGTH_OFFSET..).and_then(<[u8]>::first_chunk),
    ) else {
        return Err(Rejection::new(
            InvalidRecord,
            format!("{NOT_ONE}; {} bytes hold none", bytes.len()),
        ));
    };
    let length = i32::from_be_bytes(*length);
    if length < LENGTH_MIN_ANY_MAGIC {
        return Err(BatchError::InvalidLength(length).into());
    }
    let magic = magic as i8;
    if !(0..=MAGIC_V2).contains(&magic) {
        return Err(Rejection::new(
            CorruptMessage,
            format!("Invalid magic found in record: {magic}"),
        ));
    }
    if magic < MAGIC_V2 {
        let message = format!(
            "Produce requests are only allowed to contain record batches with magic version 2, not {magic}"
        );
        return Err(Rejection::new(InvalidRecord, message));
    }
    // Both are positive and fit: length is at least 14.
    let size_bytes = LOG_OVERHEAD + length as usize;
    if size_bytes > bytes.len() {
        let message = format!(
            "{NOT_ONE}; {} of the {size_bytes} bytes of the batch are there",
            bytes.len()
        );
        return Err(Rejection::new(InvalidRecord, message));
    }
    if size_bytes < HEADER_BYTES {
        return Err(BatchError::InvalidLength(length).into());
    }
    if size_bytes < bytes.len() {
        let message = format!(
            "{NOT_ONE}; {} bytes follow the first",
            bytes.len() - size_bytes
        );
        return Err(Rejection::new(InvalidRecord, message));
    }
    let view = BatchView::parse(bytes)?;
    if view.header.base_offset != 0 {
        let message = format!(
            "The base offset of the record batch should be 0, but it is {}",
            view.header.base_offset
        );
        return Err(Rejection::new(InvalidRecord, message));
    }
    if size_bytes > rules.max_message_bytes {
        let message = format!(
            "The record batch size is {size_bytes} bytes, which exceeds the maximum configured value of {}",
            rules.max_message_bytes
        );
        return Err(Rejection::new(MessageTooLarge, message));
    }
    Ok(view)
}

/// Checks the header, whose bytes the CRC has confirmed, and prepares the walk over the records.
fn start_records<'a>(view: BatchView<'a>, rules: &Rules) -> Result<Phase<'a>, Rejection> {
    let header = view.header;
    let invalid = |message: String| Err(Rejection::new(RejectionKind::InvalidRecord, message));
    let codec = header.codec()?;
    let count_from_offsets = i64::from(header.last_offset_delta) + 1;
    if count_from_offsets <= 0 {
        return invalid(format!(
            "Batch has an invalid offset range: [0, {}]",
            header.last_offset_delta
        ));
    }
    if header.records_count <= 0 {
        return invalid(format!(
            "Invalid reported count for record batch: {}",
            header.records_count
        ));
    }
    if count_from_offsets != i64::from(header.records_count) {
        return invalid(format!(
            "Inconsistent batch offset range [0, {}] and count of records {}",
            header.last_offset_delta, header.records_count
        ));
    }
    if header.is_control() {
        return invalid("Clients are not allowed to write control records".into());
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return invalid(format!(
            "Invalid sequence number {} in record batch with producerId {}",
            header.base_sequence, header.producer_id
        ));
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(Rejection::new(
            RejectionKind::InvalidTimestamp,
            "Invalid timestamp type in record batch. Producer should not set timestamp type to LogAppendTime.",
        ));
    }
    let walk = match codec {
        Codec::None => Walk::slice(view.payload()),
        codec => Walk::stream(codec, view.payload(), rules.decompressed_bytes_max)
            .map_err(BatchError::Codec)?,
    };
    Ok(Phase::Records {
        header,
        walk,
        tally: Tally::new(&header, *rules),
    })
}
