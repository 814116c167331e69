//! Answers from the image, in every version that is advertised: they must encode, and their
//! bytes must decode to what was meant.

mod common;

use bytes::{Bytes, BytesMut};
use common::{apply, cluster, id, new_topic, text, with_configs, with_topics};
use corelog_core::api::{
    ApiContext, describe_cluster, describe_configs, describe_topic_partitions, metadata,
};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{Image, Record};
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::describe_cluster_request::DescribeClusterRequestData;
use kacrab_protocol::generated::describe_cluster_response::DescribeClusterResponseData;
use kacrab_protocol::generated::describe_configs_request::*;
use kacrab_protocol::generated::describe_configs_response::*;
use kacrab_protocol::generated::describe_topic_partitions_request::*;
use kacrab_protocol::generated::describe_topic_partitions_response::DescribeTopicPartitionsResponseData;
use kacrab_protocol::generated::metadata_request::*;
use kacrab_protocol::generated::metadata_response::*;

/// Encodes and decodes at a version: what a client would see.
macro_rules! on_the_wire {
    ($type:ty, $value:expr, $version:expr) => {{
        let mut bytes = BytesMut::new();
        $value
            .write(&mut bytes, $version)
            .unwrap_or_else(|e| panic!("v{}: {e:?}", $version));
        <$type>::read(&mut Bytes::from(bytes), $version).unwrap()
    }};
}

struct Fixture {
    image: Image,
    broker: BrokerConfig,
}

impl Fixture {
    fn new(config: &str) -> Self {
        let topics = vec![
            with_configs(new_topic("a", 2, 1), &[("flush.messages", "1")]),
            new_topic("b", 3, 2),
            new_topic("__consumer_offsets", 1, 1),
        ];
        Self {
            image: with_topics(&cluster(&[1, 2]), topics),
            broker: common::config(config),
        }
    }

    fn context(&self) -> ApiContext<'_> {
        ApiContext {
            cluster_id: "cluster-id",
            controller_id: 1,
            listener: "PLAINTEXT",
            broker: &self.broker,
        }
    }

    fn metadata(
        &self,
        version: i16,
        request: &MetadataRequestData,
    ) -> (MetadataResponseData, Vec<String>) {
        let answer = metadata(&self.image, &self.context(), version, request);
        (
            on_the_wire!(MetadataResponseData, answer.response, version),
            answer.auto_create,
        )
    }
}

fn named(names: &[&str]) -> MetadataRequestData {
    let topics = names
        .iter()
        .map(|name| MetadataRequestTopic::default().with_name(Some(text(name))));
    MetadataRequestData::default().with_topics(Some(topics.collect()))
}

fn name_of(topic: &MetadataResponseTopic) -> &str {
    topic.name.as_ref().map_or("", |name| name.as_str())
}

#[test]
fn r06_metadata_names_every_topic_and_broker_in_every_version() {
    let fixture = Fixture::new("");
    for version in 0..=13 {
        let all = if version == 0 { Some(Vec::new()) } else { None };
        let request = MetadataRequestData::default().with_topics(all);
        let (response, auto_create) = fixture.metadata(version, &request);
        assert_eq!(auto_create, Vec::<String>::new());
        let brokers: Vec<_> = response
            .brokers
            .iter()
            .map(|b| (b.node_id, b.host.as_str().to_owned(), b.port))
            .collect();
        assert_eq!(
            brokers,
            [(1, "host1".to_owned(), 9092), (2, "host2".to_owned(), 9092)]
        );
        let names: Vec<_> = response.topics.iter().map(name_of).collect();
        assert_eq!(names, ["__consumer_offsets", "a", "b"], "v{version}");
        let b = &response.topics[2];
        assert_eq!((b.error_code, b.partitions.len()), (0, 3));
        assert_eq!(b.partitions[1].replica_nodes.len(), 2);
        assert_eq!(b.partitions[1].isr_nodes, b.partitions[1].replica_nodes);
        if version >= 1 {
            assert_eq!(response.controller_id, 1);
            assert!(response.topics[0].is_internal && !b.is_internal);
            assert_eq!(response.brokers[0].rack, Some(text("rack1")));
        }
        if version >= 2 {
            assert_eq!(response.cluster_id, Some(text("cluster-id")));
        }
        if version >= 7 {
            assert_eq!(b.partitions[0].leader_epoch, 0);
        }
        if version >= 10 {
            assert_eq!(b.topic_id, id(2));
        }
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        assert_eq!(b.topic_authorized_operations, i32::MIN);
    }
}

#[test]
fn from_version_1_an_empty_list_asks_for_no_topic() {
    let fixture = Fixture::new("");
    for version in 1..=13 {
        let request = MetadataRequestData::default().with_topics(Some(Vec::new()));
        assert_eq!(fixture.metadata(version, &request).0.topics, []);
    }
}

