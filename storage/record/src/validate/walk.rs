//! The walk over the records of a batch: straight through the bytes when they are not compressed,
//! through a window over the decompressor's output when they are. Keys, values and headers are
//! measured and skipped, never copied.

use super::{RECORD_ERRORS_MAX, Rejection, RejectionKind, Rules, Validated};
use crate::batch::{BatchError, BatchHeader, NO_TIMESTAMP, TimestampType};
use crate::codec::{Codec, CodecError, Decompressor};
use crate::record::{Record, RecordError};
use crate::varint::{VarintError, read_varint, read_varlong};

/// Bytes of decompressed output that are looked at together.
const WINDOW_BYTES: usize = 32 * 1024;

/// Whether a walk is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    End,
}

/// What the records seen so far add up to.
pub(super) struct Tally {
    rules: Rules,
    base_timestamp: i64,
    count: i32,
    seen: i32,
    first_timestamp: i64,
    max_timestamp: i64,
    offset_of_max_timestamp: i32,
    errors: Vec<(i32, String)>,
    errors_count: u64,
    invalid_timestamp: bool,
}

impl Tally {
    pub(super) fn new(header: &BatchHeader, rules: Rules) -> Tally {
        Tally {
            rules,
            base_timestamp: header.base_timestamp,
            count: header.records_count,
            seen: 0,
            first_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            offset_of_max_timestamp: -1,
            errors: Vec::new(),
            errors_count: 0,
            invalid_timestamp: false,
        }
    }

    fn complete(&self) -> bool {
        self.seen == self.count
    }

    /// Takes note of the next record.
    #[inline]
    fn record(&mut self, timestamp_delta: i64, offset_delta: i32, has_key: bool) {
        // Both come from the producer; Kafka's sum wraps, too.
        let timestamp = self.base_timestamp.wrapping_add(timestamp_delta);
        if (self.rules.compacted && !has_key)
            || offset_delta != self.seen
            || !self.timestamp_allowed(timestamp)
        {
            self.refuse(timestamp, offset_delta, has_key);
        }
        if self.seen == 0 {
            self.first_timestamp = timestamp;
        }
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.offset_of_max_timestamp = self.seen;
        }
        self.seen += 1;
    }

    #[inline]
    fn timestamp_allowed(&self, timestamp: i64) -> bool {
        if self.rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP {
            return true;
        }
        let age_ms = self.rules.now_ms.saturating_sub(timestamp);
        age_ms <= self.rules.before_max_ms && age_ms.saturating_neg() <= self.rules.after_max_ms
    }

    #[cold]
    fn refuse(&mut self, timestamp: i64, offset_delta: i32, has_key: bool) {
        self.errors_count += 1;
        let reason = if self.rules.compacted && !has_key {
            "Compacted topic cannot accept message without key".to_string()
        } else if offset_delta != self.seen {
            format!(
                "Record has offset delta {offset_delta} instead of {}",
                self.seen
            )
        } else {
            self.invalid_timestamp = true;
            format!(
                "Timestamp {timestamp} of message with offset {offset_delta} is out of range. The timestamp should be within [{}, {}]",
                self.rules.now_ms.saturating_sub(self.rules.before_max_ms),
                self.rules.now_ms.saturating_add(self.rules.after_max_ms)
            )
        };
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push((self.seen, reason));
        }
    }

    /// The verdict, once all records were seen.
    pub(super) fn finish(
        &mut self,
        header: &BatchHeader,
        decompressed_bytes: usize,
    ) -> Result<Validated, Rejection> {
        if self.errors_count > 0 {
            return Err(self.rejection());
        }
        let timestamp_type = self.rules.timestamp_type;
        let (max_timestamp, offset_of_max_timestamp, first_timestamp) = match timestamp_type {
            TimestampType::CreateTime => (
                self.max_timestamp,
                self.offset_of_max_timestamp,
                self.first_timestamp,
            ),
            TimestampType::LogAppendTime => (self.rules.now_ms, 0, self.rules.now_ms),
        };
        Ok(Validated {
            header: *header,
            timestamp_type,
            max_timestamp,
            offset_of_max_timestamp,
            first_timestamp,
            needs_max_timestamp_rewrite: header.timestamp_type() != timestamp_type
                || header.max_timestamp != max_timestamp,
            decompressed_bytes,
        })
    }

    fn rejection(&mut self) -> Rejection {
        let (error, message) = if self.invalid_timestamp {
            let message =
                "One or more records have been rejected due to invalid timestamp".to_string();
            (RejectionKind::InvalidTimestamp, message)
        } else {
            let message = format!(
                "One or more records have been rejected due to {} record errors in total, and only showing the first \
                 three errors at most: {:?}",
                self.errors_count,
                &self.errors[..self.errors.len().min(3)]
            );
            (RejectionKind::InvalidRecord, message)
        };
        Rejection {
            error,
            batch_index_errors: std::mem::take(&mut self.errors),
            message,
        }
    }
}

