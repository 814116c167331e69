//! Bounded reading and plain writing of metadata record payloads. All integers are big-endian.

use super::record::RecordError;
use crate::Uuid;

/// Reads a payload front to back; every length is checked against what is left before it is used.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(
        &mut self,
        len: usize,
        what: &'static str,
    ) -> Result<&'a [u8], RecordError> {
        if len > self.rest.len() {
            return Err(RecordError::Truncated {
                what,
                needed: len,
                left: self.rest.len(),
            });
        }
        let (head, tail) = self.rest.split_at(len);
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RecordError> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.bytes(N, what)?);
        Ok(out)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, RecordError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, RecordError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, RecordError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn uuid(&mut self, what: &'static str) -> Result<Uuid, RecordError> {
        let bits = u128::from_be_bytes(self.array(what)?);
        Ok(Uuid::from_parts((bits >> 64) as u64, bits as u64))
    }

    pub(super) fn string(&mut self, what: &'static str) -> Result<String, RecordError> {
        let len = self.u32(what)? as usize;
        let bytes = self.bytes(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(RecordError::Malformed {
                what,
                reason: "not UTF-8",
            }),
        }
    }

    pub(super) fn nullable_string(
        &mut self,
        what: &'static str,
    ) -> Result<Option<String>, RecordError> {
        match self.u8(what)? {
            0 => Ok(None),
            1 => self.string(what).map(Some),
            _ => Err(RecordError::Malformed {
                what,
                reason: "presence byte is neither 0 nor 1",
            }),
        }
    }

    /// A count of elements that take at least `min_bytes` each, so that a hostile count cannot
    /// make the caller allocate more than the payload could hold.
    pub(super) fn count(
        &mut self,
        min_bytes: usize,
        what: &'static str,
    ) -> Result<usize, RecordError> {
        let count = self.u32(what)? as usize;
        let needed = count.saturating_mul(min_bytes);
        if needed > self.rest.len() {
            return Err(RecordError::Truncated {
                what,
                needed,
                left: self.rest.len(),
            });
        }
        Ok(count)
    }

    pub(super) fn i32_list(&mut self, what: &'static str) -> Result<Vec<i32>, RecordError> {
        let count = self.count(4, what)?;
        (0..count).map(|_| self.i32(what)).collect()
    }

    pub(super) fn uuid_list(&mut self, what: &'static str) -> Result<Vec<Uuid>, RecordError> {
        let count = self.count(16, what)?;
        (0..count).map(|_| self.uuid(what)).collect()
    }
}

pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    // Names and values are bounded far below 4 GiB by the frame that carried them.
    let len = u32::try_from(text.len()).expect("a string of a request is shorter than 4 GiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_nullable_string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            out.push(1);
            put_string(out, text);
        }
    }
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a list of a record has fewer than 2^32 elements");
    out.extend_from_slice(&count.to_be_bytes());
}

pub(super) fn put_i32_list(out: &mut Vec<u8>, list: &[i32]) {
    put_count(out, list.len());
    for value in list {
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_uuid_list(out: &mut Vec<u8>, list: &[Uuid]) {
    put_count(out, list.len());
    for id in list {
        out.extend_from_slice(&id.to_bytes());
    }
}
