//! The controller's rules, one table per request.

mod common;

use common::{
    alter, apply, by_names, cluster, create, id, ids, new_topic, registration, state, text,
    with_configs, with_topics,
};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::controller::auto_create_request;
use corelog_core::metadata::{
    ControllerContext, Image, Record, allocate_producer_ids, create_partitions, create_topics,
    delete_topics, incremental_alter_configs, register_broker,
};
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::create_partitions_request::*;
use kacrab_protocol::generated::create_topics_request::*;
use kacrab_protocol::generated::create_topics_response::CreatableTopicResult;
use kacrab_protocol::generated::delete_topics_request::*;

fn run_create(
    image: &Image,
    topics: Vec<CreatableTopic>,
) -> (Vec<Record>, Vec<CreatableTopicResult>) {
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 4,
    };
    let (records, response) = create_topics(image, &context, &create(topics), &mut ids(100));
    (records, response.topics)
}

fn message(text: &Option<kacrab_protocol::KafkaString>) -> &str {
    text.as_ref().map_or("", |text| text.as_str())
}

fn assigned(topic: CreatableTopic, partitions: &[(i32, &[i32])]) -> CreatableTopic {
    let assignments = partitions.iter().map(|(index, brokers)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*index)
            .with_broker_ids(brokers.to_vec())
    });
    topic.with_assignments(assignments.collect())
}

#[test]
fn r02_a_topic_gets_the_partitions_it_asks_for() {
    let image = cluster(&[1]);
    let topic = with_configs(new_topic("orders", 6, 1), &[("flush.messages", "1")]);
    let (records, results) = run_create(&image, vec![topic, new_topic("defaults", -1, -1)]);
    assert_eq!(results[0].error_code, 0);
    assert_eq!(
        (results[0].num_partitions, results[0].replication_factor),
        (6, 1)
    );
    assert_eq!(results[0].topic_id, id(100));
    assert_eq!(
        (results[1].num_partitions, results[1].replication_factor),
        (1, 1)
    );
    let configs = results[0].configs.as_ref().unwrap();
    let flush = configs
        .iter()
        .find(|c| c.name.as_str() == "flush.messages")
        .unwrap();
    assert_eq!((message(&flush.value), flush.config_source), ("1", 1));
    let retention = configs
        .iter()
        .find(|c| c.name.as_str() == "retention.ms")
        .unwrap();
    assert_eq!(
        (message(&retention.value), retention.config_source),
        ("604800000", 5)
    );
    let image = apply(&image, &records);
    let topic = image.topic("orders").unwrap();
    assert_eq!(topic.partitions.len(), 6);
    for partition in &topic.partitions {
        assert_eq!((partition.leader, partition.leader_epoch), (1, 0));
        assert_eq!((&partition.replicas, &partition.isr), (&vec![1], &vec![1]));
    }
    assert_eq!(image.topic_config("orders").unwrap()["flush.messages"], "1");
}

#[test]
fn replicas_are_spread_over_the_brokers() {
    let image = with_topics(&cluster(&[1, 2, 3]), vec![new_topic("t", 3, 2)]);
    let replicas: Vec<_> = image
        .topic("t")
        .unwrap()
        .partitions
        .iter()
        .map(|p| p.replicas.clone())
        .collect();
    assert_eq!(replicas, [vec![1, 2], vec![2, 3], vec![3, 1]]);
}

