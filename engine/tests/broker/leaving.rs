//! Clients that go away while the broker works for them: R20.

use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::FetchRequest;

use crate::common::requests::{BY_NAME, fetch_request, produce_request};
use crate::common::*;

/// Longer than any wait of a test: an answer before it was not due by time.
const FOREVER_MS: i32 = 600_000;

fn waiting(partition: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms: FOREVER_MS,
        min_bytes: 1,
        ..fetch_request("t", partition, 0)
    }
}

#[test]
fn r20_clients_that_vanish_in_a_long_poll_leave_nothing_behind() {
    const CLIENTS: u64 = 200;
    let dir = DataDir::new("r20-vanish");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    let tasks = broker.metric("corelog_shard_tasks", &[]);
    let waits = || broker.metric("corelog_fetch_waits", &[]);
    let open = || broker.metric("corelog_connections", &[]);
    for _ in 0..2 {
        let mut vanishing: Vec<_> = (0..CLIENTS).map(|_| broker.connect()).collect();
        for (partition, connection) in [0, 1].iter().cycle().zip(&mut vanishing) {
            let _ = connection.send_fetch(BY_NAME, &waiting(*partition));
        }
        poll("the fetches to wait", || {
            (waits() == CLIENTS && open() == CLIENTS + 1).then_some(())
        });
        drop(vanishing);
        poll("the fetches and their connections to end", || {
            (waits() == 0 && open() == 1).then_some(())
        });
    }
    poll("their tasks to end", || {
        (broker.metric("corelog_shard_tasks", &[]) <= tasks).then_some(())
    });
    client.produce("t", 0, text_batch(&["still here"]));
    assert_eq!(client.read_all("t", 0).len(), 1);
}

#[test]
fn r20_a_client_that_only_stops_sending_gets_what_it_asked_for() {
    let dir = DataDir::new("r20-half");
    let broker = dir.start(2);
    let mut admin = broker.connect();
    admin.create_topic("t", 2, &[("flush.messages", "1")]);
    for partition in 0..2 {
        // A long poll ends, with what there is; requests behind it are still served.
        let mut half = broker.connect();
        let fetch = half.send_fetch(BY_NAME, &waiting(partition));
        let request = produce_request("t", partition, 1, text_batch(&["last words"]));
        let produce = half.send_produce(BY_NAME, &request);
        half.finish_sending();
        let answer = half.fetched(fetch).topics.remove(0).partitions.remove(0);
        assert_eq!(answer.error_code, ErrorCode::None);
        assert!(answer.record_bytes().is_empty());
        let answer = half.produced(produce).topics.remove(0).partitions.remove(0);
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (ErrorCode::None, 0)
        );
        assert!(half.closes());
        // Many answers that take a while.
        let mut half = broker.connect();
        let sent: Vec<_> = (0..20)
            .map(|_| {
                let request = produce_request("t", partition, -1, text_batch(&["more"]));
                half.send_produce(BY_NAME, &request)
            })
            .collect();
        half.finish_sending();
        for (offset, sent) in (1..).zip(sent) {
            let answer = half.produced(sent).topics.remove(0).partitions.remove(0);
            assert_eq!(answer.base_offset, offset);
        }
        assert!(half.closes());
    }
    poll("the connections to end", || {
        (broker.metric("corelog_connections", &[]) == 1).then_some(())
    });
}
