//! Record bytes, the image, snapshots, placement.

mod common;

use common::{apply, cluster, id, new_topic, with_configs, with_topics};
use corelog_core::metadata::record::IGNORABLE;
use corelog_core::metadata::{
    BrokerEndpoint, Image, Partition, Record, RecordError, ResourceType, decode_records,
    encode_records,
};
use corelog_core::placement::Placement;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn partition_record(topic: u64, index: i32) -> Record {
    Record::Partition {
        topic_id: id(topic),
        index,
        replicas: vec![1, 2],
        isr: vec![1],
        leader: 1,
        leader_epoch: 3,
        partition_epoch: 4,
        shard: 5,
    }
}

/// The format on disk: these bytes must be read for ever.
#[test]
fn golden_bytes_of_every_record() {
    let topic_id = "00000000000000000000000000000007";
    let golden = [
        (Record::NoOp, "8001000000000000".to_owned()),
        (
            Record::EpochStart {
                epoch: 2,
                node_id: 1,
            },
            "000200000000000c000000000000000200000001".to_owned(),
        ),
        (
            Record::Topic {
                name: "ab".into(),
                topic_id: id(7),
            },
            format!("0003000000000016{topic_id}000000026162"),
        ),
        (
            partition_record(7, 0),
            format!(
                "0004000000000036{topic_id}00000000000000020000000100000002000000010000000100000001\
                 00000003000000040005"
            ),
        ),
        (
            Record::RemoveTopic { topic_id: id(7) },
            format!("0005000000000010{topic_id}"),
        ),
        (
            Record::Config {
                resource_type: ResourceType::Topic,
                resource_name: "ab".into(),
                key: "k".into(),
                value: Some("v".into()),
            },
            "00060000000000120200000002616200000001".to_owned() + "6b010000000176",
        ),
        (
            Record::Config {
                resource_type: ResourceType::Broker,
                resource_name: String::new(),
                key: "k".into(),
                value: None,
            },
            "000600000000000b0400000000000000016b00".to_owned(),
        ),
        (
            Record::RegisterBroker {
                node_id: 1,
                incarnation: id(7),
                broker_epoch: 9,
                endpoints: vec![BrokerEndpoint {
                    listener: "P".into(),
                    host: "h".into(),
                    port: 9092,
                }],
                rack: Some("r".into()),
            },
            format!(
                "00070000000000320000000{}{topic_id}0000000000000009000000010000000150000000016823840100000001\
                 72",
                1
            ),
        ),
        (
            Record::ProducerIds { next: 1000 },
            "000800000000000800000000000003e8".to_owned(),
        ),
        (
            Record::ReplicaDirectory {
                topic_id: id(7),
                index: 2,
                node_id: 1,
                directory: id(7),
            },
            format!("0009000000000028{topic_id}0000000200000001{topic_id}"),
        ),
        (
            Record::BrokerDirectories {
                node_id: 1,
                directories: vec![id(7)],
            },
            format!("000a0000000000180000000100000001{topic_id}"),
        ),
    ];
    let mut all = Vec::new();
    for (record, bytes) in &golden {
        assert_eq!(
            &hex(&encode_records(std::slice::from_ref(record))),
            bytes,
            "{record:?}"
        );
        all.push(record.clone());
    }
    assert_eq!(decode_records(&encode_records(&all)).unwrap(), all);
}

#[test]
fn later_versions_may_append_and_ignorable_types_are_skipped() {
    let mut payload = Vec::new();
    Record::ProducerIds { next: 5 }.encode_payload(&mut payload);
    payload.extend_from_slice(b"a field of version 1");
    let read = Record::decode(8, 1, &payload).unwrap();
    assert_eq!(read, Some(Record::ProducerIds { next: 5 }));
    assert!(matches!(
        Record::decode(8, 0, &payload),
        Err(RecordError::Malformed { .. })
    ));
    assert_eq!(Record::decode(999 | IGNORABLE, 0, b"?"), Ok(None));
    assert!(matches!(
        Record::decode(999, 0, b"?"),
        Err(RecordError::UnknownType {
            record_type: 999,
            version: 0
        })
    ));
}

#[test]
fn truncated_and_hostile_bytes_are_errors() {
    let records = sample(&cluster(&[1, 2])).snapshot();
    let bytes = encode_records(&records);
    let mut whole = 0;
    for cut in 0..bytes.len() {
        // A cut between two records reads as fewer records; nowhere else.
        if decode_records(&bytes[..cut]).is_ok_and(|read| records.starts_with(&read)) {
            whole += 1;
        }
    }
    assert_eq!(whole, records.len());
    // A count of 2^31 elements in a short payload asks for no memory.
    let mut hostile = vec![0u8; 20];
    hostile.extend_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    assert!(matches!(
        Record::decode(4, 0, &hostile),
        Err(RecordError::Truncated {
            what: "replicas",
            ..
        })
    ));
}

