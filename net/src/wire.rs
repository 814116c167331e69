//! Primitives of Kafka's encoding: a bounded reader and a writer.
//!
//! Integers are big-endian. A *flexible* version of a message writes lengths as unsigned varints of
//! length + 1 (0 = null) and ends every struct with a section of tagged fields; an older one writes
//! i16 lengths for strings and i32 lengths for bytes and arrays (-1 = null). Source: KIP-482.

mod error;
mod text;

use bytes::{BufMut, Bytes, BytesMut};

pub use error::{WireError, WireErrorKind};
pub use text::WireStr;

/// A topic's id: 16 bytes as on the wire; all zero = none.
pub type TopicId = [u8; 16];

/// No topic id.
pub const NO_TOPIC_ID: TopicId = [0; 16];

/// Longest string Kafka writes, in bytes.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Most elements a reader accepts over all arrays of one hot request or response. Kafka's own limit
/// for a whole cluster lies in this region; it bounds what a large frame of tiny elements becomes.
pub const ELEMENTS_MAX: usize = 200_000;

/// Reads one message from a frame. Never panics and never allocates more than the bytes left allow,
/// whatever the bytes are. Strings and byte fields are slices of the frame, not copies.
pub struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
    end: usize,
    flexible: bool,
    elements_left: usize,
}

impl<'a> Reader<'a> {
    /// Reads `frame` from its start; `flexible` says which of the two encodings.
    pub fn new(frame: &'a Bytes, flexible: bool) -> Reader<'a> {
        Reader {
            frame,
            at: 0,
            end: frame.len(),
            flexible,
            elements_left: ELEMENTS_MAX,
        }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    fn error<T>(&self, what: &'static str, kind: WireErrorKind) -> Result<T, WireError> {
        Err(WireError::new(what, self.at, kind))
    }

    fn take(&mut self, what: &'static str, needed: usize) -> Result<&'a [u8], WireError> {
        let remaining = self.remaining();
        if needed > remaining {
            return self.error(what, WireErrorKind::Truncated { needed, remaining });
        }
        let taken = &self.frame[self.at..self.at + needed];
        self.at += needed;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    /// One signed byte.
    pub fn i8(&mut self, what: &'static str) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.fixed(what)?))
    }

    /// A boolean: zero is false, everything else true.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        Ok(self.i8(what)? != 0)
    }

    /// Two bytes.
    pub fn i16(&mut self, what: &'static str) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.fixed(what)?))
    }

    /// Four bytes.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.fixed(what)?))
    }

    /// Eight bytes.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.fixed(what)?))
    }

    /// Sixteen bytes of a topic id or directory id.
    pub fn uuid(&mut self, what: &'static str) -> Result<TopicId, WireError> {
        self.fixed(what)
    }

    /// Unsigned varint of at most 32 bits.
    pub fn uvarint(&mut self, what: &'static str) -> Result<u32, WireError> {
        let start = self.at;
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed(what)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.at = start;
        self.error(what, WireErrorKind::BadVarint)
    }

    /// Zigzag varint of 32 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<i32, WireError> {
        let raw = self.uvarint(what)?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// A length in the reader's encoding; None = null.
    fn length(&mut self, what: &'static str, short: bool) -> Result<Option<usize>, WireError> {
        let at = self.at;
        let length = if self.flexible {
            i64::from(self.uvarint(what)?) - 1
        } else if short {
            i64::from(self.i16(what)?)
        } else {
            i64::from(self.i32(what)?)
        };
        match length {
            -1 => Ok(None),
            0.. => Ok(Some(length as usize)),
            _ => Err(WireError::new(
                what,
                at,
                WireErrorKind::BadLength {
                    length,
                    max: self.remaining(),
                },
            )),
        }
    }

    fn not_null<T>(&self, what: &'static str, at: usize, value: Option<T>) -> Result<T, WireError> {
        value.ok_or(WireError::new(what, at, WireErrorKind::Null))
    }

    /// A string or null.
    pub fn nullable_string(&mut self, what: &'static str) -> Result<Option<WireStr>, WireError> {
        let at = self.at;
        let Some(length) = self.length(what, true)? else {
            return Ok(None);
        };
        if length > STRING_BYTES_MAX {
            let kind = WireErrorKind::BadLength {
                length: length as i64,
                max: STRING_BYTES_MAX,
            };
            return Err(WireError::new(what, at, kind));
        }
        let bytes = self.take(what, length)?;
        match WireStr::from_utf8(self.frame.slice_ref(bytes)) {
            Ok(s) => Ok(Some(s)),
            Err(_) => Err(WireError::new(what, at, WireErrorKind::BadUtf8)),
        }
    }

    /// A string.
    pub fn string(&mut self, what: &'static str) -> Result<WireStr, WireError> {
        let at = self.at;
        let value = self.nullable_string(what)?;
        self.not_null(what, at, value)
    }

    /// Bytes or null, as a slice of the frame.
    pub fn nullable_bytes(&mut self, what: &'static str) -> Result<Option<Bytes>, WireError> {
        let Some(length) = self.length(what, false)? else {
            return Ok(None);
        };
        let bytes = self.take(what, length)?;
        Ok(Some(self.frame.slice_ref(bytes)))
    }

    /// The count of an array whose elements take at least `element_bytes_min` bytes each; None = null.
    /// A count that the bytes left cannot hold is an error, so it may be used as a capacity.
    pub fn nullable_array(
        &mut self,
        what: &'static str,
        element_bytes_min: usize,
    ) -> Result<Option<usize>, WireError> {
        let at = self.at;
        let Some(count) = self.length(what, false)? else {
            return Ok(None);
        };
        let max = self.remaining() / element_bytes_min.max(1);
        if count > max.min(self.elements_left) {
            let max = max.min(self.elements_left);
            return Err(WireError::new(
                what,
                at,
                WireErrorKind::BadLength {
                    length: count as i64,
                    max,
                },
            ));
        }
        self.elements_left -= count;
        Ok(Some(count))
    }

    /// The count of an array that may not be null.
    pub fn array(
        &mut self,
        what: &'static str,
        element_bytes_min: usize,
    ) -> Result<usize, WireError> {
        let at = self.at;
        let count = self.nullable_array(what, element_bytes_min)?;
        self.not_null(what, at, count)
    }

    /// The tagged fields that end a struct of a flexible version (nothing otherwise). `known` gets each tag
    /// with a reader over its value, and leaves alone what it does not know: unknown tags are skipped.
    pub fn tags(
        &mut self,
        what: &'static str,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.uvarint(what)?;
        let mut previous = None;
        for _ in 0..count {
            let at = self.at;
            let tag = self.uvarint(what)?;
            if let Some(previous) = previous.filter(|previous| *previous >= tag) {
                return Err(WireError::new(
                    what,
                    at,
                    WireErrorKind::TagOrder { tag, previous },
                ));
            }
            previous = Some(tag);
            let length = self.uvarint(what)? as usize;
            let start = self.at;
            self.take(what, length)?;
            let mut value = Reader {
                frame: self.frame,
                at: start,
                end: self.at,
                flexible: true,
                elements_left: self.elements_left,
            };
            known(tag, &mut value)?;
            self.elements_left = value.elements_left;
        }
        Ok(())
    }

    /// Skips the tagged fields that end a struct.
    pub fn skip_tags(&mut self, what: &'static str) -> Result<(), WireError> {
        self.tags(what, |_, _| Ok(()))
    }
}

/// Appends one message to a buffer, in either encoding. Infallible: lengths are checked where a frame is closed.
pub struct Writer<'a> {
    buf: &'a mut BytesMut,
    flexible: bool,
}