#[test]
fn r13_create_topics_refuses_with_kafkas_codes() {
    let image = with_topics(
        &cluster(&[1]),
        vec![new_topic("have", 1, 1), new_topic("a.b", 1, 1)],
    );
    let long = "x".repeat(250);
    let plain = |name: &str| new_topic(name, -1, -1);
    use ErrorCode::*;
    let cases = vec![
        (new_topic("", 1, 1), InvalidTopicException, "empty string"),
        (new_topic(".", 1, 1), InvalidTopicException, "'.'"),
        (new_topic("..", 1, 1), InvalidTopicException, "'..'"),
        (new_topic(&long, 1, 1), InvalidTopicException, "249"),
        (
            new_topic("a b", 1, 1),
            InvalidTopicException,
            "alphanumerics",
        ),
        (
            new_topic("\u{e4}", 1, 1),
            InvalidTopicException,
            "alphanumerics",
        ),
        (
            new_topic("a_b", 1, 1),
            InvalidTopicException,
            "collides with existing topic: a.b",
        ),
        (
            new_topic("__cluster_metadata", 1, 1),
            InvalidRequest,
            "prohibited",
        ),
        (
            new_topic("have", 1, 1),
            TopicAlreadyExists,
            "already exists",
        ),
        (new_topic("t", 0, 1), InvalidPartitions, "non-positive"),
        (new_topic("t", -2, 1), InvalidPartitions, "non-positive"),
        (new_topic("t", i32::MAX, 1), PolicyViolation, "10000"),
        (new_topic("t", 10_001, 1), PolicyViolation, "10000"),
        (
            new_topic("t", 1, 0),
            InvalidReplicationFactor,
            "non-positive",
        ),
        (
            new_topic("t", 1, -2),
            InvalidReplicationFactor,
            "non-positive",
        ),
        (
            new_topic("t", 1, 3),
            InvalidReplicationFactor,
            "only 1 broker(s) are registered",
        ),
        (
            assigned(new_topic("t", 1, -1), &[(0, &[1])]),
            InvalidRequest,
            "numPartitions",
        ),
        (
            assigned(new_topic("t", -1, 1), &[(0, &[1])]),
            InvalidRequest,
            "replication factor",
        ),
        (
            assigned(plain("t"), &[(0, &[])]),
            InvalidReplicaAssignment,
            "empty replica list",
        ),
        (
            assigned(plain("t"), &[(0, &[2])]),
            InvalidReplicaAssignment,
            "broker 2",
        ),
        (
            assigned(plain("t"), &[(0, &[1, 1])]),
            InvalidReplicaAssignment,
            "more than once",
        ),
        (
            assigned(plain("t"), &[(0, &[1]), (0, &[1])]),
            InvalidReplicaAssignment,
            "multiple",
        ),
        (
            assigned(plain("t"), &[(1, &[1])]),
            InvalidReplicaAssignment,
            "consecutive",
        ),
        (
            assigned(plain("t"), &[(-1, &[1])]),
            InvalidReplicaAssignment,
            "consecutive",
        ),
        (
            with_configs(plain("t"), &[("flush.messages", "0")]),
            InvalidConfig,
            "flush.messages",
        ),
        (
            with_configs(plain("t"), &[("flush.mesages", "1")]),
            InvalidConfig,
            "flush.mesages",
        ),
        (
            with_configs(plain("t"), &[("flush.ms", "1"), ("flush.ms", "2")]),
            InvalidRequest,
            "twice",
        ),
        (
            with_configs(plain("t"), &[("remote.storage.enable", "true")]),
            InvalidConfig,
            "Tiered",
        ),
        (
            with_configs(
                plain("t"),
                &[
                    ("min.compaction.lag.ms", "9"),
                    ("max.compaction.lag.ms", "8"),
                ],
            ),
            InvalidConfig,
            "max.compaction.lag.ms (8)",
        ),
    ];
    for (topic, code, part) in cases {
        let shown = format!("{topic:?}");
        let (records, results) = run_create(&image, vec![topic]);
        assert_eq!(records, [], "{shown}");
        assert_eq!(ErrorCode::from(results[0].error_code), code, "{shown}");
        let said = message(&results[0].error_message);
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let null = CreatableTopicConfig::default()
        .with_name(text("flush.ms"))
        .with_value(Option::None);
    let (_, results) = run_create(&image, vec![plain("t").with_configs(vec![null])]);
    assert_eq!(ErrorCode::from(results[0].error_code), InvalidConfig);
}

#[test]
fn r13_a_bad_config_is_refused_by_key_value_and_bound() {
    let topic = with_configs(new_topic("t", 1, 1), &[("retention.ms", "-7")]);
    let (_, results) = run_create(&cluster(&[1]), vec![topic]);
    assert_eq!(
        ErrorCode::from(results[0].error_code),
        ErrorCode::InvalidConfig
    );
    assert_eq!(
        message(&results[0].error_message),
        "Invalid value -7 for configuration retention.ms: Value must be at least -1"
    );
}

#[test]
fn topics_of_one_request_stand_or_fall_by_themselves() {
    let image = cluster(&[1]);
    let topics = vec![
        new_topic("good", 1, 1),
        new_topic("twice", 1, 1),
        new_topic("twice", 2, 1),
        new_topic("x.y", 1, 1),
        new_topic("x_y", 1, 1),
    ];
    let (records, results) = run_create(&image, topics);
    let codes: Vec<_> = results
        .iter()
        .map(|r| (r.name.as_str().to_owned(), ErrorCode::from(r.error_code)))
        .collect();
    assert_eq!(
        codes,
        [
            ("twice".to_owned(), ErrorCode::InvalidRequest),
            ("good".to_owned(), ErrorCode::None),
            ("x.y".to_owned(), ErrorCode::None),
            ("x_y".to_owned(), ErrorCode::InvalidTopicException),
        ]
    );
    let image = apply(&image, &records);
    assert_eq!(image.topics().len(), 2);
}

#[test]
fn the_partitions_of_one_request_are_bounded_together() {
    let topics = vec![
        new_topic("a", 6000, 1),
        new_topic("b", 6000, 1),
        new_topic("c", 4000, 1),
    ];
    let (_, results) = run_create(&cluster(&[1]), topics);
    let codes: Vec<_> = results
        .iter()
        .map(|r| ErrorCode::from(r.error_code))
        .collect();
    assert_eq!(
        codes,
        [ErrorCode::None, ErrorCode::PolicyViolation, ErrorCode::None]
    );
}

#[test]
fn validate_only_changes_nothing() {
    let image = with_topics(&cluster(&[1]), vec![new_topic("have", 1, 1)]);
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let request = create(vec![new_topic("t", 2, 1)]).with_validate_only(true);
    let (records, response) = create_topics(&image, &context, &request, &mut ids(9));
    assert_eq!(records, []);
    assert_eq!(
        (
            response.topics[0].error_code,
            response.topics[0].num_partitions
        ),
        (0, 2)
    );
    let topic = CreatePartitionsTopic::default()
        .with_name(text("have"))
        .with_count(2);
    let request = CreatePartitionsRequestData::default()
        .with_topics(vec![topic.with_assignments(None)])
        .with_validate_only(true);
    let (records, response) = create_partitions(&image, &context, &request);
    assert_eq!((records.len(), response.results[0].error_code), (0, 0));
    let request = alter(2, "have", &[("flush.ms", 0, Some("5"))]).with_validate_only(true);
    let (records, response) = incremental_alter_configs(&image, &context, &request);
    assert_eq!((records.len(), response.responses[0].error_code), (0, 0));
}

#[test]
fn auto_created_topics_get_the_brokers_defaults() {
    let image = cluster(&[1]);
    let broker = common::config("num.partitions=4");
    let context = ControllerContext {
        broker: &broker,
        shards: 2,
    };
    let request = auto_create_request(&image, &broker, &["new".to_owned()]);
    let (records, response) = create_topics(&image, &context, &request, &mut ids(1));
    assert_eq!(response.topics[0].error_code, 0);
    assert_eq!(
        apply(&image, &records)
            .topic("new")
            .unwrap()
            .partitions
            .len(),
        4
    );
}

#[test]
fn r23_the_offsets_topic_is_made_as_configured_with_as_many_replicas_as_there_are_brokers() {
    let broker =
        common::config("offsets.topic.num.partitions=7\noffsets.topic.segment.bytes=1048576");
    for (brokers, factor) in [(&[1][..], 1), (&[1, 2], 2), (&[1, 2, 3, 4], 3)] {
        let image = cluster(brokers);
        let context = ControllerContext {
            broker: &broker,
            shards: 2,
        };
        let request = auto_create_request(&image, &broker, &["__consumer_offsets".to_owned()]);
        let (records, response) = create_topics(&image, &context, &request, &mut ids(1));
        assert_eq!(response.topics[0].error_code, 0);
        let made = apply(&image, &records);
        let topic = made.topic("__consumer_offsets").unwrap();
        assert_eq!(
            (topic.partitions.len(), topic.replication_factor()),
            (7, factor)
        );
        let configs = made.topic_config("__consumer_offsets").unwrap();
        let expected = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("flush.messages", "1"),
            ("segment.bytes", "1048576"),
        ];
        let found: Vec<_> = configs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(found, expected);
    }
}

