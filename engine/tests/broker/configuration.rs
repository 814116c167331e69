//! Broker-wide and topic configs, changed while running: R52.

use corelog_net::error_code::ErrorCode;
use corelog_record::codec::Codec;

use crate::common::*;

/// Sources of a config as DescribeConfigs numbers them.
const DYNAMIC_TOPIC: i8 = 1;
const DYNAMIC_BROKER: i8 = 2;
const DYNAMIC_DEFAULT_BROKER: i8 = 3;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

fn of_topic(client: &mut Connection, key: &str) -> (String, i8) {
    let config = client.config(TOPIC, "t", key);
    let value = config.value.map(|value| value.to_string());
    (value.unwrap_or_default(), config.config_source)
}

fn is(value: &str, source: i8) -> (String, i8) {
    (value.to_owned(), source)
}

#[test]
fn r52_topics_inherit_from_the_broker_and_the_closest_value_wins() {
    let dir = DataDir::new("r52");
    let overrides = ["node.id=3", "log.segment.bytes=5000000"];
    let broker = dir.start_with(2, &overrides);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let key = "segment.bytes";
    assert_eq!(
        of_topic(&mut client, "max.message.bytes"),
        is("1048588", DEFAULT)
    );
    assert_eq!(of_topic(&mut client, key), is("5000000", STATIC_BROKER));
    client.set_config(BROKER, "", "log.segment.bytes", "6000000");
    assert_eq!(
        of_topic(&mut client, key),
        is("6000000", DYNAMIC_DEFAULT_BROKER)
    );
    client.set_config(BROKER, "3", "log.segment.bytes", "7000000");
    assert_eq!(of_topic(&mut client, key), is("7000000", DYNAMIC_BROKER));
    client.set_config(TOPIC, "t", key, "8000000");
    assert_eq!(of_topic(&mut client, key), is("8000000", DYNAMIC_TOPIC));
    let synonyms = client.config(TOPIC, "t", key).synonyms;
    let synonyms: Vec<_> = synonyms.iter().map(|s| s.source).collect();
    assert_eq!(
        synonyms,
        [
            DYNAMIC_TOPIC,
            DYNAMIC_BROKER,
            DYNAMIC_DEFAULT_BROKER,
            STATIC_BROKER,
            DEFAULT
        ]
    );

    broker.kill();
    let broker = dir.start_with(2, &overrides);
    let mut client = broker.connect();
    assert_eq!(of_topic(&mut client, key), is("8000000", DYNAMIC_TOPIC));
    let deletions = [
        (TOPIC, "t", key, is("7000000", DYNAMIC_BROKER)),
        (
            BROKER,
            "3",
            "log.segment.bytes",
            is("6000000", DYNAMIC_DEFAULT_BROKER),
        ),
        (
            BROKER,
            "",
            "log.segment.bytes",
            is("5000000", STATIC_BROKER),
        ),
    ];
    for (resource_type, resource, name, then) in deletions {
        let (code, message) = client.alter_config(resource_type, resource, name, None);
        assert_eq!(code, ErrorCode::None, "{message}");
        assert_eq!(of_topic(&mut client, key), then);
    }
}

#[test]
fn r52_broker_wide_changes_take_effect_at_once_and_survive_a_restart() {
    let dir = DataDir::new("r52-effect");
    let mut broker = dir.start(2);
    broker.connect().create_topic("t", 2, &[]);
    let row = Row {
        timestamp: now_ms(),
        value: Some(noise(1, 5000)),
        ..Row::default()
    };
    let records = batch(Codec::None, &[row]);
    let mut client = broker.connect();
    client.produce("t", 0, records.clone());
    client.set_config(BROKER, "", "message.max.bytes", "4000");
    client.set_config(BROKER, "", "log.flush.interval.messages", "1");
    for restarted in [false, true] {
        if restarted {
            broker.stop();
            broker = dir.start(2);
        }
        // Connections and partitions of both shards.
        for client in &mut [broker.connect(), broker.connect()] {
            for partition in 0..2 {
                let code = client.produce_error("t", partition, records.clone());
                assert_eq!(code, ErrorCode::MessageTooLarge);
                let before = broker.metric("corelog_flushes_total", &[]);
                client.produce("t", partition, text_batch(&["x"]));
                assert!(broker.metric("corelog_flushes_total", &[]) > before);
            }
        }
    }
    let mut client = broker.connect();
    client.set_config(TOPIC, "t", "max.message.bytes", "9000");
    client.produce("t", 1, records);
}

#[test]
fn r52_what_cannot_be_changed_while_running_is_refused() {
    let dir = DataDir::new("r52-refused");
    let broker = dir.start(1);
    let mut client = broker.connect();
    let refused = [
        ("node.id", "9", ErrorCode::InvalidRequest),
        ("log.dirs", "/elsewhere", ErrorCode::InvalidRequest),
        ("log.segment.bytes", "1", ErrorCode::InvalidConfig),
        (
            "log.flush.interval.messages",
            "often",
            ErrorCode::InvalidConfig,
        ),
    ];
    for (key, value, expected) in refused {
        let (code, message) = client.alter_config(BROKER, "", key, Some(value));
        assert_eq!(code, expected, "{key}: {message}");
        assert!(message.contains(key), "{message}");
    }
    let node = client.config(BROKER, "1", "node.id");
    assert!(node.read_only, "{node:?}");
    let (code, _) = client.alter_config(BROKER, "77", "message.max.bytes", Some("5000"));
    assert_ne!(code, ErrorCode::None, "there is no broker 77");
}
