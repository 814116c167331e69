//! The topics of a consumer's subscription, as its JoinGroup metadata carries them.
//!
//! Layout, big-endian: version i16; count of topics i32; each topic an i16 length and that many
//! bytes of UTF-8. Later versions only add fields behind. Written by clients: not trusted.

use bytes::Buf;

/// The topics, or `None` where the bytes are no subscription.
pub fn topics(mut bytes: &[u8]) -> Option<Vec<String>> {
    let version = bytes.try_get_i16().ok()?;
    if version < 0 {
        return None;
    }
    let count = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    // Each topic has at least its length: a greater count cannot be true.
    if count > bytes.len() / 2 {
        return None;
    }
    let mut topics = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let (name, rest) = bytes.split_at_checked(len)?;
        topics.push(std::str::from_utf8(name).ok()?.to_owned());
        bytes = rest;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::topics;

    #[test]
    fn topics_are_read_from_any_version_and_nothing_else_is_believed() {
        let good = b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff";
        let expected = Some(vec!["a".to_owned(), "bc".to_owned()]);
        assert_eq!(topics(good), expected);
        assert_eq!(topics(b"\0\0\0\0\0\0"), Some(Vec::new()));
        for end in 0..13 {
            assert_eq!(topics(&good[..end]), None, "cut at {end}");
        }
        for bad in [
            &b"\xff\xff\0\0\0\0"[..],
            b"\0\0\x7f\xff\xff\xff\0\x01a",
            b"\0\0\xff\xff\xff\xff",
            b"\0\0\0\0\0\x01\xff\xff",
            b"\0\0\0\0\0\x01\0\x01\xff",
        ] {
            assert_eq!(topics(bad), None, "{bad:?}");
        }
    }
}
