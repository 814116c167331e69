//! Start, stop, configuration files, metrics: R60, R61.

use std::path::Path;

use corelog_net::cold::messages::describe_cluster_request::DescribeClusterRequestData;
use corelog_runtime::blocking;

use crate::common::*;

const CLEAN_MARKER: &str = ".kafka_cleanshutdown";

fn has_marker(dir: &DataDir) -> bool {
    let mut entries = blocking::read_dir(dir.logs()).unwrap();
    entries.any(|entry| entry.unwrap().file_name() == CLEAN_MARKER)
}

#[test]
fn r60_sigterm_stops_cleanly_and_leaves_the_marker() {
    let dir = DataDir::new("r60-stop");
    for round in 0..3 {
        let broker = dir.start(2);
        let mut client = broker.connect();
        if round == 0 {
            client.create_topic("t", 2, &[]);
        }
        assert!(!has_marker(&dir), "no marker while it runs");
        assert_eq!(client.produce("t", 1, text_batch(&["x"])), round);
        let log = broker.stop();
        assert!(log.contains("stopped cleanly"), "{log}");
        assert!(has_marker(&dir));
        assert!(client.closes(), "connections end");
    }
    let broker = dir.start(2);
    assert!(!has_marker(&dir));
    broker.kill();
    assert!(!has_marker(&dir), "kill -9 leaves none");
    let broker = dir.start(2);
    assert_eq!(broker.connect().read_all("t", 1).len(), 3);
}

#[test]
fn r60_sigint_stops_as_sigterm_does() {
    let dir = DataDir::new("r60-int");
    let broker = dir.start(1);
    broker.signal(libc::SIGINT);
    let (status, log) = broker.ended();
    assert!(
        status.success() && log.contains("stopped cleanly"),
        "{status} {log}"
    );
    assert!(has_marker(&dir));
}

#[test]
fn r60_a_second_signal_stops_at_once() {
    let dir = DataDir::new("r60-second");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.produce("t", 1, text_batch(&["kept"]));
    // Both are pending before the process goes on: it sees the second while it stops by the first.
    broker.signal(libc::SIGSTOP);
    broker.signal(libc::SIGTERM);
    broker.signal(libc::SIGINT);
    broker.signal(libc::SIGCONT);
    let (status, log) = broker.ended();
    assert_eq!(status.code(), Some(130), "{log}");
    let broker = dir.start(2);
    assert_eq!(texts(&broker.connect().read_all("t", 1)), ["kept"]);
}

#[test]
fn r60_a_stop_ends_clients_that_wait() {
    let dir = DataDir::new("r60-waiting");
    let broker = dir.start(2);
    let mut clients = [broker.connect(), broker.connect()];
    clients[0].create_topic("t", 2, &[]);
    for (partition, client) in (0..).zip(&mut clients) {
        let request = corelog_net::fetch::FetchRequest {
            max_wait_ms: 600_000,
            min_bytes: 1,
            ..requests::fetch_request("t", partition, 0)
        };
        let _ = client.send_fetch(requests::BY_NAME, &request);
    }
    poll("both fetches to wait", || {
        (broker.metric("corelog_requests_total", &["api=\"Fetch\""]) == 2).then_some(())
    });
    let log = broker.stop();
    assert!(log.contains("stopped cleanly"), "{log}");
}

#[test]
fn r60_a_second_broker_on_the_same_directory_is_refused() {
    let dir = DataDir::new("r60-lock");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let (status, said) = dir.try_start(None, 1, &[]).map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Some(1));
    let path = dir.logs();
    assert!(
        said.contains(path.to_str().unwrap()),
        "names the directory: {said}"
    );
    assert_eq!(client.produce("t", 0, text_batch(&["undisturbed"])), 0);
    broker.stop();
    dir.start(1).stop();
}

#[test]
fn r60_a_start_that_cannot_work_says_why() {
    let dir = DataDir::new("r60-refused");
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["log.segment.bytes=12"],
            &["log.segment.bytes", "12", "1048576"],
        ),
        (&["num.partitions=many"], &["num.partitions", "many"]),
        (&["listeners=PLAINTEXT://"], &["listeners"]),
        (&["no equals sign"], &["no equals sign"]),
        (&["corelog.cores=9999"], &["9999"]),
        (&["log.dirs=/dev/null/data"], &["/dev/null/data"]),
    ];
    for (overrides, words) in cases {
        let refused = dir.try_start(None, 1, overrides);
        let (status, said) = refused.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Some(1), "{overrides:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} in {said:?}");
        }
    }
    let broker = dir.start(1);
    let taken = format!("listeners=PLAINTEXT://{}", broker.kafka);
    let other = DataDir::new("r60-port");
    let (_, said) = other.try_start(None, 1, &[&taken]).map(|_| ()).unwrap_err();
    assert!(
        said.contains("in use") && said.contains(&broker.kafka.to_string()),
        "{said}"
    );
}

