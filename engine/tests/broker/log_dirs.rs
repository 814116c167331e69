//! Several log directories: R33.

use std::path::Path;

use corelog_net::cold::messages::describe_log_dirs_request::DescribeLogDirsRequestData;
use corelog_net::cold::messages::describe_log_dirs_response::DescribeLogDirsResult;
use corelog_net::cold::messages::metadata_response::MetadataResponsePartition;
use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::*;

/// Checkpoints follow at once, so that a directory that is gone is noticed.
const OFTEN: &str = "replica.high.watermark.checkpoint.interval.ms=100";

/// What DescribeLogDirs says: per directory its error and its partitions of a topic.
fn described(client: &mut Connection, topic: &str) -> Vec<(ErrorCode, Vec<i32>)> {
    let request = DescribeLogDirsRequestData::default().with_topics(None);
    let of_dir = |dir: &DescribeLogDirsResult| {
        let topics = dir.topics.iter().filter(|t| t.name.as_str() == topic);
        let partitions = topics.flat_map(|t| &t.partitions);
        let partitions = partitions.map(|p| p.partition_index).collect();
        (ErrorCode::from_code(dir.error_code), partitions)
    };
    client.call(&request).results.iter().map(of_dir).collect()
}

/// Metadata of a topic's partitions.
fn partitions(client: &mut Connection, topic: &str) -> Vec<MetadataResponsePartition> {
    let mut answer = client.metadata(Some(&[topic]), false);
    let mut partitions = answer.topics.remove(0).partitions;
    partitions.sort_by_key(|p| p.partition_index);
    partitions
}

fn leaders(client: &mut Connection, topic: &str) -> Vec<(i32, ErrorCode)> {
    let leader = |p: &MetadataResponsePartition| (p.leader_id, ErrorCode::from_code(p.error_code));
    partitions(client, topic).iter().map(leader).collect()
}

fn exists(path: &Path) -> bool {
    blocking::read_dir(path).is_ok()
}

const SERVED: (i32, ErrorCode) = (1, ErrorCode::None);
const OFFLINE: (i32, ErrorCode) = (-1, ErrorCode::LeaderNotAvailable);

#[test]
fn r33_partitions_are_spread_over_log_directories_and_found_again() {
    let dir = DataDir::new("r33-spread");
    let both = dir.both_logs();
    let broker = dir.start_with(2, &["node.id=1", &both]);
    let mut client = broker.connect();
    client.create_topic("t", 4, &[]);
    for partition in 0..4 {
        client.produce("t", partition, text_batch(&[&format!("in {partition}")]));
    }
    let placed = [(ErrorCode::None, vec![0, 2]), (ErrorCode::None, vec![1, 3])];
    assert_eq!(described(&mut client, "t"), placed);
    assert!(exists(&dir.more_logs().join("t-1")) && !exists(&dir.logs().join("t-1")));
    let log = broker.stop();
    assert!(log.contains("stopped cleanly"), "{log}");

    // One more, empty: nothing moves, and new partitions go there first.
    let third = format!("{both},{}", dir.logs().with_file_name("data3").display());
    let broker = dir.start_with(2, &["node.id=1", &third]);
    let mut client = broker.connect();
    client.create_topic("u", 2, &[]);
    assert_eq!(described(&mut client, "t")[..2], placed);
    assert_eq!(described(&mut client, "u")[2].1, [0, 1]);
    for partition in 0..4 {
        let rows = client.read_all("t", partition);
        assert_eq!(texts(&rows), [format!("in {partition}")]);
    }
    // A deleted topic leaves every directory.
    assert_eq!(client.delete_topic("t"), ErrorCode::None);
    client.create_topic("t", 2, &[]);
    broker.kill();
    // The metadata log stays where it is: a list in another order is refused with its place.
    let turned = format!(
        "log.dirs={},{}",
        dir.more_logs().display(),
        dir.logs().display()
    );
    let refused = dir.try_start(None, 1, &["node.id=1", &turned]);
    let (_, said) = refused.map(|_| ()).unwrap_err();
    assert!(said.contains("metadata.log.dir="), "{said}");
    let metadata = format!("metadata.log.dir={}", dir.logs().display());
    let broker = dir.start_with(2, &["node.id=1", &turned, &metadata]);
    assert_eq!(leaders(&mut broker.connect(), "t"), [SERVED; 2]);
    assert_eq!(leaders(&mut broker.connect(), "u"), [OFFLINE; 2]);
}