#[test]
fn unknown_topics_are_created_where_request_and_broker_allow_it() {
    let names = ["a", "new", "bad name", "__transaction_state", "new"];
    for version in 0..=13 {
        for (config, flag) in [
            ("", true),
            ("", false),
            ("auto.create.topics.enable=false", true),
        ] {
            let fixture = Fixture::new(config);
            let request = named(&names).with_allow_auto_topic_creation(flag);
            let (response, auto_create) = fixture.metadata(version, &request);
            let allowed = config.is_empty() && (flag || version < 4);
            let expected: &[&str] = if allowed { &["new"] } else { &[] };
            assert_eq!(auto_create, expected, "v{version} {config} {flag}");
            let codes: Vec<_> = response
                .topics
                .iter()
                .map(|t| ErrorCode::from(t.error_code))
                .collect();
            use ErrorCode::*;
            assert_eq!(
                codes,
                [
                    None,
                    UnknownTopicOrPartition,
                    InvalidTopicException,
                    UnknownTopicOrPartition
                ]
            );
        }
    }
}

#[test]
fn topics_are_found_by_id_from_version_12_on() {
    let fixture = Fixture::new("");
    let by_id = |number| {
        MetadataRequestTopic::default()
            .with_name(None)
            .with_topic_id(id(number))
    };
    let request =
        MetadataRequestData::default().with_topics(Some(vec![by_id(2), by_id(99), by_id(2)]));
    for version in 12..=13 {
        let (response, _) = fixture.metadata(version, &request);
        assert_eq!(response.topics.len(), 2);
        assert_eq!(name_of(&response.topics[0]), "b");
        let unknown = &response.topics[1];
        assert_eq!(
            ErrorCode::from(unknown.error_code),
            ErrorCode::UnknownTopicId
        );
        assert_eq!((&unknown.name, unknown.topic_id), (&None, id(99)));
    }
    for version in 10..=11 {
        let (response, _) = fixture.metadata(version, &request);
        for topic in &response.topics {
            assert_eq!(ErrorCode::from(topic.error_code), ErrorCode::InvalidRequest);
        }
    }
}

#[test]
fn operations_are_told_only_to_those_who_ask() {
    let fixture = Fixture::new("");
    let request = named(&["a"])
        .with_include_cluster_authorized_operations(true)
        .with_include_topic_authorized_operations(true);
    for version in 8..=13 {
        let (response, _) = fixture.metadata(version, &request);
        // As Kafka without an authorizer: everything.
        assert_eq!(response.topics[0].topic_authorized_operations, 3576);
        let cluster = if version <= 10 { 8096 } else { i32::MIN };
        assert_eq!(response.cluster_authorized_operations, cluster);
    }
}

#[test]
fn r13_partitions_without_a_reachable_leader_say_so() {
    let mut fixture = Fixture::new("");
    let orphan = Record::Partition {
        topic_id: id(1),
        index: 0,
        replicas: vec![1, 9],
        isr: vec![9],
        leader: -1,
        leader_epoch: 4,
        partition_epoch: 4,
        shard: 0,
    };
    fixture.image = apply(&fixture.image, &[orphan]);
    let (response, _) = fixture.metadata(13, &named(&["a"]));
    let partition = &response.topics[0].partitions[0];
    assert_eq!(
        ErrorCode::from(partition.error_code),
        ErrorCode::LeaderNotAvailable
    );
    assert_eq!((partition.leader_id, partition.leader_epoch), (-1, 4));
    assert_eq!(partition.offline_replicas, [9]);
    let context = ApiContext {
        listener: "OTHER",
        ..fixture.context()
    };
    for (version, code) in [
        (5, ErrorCode::LeaderNotAvailable),
        (6, ErrorCode::ListenerNotFound),
    ] {
        let answer = metadata(&fixture.image, &context, version, &named(&["b"]));
        assert_eq!(answer.response.brokers, []);
        let partition = &answer.response.topics[0].partitions[0];
        assert_eq!(
            (ErrorCode::from(partition.error_code), partition.leader_id),
            (code, -1)
        );
    }
}

#[test]
fn r06_describe_cluster_in_every_version() {
    let fixture = Fixture::new("");
    let run = |version, request: &DescribeClusterRequestData| {
        let answer = describe_cluster(&fixture.image, &fixture.context(), version, request);
        on_the_wire!(DescribeClusterResponseData, answer, version)
    };
    for version in 0..=2 {
        let request = DescribeClusterRequestData::default();
        let response = run(version, &request);
        assert_eq!(
            (response.error_code, response.cluster_id.as_str()),
            (0, "cluster-id")
        );
        assert_eq!((response.controller_id, response.brokers.len()), (1, 2));
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        let request = request.with_include_cluster_authorized_operations(true);
        assert_eq!(run(version, &request).cluster_authorized_operations, 8096);
    }
    for version in 1..=2 {
        for (endpoints, code) in [
            (2, ErrorCode::MismatchedEndpointType),
            (7, ErrorCode::UnsupportedEndpointType),
        ] {
            let request = DescribeClusterRequestData::default().with_endpoint_type(endpoints);
            assert_eq!(ErrorCode::from(run(version, &request).error_code), code);
        }
    }
}

