//! The text files and directory names, against what Kafka writes.

use corelog_storage::checkpoint_files::*;
use proptest::prelude::*;

const ID: [u8; 16] = [
    0x5a, 0xd3, 1, 2, 3, 4, 0x45, 6, 0x87, 8, 9, 10, 11, 12, 13, 0xff,
];

#[test]
fn offset_checkpoints_are_kafkas() {
    let offsets = OffsetMap::from([
        (("a.b".to_owned(), 0), 17),
        (("a.b".to_owned(), 10), 0),
        (("c".to_owned(), 1), i64::MAX),
    ]);
    let bytes = b"0\n3\na.b 0 17\na.b 10 0\nc 1 9223372036854775807\n";
    assert_eq!(encode_offsets(&offsets), bytes);
    assert_eq!(decode_offsets("f", bytes), Ok(offsets));
    assert_eq!(decode_offsets("f", b"0\n0\n"), Ok(OffsetMap::new()));
}

#[test]
fn parse_errors_name_file_line_and_what_was_expected() {
    let error = |bytes: &[u8]| {
        decode_offsets("/d/recovery", bytes)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error(b"7\n"), "/d/recovery line 1: `7`: expected version 0");
    assert_eq!(
        error(b""),
        "/d/recovery line 1: end of file: expected version 0"
    );
    assert_eq!(
        error(b"0\nx\n"),
        "/d/recovery line 2: `x`: expected the number of entries"
    );
    let entry = "expected a topic, a partition and an offset >= 0: `topic partition offset`";
    assert_eq!(
        error(b"0\n2\nt 0 5\n"),
        format!("/d/recovery line 4: end of file: {entry}")
    );
    for bad in [
        "t 0",
        "t 0 5 5",
        "t -1 5",
        "t 0 -5",
        "t 0 5x",
        "../t 0 5",
        "t 99999999999 5",
    ] {
        assert_eq!(
            error(format!("0\n1\n{bad}\n").as_bytes()),
            format!("/d/recovery line 3: `{bad}`: {entry}")
        );
    }
    assert_eq!(
        error(b"0\n1\nt 0 5\nt 1 5\n"),
        "/d/recovery line 4: `t 1 5`: expected end of file"
    );
    assert_eq!(
        error(b"0\n2\nt 0 5\nt 0 6\n"),
        "/d/recovery line 4: `t 0 6`: expected each partition once"
    );
    assert_eq!(
        error(b"0\n1\n\xff\n"),
        "/d/recovery line 3: bytes that are not UTF-8: expected text"
    );
}

#[test]
fn uuids_are_kafkas_base64() {
    assert_eq!(encode_uuid(&[0; 16]), "AAAAAAAAAAAAAAAAAAAAAA");
    // Kafka's Uuid.ONE_UUID: 0, 1.
    assert_eq!(encode_uuid(&1u128.to_be_bytes()), "AAAAAAAAAAAAAAAAAAAAAQ");
    assert_eq!(encode_uuid(&[0xff; 16]), "_____________________w");
    assert_eq!(decode_uuid("_____________________w"), Some([0xff; 16]));
    assert_eq!(
        decode_uuid("_____________________x"),
        None,
        "bits past the last"
    );
    assert_eq!(decode_uuid("AAAAAAAAAAAAAAAAAAAAA"), None);
    assert_eq!(decode_uuid("AAAAAAAAAAAAAAAAAAAAA+"), None);
}