#[test]
fn r33_partitions_of_a_directory_that_is_missing_are_offline_and_not_made_anew() {
    let dir = DataDir::new("r33-missing");
    let both = dir.both_logs();
    let broker = dir.start_with(2, &["node.id=1", &both]);
    let mut client = broker.connect();
    client.create_topic("t", 4, &[]);
    for partition in 0..4 {
        client.produce("t", partition, text_batch(&["kept"]));
    }
    broker.stop();

    // Left out of the configuration; and a disk that is not mounted, of which a file tells.
    let away = dir.more_logs().with_extension("away");
    blocking::rename(dir.more_logs(), &away).unwrap();
    blocking::write_file(dir.more_logs(), "not a directory").unwrap();
    let only = format!("log.dirs={}", dir.logs().display());
    for (dirs, count) in [(&only, 0), (&both, 1)] {
        let broker = dir.start_with(2, &["node.id=1", dirs]);
        let mut client = broker.connect();
        assert_eq!(
            leaders(&mut client, "t"),
            [SERVED, OFFLINE, SERVED, OFFLINE]
        );
        let told = &partitions(&mut client, "t")[1];
        assert_eq!(
            (&told.offline_replicas[..], &told.isr_nodes[..]),
            (&[1][..], &[1][..])
        );
        let refused = client.produce_error("t", 1, text_batch(&["lost?"]));
        assert_eq!(refused, ErrorCode::KafkaStorageError);
        let refused = client.fetch("t", 1, 0).error_code;
        assert_eq!(refused, ErrorCode::KafkaStorageError);
        let refused = client.list_offset("t", 1, -1).error_code;
        assert_eq!(ErrorCode::from_code(refused), ErrorCode::KafkaStorageError);
        assert_eq!(texts(&client.read_all("t", 0))[0], "kept");
        client.produce("t", 0, text_batch(&["more"]));
        let topic = format!("new{count}");
        client.create_topic(&topic, 2, &[]);
        assert_eq!(described(&mut client, &topic)[0].1, [0, 1]);
        assert_eq!(broker.metric("corelog_partitions_offline", &[]), 2);
        assert_eq!(broker.metric("corelog_log_dirs_offline", &[]), count);
        assert!(!exists(&dir.logs().join("t-1")));
        broker.stop();
    }

    blocking::remove_file(dir.more_logs()).unwrap();
    blocking::rename(&away, dir.more_logs()).unwrap();
    let broker = dir.start_with(2, &["node.id=1", &both]);
    let mut client = broker.connect();
    assert_eq!(leaders(&mut client, "t"), [SERVED; 4]);
    for partition in 0..4 {
        assert_eq!(texts(&client.read_all("t", partition))[0], "kept");
        client.produce("t", partition, text_batch(&["again"]));
    }
}

#[test]
fn r33_a_directory_that_fails_the_first_write_is_offline_and_the_others_serve() {
    let dir = DataDir::new("r33-probe");
    let both = dir.both_logs();
    // Stands where the start tries direct I/O: an error that says nothing of direct I/O.
    blocking::create_dir_all(dir.more_logs().join(".direct-io-probe")).unwrap();
    let broker = dir.start_with(1, &["node.id=1", &both]);
    assert_eq!(broker.metric("corelog_log_dirs_offline", &[]), 1);
    let (_, body) = broker.get("/health");
    assert!(body.contains(dir.more_logs().to_str().unwrap()), "{body}");
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    assert_eq!(described(&mut client, "t")[0].1, [0, 1]);
    client.produce("t", 1, text_batch(&["taken"]));
}

#[test]
fn r33_a_partition_in_two_directories_is_refused_with_both_names() {
    let dir = DataDir::new("r33-twice");
    let both = dir.both_logs();
    let broker = dir.start_with(1, &["node.id=1", &both]);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.produce("t", 0, text_batch(&["one"]));
    broker.stop();
    let (here, there) = (dir.logs().join("t-0"), dir.more_logs().join("t-0"));
    blocking::create_dir_all(&there).unwrap();
    let identity = blocking::read_file(here.join("partition.metadata")).unwrap();
    blocking::write_file(there.join("partition.metadata"), identity).unwrap();
    let refused = dir.try_start(None, 1, &["node.id=1", &both]);
    let (status, said) = refused.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Some(1));
    for path in [&here, &there] {
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    // The same name of another topic is no rival: it is set aside.
    let other = "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAg\n";
    blocking::write_file(there.join("partition.metadata"), other).unwrap();
    let broker = dir.start_with(1, &["node.id=1", &both]);
    assert_eq!(texts(&broker.connect().read_all("t", 0)), ["one"]);
    assert!(!exists(&there));
    broker.stop();
    // Moved by hand while the broker was down: where it is, there it is served.
    blocking::rename(&here, &there).unwrap();
    let broker = dir.start_with(1, &["node.id=1", &both]);
    assert_eq!(texts(&broker.connect().read_all("t", 0)), ["one"]);
    assert_eq!(described(&mut broker.connect(), "t")[1].1, [0, 1]);
}