fn describe(
    fixture: &Fixture,
    names: &[&str],
    limit: i32,
    cursor: Option<(&str, i32)>,
) -> DescribeTopicPartitionsResponseData {
    let topics = names
        .iter()
        .map(|name| TopicRequest::default().with_name(text(name)));
    let cursor = cursor.map(|(topic, index)| {
        Box::new(
            Cursor::default()
                .with_topic_name(text(topic))
                .with_partition_index(index),
        )
    });
    let request = DescribeTopicPartitionsRequestData::default()
        .with_topics(topics.collect())
        .with_response_partition_limit(limit)
        .with_cursor(cursor);
    let answer = describe_topic_partitions(&fixture.image, &fixture.context(), &request);
    on_the_wire!(DescribeTopicPartitionsResponseData, answer, 0)
}

/// Topic and partition indexes.
type Described = (String, Vec<i32>);

fn page(response: &DescribeTopicPartitionsResponseData) -> (Vec<Described>, Option<(String, i32)>) {
    let topics = response.topics.iter().map(|topic| {
        let name = topic
            .name
            .as_ref()
            .map_or(String::new(), |n| n.as_str().to_owned());
        (
            name,
            topic.partitions.iter().map(|p| p.partition_index).collect(),
        )
    });
    let next = response.next_cursor.as_ref();
    (
        topics.collect(),
        next.map(|c| (c.topic_name.as_str().to_owned(), c.partition_index)),
    )
}

#[test]
fn topic_partitions_are_described_page_by_page() {
    let fixture = Fixture::new("");
    let mut seen = Vec::new();
    let mut cursor: Option<(String, i32)> = None;
    for _ in 0..10 {
        let from = cursor
            .as_ref()
            .map(|(topic, index)| (topic.as_str(), *index));
        let response = describe(&fixture, &[], 2, from);
        let (topics, next) = page(&response);
        let count: usize = topics.iter().map(|(_, partitions)| partitions.len()).sum();
        assert!(count <= 2);
        for (topic, partitions) in topics {
            seen.extend(partitions.into_iter().map(|index| (topic.clone(), index)));
        }
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    let expected = [
        ("__consumer_offsets", 0),
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
        ("b", 2),
    ];
    assert_eq!(
        seen,
        expected.map(|(topic, index)| (topic.to_owned(), index))
    );
    let small = Fixture::new("max.request.partition.size.limit=1");
    let (topics, next) = page(&describe(&small, &["b"], 2000, None));
    assert_eq!(
        (topics, next),
        (vec![("b".to_owned(), vec![0])], Some(("b".to_owned(), 1)))
    );
}

#[test]
fn topic_partitions_of_named_topics_are_sorted_and_unknown_ones_named() {
    let fixture = Fixture::new("");
    let response = describe(
        &fixture,
        &["b", "nope", "a", "a", "x y"],
        2000,
        Option::None,
    );
    let codes: Vec<_> = response
        .topics
        .iter()
        .map(|t| ErrorCode::from(t.error_code))
        .collect();
    use ErrorCode::*;
    assert_eq!(
        codes,
        [None, None, UnknownTopicOrPartition, InvalidTopicException]
    );
    assert_eq!(page(&response).0[0].0, "a");
    assert_eq!(response.topics[0].topic_id, id(1));
    let gone = describe(&fixture, &["a", "b"], 2000, Some(("aa", 0)));
    assert_eq!(
        page(&gone).0.len(),
        1,
        "a cursor on a deleted topic goes on behind it"
    );
    let negative = describe(&fixture, &["a"], 2000, Some(("a", -1)));
    assert_eq!(
        ErrorCode::from(negative.topics[0].error_code),
        InvalidRequest
    );
    let beyond = describe(&fixture, &["a"], 2000, Some(("a", 99)));
    assert_eq!(page(&beyond).0, [("a".to_owned(), vec![])]);
}

fn describe_resource(
    fixture: &Fixture,
    version: i16,
    resource: (i8, &str),
    keys: Option<&[&str]>,
) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(resource.0)
        .with_resource_name(text(resource.1))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequestData::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(version >= 3);
    let answer = describe_configs(&fixture.image, &fixture.context(), version, &request);
    let mut response = on_the_wire!(DescribeConfigsResponseData, answer, version);
    assert_eq!(response.results.len(), 1);
    response.results.remove(0)
}

