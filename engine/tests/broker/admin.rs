//! What tools ask: log directories, producers, elections, and configs as a whole.

use corelog_net::cold::messages::*;
use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::*;

/// The only log directory, as it is told.
fn log_dir(
    client: &mut Connection,
    topics: Option<&[(&str, &[i32])]>,
) -> describe_log_dirs_response::DescribeLogDirsResult {
    let asked = |(name, partitions): &(&str, &[i32])| {
        describe_log_dirs_request::DescribableLogDirTopic::default()
            .with_topic(topic_name(name))
            .with_partitions(partitions.to_vec())
    };
    let request = describe_log_dirs_request::DescribeLogDirsRequestData::default()
        .with_topics(topics.map(|topics| topics.iter().map(asked).collect()));
    let mut answer = client.call(&request);
    assert_eq!((answer.error_code, answer.results.len()), (0, 1));
    answer.results.remove(0)
}

fn sizes(dir: &describe_log_dirs_response::DescribeLogDirsResult) -> Vec<(String, i32, i64)> {
    let of_topic = |topic: &describe_log_dirs_response::DescribeLogDirsTopic| {
        let name = topic.name.to_string();
        let row = move |p: &describe_log_dirs_response::DescribeLogDirsPartition| {
            (name.clone(), p.partition_index, p.partition_size)
        };
        topic.partitions.iter().map(row).collect::<Vec<_>>()
    };
    dir.topics.iter().flat_map(of_topic).collect()
}

#[test]
fn r65_log_directories_tell_sizes_and_space_and_that_a_disk_failed() {
    let dir = DataDir::new("r65-dirs");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 3, &[]);
    client.create_topic("u", 1, &[]);
    let mut expected = vec![];
    for partition in 0..3 {
        let mut bytes = 0;
        for number in 0..=partition {
            let records = text_batch(&[&"x".repeat(100 * number as usize), "y"]);
            bytes += records.len() as i64;
            client.produce("t", partition, records);
        }
        expected.push(("t".to_owned(), partition, bytes));
    }
    expected.push(("u".to_owned(), 0, 0));
    let all = log_dir(&mut client, None);
    assert_eq!(ErrorCode::from_code(all.error_code), ErrorCode::None);
    assert_eq!(all.log_dir.as_str(), dir.logs().to_str().unwrap());
    assert_eq!(sizes(&all), expected);
    assert!(0 < all.usable_bytes && all.usable_bytes < all.total_bytes);
    let some = log_dir(&mut client, Some(&[("t", &[2, 7]), ("nope", &[0])]));
    assert_eq!(sizes(&some), expected[2..3]);
    // The directory is not where it was: its space is unknown.
    let aside = dir.logs().with_extension("aside");
    blocking::rename(dir.logs(), &aside).unwrap();
    let gone = log_dir(&mut client, None);
    assert_eq!(
        ErrorCode::from_code(gone.error_code),
        ErrorCode::KafkaStorageError
    );
    assert_eq!((gone.total_bytes, gone.usable_bytes), (-1, -1));
    blocking::rename(&aside, dir.logs()).unwrap();
    assert_eq!(log_dir(&mut client, None).error_code, 0);
    broker.stop();
    // A log that cannot be opened: the directory has failed, the others are told.
    let path = |name: &str| dir.logs().join(name);
    blocking::rename(path("t-1"), path("aside")).unwrap();
    blocking::write_file(path("t-1"), "in the way").unwrap();
    let broker = dir.start(2);
    let failed = log_dir(&mut broker.connect(), None);
    assert_eq!(
        ErrorCode::from_code(failed.error_code),
        ErrorCode::KafkaStorageError
    );
    expected.remove(1);
    assert_eq!(sizes(&failed), expected);
    assert!(failed.total_bytes > 0);
}

