//! Records of `__consumer_offsets`: Kafka's own bytes read and written, and bytes that nobody wrote.

use bytes::Bytes;
use corelog_record::schemas::consumer_offsets::*;
use corelog_record::schemas::{STRING_BYTES_MAX, SchemaError};
use proptest::prelude::*;

const TOPIC_ID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const COUNT_OF_VALUES: usize = 23;

fn golden(what: &str, version: i16) -> Vec<u8> {
    let wanted = format!("{what} {version} ");
    let text = include_str!("golden/consumer-offsets.txt");
    let hex = text.lines().find_map(|line| line.strip_prefix(&wanted));
    let hex = hex
        .unwrap_or_else(|| panic!("no golden {wanted}"))
        .as_bytes();
    let digits = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.chunks(2).map(digits).collect()
}

fn offset_key() -> Key {
    Key::OffsetCommit {
        group: "the-group".into(),
        topic: "orders".into(),
        partition: 11,
    }
}

fn offset_value(version: i16) -> OffsetCommitValue {
    OffsetCommitValue {
        offset: 1 << 40,
        leader_epoch: if version >= 3 { 7 } else { NO_LEADER_EPOCH },
        metadata: "métadonnées".into(),
        commit_timestamp_ms: 1_700_000_000_123,
        expire_timestamp_ms: if version == 1 {
            1_700_000_999_000
        } else {
            NO_TIMESTAMP
        },
        topic_id: if version >= 4 { TOPIC_ID } else { NO_TOPIC_ID },
    }
}

fn member_value(version: i16, index: i32) -> MemberValue {
    let session_timeout_ms = 45_000 + index;
    MemberValue {
        member_id: format!("member-{index}"),
        group_instance_id: (version >= 3 && index == 1).then(|| "static-1".into()),
        client_id: format!("client-{index}"),
        client_host: format!("/10.0.0.{index}"),
        rebalance_timeout_ms: if version >= 1 {
            300_000 + index
        } else {
            session_timeout_ms
        },
        session_timeout_ms,
        subscription: Bytes::copy_from_slice(&[0, 1, 2, index as u8]),
        assignment: Bytes::from_static(if index == 2 { &[] } else { &[9, 8, 7] }),
    }
}

fn group_value(version: i16) -> GroupMetadataValue {
    GroupMetadataValue {
        protocol_type: "consumer".into(),
        generation: 42,
        protocol: Some("range".into()),
        leader: Some("member-1".into()),
        current_state_timestamp_ms: if version >= 2 {
            1_700_000_000_456
        } else {
            NO_TIMESTAMP
        },
        members: vec![member_value(version, 1), member_value(version, 2)],
    }
}

fn empty_group(version: i16, name: Option<&str>) -> GroupMetadataValue {
    GroupMetadataValue {
        protocol: name.map(str::to_owned),
        leader: name.map(str::to_owned),
        members: Vec::new(),
        ..group_value(version)
    }
}

/// Why a value is refused; `None` = it is read.
type Refusal = fn(&[u8]) -> Option<SchemaError>;

/// Every golden value with what reads it.
fn golden_values() -> Vec<(Vec<u8>, Refusal)> {
    let offset: Refusal = |bytes| OffsetCommitValue::decode(bytes).err();
    let group: Refusal = |bytes| GroupMetadataValue::decode(bytes).err();
    let lines = include_str!("golden/consumer-offsets.txt")
        .lines()
        .filter(|line| !line.starts_with(['#', 'k']));
    lines
        .map(|line| {
            let (what, rest) = line.split_once(' ').unwrap();
            let version = rest.split_once(' ').unwrap().0.parse().unwrap();
            let of_group = what.contains("group");
            (golden(what, version), if of_group { group } else { offset })
        })
        .collect()
}

