//! The key table, the properties file, and what values resolve to.

mod common;

use std::collections::BTreeSet;

use common::config;
use corelog_core::config::keys::{broker_keys, topic_keys};
use corelog_core::config::{
    AlterOp, BrokerConfig, Cores, HttpListener, Layers, StorageIo, TimestampType, TopicConfig,
    Warning, alter_list, broker_key, config_docs, describe_topic, parse_override, parse_properties,
    topic_key, validate_broker_dynamic, validate_topic_override,
};
use corelog_core::metadata::{ConfigMap, Image};

const KAFKA: &str = include_str!("../../tests/configs/kafka-4.3-server.properties");
const MAVEN: &str = include_str!("../../tests/configs/kafka-from-maven.properties");

fn unknown(warnings: &[Warning]) -> Vec<String> {
    let keys = warnings.iter().filter_map(|warning| match warning {
        Warning::UnknownKey { key, .. } => Some(key.clone()),
        _ => None,
    });
    keys.collect()
}

fn error(text: &str) -> String {
    BrokerConfig::parse("server.properties", text, &[])
        .unwrap_err()
        .to_string()
}

fn pairs(text: &str) -> Vec<(String, String, u32)> {
    let properties = parse_properties("file", text).unwrap();
    properties
        .into_iter()
        .map(|p| (p.key, p.value, p.line))
        .collect()
}

#[test]
fn r60_kafkas_shipped_file_starts_without_unknown_keys() {
    let (config, warnings) = BrokerConfig::parse("server.properties", KAFKA, &[]).unwrap();
    assert_eq!(unknown(&warnings), Vec::<String>::new());
    assert_eq!(config.node_id, 1);
    assert!(config.is_broker && config.is_controller);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(
        (
            config.listeners[0].name.as_str(),
            config.listeners[0].host.as_str()
        ),
        ("PLAINTEXT", "")
    );
    assert_eq!(config.controller_listeners[0].port, 9093);
    assert_eq!(config.advertised_listeners.len(), 1);
    assert_eq!(config.advertised_listeners[0].host, "localhost");
    assert_eq!(config.log_dirs, ["/tmp/kraft-combined-logs"]);
    // Known keys that change nothing are named, so that nobody trusts in them.
    let unused = |key: &str| {
        warnings
            .iter()
            .any(|w| matches!(w, Warning::UnusedKey { key: k, .. } if *k == key))
    };
    assert!(unused("num.io.threads"));
    assert!(!unused("num.partitions"));
}

#[test]
fn r60_kafkas_shipped_file_with_its_comments_taken_off_is_known_too() {
    let lines = KAFKA.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("log.") => rest,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let (config, warnings) = BrokerConfig::parse("server.properties", &text, &[]).unwrap();
    assert_eq!(unknown(&warnings), Vec::<String>::new());
    assert_eq!(config.value("log.flush.interval.messages"), Some("10000"));
    assert_eq!(config.value("log.flush.interval.ms"), Some("1000"));
    assert_eq!(config.value("log.retention.bytes"), Some("1073741824"));
}

#[test]
fn r60_the_file_for_comparisons_starts_without_unknown_keys() {
    let (config, warnings) = BrokerConfig::parse("node1.properties", MAVEN, &[]).unwrap();
    assert_eq!(unknown(&warnings), Vec::<String>::new());
    assert_eq!(config.quorum_voters, ["1@127.0.0.1:19091"]);
    assert_eq!(config.num_partitions, 4);
    assert_eq!(config.log_dirs, ["./data/d1"]);
    assert_eq!(config.advertised_listeners[0].host, "127.0.0.1");
}

