//! The rules of the APIs that tools use: log directories, elections, what has configs, and configs
//! replaced as a whole.

mod common;

use common::{apply, cluster, config, new_topic, text, with_configs, with_topics};
use corelog_core::api::{
    ApiContext, LogDirSpace, LogDirState, LogSize, describe_log_dirs, elect_leaders,
    list_config_resources, list_partition_reassignments,
};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{ControllerContext, Image, Record, alter_configs, register_broker};
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::alter_configs_request::{
    AlterConfigsRequestData, AlterConfigsResource, AlterableConfig,
};
use kacrab_protocol::generated::describe_log_dirs_request::{
    DescribableLogDirTopic, DescribeLogDirsRequestData,
};
use kacrab_protocol::generated::elect_leaders_request::{ElectLeadersRequestData, TopicPartitions};
use kacrab_protocol::generated::list_config_resources_request::ListConfigResourcesRequestData;
use kacrab_protocol::generated::list_partition_reassignments_request::ListPartitionReassignmentsRequestData;

fn log(topic: &str, partition: i32, bytes: u64) -> LogSize {
    LogSize {
        topic: topic.to_owned(),
        partition,
        bytes,
    }
}

fn dir() -> LogDirState {
    LogDirState {
        path: "/data".to_owned(),
        space: Some(LogDirSpace {
            total_bytes: 1000,
            usable_bytes: u64::MAX,
        }),
        failed: false,
        logs: vec![log("b", 1, 7), log("a", 0, 5), log("b", 0, 6)],
    }
}

/// Error, total, usable, and (topic, partition, size) in the answer's order.
type Told = (ErrorCode, i64, i64, Vec<(String, i32, i64)>);

fn told(topics: Option<&[(&str, &[i32])]>, dir: LogDirState) -> Told {
    let asked = topics.map(|topics| {
        let asked = topics.iter().map(|(name, partitions)| {
            DescribableLogDirTopic::default()
                .with_topic(text(name))
                .with_partitions(partitions.to_vec())
        });
        asked.collect()
    });
    let request = DescribeLogDirsRequestData::default().with_topics(asked);
    let answer = describe_log_dirs(&request, vec![dir]);
    assert_eq!((answer.error_code, answer.results.len()), (0, 1));
    let found = &answer.results[0];
    assert_eq!(found.log_dir.as_str(), "/data");
    let logs = found.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| {
            assert!(partition.offset_lag == 0 && !partition.is_future_key);
            let name = topic.name.as_str().to_owned();
            (name, partition.partition_index, partition.partition_size)
        })
    });
    (
        ErrorCode::from(found.error_code),
        found.total_bytes,
        found.usable_bytes,
        logs.collect(),
    )
}

#[test]
fn r65_log_directories_tell_the_sizes_that_are_asked_for() {
    let row = |topic: &str, partition, size| (topic.to_owned(), partition, size);
    let all = vec![row("a", 0, 5), row("b", 0, 6), row("b", 1, 7)];
    let none = ErrorCode::None;
    assert_eq!(told(None, dir()), (none, 1000, i64::MAX, all.clone()));
    let some: &[(&str, &[i32])] = &[("b", &[1, 1, 9]), ("nope", &[0]), ("b", &[1])];
    let one = vec![row("b", 1, 7)];
    assert_eq!(told(Some(some), dir()), (none, 1000, i64::MAX, one));
    assert_eq!(told(Some(&[]), dir()).3, []);
    let failed = ErrorCode::KafkaStorageError;
    let stopped = LogDirState {
        failed: true,
        ..dir()
    };
    assert_eq!(told(None, stopped), (failed, 1000, i64::MAX, all.clone()));
    let gone = LogDirState {
        space: None,
        ..dir()
    };
    assert_eq!(told(None, gone), (failed, -1, -1, all));
}

fn elected(
    image: &Image,
    election_type: i8,
    topics: Option<&[(&str, &[i32])]>,
) -> (ErrorCode, Vec<(String, i32, ErrorCode)>) {
    let asked = topics.map(|topics| {
        let asked = topics.iter().map(|(name, partitions)| {
            TopicPartitions::default()
                .with_topic(text(name))
                .with_partitions(partitions.to_vec())
        });
        asked.collect()
    });
    let request = ElectLeadersRequestData::default()
        .with_election_type(election_type)
        .with_topic_partitions(asked);
    let answer = elect_leaders(image, 2, &request);
    let rows = answer.replica_election_results.iter().flat_map(|topic| {
        topic.partition_result.iter().map(|result| {
            assert!(result.error_message.is_some());
            let code = ErrorCode::from(result.error_code);
            (topic.topic.as_str().to_owned(), result.partition_id, code)
        })
    });
    (ErrorCode::from(answer.error_code), rows.collect())
}

