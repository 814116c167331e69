//! Topics, partitions, offsets, segment files, metadata: R01, R02, R04, R06.

use std::collections::VecDeque;

use corelog_net::api::ApiKey;
use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::requests::{BY_NAME, produce_request};
use crate::common::*;

#[test]
fn r01_offsets_are_dense_per_partition_and_keep_the_order() {
    let dir = DataDir::new("r01-dense");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 3, &[]);
    let mut sent = [const { Vec::new() }; 3];
    for round in 0..60usize {
        let partition = round * 7 % 3;
        let values: Vec<_> = (0..round % 5 + 1)
            .map(|record| format!("p{partition} r{round} n{record}"))
            .collect();
        let texts: Vec<_> = values.iter().map(String::as_str).collect();
        let base = client.produce("t", partition as i32, text_batch(&texts));
        assert_eq!(base, sent[partition].len() as i64, "round {round}");
        sent[partition].extend(values);
    }
    for (partition, sent) in sent.iter().enumerate() {
        let read = client.read_all("t", partition as i32);
        let offsets: Vec<_> = read.iter().map(|row| row.offset).collect();
        assert_eq!(offsets, (0..sent.len() as i64).collect::<Vec<_>>());
        assert_eq!(&texts(&read), sent);
    }
}

#[test]
fn r01_five_requests_in_flight_are_answered_in_order() {
    let dir = DataDir::new("r01-flight");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let mut flight = VecDeque::new();
    let mut bases = [const { Vec::new() }; 2];
    let mut take = |client: &mut Connection, (partition, sent): (usize, _)| {
        let answer = &client.produced(sent).topics[0].partitions[0];
        assert_eq!(
            (answer.index, answer.error_code),
            (partition as i32, ErrorCode::None)
        );
        bases[partition].push(answer.base_offset);
    };
    for number in 0..200usize {
        // Runs on one partition, then on the other, so that answers of both shards interleave.
        let partition = number / 3 % 2;
        let records = text_batch(&[&number.to_string()]);
        let acks = if number % 2 == 0 { 1 } else { -1 };
        let request = produce_request("t", partition as i32, acks, records);
        flight.push_back((partition, client.send_produce(BY_NAME, &request)));
        if flight.len() == 5 {
            take(&mut client, flight.pop_front().unwrap());
        }
    }
    flight.into_iter().for_each(|sent| take(&mut client, sent));
    for (partition, bases) in bases.iter().enumerate() {
        assert_eq!(*bases, (0..bases.len() as i64).collect::<Vec<_>>());
        let read: Vec<usize> = texts(&client.read_all("t", partition as i32))
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(read.len(), bases.len());
        assert!(read.is_sorted(), "the order of requests is that of offsets");
    }
}

#[test]
fn r01_other_requests_wait_for_the_produce_requests_before_them() {
    let dir = DataDir::new("r01-mixed");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for round in 0..20 {
        let mut produced = Vec::new();
        for partition in 0..2 {
            let request = produce_request("t", partition, 1, text_batch(&["x"]));
            produced.push(client.send_produce(BY_NAME, &request));
        }
        let fetch = crate::common::requests::fetch_request("t", 1, round);
        let fetch = client.send_fetch(BY_NAME, &fetch);
        for sent in produced {
            assert_eq!(
                client.produced(sent).topics[0].partitions[0].base_offset,
                round
            );
        }
        let fetched = &client.fetched(fetch).topics[0].partitions[0];
        assert_eq!(
            fetched.high_watermark,
            round + 1,
            "a client reads what it wrote"
        );
        assert_eq!(parse_rows(&fetched.record_bytes()).len(), 1);
    }
}