#[test]
fn r23_keys_have_kafkas_bytes() {
    let group = Key::GroupMetadata {
        group: "the-group".into(),
    };
    for (key, what, version) in [
        (offset_key(), "key-offset", 1),
        (group.clone(), "key-group", 2),
    ] {
        assert_eq!(decode_key(&golden(what, version)), Ok(key.clone()));
        assert_eq!(key.encode(), Ok(golden(what, version)));
    }
    assert_eq!(
        decode_key(&golden("key-offset-legacy", 0)),
        Ok(offset_key())
    );
    assert_eq!(
        decode_key(&golden("key-other", 3)),
        Ok(Key::Other { version: 3 })
    );
    let mut longer = golden("key-group", 2);
    longer.push(0);
    assert_eq!(decode_key(&longer), Ok(group));
}

#[test]
fn r23_offsets_of_every_version_are_read() {
    for version in 0..=4 {
        assert_eq!(
            OffsetCommitValue::decode(&golden("offset", version)),
            Ok(offset_value(version)),
            "version {version}"
        );
    }
    assert_eq!(
        OffsetCommitValue::decode(&golden("legacy-offset", 0)),
        Ok(offset_value(0))
    );
    assert_eq!(
        OffsetCommitValue::decode(&golden("offset-tagged", 4)),
        Ok(offset_value(4))
    );
}

#[test]
fn r23_offsets_are_written_as_kafka_writes_them() {
    assert_eq!(offset_value(4).encode(), Ok(golden("written-offset", 4)));
    let expires = OffsetCommitValue {
        expire_timestamp_ms: 1_700_000_999_000,
        ..offset_value(4)
    };
    assert_eq!(expires.encode(), Ok(golden("written-offset-expires", 1)));
    let bare = OffsetCommitValue {
        offset: 5,
        leader_epoch: NO_LEADER_EPOCH,
        metadata: String::new(),
        commit_timestamp_ms: 6,
        expire_timestamp_ms: NO_TIMESTAMP,
        topic_id: NO_TOPIC_ID,
    };
    assert_eq!(bare.encode(), Ok(golden("written-offset-bare", 4)));
    assert_eq!(
        OffsetCommitValue::decode(&golden("written-offset-bare", 4)),
        Ok(bare)
    );
}

#[test]
fn r23_groups_of_every_version_are_read() {
    for version in 0..=4 {
        let decoded = GroupMetadataValue::decode(&golden("group", version));
        assert_eq!(decoded, Ok(group_value(version)), "version {version}");
        let decoded = GroupMetadataValue::decode(&golden("empty-group", version));
        assert_eq!(
            decoded,
            Ok(empty_group(version, Some(""))),
            "version {version}"
        );
    }
    for version in [3, 4] {
        let decoded = GroupMetadataValue::decode(&golden("null-group", version));
        assert_eq!(decoded, Ok(empty_group(version, None)), "version {version}");
    }
    assert_eq!(
        GroupMetadataValue::decode(&golden("group-tagged", 4)),
        Ok(group_value(4))
    );
}

#[test]
fn r23_groups_are_written_as_kafka_writes_them() {
    assert_eq!(group_value(3).encode(), Ok(golden("group", 3)));
    assert_eq!(empty_group(3, None).encode(), Ok(golden("null-group", 3)));
}

#[test]
fn r23_a_member_without_a_rebalance_time_out_has_its_session_time_out() {
    let mut group = group_value(3);
    group.members[0].rebalance_timeout_ms = -1;
    let decoded = GroupMetadataValue::decode(&group.encode().unwrap()).unwrap();
    assert_eq!(decoded.members[0].rebalance_timeout_ms, 45_001);
}

#[test]
fn r23_every_prefix_is_refused() {
    for (what, version) in [
        ("key-offset-legacy", 0),
        ("key-offset", 1),
        ("key-group", 2),
    ] {
        let bytes = golden(what, version);
        for end in 0..bytes.len() {
            assert_eq!(
                decode_key(&bytes[..end]),
                Err(SchemaError::Truncated),
                "{what} {end}"
            );
        }
    }
    let values = golden_values();
    assert_eq!(values.len(), COUNT_OF_VALUES);
    for (bytes, decode) in values {
        assert_eq!(decode(&bytes), None, "{bytes:?}");
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_some(), "{bytes:?} {end}");
        }
        let longer = [&bytes[..], &[0xff; 3]].concat();
        assert_eq!(
            decode(&longer),
            None,
            "bytes after the last field are ignored"
        );
    }
}