#[test]
fn r65_elections_are_not_needed_where_the_only_replica_leads() {
    use ErrorCode::*;
    let image = with_topics(&cluster(&[1]), vec![new_topic("t", 2, 1)]);
    let asked: &[(&str, &[i32])] = &[("t", &[1, 0, 2, -1]), ("nope", &[0])];
    let row = |topic: &str, partition, code| (topic.to_owned(), partition, code);
    let expected = vec![
        row("t", 1, ElectionNotNeeded),
        row("t", 0, ElectionNotNeeded),
        row("t", 2, UnknownTopicOrPartition),
        row("t", -1, UnknownTopicOrPartition),
        row("nope", 0, UnknownTopicOrPartition),
    ];
    for election in [0, 1] {
        let answer = elected(&image, election, Some(asked));
        assert_eq!(answer, (ErrorCode::None, expected.clone()));
        let all = elected(&image, election, Option::None);
        assert_eq!(all, (ErrorCode::None, vec![]));
    }
    let (code, rows) = elected(&image, 7, Some(asked));
    assert_eq!(code, InvalidRequest);
    assert!(rows.len() == 5 && rows.iter().all(|row| row.2 == InvalidRequest));
    // Version 0 has no type: the preferred replica is meant.
    let request = ElectLeadersRequestData::default()
        .with_election_type(7)
        .with_topic_partitions(Option::None);
    assert_eq!(elect_leaders(&image, 0, &request).error_code, 0);
}

#[test]
fn r65_elections_without_a_replica_that_is_alive_say_so() {
    use ErrorCode::*;
    let of_broker_1 = with_topics(&cluster(&[1]), vec![new_topic("t", 1, 1)]);
    // The same topic, and only another broker is registered.
    let topics = of_broker_1.snapshot().into_iter();
    let topics: Vec<Record> = topics
        .filter(|record| !matches!(record, Record::RegisterBroker { .. }))
        .collect();
    let image = apply(&Image::new(), &topics);
    let records = register_broker(&image, &common::registration(2, 1, 1));
    let image = apply(&image, &records);
    for (election, code) in [
        (0, PreferredLeaderNotAvailable),
        (1, EligibleLeadersNotAvailable),
    ] {
        let all = elected(&image, election, Option::None);
        assert_eq!(all, (ErrorCode::None, vec![("t".to_owned(), 0, code)]));
    }
}

#[test]
fn r65_nothing_is_being_reassigned() {
    let request = ListPartitionReassignmentsRequestData::default();
    let answer = list_partition_reassignments(&request);
    assert_eq!(answer.error_code, 0);
    assert!(answer.topics.is_empty() && answer.error_message.is_none());
}

#[test]
fn r65_what_has_configs_is_listed_by_type() {
    let image = with_topics(
        &cluster(&[1, 2]),
        vec![new_topic("a", 1, 1), new_topic("b", 1, 1)],
    );
    let broker = BrokerConfig::default();
    let listed = |version, listener, types: &[i8]| {
        let context = ApiContext {
            cluster_id: "c",
            controller_id: 1,
            listener,
            broker: &broker,
        };
        let request = ListConfigResourcesRequestData::default().with_resource_types(types.to_vec());
        let answer = list_config_resources(&image, &context, version, &request);
        let found = answer.config_resources.iter();
        let found: Vec<(i8, String)> = found
            .map(|r| (r.resource_type, r.resource_name.as_str().to_owned()))
            .collect();
        (ErrorCode::from(answer.error_code), found)
    };
    let rows = |rows: &[(i8, &str)]| {
        let rows = rows.iter().map(|(id, name)| (*id, (*name).to_owned()));
        (ErrorCode::None, rows.collect::<Vec<_>>())
    };
    let all = [(4, "1"), (4, "2"), (2, "a"), (2, "b")];
    assert_eq!(listed(1, "PLAINTEXT", &[]), rows(&all));
    assert_eq!(listed(1, "PLAINTEXT", &[2, 2]), rows(&all[2..]));
    assert_eq!(listed(1, "PLAINTEXT", &[4]), rows(&all[..2]));
    assert_eq!(listed(1, "OTHER", &[4]), rows(&[]));
    assert_eq!(listed(1, "PLAINTEXT", &[8, 16, 32]), rows(&[]));
    let unsupported = (ErrorCode::UnsupportedVersion, vec![]);
    assert_eq!(listed(1, "PLAINTEXT", &[2, 3]), unsupported);
    assert_eq!(listed(0, "PLAINTEXT", &[]), rows(&[]));
    assert_eq!(listed(0, "PLAINTEXT", &[2]), unsupported);
}

fn of(resource_type: i8, name: &str, configs: &[(&str, Option<&str>)]) -> AlterConfigsResource {
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_value(value.map(text))
    });
    AlterConfigsResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configs(configs.collect())
}

