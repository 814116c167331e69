//! The rules of IncrementalAlterConfigs.

mod common;

use common::{alter, apply, cluster, new_topic, with_configs, with_topics};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{ControllerContext, Image, Record, incremental_alter_configs};
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::incremental_alter_configs_request::IncrementalAlterConfigsRequestData;

fn message(text: &Option<kacrab_protocol::KafkaString>) -> &str {
    text.as_ref().map_or("", |text| text.as_str())
}

fn run_alter(
    image: &Image,
    request: &IncrementalAlterConfigsRequestData,
) -> (Vec<Record>, ErrorCode, String) {
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let (records, response) = incremental_alter_configs(image, &context, request);
    let first = &response.responses[0];
    (
        records,
        ErrorCode::from(first.error_code),
        message(&first.error_message).to_owned(),
    )
}

#[test]
fn r30_r52_overrides_are_set_deleted_appended_and_subtracted() {
    let topic = with_configs(new_topic("t", 1, 1), &[("retention.ms", "5")]);
    let image = with_topics(&cluster(&[1]), vec![topic]);
    let changes = [
        ("flush.messages", 0, Some("1")),
        ("retention.ms", 1, None),
        ("cleanup.policy", 2, Some("compact")),
        ("max.message.bytes", 1, None),
    ];
    let (records, code, said) = run_alter(&image, &alter(2, "t", &changes));
    assert_eq!(code, ErrorCode::None, "{said}");
    assert_eq!(
        records.len(),
        3,
        "a key that did not change needs no record"
    );
    let image = apply(&image, &records);
    let map = image.topic_config("t").unwrap();
    assert_eq!(map["flush.messages"], "1");
    assert_eq!(map["cleanup.policy"], "delete,compact");
    assert!(!map.contains_key("retention.ms"));
    let subtract = alter(
        2,
        "t",
        &[
            ("cleanup.policy", 3, Some("delete")),
            ("flush.messages", 1, None),
        ],
    );
    let image = apply(&image, &run_alter(&image, &subtract).0);
    assert_eq!(image.topic_config("t").unwrap().len(), 1);
    assert_eq!(
        image.topic_config("t").unwrap()["cleanup.policy"],
        "compact"
    );
    let same = alter(2, "t", &[("cleanup.policy", 0, Some("compact"))]);
    assert_eq!(
        run_alter(&image, &same),
        (vec![], ErrorCode::None, String::new())
    );
    let gone = alter(2, "t", &[("cleanup.policy", 1, None)]);
    let image = apply(&image, &run_alter(&image, &gone).0);
    assert!(image.topic_config("t").is_none());
}

#[test]
fn r13_bad_changes_of_configs_are_refused() {
    use ErrorCode::*;
    let image = with_topics(&cluster(&[1]), vec![new_topic("t", 1, 1)]);
    let set = |key| [(key, 0, Some("1"))];
    let cases = [
        (
            alter(2, "nope", &set("flush.ms")),
            UnknownTopicOrPartition,
            "nope",
        ),
        (
            alter(2, "a b", &set("flush.ms")),
            InvalidTopicException,
            "a b",
        ),
        (alter(16, "x", &set("flush.ms")), InvalidRequest, "16"),
        (
            alter(2, "t", &set("no.such.key")),
            InvalidConfig,
            "no.such.key",
        ),
        (
            alter(2, "t", &[("flush.messages", 0, Some("0"))]),
            InvalidConfig,
            "at least 1",
        ),
        (
            alter(2, "t", &[("flush.messages", 0, Option::None)]),
            InvalidRequest,
            "Null value",
        ),
        (
            alter(2, "t", &[("flush.messages", 9, Some("1"))]),
            InvalidRequest,
            "operation type 9",
        ),
        (
            alter(2, "t", &[("flush.messages", 2, Some("1"))]),
            InvalidConfig,
            "APPEND",
        ),
        (
            alter(2, "t", &[("flush.messages", 3, Some("1"))]),
            InvalidConfig,
            "SUBTRACT",
        ),
        (
            alter(
                2,
                "t",
                &[("flush.ms", 0, Some("1")), ("flush.ms", 1, Option::None)],
            ),
            InvalidRequest,
            "duplicate",
        ),
        (
            alter(4, "2", &set("max.connections")),
            InvalidRequest,
            "No broker 2",
        ),
        (
            alter(4, "one", &set("max.connections")),
            InvalidRequest,
            "base 10",
        ),
        (
            alter(4, "1", &set("node.id")),
            InvalidRequest,
            "dynamically: node.id",
        ),
        (
            alter(4, "", &set("follower.replication.throttled.rate")),
            InvalidRequest,
            "cluster level",
        ),
        (
            alter(4, "1", &[("message.max.bytes", 0, Some("x"))]),
            InvalidConfig,
            "message.max.bytes",
        ),
    ];
    for (request, code, part) in cases {
        let (records, got, said) = run_alter(&image, &request);
        assert_eq!((records, got), (vec![], code), "{request:?}");
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let mut twice = alter(2, "t", &set("flush.ms"));
    twice.resources.push(twice.resources[0].clone());
    let (records, code, _) = run_alter(&image, &twice);
    assert_eq!((records, code), (vec![], InvalidRequest));
}

#[test]
fn r52_brokers_are_configured_alone_and_together() {
    let image = cluster(&[1]);
    let one = run_alter(
        &image,
        &alter(4, "1", &[("log.flush.interval.messages", 0, Some("7"))]),
    );
    let all = run_alter(
        &image,
        &alter(4, "", &[("log.flush.interval.messages", 0, Some("9"))]),
    );
    assert_eq!((one.1, all.1), (ErrorCode::None, ErrorCode::None));
    let image = apply(&apply(&image, &one.0), &all.0);
    assert_eq!(
        image.broker_config("1").unwrap()["log.flush.interval.messages"],
        "7"
    );
    assert_eq!(
        image.broker_config("").unwrap()["log.flush.interval.messages"],
        "9"
    );
}

#[test]
fn what_a_client_wrote_is_quoted_only_so_far() {
    let image = with_topics(&cluster(&[1]), vec![new_topic("t", 1, 1)]);
    let key = "k".repeat(32_000);
    let (_, code, said) = run_alter(&image, &alter(2, "t", &[(&key, 0, Some(&key))]));
    assert_eq!(code, ErrorCode::InvalidConfig);
    assert!(said.len() < 2100, "{}", said.len());
    let value = "0:1,".repeat(10_000);
    let key = "leader.replication.throttled.replicas";
    let (_, code, said) = run_alter(&image, &alter(2, "t", &[(key, 0, Some(&value))]));
    assert_eq!(code, ErrorCode::InvalidConfig);
    assert!(said.contains("no more than 32767"), "{said}");
    let half = "0:1,".repeat(5_000);
    let (_, code, _) = run_alter(&image, &alter(2, "t", &[(key, 0, Some(&half))]));
    assert_eq!(code, ErrorCode::None);
}