#[test]
fn r23_other_versions_are_named() {
    for version in [i16::MIN, -1, 5, i16::MAX] {
        let mut bytes = golden("group", 4);
        bytes[..2].copy_from_slice(&version.to_be_bytes());
        let expected = SchemaError::UnsupportedVersion(version);
        assert_eq!(GroupMetadataValue::decode(&bytes), Err(expected));
        assert_eq!(OffsetCommitValue::decode(&bytes), Err(expected));
    }
    for version in [i16::MIN, -1, 3, i16::MAX] {
        let other = Key::Other { version };
        assert_eq!(decode_key(&version.to_be_bytes()), Ok(other.clone()));
        assert_eq!(
            other.encode(),
            Err(SchemaError::UnsupportedVersion(version))
        );
    }
}

#[test]
fn r23_counts_and_lengths_are_bounded_by_the_bytes() {
    // The count of members follows the timestamp: 4 bytes in version 3, one in version 4.
    for count in [1i32, 2, 1000, i32::MAX, -2, i32::MIN] {
        let mut bytes = golden("null-group", 3);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&count.to_be_bytes());
        assert_eq!(
            GroupMetadataValue::decode(&bytes),
            Err(SchemaError::InvalidLength(count.into())),
        );
    }
    let mut bytes = golden("null-group", 3);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&(-1i32).to_be_bytes());
    assert_eq!(
        GroupMetadataValue::decode(&bytes),
        Err(SchemaError::UnexpectedNull)
    );
    let head = golden("null-group", 4);
    let head = &head[..head.len() - 2];
    for (count, error) in [
        (&[0u8][..], SchemaError::UnexpectedNull),
        (&[3, 0, 0], SchemaError::InvalidLength(2)),
        (
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            SchemaError::InvalidLength(u32::MAX as i64 - 1),
        ),
        (
            &[0xff, 0xff, 0xff, 0xff, 0x1f],
            SchemaError::InvalidLength((1 << 33) - 1),
        ),
        (&[0xff; 10], SchemaError::InvalidLength(i64::MAX)),
        (&[0xff; 3], SchemaError::Truncated),
        // No members, and more tagged fields than there are bytes.
        (&[1, 0xff, 0xff, 0xff, 0xff, 0x0f], SchemaError::Truncated),
        (
            &[1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
            SchemaError::Truncated,
        ),
    ] {
        let bytes = [head, count].concat();
        assert_eq!(GroupMetadataValue::decode(&bytes), Err(error), "{count:?}");
    }
}

#[test]
fn r23_broken_strings_and_ids_are_refused() {
    for (len, error) in [
        (i16::MAX, SchemaError::Truncated),
        (-1, SchemaError::UnexpectedNull),
        (i16::MIN, SchemaError::UnexpectedNull),
    ] {
        let mut bytes = golden("key-group", 2);
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        assert_eq!(decode_key(&bytes), Err(error), "{len}");
    }
    let mut bytes = golden("key-group", 2);
    *bytes.last_mut().unwrap() = 0xff;
    assert_eq!(decode_key(&bytes), Err(SchemaError::InvalidUtf8));
    // A compact string of 32768 bytes that are all there.
    let mut bytes = 4i16.to_be_bytes().to_vec();
    bytes.extend([0; 12]);
    bytes.extend([0x81, 0x80, 0x02]);
    bytes.extend([b'x'; STRING_BYTES_MAX + 1 + 8 + 1]);
    assert_eq!(
        OffsetCommitValue::decode(&bytes),
        Err(SchemaError::InvalidLength(STRING_BYTES_MAX as i64 + 1))
    );
    // A topic id of 3 bytes.
    let mut bytes = golden("written-offset-bare", 4);
    bytes.pop();
    bytes.extend([1, 0, 3, 1, 2, 3]);
    assert_eq!(
        OffsetCommitValue::decode(&bytes),
        Err(SchemaError::InvalidLength(3))
    );
}

