//! Requests that are small on the wire and large in memory, or small and asked for a large answer: R20.

use std::sync::{Arc, Barrier};

use bytes::BytesMut;
use corelog_net::cold::messages::describe_groups_request::DescribeGroupsRequestData;
use corelog_net::cold::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use corelog_net::cold::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use corelog_net::cold::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestTopics,
};
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchPartition, FetchRequest, FetchTopic};
use corelog_net::frame::begin_request;
use corelog_net::response::close_frame;
use corelog_net::wire::WireStr;
use corelog_runtime::blocking;

use crate::common::groups::{code, fetch_group};
use crate::common::*;
use crate::hostile::frame;

/// A valid name of four letters, a different one for each number below 2^20.
fn name(number: u32) -> [u8; 4] {
    let letters = b"abcdefghijklmnopqrstuvwxyz012345";
    [15, 10, 5, 0].map(|shift| letters[(number >> shift) as usize & 31])
}

/// Elements that begin with a name, and have `rest` behind it.
fn named(count: u32, rest: &[u8]) -> Vec<u8> {
    let one = |number| [&[0, 4][..], &name(number), rest].concat();
    let all: Vec<u8> = (0..count).flat_map(one).collect();
    [&count.to_be_bytes()[..], &all].concat()
}

fn fetch_of_many_partitions() -> Vec<u8> {
    let partition = |index| FetchPartition {
        index,
        ..FetchPartition::default()
    };
    let request = FetchRequest {
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            name: WireStr::from("t"),
            partitions: (0..150_000).map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let mut buf = BytesMut::new();
    begin_request(&mut buf, corelog_net::api::ApiKey::Fetch, 4, 1, None);
    request.encode(4, &mut buf).unwrap();
    close_frame(&mut buf, 0).unwrap();
    buf.to_vec()
}

/// Requests of small frames that become many times their size.
fn heavy_requests() -> Vec<(&'static str, Vec<u8>)> {
    let group = [0, 1, b'g'];
    let one_partition = [&1u32.to_be_bytes()[..], &[0; 4]].concat();
    vec![
        ("a Fetch of 150,000 partitions", fetch_of_many_partitions()),
        (
            "Metadata of 100,000 unknown topics",
            frame(3, 1, &named(100_000, &[])),
        ),
        (
            "ListOffsets of 100,000 topics without partitions",
            frame(2, 1, &[&[0xff; 4][..], &named(100_000, &[0; 4])].concat()),
        ),
        (
            "OffsetDelete of 70,000 unknown topics",
            frame(
                47,
                0,
                &[&group[..], &named(70_000, &one_partition)].concat(),
            ),
        ),
        (
            "OffsetFetch of 70,000 topics",
            frame(9, 1, &[&group[..], &named(70_000, &one_partition)].concat()),
        ),
        (
            "DescribeGroups of 100,000 unknown groups",
            frame(15, 0, &named(100_000, &[])),
        ),
        (
            "DeleteTopics of 150,000 unknown topics",
            frame(20, 1, &[&named(150_000, &[])[..], &[0; 4]].concat()),
        ),
    ]
}

#[test]
fn r20_many_small_elements_from_many_connections_stay_within_the_memory() {
    const CONNECTIONS: usize = 14;
    /// Of them, one for each kind of request.
    const NEVER_READ: usize = 7;
    const RSS_KIB_MAX: u64 = 512 << 10;
    let dir = DataDir::new("heavy");
    let broker = dir.start_with(2, &["auto.create.topics.enable=false"]);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "g");
    client.create_topic("t", 1, &[]);
    assert_eq!(client.commit("g", "t", 0, 1), ErrorCode::None);
    let requests: Arc<Vec<_>> = Arc::new(heavy_requests());
    let barrier = Arc::new(Barrier::new(CONNECTIONS));
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (requests, barrier) = (Arc::clone(&requests), Arc::clone(&barrier));
            let mut connection = broker.connect();
            let send = move || {
                barrier.wait();
                let (what, bytes) = &requests[number % requests.len()];
                let _ = connection.send_bytes(bytes);
                if number < CONNECTIONS - NEVER_READ {
                    connection.finish_sending();
                    assert!(
                        connection.try_receive().is_some_and(|a| a.len() > 1000),
                        "{what}"
                    );
                }
                connection
            };
            blocking::spawn("sender", send).unwrap()
        })
        .collect();
    for (number, text) in (0..50).zip(["beside them"].iter().cycle()) {
        assert_eq!(client.produce("t", 0, text_batch(&[text])), number);
    }
    let senders: Vec<_> = senders.into_iter().map(|s| s.join().unwrap()).collect();
    client.produce("t", 0, text_batch(&["after them"]));
    let peak = broker.peak_rss_kib();
    for line in broker
        .log()
        .lines()
        .filter(|line| line.contains("held the shard"))
    {
        println!("{line}");
    }
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
    drop(senders);
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 0);
}