#[test]
fn r33_a_failed_directory_goes_offline_with_its_reason_and_the_others_serve_on() {
    let dir = DataDir::new("r33-failed");
    let both = dir.both_logs();
    let settings = ["node.id=1", &both, OFTEN, "offsets.topic.num.partitions=2"];
    let broker = dir.start_with(2, &settings);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "g");
    client.create_topic("t", 4, &[]);
    for partition in 0..4 {
        client.produce("t", partition, text_batch(&["kept"]));
    }
    let groups: Vec<String> = (0..2)
        .map(|partition| {
            let names = (0..).map(|n| format!("group-{n}"));
            let mut here = names.filter(|g| corelog_core::group::partition_of(g, 2) == partition);
            here.next().unwrap()
        })
        .collect();
    for group in &groups {
        client.find_coordinator(&broker, group);
        assert_eq!(client.commit(group, "t", 0, 1), ErrorCode::None);
    }
    let in_second = described(&mut client, "t").remove(1).1;
    let offsets_in_second = described(&mut client, "__consumer_offsets").remove(1).1;
    assert_eq!((in_second.len(), offsets_in_second.len()), (2, 1));

    let away = dir.more_logs().with_extension("away");
    blocking::rename(dir.more_logs(), &away).unwrap();
    let waiting = broker.connect();
    drop(waiting);
    let acked = client.produce_acks("t", in_second[0], 1, text_batch(&["perhaps"]));
    poll("the directory to be offline", || {
        (broker.metric("corelog_log_dirs_offline", &[]) == 1).then_some(())
    });
    let bad = in_second[0];
    poll("the metadata to say so", || {
        (leaders(&mut client, "t")[bad as usize] == OFFLINE).then_some(())
    });
    for partition in 0..4 {
        if in_second.contains(&partition) {
            let refused = client.produce_error("t", partition, text_batch(&["lost?"]));
            assert_eq!(refused, ErrorCode::KafkaStorageError);
            let refused = client.fetch("t", partition, 0).error_code;
            assert_eq!(refused, ErrorCode::KafkaStorageError);
            let refused = client.list_offset("t", partition, -1).error_code;
            assert_eq!(ErrorCode::from_code(refused), ErrorCode::KafkaStorageError);
        } else {
            assert_eq!(client.produce("t", partition, text_batch(&["on"])), 1);
            assert_eq!(texts(&client.read_all("t", partition)), ["kept", "on"]);
        }
    }
    for (partition, group) in (0..).zip(&groups) {
        let outcome = client.commit(group, "t", 0, 2);
        if offsets_in_second.contains(&partition) {
            assert_eq!(outcome, ErrorCode::NotCoordinator);
        } else {
            assert_eq!(outcome, ErrorCode::None);
        }
    }
    client.create_topic("new", 3, &[]);
    let told = described(&mut client, "new");
    let expected = [
        (ErrorCode::None, vec![0, 1, 2]),
        (ErrorCode::KafkaStorageError, vec![]),
    ];
    assert_eq!(told, expected);
    let (status, body) = broker.get("/health");
    assert!(status.ends_with("200 OK"), "{status}");
    assert!(body.starts_with("degraded"), "{body}");
    assert!(body.contains(dir.more_logs().to_str().unwrap()), "{body}");
    let log = broker.stop();
    assert_eq!(
        log.matches("the log directory is offline").count(),
        1,
        "{log}"
    );

    // The disk is back at the next start, with all that was acknowledged.
    blocking::rename(&away, dir.more_logs()).unwrap();
    let broker = dir.start_with(2, &settings);
    let mut client = broker.connect();
    assert_eq!(leaders(&mut client, "t"), [SERVED; 4]);
    for partition in 0..4 {
        assert_eq!(texts(&client.read_all("t", partition))[0], "kept");
    }
    if acked.error_code == ErrorCode::None {
        assert_eq!(texts(&client.read_all("t", bad)), ["kept", "perhaps"]);
    }
    for (partition, group) in (0..).zip(&groups) {
        client.find_coordinator(&broker, group);
        let expected = if offsets_in_second.contains(&partition) {
            1
        } else {
            2
        };
        assert_eq!(client.committed(group, "t", 0), expected);
    }
}

#[test]
fn r33_the_broker_stops_with_a_message_when_its_last_directory_fails() {
    let dir = DataDir::new("r33-last");
    let broker = dir.start_with(1, &[OFTEN]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["kept"]));
    let away = dir.logs().with_extension("away");
    blocking::rename(dir.logs(), &away).unwrap();
    client.produce_acks("t", 0, 1, text_batch(&["perhaps"]));
    let (status, log) = broker.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("log directory with the metadata log failed"),
        "{log}"
    );
    blocking::rename(&away, dir.logs()).unwrap();
    let broker = dir.start(1);
    assert_eq!(texts(&broker.connect().read_all("t", 0))[0], "kept");
}