fn run_delete(
    image: &Image,
    version: i16,
    request: &DeleteTopicsRequestData,
) -> (Vec<Record>, Vec<ErrorCode>) {
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let (records, response) = delete_topics(image, &context, version, request);
    let codes = response
        .responses
        .iter()
        .map(|r| ErrorCode::from(r.error_code))
        .collect();
    (records, codes)
}

#[test]
fn topics_are_deleted_by_name_or_id() {
    use ErrorCode::{InvalidRequest, None as Good, UnknownTopicId, UnknownTopicOrPartition};
    let topics = ["a", "b", "c", "__consumer_offsets"].map(|name| new_topic(name, 1, 1));
    let image = with_topics(&cluster(&[1]), topics.to_vec());
    let remove = |topic| Record::RemoveTopic {
        topic_id: id(topic),
    };
    let (records, codes) = run_delete(&image, 5, &by_names(&["a", "nope", "b", "b"]));
    assert_eq!(codes, [Good, UnknownTopicOrPartition, InvalidRequest]);
    assert_eq!(records, [remove(1)]);
    let states = |states: &[DeleteTopicState]| {
        DeleteTopicsRequestData::default().with_topics(states.to_vec())
    };
    let cases = [
        (state(Some("a"), 0), Good, vec![remove(1)]),
        (state(None, 2), Good, vec![remove(2)]),
        (state(None, 77), UnknownTopicId, vec![]),
        (state(Some("nope"), 0), UnknownTopicOrPartition, vec![]),
        (state(Some("a"), 1), InvalidRequest, vec![]),
        (state(None, 0), InvalidRequest, vec![]),
        (state(Some("__consumer_offsets"), 0), InvalidRequest, vec![]),
    ];
    for (state, code, expected) in cases {
        let (records, codes) = run_delete(&image, 6, &states(std::slice::from_ref(&state)));
        assert_eq!((codes, records), (vec![code], expected), "{state:?}");
    }
    let both = states(&[
        state(Some("a"), 0),
        state(None, 1),
        state(None, 3),
        state(None, 3),
    ]);
    let (records, codes) = run_delete(&image, 6, &both);
    assert_eq!(codes, [InvalidRequest, Good, InvalidRequest]);
    assert_eq!(records, [remove(1)]);
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let (_, response) = delete_topics(
        &image,
        &context,
        6,
        &states(&[state(None, 2), state(None, 77)]),
    );
    assert_eq!(message(&response.responses[0].name), "b");
    assert_eq!(response.responses[1].name, None);
}