#[test]
fn r20_fetches_that_wait_keep_nothing_of_what_they_were_asked_in() {
    const CONNECTIONS: usize = 32;
    const FORGOTTEN: u32 = 190_000;
    const RSS_KIB_MAX: u64 = 256 << 10;
    let dir = DataDir::new("heavy-waits");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    // Replica, longest wait, least and most bytes, isolation, session; one partition of "t".
    let mut body = Vec::new();
    body.extend((-1i32).to_be_bytes());
    body.extend(60_000i32.to_be_bytes());
    body.extend([i32::MAX.to_be_bytes(), i32::MAX.to_be_bytes()].concat());
    body.push(0);
    body.extend([0i32.to_be_bytes(), (-1i32).to_be_bytes()].concat());
    body.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1]);
    body.extend([0; 4 + 8 + 8]);
    body.extend((1i32 << 20).to_be_bytes());
    // Then partitions to forget: topics without names, and without partitions.
    body.extend(FORGOTTEN.to_be_bytes());
    body.resize(body.len() + 6 * FORGOTTEN as usize, 0);
    let request = frame(1, 7, &body);
    let waiting: Vec<_> = (1..=CONNECTIONS)
        .map(|number| {
            let mut connection = broker.connect();
            connection.send_bytes(&request).unwrap();
            poll("the fetch to wait", || {
                let waits = broker.metric("corelog_fetch_waits", &[]);
                (waits >= number as u64).then_some(())
            });
            connection
        })
        .collect();
    let peak = broker.peak_rss_kib();
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
    assert!(waiting.iter().all(Connection::is_silent));
}

#[test]
fn r20_what_is_named_again_and_again_is_answered_once() {
    const TIMES: usize = 5000;
    let dir = DataDir::new("heavy-names");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "g");
    client.create_topic("t", 2, &[]);
    assert_eq!(client.commit("g", "t", 0, 7), ErrorCode::None);
    let again = |name: &str| vec![topic_name(name); TIMES];

    let groups = DescribeGroupsRequestData::default().with_groups(again("g"));
    assert_eq!(client.call(&groups).groups.len(), 1);

    let topics = again("t").into_iter();
    let topics = topics.map(|name| MetadataRequestTopic::default().with_name(Some(name)));
    let metadata = MetadataRequestData::default().with_topics(Some(topics.collect()));
    assert_eq!(client.call(&metadata).topics.len(), 1);

    // Of two pieces that the coordinator looks up one after the other.
    let indexes: Vec<i32> = (0..TIMES as i32).chain(0..TIMES as i32).collect();
    let topic = OffsetFetchRequestTopics::default()
        .with_name(topic_name("t"))
        .with_partition_indexes(indexes);
    let group = fetch_group("g", "t", 0).with_topics(Some(vec![topic]));
    let request = OffsetFetchRequestData::default().with_groups(vec![group.clone(), group]);
    let sent = client.send(BY_NAME_OFFSETS, &request);
    let answer: corelog_net::cold::messages::offset_fetch_response::OffsetFetchResponseData =
        client.answer_as(sent);
    assert_eq!(answer.groups.len(), 2);
    assert!(answer.groups[1].topics.is_empty());
    assert_eq!(answer.groups[0].topics.len(), 1);
    let found = &answer.groups[0].topics[0].partitions;
    let offsets: Vec<_> = found.iter().map(|p| p.committed_offset).collect();
    assert_eq!(
        found.iter().map(|p| p.partition_index).collect::<Vec<_>>(),
        (0..TIMES as i32).collect::<Vec<_>>()
    );
    assert_eq!(offsets[0], 7);
    assert!(offsets[1..].iter().all(|offset| *offset == -1));

    let partition = |index| OffsetDeleteRequestPartition::default().with_partition_index(index);
    let topic = |name: &str| {
        OffsetDeleteRequestTopic::default()
            .with_name(topic_name(name))
            .with_partitions(vec![partition(0), partition(0), partition(9)])
    };
    let request = OffsetDeleteRequestData::default()
        .with_group_id(topic_name("g"))
        .with_topics(vec![topic("missing"), topic("t"), topic("t")]);
    let answer = client.call(&request);
    assert_eq!(answer.error_code, 0);
    let codes: Vec<_> = answer
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            let codes = partitions.map(|p| (p.partition_index, code(p.error_code)));
            (topic.name.to_string(), codes.collect::<Vec<_>>())
        })
        .collect();
    let unknown = |index| (index, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(
        codes,
        [
            ("missing".to_owned(), vec![unknown(0), unknown(9)]),
            ("t".to_owned(), vec![(0, ErrorCode::None), unknown(9)]),
        ]
    );
    assert_eq!(client.committed("g", "t", 0), -1);
}