fn sample(image: &Image) -> Image {
    let topics = vec![
        new_topic("a", 3, 1),
        with_configs(
            new_topic("b", 1, 2),
            &[("flush.messages", "1"), ("retention.ms", "5")],
        ),
    ];
    let image = with_topics(image, topics);
    let broker_config = Record::Config {
        resource_type: ResourceType::Broker,
        resource_name: String::new(),
        key: "message.max.bytes".into(),
        value: Some("5".into()),
    };
    let start = Record::EpochStart {
        epoch: 3,
        node_id: 1,
    };
    apply(
        &image,
        &[start, Record::ProducerIds { next: 2000 }, broker_config],
    )
}

#[test]
fn the_image_finds_topics_by_name_and_id_and_leaves_readers_alone() {
    let before = sample(&cluster(&[1, 2]));
    assert_eq!(before.topic("a").unwrap().partitions.len(), 3);
    assert_eq!(&*before.topic_by_id(&id(2)).unwrap().name, "b");
    assert_eq!(before.topic_config("b").unwrap()["flush.messages"], "1");
    assert_eq!(before.broker_config("").unwrap()["message.max.bytes"], "5");
    assert_eq!((before.epoch(), before.controller_id()), (3, 1));
    let after = apply(
        &before,
        &[
            Record::RemoveTopic { topic_id: id(2) },
            partition_record(1, 2),
        ],
    );
    assert!(after.topic("b").is_none() && after.topic_by_id(&id(2)).is_none());
    assert!(
        after.topic_config("b").is_none(),
        "overrides of a removed topic are gone"
    );
    assert_eq!(
        after.topic("a").unwrap().partition(2).unwrap().leader_epoch,
        3
    );
    assert_eq!(
        before
            .topic("a")
            .unwrap()
            .partition(2)
            .unwrap()
            .leader_epoch,
        0
    );
    assert!(before.topic("b").is_some());
    assert!(after.topic("a").unwrap().partition(-1).is_none());
    assert!(after.topic("a").unwrap().partition(3).is_none());
}

#[test]
fn a_batch_that_was_applied_changes_nothing_again() {
    let image = sample(&cluster(&[1, 2]));
    let again = image
        .apply(image.version(), &[Record::RemoveTopic { topic_id: id(1) }])
        .unwrap();
    assert_eq!(again, image);
}

#[test]
fn records_that_do_not_fit_are_errors_and_apply_nothing() {
    let image = sample(&cluster(&[1, 2]));
    let bad = [
        Record::RemoveTopic { topic_id: id(99) },
        Record::Topic {
            name: "a".into(),
            topic_id: id(50),
        },
        Record::Topic {
            name: "new".into(),
            topic_id: id(1),
        },
        partition_record(99, 0),
        partition_record(1, 4),
        partition_record(1, -1),
        Record::ProducerIds { next: 1999 },
        Record::Config {
            resource_type: ResourceType::Topic,
            resource_name: "gone".into(),
            key: "k".into(),
            value: Some("v".into()),
        },
    ];
    for record in bad {
        let error = image
            .apply(77, &[Record::NoOp, record.clone()])
            .unwrap_err();
        assert_eq!(error.index, 77, "{record:?}");
    }
}

#[test]
fn a_partition_goes_to_the_shard_with_fewest_of_its_topic_then_fewest_overall_then_lowest() {
    let image = with_topics(
        &cluster(&[1]),
        vec![new_topic("a", 5, 1), new_topic("b", 2, 1)],
    );
    let shards = |topic: &str| -> Vec<u16> {
        image
            .topic(topic)
            .unwrap()
            .partitions
            .iter()
            .map(|p: &Partition| p.shard)
            .collect()
    };
    assert_eq!(shards("a"), [0, 1, 2, 3, 0]);
    assert_eq!(shards("b"), [1, 2]);
    let mut placement = Placement::new(&image, 1, 4);
    let mut of_a = placement.of_topic(&image, &id(1), 1);
    // Of a: 2 1 1 1; overall: 2 2 2 1.
    assert_eq!([of_a.place(), of_a.place(), of_a.place()], [3, 1, 2]);
    assert_eq!(Placement::new(&image, 1, 0).shards(), 1);
}

