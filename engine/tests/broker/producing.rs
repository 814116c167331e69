//! Acknowledgements: R10.

use corelog_net::error_code::ErrorCode;

use crate::common::requests::{BY_NAME, produce_request};
use crate::common::*;

#[test]
fn r10_acks_all_and_one_are_answered_zero_is_not() {
    let dir = DataDir::new("r10");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for (base, acks) in [(0, 1), (1, -1)] {
        for partition in 0..2 {
            let answer = client.produce_acks("t", partition, acks, text_batch(&["x"]));
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (ErrorCode::None, base)
            );
            assert_eq!(answer.log_start_offset, 0);
        }
    }
    for partition in [0, 1, 0, 1] {
        let request = produce_request("t", partition, 0, text_batch(&["unanswered"]));
        let _ = client.send_produce(BY_NAME, &request);
    }
    // The next answer is that of the next request, and what went before is in the log.
    assert_eq!(client.produce("t", 0, text_batch(&["after"])), 4);
    let read = poll("unanswered batches", || {
        let read = texts(&client.read_all("t", 1));
        (read.len() == 4).then_some(read)
    });
    assert_eq!(read[2..], ["unanswered", "unanswered"]);
}

#[test]
fn r10_acks_zero_that_is_refused_closes_the_connection() {
    let dir = DataDir::new("r10-zero");
    let broker = dir.start(1);
    let mut client = broker.connect();
    let request = produce_request("missing", 0, 0, text_batch(&["x"]));
    let _ = client.send_produce(BY_NAME, &request);
    assert!(client.closes());
    broker.connect().create_topic("t", 1, &[]);
}

#[test]
fn r10_invalid_acks_append_nothing() {
    let dir = DataDir::new("r10-invalid");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    for acks in [2, -2, i16::MAX, i16::MIN] {
        let answer = client.produce_acks("t", 0, acks, text_batch(&["x"]));
        let got = (answer.error_code, answer.base_offset);
        assert_eq!(got, (ErrorCode::InvalidRequiredAcks, -1), "acks={acks}");
    }
    assert_eq!(client.produce("t", 0, text_batch(&["first"])), 0);
}

#[test]
fn r10_one_request_answers_every_partition_for_itself() {
    let dir = DataDir::new("r10-many");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("a", 4, &[]);
    client.create_topic("b", 4, &[]);
    let mut request = produce_request("a", 0, -1, text_batch(&["a0"]));
    for (topic, partition) in [("a", 3), ("b", 1), ("missing", 0), ("b", 9), ("b", 2)] {
        let text = format!("{topic}{partition}");
        let more = produce_request(topic, partition, -1, text_batch(&[&text]));
        request.topics.extend(more.topics);
    }
    let sent = client.send_produce(BY_NAME, &request);
    let answer = client.produced(sent);
    let got: Vec<_> = answer
        .topics
        .iter()
        .map(|t| {
            (
                t.name.as_str(),
                t.partitions[0].index,
                t.partitions[0].error_code,
            )
        })
        .collect();
    let (ok, unknown) = (ErrorCode::None, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(
        got,
        [
            ("a", 0, ok),
            ("a", 3, ok),
            ("b", 1, ok),
            ("missing", 0, unknown),
            ("b", 9, unknown),
            ("b", 2, ok),
        ]
    );
    for (topic, partition) in [("a", 0), ("a", 3), ("b", 1), ("b", 2)] {
        assert_eq!(
            texts(&client.read_all(topic, partition)),
            [format!("{topic}{partition}")]
        );
    }
}