#[test]
fn every_default_is_legal_and_every_row_says_what_it_is() {
    let mut names = BTreeSet::new();
    for (scope, key) in broker_keys()
        .map(|k| ("b", k))
        .chain(topic_keys().map(|k| ("t", k)))
    {
        assert!(
            names.insert((scope, key.name)),
            "{} is there twice",
            key.name
        );
        if let Some(default) = key.default {
            key.parse(default).unwrap_or_else(|e| panic!("{e}"));
        }
        assert!(key.doc.ends_with('.'), "{}", key.name);
        for synonym in key.synonyms {
            let row = broker_key(synonym.name).unwrap_or_else(|| panic!("{}", synonym.name));
            assert!(
                synonym.factor > 1 || row.unit == key.unit,
                "{}",
                synonym.name
            );
        }
    }
}

#[test]
fn a_topic_keys_default_is_that_of_its_broker_key() {
    let broker = BrokerConfig::default();
    let layers = Layers::of(&Image::new(), &broker, Some("t"))
        .topic
        .is_none();
    assert!(layers);
    let image = Image::new();
    for described in describe_topic(&Layers::of(&image, &broker, Some("t"))) {
        assert_eq!(
            described.value.as_deref(),
            described.key.default,
            "{}",
            described.key.name
        );
    }
}

#[test]
fn the_embedded_default_is_local() {
    let config = BrokerConfig::default();
    assert_eq!(config.listeners[0].host, "127.0.0.1");
    assert_eq!(config.listeners[0].port, 9092);
    assert_eq!(config.advertised_listeners[0].host, "127.0.0.1");
    assert_eq!(config.log_dirs, ["./corelog-data"]);
    let http = HttpListener {
        host: "127.0.0.1".to_owned(),
        port: 9644,
    };
    assert_eq!(config.http_listener, Some(http));
    assert_eq!(config.cores, Cores::All);
    assert_eq!((config.shards, config.memory_bytes), (None, None));
    assert_eq!(config.storage_io, StorageIo::Direct);
    assert!(config.auto_create_topics_enable && config.delete_topic_enable);
}

#[test]
fn properties_are_read_as_java_reads_them() {
    type Read = &'static [(&'static str, &'static str, u32)];
    let cases: &[(&str, Read)] = &[
        ("a=b", &[("a", "b", 1)]),
        ("a = b", &[("a", "b", 1)]),
        ("a:b", &[("a", "b", 1)]),
        ("a b c", &[("a", "b c", 1)]),
        ("  a\t=\tb ", &[("a", "b ", 1)]),
        ("a", &[("a", "", 1)]),
        ("a==b", &[("a", "=b", 1)]),
        ("# c\n! d\n\n\na=b", &[("a", "b", 5)]),
        ("a=b # no comment", &[("a", "b # no comment", 1)]),
        ("a=b\\\n   c\\\n d\ne=f", &[("a", "bcd", 1), ("e", "f", 4)]),
        ("a=b\\\\\nc=d", &[("a", "b\\", 1), ("c", "d", 2)]),
        (
            "a=b\r\nc=d\re=f",
            &[("a", "b", 1), ("c", "d", 2), ("e", "f", 3)],
        ),
        ("a\\=b=c", &[("a=b", "c", 1)]),
        ("a\\ b=c", &[("a b", "c", 1)]),
        ("a=\\t\\n\\u0041\\q", &[("a", "\t\nAq", 1)]),
        ("a=\\ud83d\\ude00", &[("a", "\u{1f600}", 1)]),
        ("a=b\\", &[("a", "b", 1)]),
        ("# c \\\na=b", &[("a", "b", 2)]),
        ("\u{feff}a=b", &[("a", "b", 1)]),
    ];
    for (text, expected) in cases {
        let expected: Vec<_> = expected
            .iter()
            .map(|(k, v, l)| (k.to_string(), v.to_string(), *l))
            .collect();
        assert_eq!(pairs(text), expected, "{text:?}");
    }
    let bad = parse_properties("f", "x=1\na=\\u00zz")
        .unwrap_err()
        .to_string();
    assert!(bad.starts_with("f:2: "), "{bad}");
}

