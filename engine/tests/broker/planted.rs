//! Panics planted in the real binary: what ends a connection, and what ends the process. Built with
//! `--features planted`.

use std::os::unix::process::ExitStatusExt;

use corelog_net::api::ApiKey;
use corelog_net::cold::encode_request;
use corelog_net::cold::messages::metadata_request::MetadataRequestData;

use crate::common::*;

#[test]
fn r60_a_panic_in_a_log_aborts_with_a_message_and_loses_nothing() {
    let dir = DataDir::new("planted-log");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    assert_eq!(client.produce("t", 1, text_batch(&["kept"])), 0);
    broker.kill();

    dir.argument("--planted=panic-on-append");
    let broker = dir.start(2);
    let mut client = broker.connect();
    let request = requests::produce_request("t", 1, 1, text_batch(&["lost"]));
    let _unanswered = client.send_produce(requests::BY_NAME, &request);
    let (status, log) = broker.ended();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{log}");
    let path = dir.logs();
    for part in [
        concat!("corelogd ", env!("CARGO_PKG_VERSION"), " ends itself"),
        "planted: panic-on-append",
        "place: storage/src/log/appender.rs",
        "where: shard 1",
        "corelog_storage::log",
        path.to_str().unwrap(),
        "everything acknowledged is on disk",
        "start corelogd again",
        "the process ends",
    ] {
        assert!(log.contains(part), "{part:?} in {log}");
    }

    dir.without_arguments();
    let broker = dir.start(2);
    assert_eq!(texts(&broker.connect().read_all("t", 1)), ["kept"]);
}

#[test]
fn r60_a_panic_in_a_connections_task_closes_that_connection_alone() {
    let dir = DataDir::new("planted-request");
    dir.argument("--planted=panic-on-request");
    let broker = dir.start(2);
    let mut clients: Vec<_> = (0..4).map(|_| broker.connect()).collect();
    clients[0].create_topic("t", 2, &[]);
    let request = MetadataRequestData::default();
    for mut client in clients.drain(..2) {
        let version = ApiKey::Metadata.max_version();
        let frame = encode_request(version, 7, Some("panic"), &request).unwrap();
        client.send_bytes(&frame).unwrap();
        assert!(client.closes(), "its connection ends");
    }
    assert_eq!(broker.metric("corelog_shard_task_panics_total", &[]), 2);
    poll("the connections to be counted out", || {
        (broker.metric("corelog_connections", &[]) == 2).then_some(())
    });
    for client in &mut clients {
        client.produce("t", 0, text_batch(&["others"]));
    }
    let log = broker.stop();
    assert!(
        log.contains("task panicked") && log.contains("planted: panic-on-request"),
        "{log}"
    );
    assert!(log.contains("connection/mod.rs"), "the place: {log}");
    assert!(log.contains("stopped cleanly"), "{log}");
}