impl<'a> Writer<'a> {
    /// Appends to `buf`; `flexible` says which of the two encodings.
    pub fn new(buf: &'a mut BytesMut, flexible: bool) -> Writer<'a> {
        Writer { buf, flexible }
    }

    /// The buffer written to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buf
    }

    /// One signed byte.
    pub fn i8(&mut self, value: i8) {
        self.buf.put_i8(value);
    }

    /// Two bytes.
    pub fn i16(&mut self, value: i16) {
        self.buf.put_i16(value);
    }

    /// Four bytes.
    pub fn i32(&mut self, value: i32) {
        self.buf.put_i32(value);
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) {
        self.buf.put_i64(value);
    }

    /// Sixteen bytes of an id.
    pub fn uuid(&mut self, value: &TopicId) {
        self.buf.put_slice(value);
    }

    /// Unsigned varint.
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buf.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.put_u8(value as u8);
    }

    /// Zigzag varint.
    pub fn varint(&mut self, value: i32) {
        self.uvarint(((value << 1) ^ (value >> 31)) as u32);
    }

    /// The length of bytes or the count of an array; None = null.
    pub fn length(&mut self, length: Option<usize>) {
        match (self.flexible, length) {
            (true, None) => self.uvarint(0),
            (true, Some(length)) => self.uvarint(saturated_u32(length).saturating_add(1)),
            (false, None) => self.i32(-1),
            (false, Some(length)) => self.i32(i32::try_from(length).unwrap_or(i32::MAX)),
        }
    }

    /// A string or null. One longer than [`STRING_BYTES_MAX`] (an error message; names never are) is cut at a character.
    pub fn nullable_string(&mut self, value: Option<&str>) {
        let value = value.map(|s| &s[..s.floor_char_boundary(STRING_BYTES_MAX)]);
        match (self.flexible, value) {
            (true, _) => self.length(value.map(str::len)),
            (false, None) => self.i16(-1),
            (false, Some(s)) => self.i16(s.len() as i16),
        }
        self.buf.put_slice(value.unwrap_or_default().as_bytes());
    }

    /// A string.
    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self, value: Option<&[u8]>) {
        self.length(value.map(<[u8]>::len));
        self.buf.put_slice(value.unwrap_or_default());
    }

    /// Ends a struct that has no tagged fields set (nothing in an older encoding).
    pub fn no_tags(&mut self) {
        if self.flexible {
            self.buf.put_u8(0);
        }
    }

    /// The head of the tagged-field section: how many follow, each by [`Writer::tag`], in ascending order.
    pub fn tag_count(&mut self, count: usize) {
        if self.flexible {
            self.uvarint(saturated_u32(count));
        }
    }

    /// One tagged field of a value whose bytes are known.
    pub fn fixed_tag(&mut self, tag: u32, value: &[u8]) {
        self.uvarint(tag);
        self.uvarint(saturated_u32(value.len()));
        self.buf.put_slice(value);
    }

    /// One tagged field, its value written by `value` (always in the flexible encoding).
    pub fn tag(&mut self, tag: u32, value: impl FnOnce(&mut Writer<'_>)) {
        let mut field = BytesMut::new();
        value(&mut Writer::new(&mut field, true));
        self.fixed_tag(tag, &field);
    }
}

fn saturated_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