fn producers(
    client: &mut Connection,
    topics: &[(&str, &[i32])],
) -> Vec<(String, describe_producers_response::PartitionResponse)> {
    let asked = |(name, partitions): &(&str, &[i32])| {
        describe_producers_request::TopicRequest::default()
            .with_name(topic_name(name))
            .with_partition_indexes(partitions.to_vec())
    };
    let request = describe_producers_request::DescribeProducersRequestData::default()
        .with_topics(topics.iter().map(asked).collect());
    let answer = client.call(&request);
    assert_eq!(answer.topics.len(), topics.len());
    let of_topic = |topic: describe_producers_response::TopicResponse| {
        let name = topic.name.to_string();
        let row = move |partition| (name.clone(), partition);
        topic.partitions.into_iter().map(row)
    };
    answer.topics.into_iter().flat_map(of_topic).collect()
}

#[test]
fn r11_r65_the_producers_of_a_partition_are_told_also_after_a_restart() {
    let dir = DataDir::new("r65-producers");
    let mut broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 3, &[]);
    let ids = [client.init_producer_id(), client.init_producer_id()];
    for (id, epoch) in ids {
        for number in 0..3 {
            client.produce("t", 1, sequenced(id, epoch, number * 2, &["a", "b"]));
        }
    }
    client.produce("t", 0, sequenced(ids[0].0, 0, 0, &["c"]));
    client.produce("t", 2, text_batch(&["of no producer"]));
    for restarted in [false, true] {
        if restarted {
            broker.stop();
            broker = dir.start(2);
            client = broker.connect();
        }
        let told = producers(&mut client, &[("t", &[2, 1, 0, 1])]);
        let told: Vec<_> = told.into_iter().map(|(_, partition)| partition).collect();
        let indexes: Vec<_> = told.iter().map(|p| p.partition_index).collect();
        assert_eq!(indexes, [2, 1, 0], "each once");
        assert!(told.iter().all(|p| p.error_code == 0), "{told:?}");
        let row = |p: &describe_producers_response::ProducerState| {
            assert_eq!((p.coordinator_epoch, p.current_txn_start_offset), (-1, -1));
            (p.producer_id, p.producer_epoch, p.last_sequence)
        };
        let rows = |at: usize| {
            told[at]
                .active_producers
                .iter()
                .map(row)
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(0), []);
        assert_eq!(rows(1), [(ids[0].0, 0, 5), (ids[1].0, 0, 5)]);
        assert_eq!(rows(2), [(ids[0].0, 0, 0)]);
        let last = client.read_all("t", 1).last().unwrap().timestamp;
        assert_eq!(told[1].active_producers[1].last_timestamp, last);
    }
    let asked: &[(&str, &[i32])] = &[("t", &[3, -1]), ("nope", &[0]), ("a b", &[0])];
    let codes: Vec<_> = producers(&mut client, asked)
        .iter()
        .map(|(_, p)| ErrorCode::from_code(p.error_code))
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let invalid = ErrorCode::InvalidTopicException;
    assert_eq!(codes, [unknown, unknown, unknown, invalid]);
}

#[test]
fn r52_alter_configs_replaces_overrides_and_takes_effect_at_once() {
    let dir = DataDir::new("r52-replace");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[("flush.messages", "7"), ("segment.ms", "90000")]);
    let replace = |client: &mut Connection, key: &str, value: &str| {
        let config = alter_configs_request::AlterableConfig::default()
            .with_name(topic_name(key))
            .with_value(Some(topic_name(value)));
        let resource = alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(topic_name("t"))
            .with_configs(vec![config]);
        let request = alter_configs_request::AlterConfigsRequestData::default()
            .with_resources(vec![resource]);
        ErrorCode::from_code(client.call(&request).responses[0].error_code)
    };
    let records = text_batch(&[&"x".repeat(5000)]);
    client.produce("t", 0, records.clone());
    assert_eq!(
        replace(&mut client, "max.message.bytes", "often"),
        ErrorCode::InvalidConfig
    );
    assert_eq!(
        replace(&mut client, "max.message.bytes", "1000"),
        ErrorCode::None
    );
    let code = client.produce_error("t", 0, records);
    assert_eq!(code, ErrorCode::MessageTooLarge);
    // The source says whose value it is: 1 = the topic's, 5 = nobody's.
    let source = |client: &mut Connection, key: &str| client.config(TOPIC, "t", key).config_source;
    assert_eq!(source(&mut client, "max.message.bytes"), 1);
    assert_eq!(source(&mut client, "flush.messages"), 5);
    assert_eq!(source(&mut client, "segment.ms"), 5);
}