#[test]
fn r60_another_node_id_is_refused_on_the_same_directory() {
    let dir = DataDir::new("r60-node");
    dir.start_with(1, &["node.id=1"]).stop();
    let refused = dir.try_start(None, 1, &["node.id=2"]);
    let (_, said) = refused.map(|_| ()).unwrap_err();
    assert!(said.contains("node.id"), "{said}");
    dir.start_with(1, &["node.id=1"]).stop();
}

#[test]
fn r60_kafkas_configuration_files_start_the_broker() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut seen = 0;
    for entry in blocking::read_dir(&configs).unwrap() {
        let file = entry.unwrap().path();
        let text = blocking::read_to_string(&file).unwrap();
        let dir = DataDir::new("r60-file");
        let broker = dir.start_file(Some(&file), 1, &[]);
        let mut client = broker.connect();
        client.metadata(Some(&["auto"]), true);
        let made = poll("the topic", || {
            let topic = client.metadata(Some(&["auto"]), true).topics.remove(0);
            (topic.error_code == 0).then_some(topic)
        });
        let partitions = text
            .lines()
            .find_map(|line| line.strip_prefix("num.partitions="))
            .map_or(1, |count| count.parse().unwrap());
        assert_eq!(made.partitions.len(), partitions, "{}", file.display());
        assert_eq!(client.produce("auto", 0, text_batch(&["x"])), 0);
        let unknown = broker
            .log()
            .lines()
            .filter(|l| l.contains("nknown"))
            .count();
        assert_eq!(unknown, 0, "every key is known: {}", broker.log());
        broker.stop();
        seen += 1;
    }
    assert!(seen >= 2);
}

#[test]
fn r60_the_cluster_id_is_kept_over_restarts() {
    let dir = DataDir::new("r60-cluster");
    let mut ids = std::collections::BTreeSet::new();
    for round in 0..3 {
        let broker = dir.start(1);
        let mut client = broker.connect();
        ids.insert(client.metadata(None, false).cluster_id.unwrap().to_string());
        let request = DescribeClusterRequestData::default().with_endpoint_type(1);
        ids.insert(client.call(&request).cluster_id.to_string());
        if round == 0 {
            broker.stop();
        } else {
            broker.kill();
        }
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let other = DataDir::new("r60-cluster");
    let id = other.start(1).connect().metadata(None, false).cluster_id;
    assert!(
        !ids.contains(id.unwrap().as_str()),
        "another directory, another cluster"
    );
}

#[test]
fn r61_metrics_and_health_are_served() {
    let dir = DataDir::new("r61");
    let broker = dir.start(2);
    let (mut first, mut second) = (broker.connect(), broker.connect());
    first.create_topic("t", 4, &[]);
    for partition in 0..4 {
        first.produce("t", partition, text_batch(&["a", "b"]));
    }
    assert_eq!(second.read_all("t", 3).len(), 2);
    let (status, body) = broker.get("/health");
    assert!(
        status.ends_with("200 OK") && body.contains("shards=2"),
        "{status} {body}"
    );
    assert_eq!(broker.metric("corelog_produce_records_total", &[]), 8);
    assert_eq!(broker.metric("corelog_produce_batches_total", &[]), 4);
    assert_eq!(broker.metric("corelog_partitions", &[]), 4);
    assert_eq!(broker.metric("corelog_partitions", &["shard=\"1\""]), 2);
    assert_eq!(broker.metric("corelog_connections", &[]), 2);
    assert!(broker.metric("corelog_fetch_bytes_total", &[]) > 0);
    let (_, text) = broker.get("/metrics");
    assert!(text.trim_end().ends_with("# EOF"), "OpenMetrics ends so");
    drop(second);
    poll("the connection to end", || {
        (broker.metric("corelog_connections", &[]) == 1).then_some(())
    });
}