#[test]
fn r02_partitions_only_grow() {
    let dir = DataDir::new("r02");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.produce("t", 1, text_batch(&["kept"]));
    assert_eq!(
        client.produce_error("t", 3, text_batch(&["early"])),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(client.create_partitions("t", 5), ErrorCode::None);
    for partition in 2..5 {
        assert_eq!(client.produce("t", partition, text_batch(&["new"])), 0);
    }
    for fewer in [1, 4, 5, 0, -1] {
        assert_eq!(
            client.create_partitions("t", fewer),
            ErrorCode::InvalidPartitions,
            "{fewer}"
        );
    }
    assert_eq!(
        client.create_partitions("missing", 9),
        ErrorCode::UnknownTopicOrPartition
    );
    broker.stop();
    let broker = dir.start(2);
    let mut client = broker.connect();
    assert_eq!(
        client.metadata(Some(&["t"]), false).topics[0]
            .partitions
            .len(),
        5
    );
    assert_eq!(texts(&client.read_all("t", 1)), ["kept"]);
    assert_eq!(texts(&client.read_all("t", 4)), ["new"]);
}

#[test]
fn r04_segments_roll_at_segment_bytes_and_are_read_across() {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let dir = DataDir::new("r04");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("segment.bytes", "1048576")]);
    let mut sent = Vec::new();
    for number in 0..24 {
        let row = Row {
            timestamp: now_ms(),
            value: Some(noise(number, 200_000)),
            ..Row::default()
        };
        assert_eq!(
            client.produce(
                "t",
                0,
                batch(
                    corelog_record::codec::Codec::None,
                    std::slice::from_ref(&row)
                )
            ),
            number as i64
        );
        sent.push(row.value);
    }
    let values = |rows: Vec<Row>| rows.into_iter().map(|row| row.value).collect::<Vec<_>>();
    assert!(values(client.read_all("t", 0)) == sent);
    let files = dir.files("t", 0, ".log");
    assert_eq!(files.len(), 5, "five batches fit a file: {files:?}");
    for file in &files[..4] {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert_eq!(
            name.parse::<i64>().unwrap() % 5,
            0,
            "a file is named by its first offset"
        );
        let len = blocking::read_file(file).unwrap().len() as u64;
        assert!(len <= SEGMENT_BYTES && len > 5 * 200_000, "{name}: {len}");
    }
    assert_eq!(broker.metric("corelog_segment_rolls_total", &[]), 4);
    // A reader who starts inside a sealed file, by the index.
    assert!(values(client.read_from("t", 0, 13)) == sent[13..]);
    broker.stop();
    let broker = dir.start(1);
    let mut client = broker.connect();
    assert!(values(client.read_all("t", 0)) == sent);
    assert_eq!(client.produce("t", 0, text_batch(&["next"])), 24);
    broker.kill();
    let broker = dir.start(1);
    let mut client = broker.connect();
    assert!(values(client.read_from("t", 0, 0))[..24] == sent);
}

#[test]
fn r06_metadata_names_the_whole_cluster() {
    let dir = DataDir::new("r06");
    let broker = dir.start_with(2, &["node.id=7", "broker.rack=r1"]);
    let mut client = broker.connect();
    let id = client.create_topic("b", 3, &[]);
    client.create_topic("a", 1, &[]);
    let all = client.metadata(None, false);
    assert_eq!(all.brokers.len(), 1);
    let node = &all.brokers[0];
    assert_eq!(
        (node.node_id, node.port),
        (7, i32::from(broker.kafka.port()))
    );
    assert_eq!(node.host.as_str(), "127.0.0.1");
    assert_eq!(node.rack.as_ref().map(|rack| rack.as_str()), Some("r1"));
    assert_eq!(all.controller_id, 7);
    assert!(
        all.cluster_id.as_ref().is_some_and(|id| id.len() == 22),
        "{:?}",
        all.cluster_id
    );
    let names: Vec<_> = all
        .topics
        .iter()
        .map(|t| t.name.as_ref().unwrap().as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let topic = &all.topics[1];
    assert_eq!(topic.topic_id.to_bytes(), id);
    for (index, partition) in topic.partitions.iter().enumerate() {
        assert_eq!(
            (partition.partition_index, partition.leader_id),
            (index as i32, 7)
        );
        assert_eq!(
            (&partition.replica_nodes, &partition.isr_nodes),
            (&vec![7], &vec![7])
        );
        assert!(partition.offline_replicas.is_empty() && partition.error_code == 0);
    }
    let none = client.metadata(Some(&[]), false);
    assert!(none.topics.is_empty() && none.brokers.len() == 1);
    let missing = client.metadata(Some(&["missing"]), false);
    let code = ErrorCode::from_code(missing.topics[0].error_code);
    assert_eq!(code, ErrorCode::UnknownTopicOrPartition);
    // A second connection lands on the other shard, and knows the same.
    let mut other = broker.connect();
    assert_eq!(other.metadata(None, false), all);
    assert!(broker.metric("corelog_requests_total", &[ApiKey::Metadata.name()]) >= 4);
}

#[test]
fn r06_a_missing_topic_is_created_when_client_and_broker_allow_it() {
    let dir = DataDir::new("r06-auto");
    let broker = dir.start_with(2, &["num.partitions=3"]);
    let mut client = broker.connect();
    client.metadata(Some(&["auto"]), true);
    let found = poll("the topic", || {
        let topic = client.metadata(Some(&["auto"]), true).topics.remove(0);
        (topic.error_code == 0).then_some(topic)
    });
    assert_eq!(found.partitions.len(), 3);
    assert_eq!(client.produce("auto", 2, text_batch(&["x"])), 0);
    broker.stop();
    let broker = dir.start_with(2, &["auto.create.topics.enable=false"]);
    let mut client = broker.connect();
    let topic = &client.metadata(Some(&["other"]), true).topics[0];
    assert_eq!(
        ErrorCode::from_code(topic.error_code),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(client.metadata(None, true).topics.len(), 1);
}
