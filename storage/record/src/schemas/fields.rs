//! The primitive fields of Kafka's schemas, as records of internal topics hold them.
//!
//! Two encodings, chosen by the version of a message: the older one with i16 (strings) and i32 (bytes, arrays)
//! lengths, big-endian, -1 for null; and the flexible one with unsigned varints of length + 1, 0 for null, and
//! tagged fields at the end of each struct.

use crate::varint;
use std::fmt;

/// Most bytes of a string, in either encoding.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Why a key or a value of an internal topic could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaError {
    /// The bytes end inside the message.
    Truncated,
    /// A version of the value that nobody has written yet. Kafka skips such records.
    UnsupportedVersion(i16),
    /// A length or a count that its field cannot have or the bytes cannot hold.
    InvalidLength(i64),
    /// Null where the field must be set.
    UnexpectedNull,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// Written: a string of more than [`STRING_BYTES_MAX`], or more bytes or elements than an i32 counts.
    TooLong(usize),
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaError::Truncated => f.write_str("the bytes end inside the message"),
            SchemaError::UnsupportedVersion(v) => write!(f, "version {v} is not known"),
            SchemaError::InvalidLength(n) => write!(f, "a length of {n} is not possible"),
            SchemaError::UnexpectedNull => f.write_str("null in a field that must be set"),
            SchemaError::InvalidUtf8 => f.write_str("a string is not UTF-8"),
            SchemaError::TooLong(n) => write!(f, "{n} are more than the field can have"),
        }
    }
}

impl std::error::Error for SchemaError {}

/// Reads fields off the front of bytes that are not trusted.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], flexible: bool) -> Reader<'a> {
        Reader { bytes, flexible }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], SchemaError> {
        let (chunk, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or(SchemaError::Truncated)?;
        self.bytes = rest;
        Ok(*chunk)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], SchemaError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(SchemaError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn i16(&mut self) -> Result<i16, SchemaError> {
        self.chunk().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, SchemaError> {
        self.chunk().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, SchemaError> {
        self.chunk().map(i64::from_be_bytes)
    }

    fn unsigned(&mut self) -> Result<u32, SchemaError> {
        let (value, len) = varint::read_unsigned(self.bytes).map_err(|error| match error {
            varint::VarintError::Truncated => SchemaError::Truncated,
            varint::VarintError::Overflow => SchemaError::InvalidLength(i64::MAX),
        })?;
        self.bytes = &self.bytes[len..];
        u32::try_from(value)
            .map_err(|_| SchemaError::InvalidLength(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    /// A length in the flexible encoding; `None` for null.
    fn compact_length(&mut self) -> Result<Option<usize>, SchemaError> {
        Ok(self.unsigned()?.checked_sub(1).map(|len| len as usize))
    }

    /// A string; `None` for null.
    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, SchemaError> {
        let len = if self.flexible {
            self.compact_length()?
        } else {
            usize::try_from(self.i16()?).ok()
        };
        let Some(len) = len else { return Ok(None) };
        if len > STRING_BYTES_MAX {
            return Err(SchemaError::InvalidLength(len as i64));
        }
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| SchemaError::InvalidUtf8)?;
        Ok(Some(text.to_owned()))
    }

    pub(super) fn string(&mut self) -> Result<String, SchemaError> {
        self.nullable_string()?.ok_or(SchemaError::UnexpectedNull)
    }

    /// The length of bytes or the count of an array.
    fn length(&mut self) -> Result<usize, SchemaError> {
        let len = if self.flexible {
            self.compact_length()?
        } else {
            match self.i32()? {
                -1 => None,
                n => Some(usize::try_from(n).map_err(|_| SchemaError::InvalidLength(n.into()))?),
            }
        };
        len.ok_or(SchemaError::UnexpectedNull)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], SchemaError> {
        let len = self.length()?;
        self.take(len)
    }

    /// The count of an array whose elements take at least so many bytes each: no more than the bytes left can hold.
    pub(super) fn count(&mut self, element_bytes_min: usize) -> Result<usize, SchemaError> {
        let count = self.length()?;
        if count > self.bytes.len() / element_bytes_min {
            return Err(SchemaError::InvalidLength(count as i64));
        }
        Ok(count)
    }

    /// The tagged fields that end a struct, each given to `field` with its tag; none unless flexible.
    pub(super) fn tags(
        &mut self,
        mut field: impl FnMut(u32, &'a [u8]) -> Result<(), SchemaError>,
    ) -> Result<(), SchemaError> {
        if !self.flexible {
            return Ok(());
        }
        // No allocation by the count: each field takes two bytes at least, or the bytes end.
        for _ in 0..self.unsigned()? {
            let tag = self.unsigned()?;
            let len = self.unsigned()? as usize;
            field(tag, self.take(len)?)?;
        }
        Ok(())
    }
}

/// Appends fields, big-endian.
pub(super) struct Writer {
    out: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub(super) fn new(version: i16, flexible: bool) -> Writer {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&version.to_be_bytes());
        Writer { out, flexible }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn unsigned(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    pub(super) fn nullable_string(&mut self, value: Option<&str>) -> Result<(), SchemaError> {
        let Some(value) = value else {
            match self.flexible {
                true => self.unsigned(0),
                false => self.raw(&(-1i16).to_be_bytes()),
            }
            return Ok(());
        };
        let len = i16::try_from(value.len()).map_err(|_| SchemaError::TooLong(value.len()))?;
        match self.flexible {
            true => self.unsigned(u32::from(len.unsigned_abs()) + 1),
            false => self.raw(&len.to_be_bytes()),
        }
        self.raw(value.as_bytes());
        Ok(())
    }

    pub(super) fn string(&mut self, value: &str) -> Result<(), SchemaError> {
        self.nullable_string(Some(value))
    }

    /// The length of bytes or the count of an array.
    pub(super) fn length(&mut self, len: usize) -> Result<(), SchemaError> {
        let len = i32::try_from(len).map_err(|_| SchemaError::TooLong(len))?;
        match self.flexible {
            true => self.unsigned(len.unsigned_abs() + 1),
            false => self.i32(len),
        }
        Ok(())
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> Result<(), SchemaError> {
        self.length(value.len())?;
        self.raw(value);
        Ok(())
    }
}