#[test]
fn r60_a_bad_value_names_file_line_key_value_and_bound() {
    let cases = [
        ("num.partitions=0", "num.partitions", "0", "at least 1"),
        ("num.partitions=many", "num.partitions", "many", "INT"),
        (
            "num.partitions=4294967296",
            "num.partitions",
            "4294967296",
            "INT",
        ),
        (
            "default.replication.factor=40000",
            "default.replication.factor",
            "40000",
            "no more than 32767",
        ),
        ("log.retention.ms=1e3", "log.retention.ms", "1e3", "LONG"),
        (
            "auto.create.topics.enable=yes",
            "auto.create.topics.enable",
            "yes",
            "true or false",
        ),
        (
            "log.segment.bytes=1000",
            "log.segment.bytes",
            "1000",
            "at least 1048576",
        ),
        (
            "compression.type=brotli",
            "compression.type",
            "brotli",
            "one of: uncompressed",
        ),
        (
            "log.cleanup.policy=delete,shred",
            "log.cleanup.policy",
            "shred",
            "compact, delete",
        ),
        (
            "log.cleaner.min.cleanable.ratio=1.5",
            "log.cleaner.min.cleanable.ratio",
            "1.5",
            "no more than 1",
        ),
        (
            "compression.gzip.level=0",
            "compression.gzip.level",
            "0",
            "between 1 and 9",
        ),
        (
            "corelog.storage.io=magic",
            "corelog.storage.io",
            "magic",
            "direct, buffered",
        ),
        ("corelog.cores=3-1", "corelog.cores", "3-1", "backwards"),
        (
            "corelog.cores=0-4000000000",
            "corelog.cores",
            "4000000000",
            "no CPU number",
        ),
        (
            "corelog.http.listener=9644",
            "corelog.http.listener",
            "9644",
            "host:port",
        ),
        (
            "process.roles=boss",
            "process.roles",
            "boss",
            "broker, controller",
        ),
        (
            "controller.quorum.voters=1",
            "controller.quorum.voters",
            "1",
            "id@host:port",
        ),
        ("broker.id=7\nnode.id=8", "broker.id", "7", "node.id is 8"),
        ("log.dirs=,", "log.dirs", ",", "no directory"),
    ];
    for (line, key, value, bound) in cases {
        let error = error(&format!("# first\n\n{line}\n"));
        assert!(error.starts_with("server.properties:3: "), "{error}");
        for part in [key, value, bound] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

#[test]
fn secrets_are_hidden() {
    let (config, _) = BrokerConfig::parse("f", "ssl.key.password=hunter2", &[]).unwrap();
    let image = Image::new();
    let all = corelog_core::config::describe_broker(&Layers::of(&image, &config, None));
    let row = all
        .iter()
        .find(|d| d.key.name == "ssl.key.password")
        .unwrap();
    assert_eq!(row.value, None);
    assert!(row.synonyms.iter().all(|(_, value, _)| value.is_none()));
    assert!(validate_broker_dynamic("ssl.key.password", Some("x"), false).is_err());
}

#[test]
fn unknown_and_repeated_keys_warn_once() {
    let text = "no.such.key=1\nno.such.key=2\nnum.partitions=3\nnum.partitions=4";
    let (config, warnings) = BrokerConfig::parse("f", text, &[]).unwrap();
    assert_eq!(unknown(&warnings), ["no.such.key"]);
    assert_eq!(config.num_partitions, 4);
    let duplicate = |w: &&Warning| matches!(w, Warning::DuplicateKey { .. });
    assert_eq!(warnings.iter().filter(duplicate).count(), 1);
    assert!(
        warnings[0]
            .to_string()
            .starts_with("f:1: unknown configuration key no.such.key")
    );
}

#[test]
fn overrides_go_before_the_file() {
    let overrides = [parse_override("num.partitions=9").unwrap()];
    let (config, warnings) = BrokerConfig::parse("f", "num.partitions=3", &overrides).unwrap();
    assert_eq!(config.num_partitions, 9);
    assert_eq!(warnings, []);
    let bad = [("num.partitions".to_owned(), "-3".to_owned())];
    let error = BrokerConfig::parse("f", "", &bad).unwrap_err().to_string();
    assert!(error.starts_with("command line: "), "{error}");
    assert!(parse_override("num.partitions").is_err());
    assert!(parse_override("=1").is_err());
}

#[test]
fn listeners_that_clients_could_not_reach_say_what_to_write() {
    for host in ["", "0.0.0.0", "[::]"] {
        let error = error(&format!("listeners=PLAINTEXT://{host}:9092"));
        assert!(
            error.contains("advertised.listeners=PLAINTEXT://HOST:9092"),
            "{error}"
        );
    }
    let error = error("listeners=PLAINTEXT://:9092\nadvertised.listeners=PLAINTEXT://0.0.0.0:9092");
    assert!(error.starts_with("server.properties:2: "), "{error}");
    assert!(error.contains("HOST:9092"), "{error}");
}

#[test]
fn listeners_are_checked() {
    let cases = [
        ("listeners=9092", "NAME://host:port"),
        ("listeners=PLAINTEXT://h", "no port"),
        ("listeners=PLAINTEXT://h:99999", "0 to 65535"),
        ("listeners=PLAINTEXT://::1:9092", "IPv6"),
        ("listeners=PLAINTEXT://[::1:9092", "bracket"),
        ("listeners=PLAINTEXT://h:1,PLAINTEXT://h:2", "twice"),
        ("listeners=INSIDE://h:1", "listener.security.protocol.map"),
        ("listeners=SSL://h:1", "PLAINTEXT only"),
        (
            "listeners=CONTROLLER://h:1\ncontroller.listener.names=CONTROLLER",
            "for clients",
        ),
        (
            "listeners=PLAINTEXT://h:1\nadvertised.listeners=OTHER://h:1",
            "OTHER",
        ),
        ("listener.security.protocol.map=A:B", "no security protocol"),
        ("inter.broker.listener.name=OTHER", "of that name"),
    ];
    for (text, part) in cases {
        let error = error(text);
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let good = config(
        "listeners=IN://[::1]:9092,OUT://10.0.0.1:0,CONTROLLER://:9093\n\
         listener.security.protocol.map=IN:PLAINTEXT,OUT:PLAINTEXT,CONTROLLER:SSL\n\
         controller.listener.names=CONTROLLER\n\
         advertised.listeners=out://public.example:19092\n\
         inter.broker.listener.name=in",
    );
    assert_eq!(good.listeners.len(), 2);
    assert_eq!(good.listeners[0].host, "::1");
    let told: Vec<_> = good
        .advertised_listeners
        .iter()
        .map(|e| (e.listener.as_str(), e.host.as_str(), e.port))
        .collect();
    assert_eq!(
        told,
        [("IN", "::1", 9092), ("OUT", "public.example", 19092)]
    );
}

#[test]
fn own_keys_are_read() {
    let config = config(
        "corelog.cores=0-2, 5\ncorelog.shards=3\ncorelog.memory.bytes=67108864\n\
         corelog.http.listener=\ncorelog.storage.io=buffered",
    );
    assert_eq!(config.cores, Cores::List(vec![0, 1, 2, 5]));
    assert_eq!(config.shards, Some(3));
    assert_eq!(config.memory_bytes, Some(67_108_864));
    assert_eq!(config.http_listener, None);
    assert_eq!(config.storage_io, StorageIo::Buffered);
}

fn map(pairs: &[(&str, &str)]) -> ConfigMap {
    pairs
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

#[test]
fn r30_flush_settings_resolve_topic_then_broker_then_cluster_then_file_then_default() {
    let none = BrokerConfig::default();
    let file = config("log.flush.interval.messages=40\nlog.flush.interval.ms=400");
    let cluster = map(&[("log.flush.interval.messages", "30")]);
    let broker = map(&[("log.flush.interval.messages", "20")]);
    let topic = map(&[("flush.messages", "10"), ("flush.ms", "0")]);
    let flush = |topic, broker, cluster, file| {
        let layers = Layers {
            topic,
            broker,
            cluster,
            file,
        };
        let config = TopicConfig::resolve(&layers).unwrap();
        (config.flush_messages, config.flush_ms)
    };
    assert_eq!(flush(None, None, None, &none), (None, None));
    assert_eq!(flush(None, None, None, &file), (Some(40), Some(400)));
    assert_eq!(
        flush(None, None, Some(&cluster), &file),
        (Some(30), Some(400))
    );
    assert_eq!(
        flush(None, Some(&broker), Some(&cluster), &file),
        (Some(20), Some(400))
    );
    let all = flush(Some(&topic), Some(&broker), Some(&cluster), &file);
    assert_eq!(all, (Some(10), Some(0)));
    let scheduler = config("log.flush.scheduler.interval.ms=500");
    assert_eq!(flush(None, None, None, &scheduler), (None, Some(500)));
}

#[test]
fn hours_minutes_and_milliseconds_are_one_key() {
    let retention = |text: &str| {
        let file = config(text);
        TopicConfig::of(&Image::new(), &file, "t").unwrap()
    };
    assert_eq!(retention("").retention_ms, Some(604_800_000));
    assert_eq!(
        retention("log.retention.hours=2").retention_ms,
        Some(7_200_000)
    );
    let both = "log.retention.hours=2\nlog.retention.minutes=3";
    assert_eq!(retention(both).retention_ms, Some(180_000));
    let three = "log.retention.hours=2\nlog.retention.minutes=3\nlog.retention.ms=4";
    assert_eq!(retention(three).retention_ms, Some(4));
    assert_eq!(retention("log.retention.hours=-1").retention_ms, None);
    assert_eq!(retention("log.roll.hours=1").segment_ms, 3_600_000);
    assert_eq!(retention("log.roll.hours=1\nlog.roll.ms=5").segment_ms, 5);
    assert_eq!(
        retention("log.roll.jitter.hours=1").segment_jitter_ms,
        3_600_000
    );
}

#[test]
fn a_topics_settings_are_typed() {
    let topic = map(&[
        ("message.timestamp.type", "LogAppendTime"),
        ("cleanup.policy", "compact,delete"),
        ("segment.bytes", "1048576"),
        ("retention.bytes", "-1"),
        ("min.insync.replicas", "2"),
    ]);
    let file = BrokerConfig::default();
    let layers = Layers {
        topic: Some(&topic),
        broker: None,
        cluster: None,
        file: &file,
    };
    let config = TopicConfig::resolve(&layers).unwrap();
    assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
    assert!(config.cleanup_policy.compact && config.cleanup_policy.delete);
    assert_eq!(
        (config.segment_bytes, config.retention_bytes),
        (1_048_576, None)
    );
    assert_eq!(config.min_insync_replicas, 2);
    assert_eq!(config.max_message_bytes, 1_048_588);
    let small = map(&[("internal.segment.bytes", "1000")]);
    let layers = Layers {
        topic: Some(&small),
        ..layers
    };
    assert_eq!(TopicConfig::resolve(&layers).unwrap().segment_bytes, 1000);
}

#[test]
fn r52_topic_overrides_are_held_against_kafkas_bounds_in_its_words() {
    let good = [
        ("cleanup.policy", ""),
        ("cleanup.policy", "delete, compact"),
        ("leader.replication.throttled.replicas", "*"),
        ("leader.replication.throttled.replicas", "0:1,1:2"),
        ("retention.ms", "-1"),
        ("flush.messages", " 1 "),
        ("compression.gzip.level", "-1"),
    ];
    for (key, value) in good {
        validate_topic_override(key, value).unwrap();
    }
    let bad = [
        ("cleanup.policy", "delete,delete", "twice"),
        (
            "leader.replication.throttled.replicas",
            "0-1",
            "must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId]",
        ),
        ("retention.ms", "-2", "at least -1"),
        ("flush.messages", "0", "at least 1"),
        ("min.cleanable.dirty.ratio", "NaN", "DOUBLE"),
        (
            "min.cleanable.dirty.ratio",
            "1.5",
            "Value must be no more than 1",
        ),
        (
            "min.cleanable.dirty.ratio",
            "-0.1",
            "Value must be at least 0",
        ),
        (
            "compression.gzip.level",
            "0",
            "Value must be between 1 and 9 or equal to -1",
        ),
        (
            "compression.zstd.level",
            "23",
            "Value must be no more than 22",
        ),
        (
            "compression.type",
            "brotli",
            "String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
        ),
        (
            "message.timestamp.type",
            "createtime",
            "String must be one of: CreateTime, LogAppendTime",
        ),
        (
            "message.timestamp.before.max.ms",
            "-1",
            "Value must be at least 0",
        ),
        (
            "message.timestamp.after.max.ms",
            "-1",
            "Value must be at least 0",
        ),
        ("segment.bytes", "1048575", "Value must be at least 1048576"),
        ("segment.ms", "0", "Value must be at least 1"),
        ("segment.jitter.ms", "-1", "Value must be at least 0"),
        ("segment.index.bytes", "3", "Value must be at least 4"),
        ("index.interval.bytes", "-1", "Value must be at least 0"),
        ("max.message.bytes", "-1", "Value must be at least 0"),
        ("max.compaction.lag.ms", "0", "Value must be at least 1"),
        ("min.insync.replicas", "0", "Value must be at least 1"),
        ("flush.ms", "-1", "Value must be at least 0"),
        ("file.delete.delay.ms", "-1", "Value must be at least 0"),
        ("local.retention.ms", "-3", "Value must be at least -2"),
        ("segment.bytes", "2147483648", "Not a number of type INT"),
        (
            "preallocate",
            "yes",
            "Expected value to be either true or false",
        ),
        ("compression.lz4.level", "18", "no more than 17"),
        ("num.partitions", "1", "Unknown topic config name"),
    ];
    for (key, value, bound) in bad {
        let error = validate_topic_override(key, value).unwrap_err().to_string();
        for part in [key, value, bound] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

#[test]
fn r52_only_kafkas_dynamic_keys_change_while_running() {
    let allowed = |key, cluster| validate_broker_dynamic(key, Some("1"), cluster).is_ok();
    assert!(allowed("log.flush.interval.messages", true));
    assert!(allowed("log.flush.interval.messages", false));
    assert!(allowed("leader.replication.throttled.rate", false));
    assert!(!allowed("leader.replication.throttled.rate", true));
    assert!(!allowed("node.id", false));
    assert!(!allowed("no.such.key", false));
    assert!(validate_broker_dynamic("message.max.bytes", Some("-1"), true).is_err());
    let dynamic = map(&[("max.connections", "7")]);
    let config = BrokerConfig::default();
    assert_eq!(
        config
            .with_dynamic(Some(&dynamic), None)
            .unwrap()
            .max_connections,
        7
    );
    let own = map(&[("max.connections", "8")]);
    let both = config.with_dynamic(Some(&dynamic), Some(&own)).unwrap();
    assert_eq!(both.max_connections, 8);
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let policy = topic_key("cleanup.policy").unwrap();
    let alter = |current, op, operand| alter_list(policy, current, op, operand);
    assert_eq!(
        alter(None, AlterOp::Append, "compact").as_deref(),
        Some("delete,compact")
    );
    assert_eq!(
        alter(Some("compact"), AlterOp::Append, "compact").as_deref(),
        Some("compact")
    );
    assert_eq!(
        alter(Some("compact,delete"), AlterOp::Subtract, "delete").as_deref(),
        Some("compact")
    );
    assert_eq!(
        alter(None, AlterOp::Subtract, "delete").as_deref(),
        Some("")
    );
    let number = topic_key("retention.ms").unwrap();
    assert_eq!(alter_list(number, None, AlterOp::Append, "1"), None);
}

#[test]
fn the_documentation_has_every_key() {
    let docs = config_docs();
    for key in broker_keys().chain(topic_keys()) {
        assert!(
            docs.contains(&format!("| `{}` |", key.name)),
            "{}",
            key.name
        );
    }
    let rows = docs.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, broker_keys().count() + topic_keys().count());
}