fn any_record() -> impl Strategy<Value = Record> {
    let text = "[a-z.\u{e4}]{0,6}";
    let list = || prop::collection::vec(any::<i32>(), 0..4);
    let uuid = || any::<[u64; 2]>().prop_map(|[a, b]| corelog_core::Uuid::from_parts(a, b));
    let endpoint = (text, text, any::<u16>()).prop_map(|(listener, host, port)| BrokerEndpoint {
        listener,
        host,
        port,
    });
    prop_oneof![
        Just(Record::NoOp),
        (any::<u64>(), any::<i32>())
            .prop_map(|(epoch, node_id)| Record::EpochStart { epoch, node_id }),
        (text, uuid()).prop_map(|(name, topic_id)| Record::Topic { name, topic_id }),
        (uuid(), any::<[i32; 4]>(), list(), list(), any::<u16>()).prop_map(
            |(topic_id, numbers, replicas, isr, shard)| Record::Partition {
                topic_id,
                index: numbers[0],
                replicas,
                isr,
                leader: numbers[1],
                leader_epoch: numbers[2],
                partition_epoch: numbers[3],
                shard,
            }
        ),
        uuid().prop_map(|topic_id| Record::RemoveTopic { topic_id }),
        (any::<bool>(), text, text, prop::option::of(text)).prop_map(
            |(topic, name, key, value)| {
                let resource_type = if topic {
                    ResourceType::Topic
                } else {
                    ResourceType::Broker
                };
                Record::Config {
                    resource_type,
                    resource_name: name,
                    key,
                    value,
                }
            }
        ),
        (
            any::<i32>(),
            uuid(),
            any::<i64>(),
            prop::collection::vec(endpoint, 0..3),
            prop::option::of(text)
        )
            .prop_map(|(node_id, incarnation, broker_epoch, endpoints, rack)| {
                Record::RegisterBroker {
                    node_id,
                    incarnation,
                    broker_epoch,
                    endpoints,
                    rack,
                }
            }),
        any::<i64>().prop_map(|next| Record::ProducerIds { next }),
        (uuid(), any::<[i32; 2]>(), uuid()).prop_map(|(topic_id, numbers, directory)| {
            Record::ReplicaDirectory {
                topic_id,
                index: numbers[0],
                node_id: numbers[1],
                directory,
            }
        }),
        (any::<i32>(), prop::collection::vec(uuid(), 0..4)).prop_map(|(node_id, directories)| {
            Record::BrokerDirectories {
                node_id,
                directories,
            }
        }),
    ]
}

/// Steps that mostly fit: names and ids from a few.
fn any_step() -> impl Strategy<Value = Record> {
    let name = "[a-d]";
    prop_oneof![
        (name, 0u64..6).prop_map(|(name, topic)| Record::Topic {
            name,
            topic_id: id(topic)
        }),
        (0u64..6, 0i32..3).prop_map(|(topic, index)| partition_record(topic, index)),
        (0u64..6).prop_map(|topic| Record::RemoveTopic {
            topic_id: id(topic)
        }),
        (name, "[kl]", prop::option::of("[vw]")).prop_map(|(resource_name, key, value)| {
            Record::Config {
                resource_type: ResourceType::Topic,
                resource_name,
                key,
                value,
            }
        }),
        ("[0-1]?", "[kl]", prop::option::of("[vw]")).prop_map(|(resource_name, key, value)| {
            Record::Config {
                resource_type: ResourceType::Broker,
                resource_name,
                key,
                value,
            }
        }),
        (0i32..3, 0u64..9).prop_map(|(node_id, n)| Record::RegisterBroker {
            node_id,
            incarnation: id(n),
            broker_epoch: n as i64,
            endpoints: Vec::new(),
            rack: None,
        }),
        (0i64..5000).prop_map(|next| Record::ProducerIds { next }),
        (0u64..6, 0i32..3, 0i32..3, 0u64..3).prop_map(|(topic, index, node_id, directory)| {
            Record::ReplicaDirectory {
                topic_id: id(topic),
                index,
                node_id,
                directory: id(directory),
            }
        }),
        (0i32..3, prop::collection::vec((0u64..3).prop_map(id), 0..3)).prop_map(
            |(node_id, directories)| Record::BrokerDirectories {
                node_id,
                directories,
            }
        ),
        (1u64..9).prop_map(|epoch| Record::EpochStart { epoch, node_id: 1 }),
    ]
}

proptest! {
    #[test]
    fn any_records_survive_their_bytes(records in prop::collection::vec(any_record(), 0..8)) {
        prop_assert_eq!(decode_records(&encode_records(&records)).unwrap(), records);
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        records in prop::collection::vec(any_record(), 1..4),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = encode_records(&records);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = decode_records(&bytes);
        let _ = decode_records(&noise);
    }

    #[test]
    fn a_snapshot_makes_the_same_image(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut image = Image::new();
        for step in steps {
            // Steps that do not fit are refused and change nothing.
            if let Ok(next) = image.apply(image.version() + 1, std::slice::from_ref(&step)) {
                image = next;
            }
        }
        let bytes = encode_records(&image.snapshot());
        let records = decode_records(&bytes).unwrap();
        prop_assert_eq!(Image::from_snapshot(image.version(), &records).unwrap(), image);
    }
}
