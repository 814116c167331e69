//! /metrics: its format, and what it says: R61.

use std::collections::{BTreeMap, BTreeSet};

use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::*;

/// One line of values.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A family of metrics, as its own lines and its samples' say.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Reads `name{label="value",...} value`, escapes undone.
fn sample(line: &str) -> Sample {
    let at = line.find(['{', ' ']).expect("a value");
    let name = line[..at].to_owned();
    let mut labels = BTreeMap::new();
    let mut rest = &line[at..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            rest = rest.strip_prefix(',').unwrap_or(rest);
            let (label, after) = rest.split_once("=\"").expect("a quoted value");
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                let (at, c) = chars.next().expect("a closing quote");
                match c {
                    '"' => break at,
                    '\\' => value.push(match chars.next().expect("what is escaped").1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        other => panic!("an escape of {other:?} in {line}"),
                    }),
                    c => value.push(c),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &after[end + 1..];
        }
        rest = &rest[1..];
    }
    let value = rest.trim().parse().unwrap_or_else(|_| panic!("{line}"));
    Sample {
        name,
        labels,
        value,
    }
}

/// Reads the whole text and checks what every scraper relies on.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("OpenMetrics ends so");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text");
            assert!(helped.insert(name.to_owned()), "HELP twice: {name}");
            assert!(!help.is_empty(), "{name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(is_name(name), "{name}");
            let family = Family {
                kind: kind.to_owned(),
                ..Family::default()
            };
            let before = families.insert(name.to_owned(), family);
            assert!(before.is_none(), "TYPE twice: {name}");
            current = name.to_owned();
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let sample = sample(line);
            let family = families.get_mut(&current).expect("a TYPE before samples");
            let suffixes: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{other} of {current}"),
            };
            let of_family = |suffix: &&str| sample.name == format!("{current}{suffix}");
            assert!(suffixes.iter().any(of_family), "{line} in {current}");
            let key = (sample.name.clone(), sample.labels.clone());
            assert!(seen.insert(key), "twice: {line}");
            assert!(sample.labels.contains_key("shard"), "{line}");
            family.samples.push(sample);
        }
    }
    for name in families.keys() {
        assert!(helped.contains(name), "no HELP for {name}");
    }
    families
        .values()
        .filter(|f| f.kind == "histogram")
        .for_each(check_histogram);
    families
}

/// Buckets rise to the count of all.
fn check_histogram(family: &Family) {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family
        .samples
        .iter()
        .filter(|s| s.name.ends_with("_bucket"))
    {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").expect("a bound");
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().unwrap()
        };
        buckets
            .entry(labels)
            .or_default()
            .push((bound, sample.value));
    }
    for sample in family.samples.iter().filter(|s| s.name.ends_with("_count")) {
        let of = &buckets[&sample.labels];
        assert!(of.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{of:?}");
        let last = of.last().unwrap();
        assert_eq!(*last, (f64::INFINITY, sample.value), "{of:?}");
    }
}

#[test]
fn r61_metrics_are_what_scrapers_and_the_documents_expect() {
    let dir = DataDir::new("r61-format");
    let broker = dir.start_with(2, &["offsets.topic.num.partitions=4"]);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.produce("t", 0, text_batch(&["x"]));
    client.read_all("t", 0);
    // Any text can be the name of a group.
    let group = "a \"quoted\" group\\with a\nline";
    client.find_coordinator(&broker, group);
    assert_eq!(client.commit(group, "t", 0, 1), ErrorCode::None);
    let families = poll("the group's lag", || {
        let (status, text) = broker.get("/metrics");
        assert!(status.ends_with("200 OK"), "{status}");
        let families = parse(&text);
        let lag = &families["corelog_group_lag"].samples;
        lag.iter()
            .any(|sample| sample.labels["group"] == group)
            .then_some(families)
    });
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATIONS.md");
    let docs = blocking::read_to_string(docs).unwrap();
    let untold: Vec<_> = families
        .keys()
        .filter(|name| !docs.contains(name.as_str()))
        .collect();
    assert!(
        untold.is_empty(),
        "docs/OPERATIONS.md does not tell of {untold:?}"
    );
}

#[test]
fn r61_errors_are_counted_by_api_and_code() {
    let dir = DataDir::new("r61-errors");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let errors = |api: &str, error: &str| {
        let labels = [format!("api=\"{api}\""), format!("error=\"{error}\"")];
        broker.metric("corelog_errors_total", &[&labels[0], &labels[1]])
    };
    client.delete_topic("no-such-topic");
    client.create_partitions("no-such-topic", 3);
    client.try_create_topic("t", 1, 1, &[]);
    client.metadata(Some(&["no-such-topic"]), false);
    client.alter_config(TOPIC, "t", "retention.ms", Some("soon"));
    client.produce_error("no-such-topic", 0, text_batch(&["x"]));
    assert_eq!(errors("DeleteTopics", "UNKNOWN_TOPIC_OR_PARTITION"), 1);
    assert_eq!(errors("CreatePartitions", "UNKNOWN_TOPIC_OR_PARTITION"), 1);
    assert_eq!(errors("CreateTopics", "TOPIC_ALREADY_EXISTS"), 1);
    assert_eq!(errors("Metadata", "UNKNOWN_TOPIC_OR_PARTITION"), 1);
    assert_eq!(errors("IncrementalAlterConfigs", "INVALID_CONFIG"), 1);
    assert_eq!(errors("Produce", "UNKNOWN_TOPIC_OR_PARTITION"), 1);
    assert_eq!(
        broker.metric("corelog_requests_total", &["api=\"DeleteTopics\""]),
        1
    );
}

#[test]
fn r61_stages_flushes_and_memory_are_told() {
    let dir = DataDir::new("r61-stages");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("plain", 2, &[]);
    client.create_topic("flushed", 2, &[("flush.messages", "1")]);
    for partition in 0..2 {
        for _ in 0..3 {
            client.produce("plain", partition, text_batch(&["x"]));
        }
        client.produce("flushed", partition, text_batch(&["x"]));
    }
    client.read_all("plain", 0);
    let count = |api: &str, stage: &str| {
        let labels = [format!("api=\"{api}\""), format!("stage=\"{stage}\"")];
        broker.metric(
            "corelog_request_stage_seconds_count",
            &[&labels[0], &labels[1]],
        )
    };
    assert_eq!(count("Produce", "receive"), 8);
    assert_eq!(count("Produce", "admission"), 8);
    assert_eq!(count("Produce", "write"), 6);
    assert_eq!(count("Produce", "flush"), 2);
    assert_eq!(count("Produce", "total"), 8);
    poll("the last answer to be counted", || {
        (count("Produce", "send") == 8).then_some(())
    });
    assert!(count("Fetch", "data") > 0 && count("Fetch", "receive") > 0);
    assert_eq!(broker.metric("corelog_flush_acks_total", &[]), 2);
    assert_eq!(
        broker.metric("corelog_flush_seconds_count", &[]),
        broker.metric("corelog_flushes_total", &[])
    );
    let device = broker.metric("corelog_device_write_bytes_total", &[]);
    assert!(device >= broker.metric("corelog_produce_bytes_total", &[]));
    for purpose in ["tail", "buffers"] {
        let label = format!("purpose=\"{purpose}\"");
        assert!(
            broker.metric("corelog_memory_bytes", &[&label]) > 0,
            "{purpose}"
        );
    }
    assert_eq!(
        broker.metric("corelog_memory_bytes", &["purpose=\"requests\""]),
        0
    );
}