#[test]
fn meta_properties_reads_what_kafka_4_writes() {
    let kafka = b"#\n#Fri Aug 21 10:00:00 UTC 2026\ncluster.id=5L6g3nShT-eMCtK--X86sw\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nnode.id=1\nversion=1\n";
    let meta = MetaProperties {
        cluster_id: "5L6g3nShT-eMCtK--X86sw".to_owned(),
        node_id: 1,
        directory_id: Some(1u128.to_be_bytes()),
    };
    assert_eq!(MetaProperties::decode("m", kafka), Ok(meta.clone()));
    assert_eq!(MetaProperties::decode("m", &meta.encode()), Ok(meta));
    let error = |text: &str| {
        MetaProperties::decode("m", text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("version=0\nbroker.id=1\n"),
        "m line 1: `0`: expected version: 1"
    );
    assert_eq!(
        error("version=1\nnode.id=1\n"),
        "m line 0: no cluster.id: expected cluster.id: a word"
    );
    assert_eq!(
        error("version=1\ncluster.id=x\nnode.id=-1"),
        "m line 3: `-1`: expected node.id: a number >= 0"
    );
    assert_eq!(
        error("version=1\nrubbish\n"),
        "m line 2: `rubbish`: expected `key=value`"
    );
    assert!(
        MetaProperties::decode("m", b"version=1\ncluster.id=x\nnode.id=1\n")
            .unwrap()
            .directory_id
            .is_none()
    );
}

#[test]
fn partition_metadata_is_kafkas() {
    let text = "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ";
    assert_eq!(
        encode_partition_metadata(&1u128.to_be_bytes()),
        text.as_bytes()
    );
    assert_eq!(
        decode_partition_metadata("p", text.as_bytes()),
        Ok(1u128.to_be_bytes())
    );
    assert!(
        decode_partition_metadata("p", b"version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ").is_err()
    );
    assert!(
        decode_partition_metadata("p", b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA").is_err()
    );
}

#[test]
fn the_clean_marker_is_kafkas_with_a_member_of_ours() {
    let ours = CleanMarker {
        broker_epoch: 12,
        boot_id: Some("ab-12".to_owned()),
    };
    assert_eq!(
        ours.encode(),
        br#"{"version":0,"brokerEpoch":12,"corelogBootId":"ab-12"}"#
    );
    assert_eq!(CleanMarker::decode("c", &ours.encode()), Ok(ours));
    let decode = |text: &str| CleanMarker::decode("c", text.as_bytes());
    assert_eq!(
        decode(r#"{"version":0,"brokerEpoch":7}"#),
        Ok(CleanMarker {
            broker_epoch: 7,
            boot_id: None
        })
    );
    assert_eq!(
        decode(r#" { "brokerEpoch" : null , "version" : 0, "x":"y" } "#)
            .unwrap()
            .broker_epoch,
        -1
    );
    for bad in [
        "",
        "{}",
        "{",
        r#"{"version":1,"brokerEpoch":7}"#,
        r#"{"version":0,"brokerEpoch":"#,
        r#"{"version":0,"brokerEpoch":x}"#,
    ] {
        assert!(decode(bad).is_err(), "{bad}");
    }
}

#[test]
fn directory_names() {
    let partition = |topic: &str, partition| DirName::Partition {
        topic: topic.to_owned(),
        partition,
    };
    assert_eq!(parse_dir_name("orders-0"), partition("orders", 0));
    assert_eq!(parse_dir_name("a-b-3-12"), partition("a-b-3", 12));
    assert_eq!(parse_dir_name("a.-7"), partition("a.", 7));
    assert_eq!(parse_dir_name("--2"), partition("-", 2));
    for other in [
        "orders",
        "orders-",
        "-0",
        "orders-01",
        "orders-+1",
        "orders-x",
        "or ders-0",
        "..-0",
        "lost+found",
        "orders-2147483648",
        "",
    ] {
        assert_eq!(parse_dir_name(other), DirName::Other, "{other}");
    }
    let deleted = deleted_dir_name("orders", 3, &ID);
    assert_eq!(
        deleted,
        "orders-3.5ad3010203044506870809 0a0b0c0dff-delete".replace(' ', "")
    );
    assert_eq!(parse_dir_name(&deleted), DirName::Deleted);
    assert_eq!(parse_dir_name("orders-delete"), DirName::Other);
    let longest = deleted_dir_name(&"t".repeat(249), i32::MAX, &ID);
    assert_eq!(
        (longest.len(), parse_dir_name(&longest)),
        (255, DirName::Deleted)
    );
}

proptest! {
    #[test]
    fn ids_and_names_read_back(id in any::<[u8; 16]>(), topic in "[a-zA-Z0-9._-]{1,249}", p in 0..i32::MAX, offset in 0..i64::MAX) {
        prop_assert_eq!(decode_uuid(&encode_uuid(&id)), Some(id));
        prop_assume!(legal_topic(&topic));
        let name = partition_dir_name(&topic, p);
        prop_assert_eq!(parse_dir_name(&name), DirName::Partition { topic: topic.clone(), partition: p });
        prop_assert_eq!(parse_dir_name(&deleted_dir_name(&topic, p, &id)), DirName::Deleted);
        let offsets = OffsetMap::from([((topic, p), offset)]);
        prop_assert_eq!(decode_offsets("f", &encode_offsets(&offsets)), Ok(offsets));
    }

    #[test]
    fn hostile_bytes_are_errors_not_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode_offsets("f", &bytes);
        let _ = MetaProperties::decode("f", &bytes);
        let _ = decode_partition_metadata("f", &bytes);
        let _ = CleanMarker::decode("f", &bytes);
        let _ = parse_dir_name(&String::from_utf8_lossy(&bytes));
    }
}