fn value(result: &DescribeConfigsResourceResult) -> &str {
    result.value.as_ref().map_or("", |value| value.as_str())
}

#[test]
fn r52_a_topics_configs_are_described_with_source_and_synonyms() {
    let mut fixture = Fixture::new("log.flush.interval.messages=40\nlog.retention.hours=2");
    let dynamic = |name: &str, value: &str| Record::Config {
        resource_type: corelog_core::metadata::ResourceType::Broker,
        resource_name: name.to_owned(),
        key: "log.flush.interval.messages".to_owned(),
        value: Some(value.to_owned()),
    };
    fixture.image = apply(&fixture.image, &[dynamic("1", "20"), dynamic("", "30")]);
    for version in 1..=4 {
        let keys: &[&str] = &["flush.messages", "retention.ms", "no.such.key"];
        let result = describe_resource(&fixture, version, (2, "a"), Some(keys));
        assert_eq!(result.error_code, 0);
        assert_eq!(result.configs.len(), 2);
        let flush = &result.configs[0];
        assert_eq!(
            (flush.name.as_str(), value(flush), flush.config_source),
            ("flush.messages", "1", 1)
        );
        assert!(!flush.read_only && !flush.is_sensitive);
        let chain: Vec<_> = flush
            .synonyms
            .iter()
            .map(|s| {
                (
                    s.name.as_str().to_owned(),
                    s.value.as_ref().unwrap().as_str().to_owned(),
                    s.source,
                )
            })
            .collect();
        let broker = "log.flush.interval.messages";
        let expected = [
            ("flush.messages", "1", 1),
            (broker, "20", 2),
            (broker, "30", 3),
            (broker, "40", 4),
            (broker, "9223372036854775807", 5),
        ];
        assert_eq!(
            chain,
            expected.map(|(name, value, source)| (name.to_owned(), value.to_owned(), source))
        );
        let retention = &result.configs[1];
        assert_eq!((value(retention), retention.config_source), ("7200000", 4));
        assert_eq!(retention.synonyms[0].name.as_str(), "log.retention.hours");
        if version >= 3 {
            assert_eq!(flush.config_type, 5);
            assert!(
                flush
                    .documentation
                    .as_ref()
                    .unwrap()
                    .as_str()
                    .contains("flushed")
            );
        }
        let all = describe_resource(&fixture, version, (2, "a"), None);
        let none = describe_resource(&fixture, version, (2, "a"), Some(&[]));
        assert!(all.configs.len() > 30);
        assert_eq!(all.configs.len(), none.configs.len());
    }
}

#[test]
fn r52_a_brokers_configs_are_described() {
    let mut fixture = Fixture::new("num.partitions=3");
    let all_brokers = Record::Config {
        resource_type: corelog_core::metadata::ResourceType::Broker,
        resource_name: String::new(),
        key: "message.max.bytes".to_owned(),
        value: Some("5".to_owned()),
    };
    fixture.image = apply(&fixture.image, &[all_brokers]);
    for version in 1..=4 {
        let keys: &[&str] = &["num.partitions", "message.max.bytes", "ssl.key.password"];
        let result = describe_resource(&fixture, version, (4, "1"), Some(keys));
        let of = |name: &str| {
            result
                .configs
                .iter()
                .find(|c| c.name.as_str() == name)
                .unwrap()
        };
        let partitions = of("num.partitions");
        assert_eq!((value(partitions), partitions.config_source), ("3", 4));
        assert!(partitions.read_only);
        let bytes = of("message.max.bytes");
        assert_eq!(
            (value(bytes), bytes.config_source, bytes.read_only),
            ("5", 3, false)
        );
        assert!(of("ssl.key.password").is_sensitive);
        let default = describe_resource(&fixture, version, (4, ""), None);
        assert_eq!(default.configs.len(), 1);
        assert_eq!(
            (value(&default.configs[0]), default.configs[0].config_source),
            ("5", 3)
        );
    }
}

#[test]
fn r13_resources_that_are_not_there_are_refused() {
    let fixture = Fixture::new("");
    for version in 1..=4 {
        let code = |kind, name| {
            let result = describe_resource(&fixture, version, (kind, name), None);
            assert_eq!(result.configs, []);
            ErrorCode::from(result.error_code)
        };
        assert_eq!(code(2, "nope"), ErrorCode::UnknownTopicOrPartition);
        assert_eq!(code(2, "a b"), ErrorCode::InvalidTopicException);
        assert_eq!(code(4, "2"), ErrorCode::InvalidRequest);
        assert_eq!(code(4, "x"), ErrorCode::InvalidRequest);
        assert_eq!(code(8, "1"), ErrorCode::InvalidRequest);
    }
}