/// A walk over the records, in slices.
pub(super) enum Walk<'a> {
    Slice {
        rest: &'a [u8],
        payload_bytes: usize,
    },
    Stream(Box<StreamWalk<'a>>),
}

impl<'a> Walk<'a> {
    pub(super) fn slice(payload: &'a [u8]) -> Walk<'a> {
        Walk::Slice {
            rest: payload,
            payload_bytes: payload.len(),
        }
    }

    pub(super) fn stream(
        codec: Codec,
        payload: &'a [u8],
        limit_bytes: usize,
    ) -> Result<Walk<'a>, CodecError> {
        Ok(Walk::Stream(Box::new(StreamWalk {
            decompressor: Decompressor::new(codec, payload, limit_bytes)?,
            window: vec![0; WINDOW_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            ended: false,
            field: Field::Length,
            record_left_bytes: 0,
            skip_bytes: 0,
            timestamp_delta: 0,
            offset_delta: 0,
            has_key: false,
            headers_left: 0,
        })))
    }

    /// Bytes of all records.
    pub(super) fn decompressed_bytes(&self) -> usize {
        match self {
            Walk::Slice { payload_bytes, .. } => *payload_bytes,
            Walk::Stream(walk) => walk.decompressor.produced_bytes(),
        }
    }

    /// Walks until the records or the budget (in bytes) are used up.
    pub(super) fn step(
        &mut self,
        budget: &mut usize,
        tally: &mut Tally,
    ) -> Result<Progress, BatchError> {
        match self {
            Walk::Slice { rest, .. } => {
                while !tally.complete() {
                    if *budget == 0 {
                        return Ok(Progress::More);
                    }
                    let record = Record::parse(rest)?;
                    *rest = &rest[record.size_bytes..];
                    // A large value costs nothing to pass over; what takes time is the number of
                    // records.
                    *budget = budget.saturating_sub(record.size_bytes);
                    tally.record(
                        record.timestamp_delta,
                        record.offset_delta,
                        record.key.is_some(),
                    );
                }
                match rest.len() {
                    0 => Ok(Progress::End),
                    n => Err(RecordError::BytesAfterLastRecord(n).into()),
                }
            }
            Walk::Stream(walk) => walk.step(budget, tally),
        }
    }
}

/// The field a stream walk reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Attributes,
    TimestampDelta,
    OffsetDelta,
    KeyLength,
    ValueLength,
    HeaderCount,
    HeaderKeyLength,
    HeaderValueLength,
    RecordEnd,
}

/// A walk that keeps its place inside a record, because a record may be larger than the window and
/// than the budget.
pub(super) struct StreamWalk<'a> {
    decompressor: Decompressor<'a>,
    /// Output not yet looked at is `window[start..end]`.
    window: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    field: Field,
    /// Bytes of the current record not yet accounted for.
    record_left_bytes: usize,
    /// Bytes of the current field still to be passed over; already accounted for.
    skip_bytes: usize,
    timestamp_delta: i64,
    offset_delta: i32,
    has_key: bool,
    headers_left: u32,
}

/// A field could not be read from what is in the window.
enum Stop {
    NeedBytes,
    Error(RecordError),
}

impl From<RecordError> for Stop {
    fn from(e: RecordError) -> Stop {
        Stop::Error(e)
    }
}

impl From<VarintError> for Stop {
    fn from(e: VarintError) -> Stop {
        match e {
            VarintError::Truncated => Stop::NeedBytes,
            VarintError::Overflow => Stop::Error(RecordError::VarintOverflow),
        }
    }
}

