//! Zigzag variable-length integers, as record fields are written.
//!
//! Seven bits per byte, lowest group first, high bit set on all but the last byte. A value is at
//! most 5 bytes (32 bits) or 10 bytes (64 bits) long; longer or overflowing encodings are refused.

/// Longest encoding of a 32-bit value, in bytes.
pub const VARINT_BYTES_MAX: usize = 5;
/// Longest encoding of a 64-bit value, in bytes.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Why a variable-length integer could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarintError {
    /// The bytes end inside the integer.
    Truncated,
    /// The encoding is longer than the type allows, or carries bits beyond it.
    Overflow,
}

/// Reads an unsigned 64-bit value and the number of bytes it took.
#[inline]
pub fn read_unsigned(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(VARLONG_BYTES_MAX) {
        // The tenth byte has room for one bit only.
        if i == VARLONG_BYTES_MAX - 1 && byte > 1 {
            return Err(VarintError::Overflow);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, i + 1));
        }
    }
    Err(VarintError::Truncated)
}

/// Reads a zigzag 64-bit value and the number of bytes it took.
#[inline]
pub fn read_varlong(bytes: &[u8]) -> Result<(i64, usize), VarintError> {
    if let [byte @ 0..0x80, ..] = *bytes {
        return Ok((unzigzag(u64::from(byte)), 1));
    }
    let (raw, len) = read_unsigned(bytes)?;
    Ok((unzigzag(raw), len))
}

/// Reads a zigzag 32-bit value and the number of bytes it took.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Result<(i32, usize), VarintError> {
    if let [byte @ 0..0x80, ..] = *bytes {
        return Ok((unzigzag(u64::from(byte)) as i32, 1));
    }
    let (raw, len) = read_unsigned(bytes)?;
    if len > VARINT_BYTES_MAX || raw > u64::from(u32::MAX) {
        return Err(VarintError::Overflow);
    }
    Ok((unzigzag(raw) as i32, len))
}

/// Appends a zigzag 64-bit value. A 32-bit value has the same bytes when it is widened first.
pub fn write_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Bytes that [`write_varlong`] appends for `value`.
pub fn varlong_size_bytes(value: i64) -> usize {
    let bits = 64 - zigzag(value).leading_zeros() as usize;
    bits.max(1).div_ceil(7)
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn unzigzag(raw: u64) -> i64 {
    ((raw >> 1) as i64) ^ -((raw & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0i64, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            write_varlong(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(varlong_size_bytes(value), bytes.len());
            assert_eq!(read_varlong(bytes), Ok((value, bytes.len())));
            assert_eq!(read_varint(bytes), Ok((value as i32, bytes.len())));
        }
    }

    #[test]
    fn overlong_and_truncated_are_refused() {
        assert_eq!(read_varint(&[]), Err(VarintError::Truncated));
        assert_eq!(read_varint(&[0x80]), Err(VarintError::Truncated));
        assert_eq!(
            read_varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(VarintError::Overflow)
        );
        assert_eq!(
            read_varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
            Err(VarintError::Overflow)
        );
        assert_eq!(read_varlong(&[0xff; 10]), Err(VarintError::Overflow));
        assert_eq!(read_varlong(&[0xff; 9]), Err(VarintError::Truncated));
    }

    proptest! {
        #[test]
        fn round_trip(value in any::<i64>(), tail in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut out = Vec::new();
            write_varlong(&mut out, value);
            prop_assert_eq!(out.len(), varlong_size_bytes(value));
            let len = out.len();
            out.extend_from_slice(&tail);
            prop_assert_eq!(read_varlong(&out), Ok((value, len)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok((_, len)) = read_varint(&bytes) { prop_assert!(len <= VARINT_BYTES_MAX); }
            if let Ok((_, len)) = read_varlong(&bytes) { prop_assert!(len <= bytes.len()); }
        }
    }
}