#[test]
fn r23_what_kafka_could_not_read_is_not_written() {
    let long = "x".repeat(STRING_BYTES_MAX + 1);
    let error = Err(SchemaError::TooLong(STRING_BYTES_MAX + 1));
    let key = |group: &str, topic: &str| Key::OffsetCommit {
        group: group.into(),
        topic: topic.into(),
        partition: 0,
    };
    assert_eq!(key(&long, "t").encode(), error);
    assert_eq!(key("g", &long).encode(), error);
    assert!(key(&long[1..], "t").encode().is_ok());
    for version in [1, 4] {
        let value = OffsetCommitValue {
            metadata: long.clone(),
            ..offset_value(version)
        };
        assert_eq!(value.encode(), error);
    }
    let mut group = group_value(3);
    group.members[1].client_host = long;
    assert_eq!(group.encode(), error);
}

fn any_member() -> impl Strategy<Value = MemberValue> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    (
        (".*", proptest::option::of(".*"), ".*", ".*"),
        (0..i32::MAX, any::<i32>(), bytes(), bytes()),
    )
        .prop_map(|(names, rest)| MemberValue {
            member_id: names.0,
            group_instance_id: names.1,
            client_id: names.2,
            client_host: names.3,
            rebalance_timeout_ms: rest.0,
            session_timeout_ms: rest.1,
            subscription: rest.2,
            assignment: rest.3,
        })
}

proptest! {
    #[test]
    fn r23_keys_round_trip(group in ".*", topic in ".*", partition in any::<i32>()) {
        for key in [Key::OffsetCommit { group: group.clone(), topic, partition }, Key::GroupMetadata { group }] {
            prop_assert_eq!(decode_key(&key.encode().unwrap()), Ok(key));
        }
    }

    #[test]
    fn r23_offsets_round_trip(
        offset in any::<i64>(), leader_epoch in any::<i32>(), metadata in ".*", commit_timestamp_ms in any::<i64>(),
        expires in proptest::option::of(0..i64::MAX), topic_id in any::<[u8; 16]>(),
    ) {
        let expire_timestamp_ms = expires.unwrap_or(NO_TIMESTAMP);
        let value = OffsetCommitValue { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id };
        let decoded = OffsetCommitValue::decode(&value.encode().unwrap()).unwrap();
        let kept = match expires {
            Some(_) => OffsetCommitValue { leader_epoch: NO_LEADER_EPOCH, topic_id: NO_TOPIC_ID, ..value },
            None => value,
        };
        prop_assert_eq!(decoded, kept);
    }

    #[test]
    fn r23_groups_round_trip(
        names in (".*", proptest::option::of(".*"), proptest::option::of(".*")), generation in any::<i32>(),
        current_state_timestamp_ms in any::<i64>(), members in proptest::collection::vec(any_member(), 0..6),
    ) {
        let (protocol_type, protocol, leader) = names;
        let value = GroupMetadataValue { protocol_type, generation, protocol, leader, current_state_timestamp_ms, members };
        prop_assert_eq!(GroupMetadataValue::decode(&value.encode().unwrap()), Ok(value));
    }

    #[test]
    fn r23_any_bytes_are_read_or_refused(
        version in -1i16..6, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [&version.to_be_bytes()[..], &bytes].concat();
        if let Ok(key) = decode_key(&bytes) && !matches!(key, Key::Other { .. }) {
            prop_assert_eq!(decode_key(&key.encode().unwrap()), Ok(key));
        }
        if let Ok(value) = GroupMetadataValue::decode(&bytes) {
            prop_assert_eq!(GroupMetadataValue::decode(&value.encode().unwrap()), Ok(value));
        }
        if let Ok(value) = OffsetCommitValue::decode(&bytes) {
            prop_assert!(value.metadata.len() <= bytes.len());
        }
    }

    #[test]
    fn r23_damaged_values_are_read_or_refused(which in 0..COUNT_OF_VALUES, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (mut bytes, decode) = golden_values().swap_remove(which);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // Whatever else comes of it, it is no panic, and only the version says that the version is not known.
        let unknown = matches!(decode(&bytes), Some(SchemaError::UnsupportedVersion(_)));
        prop_assert_eq!(unknown, !matches!(bytes[..2], [0, 0..=4]));
    }
}
