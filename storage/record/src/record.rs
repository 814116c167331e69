//! One record inside a batch, borrowed from the (uncompressed) payload.
//!
//! Layout, all integers zigzag varints: `length`, then `length` bytes: attributes (one plain byte,
//! unused), timestamp delta (64 bit) and offset delta (32 bit) against the batch header, key length
//! and key, value length and value, header count, and per header: key length and key (UTF-8), value
//! length and value. A negative length is null.

use crate::varint::{VarintError, read_varint, read_varlong};
use std::fmt;

/// Fewest bytes a record takes: length, attributes, two deltas, null key, null value, no headers.
pub const RECORD_BYTES_MIN: usize = 7;

/// One record. Parsing has walked all of it, so that every accessor is infallible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Record attributes; no bit has a meaning yet.
    pub attributes: i8,
    /// Milliseconds to add to the base timestamp of the batch.
    pub timestamp_delta: i64,
    /// To be added to the base offset of the batch.
    pub offset_delta: i32,
    /// The key, or `None` for null.
    pub key: Option<&'a [u8]>,
    /// The value, or `None` for null (a tombstone in a compacted topic).
    pub value: Option<&'a [u8]>,
    /// Number of headers.
    pub header_count: u32,
    /// Bytes of the whole record, its length field included.
    pub size_bytes: usize,
    header_bytes: &'a [u8],
}

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, UTF-8 by convention; kept as bytes because bytes in are bytes out.
    pub key: &'a [u8],
    /// The value, or `None` for null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header with a value.
    pub fn new(key: &'a str, value: &'a [u8]) -> Header<'a> {
        Header {
            key: key.as_bytes(),
            value: Some(value),
        }
    }
}

/// What is wrong with the bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// The payload ends before the record does.
    Truncated,
    /// A variable-length integer is too long for its type.
    VarintOverflow,
    /// The record's length field is negative or too small for a record.
    InvalidLength(i32),
    /// A field is longer than the record that holds it.
    FieldBeyondRecord,
    /// The record's fields end before its length says.
    BytesLeftInRecord(usize),
    /// A negative number of headers, or more than the record has bytes for.
    InvalidHeaderCount(i32),
    /// A header with a null key.
    NullHeaderKey,
    /// Bytes follow the last record the batch declares.
    BytesAfterLastRecord(usize),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Truncated => write!(f, "the payload ends inside a record"),
            RecordError::VarintOverflow => write!(f, "a varint is longer than its type allows"),
            RecordError::InvalidLength(n) => write!(f, "invalid record length {n}"),
            RecordError::FieldBeyondRecord => write!(f, "a field is longer than its record"),
            RecordError::BytesLeftInRecord(n) => {
                write!(f, "{n} bytes are left after the fields of a record")
            }
            RecordError::InvalidHeaderCount(n) => write!(f, "invalid number of record headers {n}"),
            RecordError::NullHeaderKey => write!(f, "a record header has a null key"),
            RecordError::BytesAfterLastRecord(n) => write!(f, "{n} bytes follow the last record"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Reads fields off the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    fn varint(&mut self) -> Result<i32, RecordError> {
        let (value, len) = read_varint(self.0).map_err(inside_record)?;
        self.0 = &self.0[len..];
        Ok(value)
    }

    #[inline]
    fn varlong(&mut self) -> Result<i64, RecordError> {
        let (value, len) = read_varlong(self.0).map_err(inside_record)?;
        self.0 = &self.0[len..];
        Ok(value)
    }

    /// A length and that many bytes; a negative length is null.
    #[inline]
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        let Ok(len) = usize::try_from(self.varint()?) else {
            return Ok(None);
        };
        let (field, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(RecordError::FieldBeyondRecord)?;
        self.0 = rest;
        Ok(Some(field))
    }

    #[inline]
    fn header(&mut self) -> Result<Header<'a>, RecordError> {
        let key = self.nullable()?.ok_or(RecordError::NullHeaderKey)?;
        Ok(Header {
            key,
            value: self.nullable()?,
        })
    }
}

/// Inside a record whose length is known, running out of bytes means that a field does not fit.
fn inside_record(e: VarintError) -> RecordError {
    match e {
        VarintError::Truncated => RecordError::FieldBeyondRecord,
        VarintError::Overflow => RecordError::VarintOverflow,
    }
}

impl<'a> Record<'a> {
    /// Reads the record at the front of `bytes`; `size_bytes` of the result tells where the next
    /// one begins.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (length, length_bytes) = read_varint(bytes).map_err(|e| match e {
            VarintError::Truncated => RecordError::Truncated,
            VarintError::Overflow => RecordError::VarintOverflow,
        })?;
        let body_len = usize::try_from(length).map_err(|_| RecordError::InvalidLength(length))?;
        let body = bytes[length_bytes..]
            .get(..body_len)
            .ok_or(RecordError::Truncated)?;
        let (&attributes, fields) = body
            .split_first()
            .ok_or(RecordError::InvalidLength(length))?;
        let mut cursor = Cursor(fields);
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let key = cursor.nullable()?;
        let value = cursor.nullable()?;
        let declared = cursor.varint()?;
        // A header takes at least two bytes, which bounds the walk by the bytes present.
        let header_count = u32::try_from(declared)
            .ok()
            .filter(|&n| n as usize <= cursor.0.len() / 2)
            .ok_or(RecordError::InvalidHeaderCount(declared))?;
        let header_bytes = cursor.0;
        for _ in 0..header_count {
            cursor.header()?;
        }
        if !cursor.0.is_empty() {
            return Err(RecordError::BytesLeftInRecord(cursor.0.len()));
        }
        Ok(Record {
            attributes: attributes as i8,
            timestamp_delta,
            offset_delta,
            key,
            value,
            header_count,
            size_bytes: length_bytes + body_len,
            header_bytes,
        })
    }

    /// The headers, in the order they were written.
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter {
            cursor: Cursor(self.header_bytes),
            left: self.header_count,
        }
    }
}

/// Iterator over the headers of a record.
pub struct HeaderIter<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // `Record::parse` has walked these bytes, so this cannot fail.
        self.cursor.header().ok()
    }
}

/// Iterator over the records of an uncompressed payload. It ends after the first error, and reports
/// bytes that follow the last declared record as an error.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    bytes: &'a [u8],
    left: u32,
    failed: bool,
}

impl<'a> RecordIter<'a> {
    /// Iterates over `count` records in `payload`. A negative count yields nothing but the
    /// complaint about the bytes.
    pub fn new(payload: &'a [u8], count: i32) -> RecordIter<'a> {
        RecordIter {
            bytes: payload,
            left: u32::try_from(count).unwrap_or(0),
            failed: false,
        }
    }

    /// Bytes not yet read.
    pub fn remaining_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.left == 0 {
            self.failed = true;
            return match self.bytes.len() {
                0 => None,
                n => Some(Err(RecordError::BytesAfterLastRecord(n))),
            };
        }
        match Record::parse(self.bytes) {
            Ok(record) => {
                self.left -= 1;
                self.bytes = &self.bytes[record.size_bytes..];
                Some(Ok(record))
            }
            Err(e) => {
                self.failed = true;
                Some(Err(e))
            }
        }
    }
}