fn replaced(
    image: &Image,
    resources: Vec<AlterConfigsResource>,
    validate_only: bool,
) -> (Vec<Record>, Vec<(ErrorCode, String)>) {
    let broker = config("");
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let request = AlterConfigsRequestData::default()
        .with_resources(resources)
        .with_validate_only(validate_only);
    let (records, answer) = alter_configs(image, &context, &request);
    let outcomes = answer.responses.iter().map(|response| {
        let said = response.error_message.as_ref();
        let said = said.map_or(String::new(), |said| said.as_str().to_owned());
        (ErrorCode::from(response.error_code), said)
    });
    (records, outcomes.collect())
}

#[test]
fn r52_alter_configs_replaces_all_overrides_of_a_resource() {
    let had = [("retention.ms", "5"), ("flush.ms", "100")];
    let topic = with_configs(new_topic("t", 1, 1), &had);
    let image = with_topics(&cluster(&[1]), vec![topic]);
    let topic = || {
        of(
            2,
            "t",
            &[("flush.ms", Some("100")), ("segment.ms", Some("60000"))],
        )
    };
    let broker = || of(4, "", &[("log.flush.interval.ms", Some("9"))]);
    let ok = (ErrorCode::None, String::new());
    let (records, outcomes) = replaced(&image, vec![topic(), broker()], false);
    assert_eq!(outcomes, [ok.clone(), ok.clone()]);
    assert_eq!(records.len(), 3, "flush.ms did not change: {records:?}");
    let image = apply(&image, &records);
    let now: Vec<_> = image.topic_config("t").unwrap().iter().collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected = [pair("flush.ms", "100"), pair("segment.ms", "60000")];
    assert!(now.into_iter().eq(expected.iter().map(|(k, v)| (k, v))));
    assert_eq!(
        image.broker_config("").unwrap()["log.flush.interval.ms"],
        "9"
    );
    let again = replaced(&image, vec![topic(), broker()], false);
    assert_eq!(again, (vec![], vec![ok.clone(), ok.clone()]));
    // Nothing named: nothing left. Only tried: nothing changed.
    let nothing = || vec![of(2, "t", &[]), of(4, "", &[])];
    assert_eq!(
        replaced(&image, nothing(), true),
        (vec![], vec![ok.clone(), ok])
    );
    let image = apply(&image, &replaced(&image, nothing(), false).0);
    assert!(image.topic_config("t").is_none() && image.broker_config("").is_none());
}

#[test]
fn r13_bad_replacements_of_configs_are_refused_one_by_one() {
    use ErrorCode::*;
    let topic = with_configs(new_topic("t", 1, 1), &[("flush.ms", "100")]);
    let image = with_topics(&cluster(&[1]), vec![topic, new_topic("u", 1, 1)]);
    let cases: Vec<(AlterConfigsResource, ErrorCode, &str)> = vec![
        (of(2, "nope", &[]), UnknownTopicOrPartition, "nope"),
        (of(2, "a b", &[]), InvalidTopicException, "a b"),
        (of(8, "1", &[]), InvalidRequest, "8"),
        (of(4, "9", &[]), InvalidRequest, "9"),
        (of(4, "x", &[]), InvalidRequest, "x"),
        (
            of(2, "t", &[("no.key", Some("1"))]),
            InvalidConfig,
            "no.key",
        ),
        (
            of(2, "t", &[("flush.ms", Some("soon"))]),
            InvalidConfig,
            "flush.ms",
        ),
        (
            of(2, "t", &[("flush.ms", Option::None)]),
            InvalidRequest,
            "Null value",
        ),
        (
            of(2, "t", &[("flush.ms", Some("1")), ("flush.ms", Some("2"))]),
            InvalidRequest,
            "duplicate config keys",
        ),
        (
            of(4, "", &[("node.id", Some("3"))]),
            InvalidRequest,
            "node.id",
        ),
        (
            of(
                2,
                "t",
                &[
                    ("min.compaction.lag.ms", Some("9")),
                    ("max.compaction.lag.ms", Some("8")),
                ],
            ),
            InvalidConfig,
            "min.compaction.lag.ms",
        ),
    ];
    for (resource, code, said) in cases {
        let good = of(2, "u", &[("flush.ms", Some("7"))]);
        let (records, outcomes) = replaced(&image, vec![resource.clone(), good], false);
        assert_eq!(outcomes[0].0, code, "{resource:?}: {outcomes:?}");
        assert!(outcomes[0].1.contains(said), "{said}: {outcomes:?}");
        assert_eq!(outcomes[1].0, ErrorCode::None, "the other stands by itself");
        assert_eq!(records.len(), 1, "{records:?}");
    }
    let twice = vec![of(2, "t", &[]), of(2, "t", &[]), of(2, "t", &[])];
    let (records, outcomes) = replaced(&image, twice, false);
    assert_eq!((records.len(), outcomes.len()), (0, 1));
    assert_eq!(outcomes[0].0, InvalidRequest);
}