#[test]
fn deletion_can_be_switched_off() {
    let image = with_topics(&cluster(&[1]), vec![new_topic("a", 1, 1)]);
    let broker = common::config("delete.topic.enable=false");
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    for (version, code) in [
        (1, ErrorCode::InvalidRequest),
        (3, ErrorCode::TopicDeletionDisabled),
    ] {
        let (records, response) = delete_topics(&image, &context, version, &by_names(&["a"]));
        assert_eq!(records, []);
        assert_eq!(ErrorCode::from(response.responses[0].error_code), code);
    }
}

#[test]
fn r02_partitions_are_raised_and_never_lowered() {
    use ErrorCode::*;
    let image = with_topics(&cluster(&[1, 2]), vec![new_topic("t", 2, 1)]);
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 4,
    };
    let topic = |name: &str, count: i32, assignments: Option<&[&[i32]]>| {
        let assignments = assignments.map(|list| {
            let one =
                |ids: &&[i32]| CreatePartitionsAssignment::default().with_broker_ids(ids.to_vec());
            list.iter().map(one).collect()
        });
        CreatePartitionsTopic::default()
            .with_name(text(name))
            .with_count(count)
            .with_assignments(assignments)
    };
    let run = |topics: Vec<CreatePartitionsTopic>| {
        let request = CreatePartitionsRequestData::default().with_topics(topics);
        let (records, response) = create_partitions(&image, &context, &request);
        let results: Vec<_> = response
            .results
            .iter()
            .map(|r| {
                (
                    ErrorCode::from(r.error_code),
                    message(&r.error_message).to_owned(),
                )
            })
            .collect();
        (records, results)
    };
    let cases = [
        (
            topic("t", 1, Option::None),
            InvalidPartitions,
            "currently has 2 partition(s); 1 would not be an increase",
        ),
        (
            topic("t", 0, Option::None),
            InvalidPartitions,
            "0 would not be an increase",
        ),
        (
            topic("t", -5, Option::None),
            InvalidPartitions,
            "-5 would not be an increase",
        ),
        (
            topic("t", 2, Option::None),
            InvalidPartitions,
            "already has 2",
        ),
        (topic("t", i32::MAX, Option::None), PolicyViolation, "10000"),
        (
            topic("nope", 3, Option::None),
            UnknownTopicOrPartition,
            "does not host",
        ),
        (
            topic("t", 4, Some(&[&[1]])),
            InvalidReplicaAssignment,
            "only 1 assignment(s)",
        ),
        (
            topic("t", 3, Some(&[&[9]])),
            InvalidReplicaAssignment,
            "broker 9",
        ),
        (
            topic("t", 3, Some(&[&[1, 2]])),
            InvalidReplicaAssignment,
            "not consistent",
        ),
    ];
    for (topic, code, part) in cases {
        let (records, results) = run(vec![topic]);
        assert_eq!((records, results[0].0), (vec![], code));
        assert!(
            results[0].1.contains(part),
            "{part} is not in: {}",
            results[0].1
        );
    }
    let (_, results) = run(vec![
        topic("t", 3, Option::None),
        topic("t", 4, Option::None),
    ]);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].0, InvalidRequest);
    let (records, _) = run(vec![topic("t", 4, Some(&[&[2], &[1]]))]);
    let after = apply(&image, &records);
    let topic_after = after.topic("t").unwrap();
    assert_eq!(topic_after.partitions.len(), 4);
    assert_eq!(
        (
            topic_after.partitions[2].leader,
            topic_after.partitions[3].leader
        ),
        (2, 1)
    );
    assert_eq!(
        topic_after.partitions[..2],
        image.topic("t").unwrap().partitions[..]
    );
}

