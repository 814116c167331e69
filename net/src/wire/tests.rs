//! Tests of the primitives.

use proptest::prelude::*;

use super::*;

fn written(flexible: bool, write: impl FnOnce(&mut Writer<'_>)) -> Bytes {
    let mut buf = BytesMut::new();
    write(&mut Writer::new(&mut buf, flexible));
    buf.freeze()
}

fn read<T>(
    bytes: &[u8],
    flexible: bool,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<T, WireErrorKind> {
    let bytes = Bytes::copy_from_slice(bytes);
    read(&mut Reader::new(&bytes, flexible)).map_err(|error| error.kind)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(n in any::<i32>(), u in any::<u32>(), text in "\\PC{0,200}", flexible in any::<bool>()) {
        let bytes = written(flexible, |w| {
            w.varint(n);
            w.uvarint(u);
            w.nullable_string(Some(&text));
            w.nullable_string(None);
            w.nullable_bytes(Some(text.as_bytes()));
            w.nullable_bytes(None);
            w.no_tags();
        });
        let mut r = Reader::new(&bytes, flexible);
        prop_assert_eq!(r.varint("n").unwrap(), n);
        prop_assert_eq!(r.uvarint("u").unwrap(), u);
        prop_assert_eq!(r.string("text").unwrap(), text.as_str());
        prop_assert_eq!(r.nullable_string("null").unwrap(), None);
        prop_assert_eq!(r.nullable_bytes("bytes").unwrap().unwrap(), text.as_bytes());
        prop_assert_eq!(r.nullable_bytes("null").unwrap(), None);
        r.skip_tags("tags").unwrap();
        prop_assert_eq!(r.remaining(), 0);
    }
}

#[test]
fn varints_end_at_their_bits() {
    let max = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(read(&max, true, |r| r.uvarint("v")), Ok(u32::MAX));
    let beyond = [0xff, 0xff, 0xff, 0xff, 0x1f];
    assert_eq!(
        read(&beyond, true, |r| r.uvarint("v")),
        Err(WireErrorKind::BadVarint)
    );
    assert_eq!(
        read(&[0x80; 9], true, |r| r.uvarint("v")),
        Err(WireErrorKind::BadVarint)
    );
    assert_eq!(read(&[0x01], true, |r| r.varint("v")), Ok(-1));
}

#[test]
fn counts_and_lengths_are_held_against_what_is_left() {
    let huge = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let bad = WireErrorKind::BadLength {
        length: i64::from(i32::MAX),
        max: 2,
    };
    assert_eq!(read(&huge, false, |r| r.array("a", 2)), Err(bad));
    let truncated = WireErrorKind::Truncated {
        needed: i32::MAX as usize,
        remaining: 4,
    };
    assert_eq!(
        read(&huge, false, |r| r.nullable_bytes("b")),
        Err(truncated)
    );
    let negative = [0xff, 0xff, 0xff, 0xfe];
    let bad = WireErrorKind::BadLength { length: -2, max: 0 };
    assert_eq!(read(&negative, false, |r| r.nullable_bytes("b")), Err(bad));
    assert_eq!(
        read(&[0xff; 4], false, |r| r.array("a", 1)),
        Err(WireErrorKind::Null)
    );
    assert_eq!(
        read(&[0xff; 2], false, |r| r.string("s")),
        Err(WireErrorKind::Null)
    );
    assert_eq!(
        read(&[2, 0xff], true, |r| r.string("s")),
        Err(WireErrorKind::BadUtf8)
    );
}

#[test]
fn tags_must_ascend_and_unknown_ones_are_skipped() {
    let tags = [2, 1, 2, 7, 7, 9, 1, 5];
    let mut known = Vec::new();
    let seen = read(&tags, true, |r| {
        r.tags("t", |tag, value| {
            if tag == 9 {
                known.push(value.i8("nine")?);
            }
            Ok(())
        })
    });
    assert_eq!((seen, known), (Ok(()), vec![5]));
    let order = WireErrorKind::TagOrder {
        tag: 1,
        previous: 1,
    };
    assert_eq!(
        read(&[2, 1, 0, 1, 0], true, |r| r.skip_tags("t")),
        Err(order)
    );
    let beyond = WireErrorKind::Truncated {
        needed: 4,
        remaining: 1,
    };
    let read_past = read(&[1, 1, 1, 5, 0, 0, 0], true, |r| {
        r.tags("t", |_, value| value.i32("too long").map(drop))
    });
    assert_eq!(
        read_past,
        Err(beyond),
        "a value may not be read past its end"
    );
}

#[test]
fn a_string_too_long_for_its_length_is_cut_at_a_character() {
    let long = "é".repeat(STRING_BYTES_MAX);
    for flexible in [false, true] {
        let bytes = written(flexible, |w| w.string(&long));
        let back = Reader::new(&bytes, flexible).string("s").unwrap();
        assert_eq!(back.len(), STRING_BYTES_MAX - 1);
        assert!(long.starts_with(back.as_str()));
    }
}