impl StreamWalk<'_> {
    fn step(&mut self, budget: &mut usize, tally: &mut Tally) -> Result<Progress, BatchError> {
        loop {
            let at_end = tally.complete() && self.field == Field::Length;
            if at_end && self.start < self.end {
                return Err(RecordError::BytesAfterLastRecord(self.end - self.start).into());
            }
            if !at_end {
                match self.window_step(tally) {
                    Ok(()) => continue,
                    Err(Stop::Error(e)) => return Err(e.into()),
                    Err(Stop::NeedBytes) => {}
                }
            }
            if self.ended {
                return if at_end {
                    Ok(Progress::End)
                } else {
                    Err(RecordError::Truncated.into())
                };
            }
            if *budget == 0 {
                return Ok(Progress::More);
            }
            self.refill(budget)?;
        }
    }

    /// Makes room behind what is left in the window, and reads more output.
    fn refill(&mut self, budget: &mut usize) -> Result<(), CodecError> {
        self.window.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let n = self.decompressor.read_chunk(&mut self.window[self.end..])?;
        self.end += n;
        self.ended = n == 0;
        *budget = budget.saturating_sub(n);
        Ok(())
    }

    /// Passes over skipped bytes, or reads one field or one whole record.
    fn window_step(&mut self, tally: &mut Tally) -> Result<(), Stop> {
        if self.skip_bytes > 0 {
            let n = self.skip_bytes.min(self.end - self.start);
            self.start += n;
            self.skip_bytes -= n;
            return if self.skip_bytes == 0 {
                Ok(())
            } else {
                Err(Stop::NeedBytes)
            };
        }
        match self.field {
            Field::Length => {
                match Record::parse(&self.window[self.start..self.end]) {
                    Ok(record) => {
                        self.start += record.size_bytes;
                        tally.record(
                            record.timestamp_delta,
                            record.offset_delta,
                            record.key.is_some(),
                        );
                        return Ok(());
                    }
                    // Not whole in the window: field by field.
                    Err(RecordError::Truncated) => {}
                    Err(e) => return Err(e.into()),
                }
                self.read_length()?;
            }
            Field::Attributes => {
                if self.start == self.end {
                    return Err(Stop::NeedBytes);
                }
                self.account(1)?;
                self.start += 1;
                self.field = Field::TimestampDelta;
            }
            Field::TimestampDelta => {
                let (value, len) = read_varlong(&self.window[self.start..self.end])?;
                self.account(len)?;
                self.start += len;
                self.timestamp_delta = value;
                self.field = Field::OffsetDelta;
            }
            Field::OffsetDelta => {
                self.offset_delta = self.varint()?;
                self.field = Field::KeyLength;
            }
            Field::KeyLength => {
                self.has_key = self.skip_nullable()?;
                self.field = Field::ValueLength;
            }
            Field::ValueLength => {
                self.skip_nullable()?;
                self.field = Field::HeaderCount;
            }
            Field::HeaderCount => {
                let count = self.varint()?;
                self.headers_left = u32::try_from(count)
                    .ok()
                    .filter(|&n| n as usize <= self.record_left_bytes / 2)
                    .ok_or(RecordError::InvalidHeaderCount(count))?;
                self.field = self.after_header();
            }
            Field::HeaderKeyLength => {
                if !self.skip_nullable()? {
                    return Err(RecordError::NullHeaderKey.into());
                }
                self.field = Field::HeaderValueLength;
            }
            Field::HeaderValueLength => {
                self.skip_nullable()?;
                self.headers_left -= 1;
                self.field = self.after_header();
            }
            Field::RecordEnd => {
                if self.record_left_bytes > 0 {
                    return Err(RecordError::BytesLeftInRecord(self.record_left_bytes).into());
                }
                tally.record(self.timestamp_delta, self.offset_delta, self.has_key);
                self.field = Field::Length;
            }
        }
        Ok(())
    }

    fn after_header(&self) -> Field {
        if self.headers_left > 0 {
            Field::HeaderKeyLength
        } else {
            Field::RecordEnd
        }
    }

    fn read_length(&mut self) -> Result<(), Stop> {
        let (length, len) = read_varint(&self.window[self.start..self.end])?;
        self.record_left_bytes =
            usize::try_from(length).map_err(|_| RecordError::InvalidLength(length))?;
        self.start += len;
        self.field = Field::Attributes;
        Ok(())
    }

    fn varint(&mut self) -> Result<i32, Stop> {
        let (value, len) = read_varint(&self.window[self.start..self.end])?;
        self.account(len)?;
        self.start += len;
        Ok(value)
    }

    /// Reads a length and skips that many bytes; false for null.
    fn skip_nullable(&mut self) -> Result<bool, Stop> {
        let Ok(len) = usize::try_from(self.varint()?) else {
            return Ok(false);
        };
        self.account(len)?;
        self.skip_bytes = len;
        Ok(true)
    }

    /// Takes bytes off the current record, which must have them.
    fn account(&mut self, bytes: usize) -> Result<(), RecordError> {
        self.record_left_bytes = self
            .record_left_bytes
            .checked_sub(bytes)
            .ok_or(RecordError::FieldBeyondRecord)?;
        Ok(())
    }
}