#[test]
fn a_new_incarnation_raises_the_leader_epoch_once() {
    let before = with_topics(&cluster(&[1]), vec![new_topic("t", 3, 1)]);
    let records = register_broker(&before, &registration(1, 2000, 4));
    let after = apply(&before, &records);
    for partition in &after.topic("t").unwrap().partitions {
        assert_eq!(
            (
                partition.leader,
                partition.leader_epoch,
                partition.partition_epoch
            ),
            (1, 1, 1)
        );
        assert_eq!(partition.isr, [1]);
    }
    let epochs = [&before, &after].map(|image| image.broker(1).unwrap().broker_epoch);
    assert!(epochs[1] > epochs[0]);
    assert_eq!(register_broker(&after, &registration(1, 2000, 4)), []);
}

#[test]
fn a_new_incarnation_leaves_every_isr_and_leadership_that_others_can_take() {
    let image = with_topics(&cluster(&[1, 2]), vec![new_topic("t", 2, 2)]);
    // Replicas 1,2 led by 1 and 2,1 led by 2.
    let after = apply(&image, &register_broker(&image, &registration(1, 2000, 4)));
    let topic = after.topic("t").unwrap();
    let state = |index: usize| {
        let p = &topic.partitions[index];
        (p.leader, p.leader_epoch, p.isr.clone())
    };
    assert_eq!(state(0), (2, 1, vec![2]));
    assert_eq!(state(1), (2, 1, vec![2]));
    // Again: it is in no ISR now, so nothing is left to take from it.
    let records = register_broker(&after, &registration(1, 3000, 4));
    assert_eq!(records.len(), 1);
    // The last in-sync replica keeps its seat and leads in a new epoch.
    let last = apply(&after, &register_broker(&after, &registration(2, 2000, 4)));
    let partition = &last.topic("t").unwrap().partitions[0];
    assert_eq!(
        (partition.leader, partition.leader_epoch, &partition.isr[..]),
        (2, 2, &[2][..])
    );
}

#[test]
fn fewer_shards_than_before_place_their_partitions_anew() {
    let image = with_topics(&cluster(&[1]), vec![new_topic("t", 4, 1)]);
    let after = apply(&image, &register_broker(&image, &registration(1, 2000, 2)));
    let shards: Vec<_> = after
        .topic("t")
        .unwrap()
        .partitions
        .iter()
        .map(|p| p.shard)
        .collect();
    assert_eq!(shards, [0, 1, 0, 1]);
}

#[test]
fn r11_producer_ids_are_given_out_in_blocks_and_never_twice() {
    let image = cluster(&[1]);
    let (records, first) = allocate_producer_ids(&image);
    let image = apply(&image, &records);
    let (_, second) = allocate_producer_ids(&image);
    assert_eq!((first, second), (0..1000, 1000..2000));
}
