//! Incremental fetch sessions (KIP-227): R20.

use bytes::Bytes;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic};
use corelog_net::wire::{NO_TOPIC_ID, TopicId, WireStr};

use crate::common::requests::BY_NAME;
use crate::common::*;

/// A version that names topics by id.
const BY_ID: i16 = 17;

/// What one client fetches of one topic.
struct Session<'a> {
    client: &'a mut Connection,
    version: i16,
    name: &'a str,
    topic_id: TopicId,
    id: i32,
    epoch: i32,
}

impl<'a> Session<'a> {
    fn new(client: &'a mut Connection, version: i16, name: &'a str, topic_id: TopicId) -> Self {
        Session {
            client,
            version,
            name,
            topic_id,
            id: 0,
            epoch: 0,
        }
    }

    fn names(&self) -> (WireStr, TopicId) {
        match self.version {
            ..=BY_NAME => (WireStr::from(self.name), NO_TOPIC_ID),
            _ => (WireStr::default(), self.topic_id),
        }
    }

    /// A request of the session that names (partition, offset) pairs.
    fn request(&self, named: &[(i32, i64)], max_wait_ms: i32) -> FetchRequest {
        let partition = |&(index, fetch_offset): &(i32, i64)| FetchPartition {
            index,
            fetch_offset,
            max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        let (name, topic_id) = self.names();
        let topic = FetchTopic {
            name,
            topic_id,
            partitions: named.iter().map(partition).collect(),
        };
        FetchRequest {
            max_bytes: 50 << 20,
            min_bytes: 1,
            max_wait_ms,
            session_id: self.id,
            session_epoch: self.epoch,
            topics: if named.is_empty() {
                vec![]
            } else {
                vec![topic]
            },
            ..FetchRequest::default()
        }
    }

    fn ask(&mut self, request: &FetchRequest) -> FetchResponse<Bytes> {
        let sent = self.client.send_fetch(self.version, request);
        self.client.fetched(sent)
    }

    /// Sends the next request; (partition, bytes of records) of the answer.
    #[track_caller]
    fn next(&mut self, named: &[(i32, i64)]) -> Vec<(i32, usize)> {
        let answer = self.ask(&self.request(named, 0));
        self.took(&answer)
    }

    #[track_caller]
    fn took(&mut self, answer: &FetchResponse<Bytes>) -> Vec<(i32, usize)> {
        assert_eq!(answer.error_code, ErrorCode::None);
        assert!(self.epoch == 0 || answer.session_id == self.id);
        (self.id, self.epoch) = (answer.session_id, self.epoch + 1);
        let (name, topic_id) = self.names();
        let mut all = Vec::new();
        for topic in &answer.topics {
            assert_eq!((&topic.name, topic.topic_id), (&name, topic_id));
            let told = topic.partitions.iter();
            all.extend(told.map(|p| (p.index, p.record_bytes().len())));
        }
        all
    }
}

fn indexes(told: &[(i32, usize)]) -> Vec<i32> {
    told.iter().map(|(index, _)| *index).collect()
}

#[test]
fn r20_sessions_answer_only_what_is_new() {
    let dir = DataDir::new("sessions");
    for shards in [1, 3] {
        let broker = dir.start(shards);
        let mut producer = broker.connect();
        for version in [7, BY_NAME, BY_ID] {
            let name = format!("t{shards}-{version}");
            let topic_id = producer.create_topic(&name, 5, &[]);
            producer.produce(&name, 4, text_batch(&["before"]));
            let mut client = broker.connect();
            let mut session = Session::new(&mut client, version, &name, topic_id);
            let told = session.next(&[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
            assert_eq!(indexes(&told), [0, 1, 2, 3, 4]);
            assert!(told[4].1 > 0 && session.id > 0, "{told:?}");
            assert_eq!(session.next(&[(4, 1)]), [], "nothing is new");
            producer.produce(&name, 2, text_batch(&["one"]));
            let told = session.next(&[]);
            assert!(indexes(&told) == [2] && told[0].1 > 0, "{told:?}");
            // The client has not moved on: the same again, after those that gave nothing.
            producer.produce(&name, 0, text_batch(&["two"]));
            assert_eq!(indexes(&session.next(&[])), [0, 2]);
            assert_eq!(session.next(&[(2, 1), (0, 1)]), []);
            // A long poll of a session that names nothing is woken by any of its partitions.
            let waiting = session.request(&[], 30_000);
            let sent = session.client.send_fetch(session.version, &waiting);
            producer.produce(&name, 3, text_batch(&["three"]));
            let answer = session.client.fetched(sent);
            assert_eq!(indexes(&session.took(&answer)), [3]);
            // What is forgotten is not told any more.
            let (name_of, topic_id) = session.names();
            let mut forget = session.request(&[(3, 1)], 0);
            forget.forgotten_topics = vec![ForgottenTopic {
                name: name_of,
                topic_id,
                partitions: vec![1, 9],
            }];
            let answer = session.ask(&forget);
            assert_eq!(session.took(&answer), []);
            for partition in [0, 1] {
                producer.produce(&name, partition, text_batch(&["four"]));
            }
            assert_eq!(indexes(&session.next(&[])), [0]);
        }
        broker.stop();
    }
}

#[test]
fn r20_sessions_refuse_what_does_not_come_next() {
    let dir = DataDir::new("sessions-errors");
    let broker = dir.start(2);
    // Two connections, one on each shard.
    let (mut client, mut other) = (broker.connect(), broker.connect());
    let topic_id = client.create_topic("t", 1, &[]);
    let mut session = Session::new(&mut client, BY_NAME, "t", topic_id);
    assert_eq!(indexes(&session.next(&[(0, 0)])), [0]);
    let (id, epoch) = (session.id, session.epoch);
    let error = |session: &mut Session<'_>, id, epoch| {
        (session.id, session.epoch) = (id, epoch);
        let answer = session.ask(&session.request(&[], 0));
        assert!(answer.topics.is_empty() && answer.session_id == 0);
        answer.error_code
    };
    let invalid = ErrorCode::InvalidFetchSessionEpoch;
    let not_found = ErrorCode::FetchSessionIdNotFound;
    assert_eq!(error(&mut session, id, epoch + 1), invalid);
    for stranger in [0, id ^ 1, -1, i32::MAX, i32::MIN] {
        assert_eq!(error(&mut session, stranger, 1), not_found);
    }
    session.version = BY_ID;
    assert_eq!(
        error(&mut session, id, epoch),
        ErrorCode::FetchSessionTopicIdError
    );
    // A session is its shard's: the client starts anew elsewhere.
    let mut elsewhere = Session::new(&mut other, BY_NAME, "t", topic_id);
    assert_eq!(error(&mut elsewhere, id, epoch), not_found);
    (elsewhere.id, elsewhere.epoch) = (0, 0);
    elsewhere.next(&[(0, 0)]);
    let half = i32::MAX / 2;
    assert_ne!(elsewhere.id >= half, id >= half, "{} {id}", elsewhere.id);
    // Nothing of all this moved the session. The final epoch ends it.
    session.version = BY_NAME;
    (session.id, session.epoch) = (id, epoch);
    assert_eq!(session.next(&[]), []);
    assert_eq!(broker.metric("corelog_fetch_sessions", &[]), 2);
    session.epoch = -1;
    let answer = session.ask(&session.request(&[(0, 0)], 0));
    assert_eq!((answer.error_code, answer.session_id), (ErrorCode::None, 0));
    assert_eq!(answer.topics.len(), 1);
    assert_eq!(error(&mut session, id, epoch + 1), not_found);
    assert_eq!(broker.metric("corelog_fetch_sessions", &[]), 1);
}

#[test]
fn r20_sessions_tell_errors_every_time_and_their_end_once() {
    let dir = DataDir::new("sessions-topics");
    let broker = dir.start(2);
    let (mut client, mut admin) = (broker.connect(), broker.connect());
    let topic_id = admin.create_topic("t", 2, &[]);
    let by_id = &mut broker.connect();
    let mut by_id = Session::new(by_id, BY_ID, "t", topic_id);
    let mut session = Session::new(&mut client, BY_NAME, "t", topic_id);
    for session in [&mut session, &mut by_id] {
        session.next(&[(0, 0), (1, 0)]);
        assert_eq!(session.next(&[]), []);
    }
    assert_eq!(admin.delete_topic("t"), ErrorCode::None);
    for (session, error) in [
        (&mut session, ErrorCode::UnknownTopicOrPartition),
        (&mut by_id, ErrorCode::UnknownTopicId),
    ] {
        for _ in 0..3 {
            let answer = session.ask(&session.request(&[], 30_000));
            assert_eq!(indexes(&session.took(&answer)), [0, 1]);
            let partitions = &answer.topics[0].partitions;
            assert!(partitions.iter().all(|p| p.error_code == error));
        }
    }
    // A name may come back, an id does not.
    admin.create_topic("t", 2, &[]);
    assert_eq!(indexes(&session.next(&[])), [0, 1]);
    assert_eq!(session.next(&[]), []);
    assert_eq!(indexes(&by_id.next(&[])), [0, 1]);
}

#[test]
fn r20_fetch_sessions_are_limited_and_clients_without_one_are_served() {
    let dir = DataDir::new("sessions-slots");
    let broker = dir.start_with(1, &["max.incremental.fetch.session.cache.slots=2"]);
    let mut client = broker.connect();
    let topic_id = client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["x"]));
    let mut ids = Vec::new();
    for _ in 0..4 {
        let mut session = Session::new(&mut client, BY_NAME, "t", topic_id);
        assert_eq!(indexes(&session.next(&[(0, 0)])), [0]);
        ids.push(session.id != 0);
    }
    assert_eq!(ids, [true, true, false, false]);
    assert_eq!(broker.metric("corelog_fetch_sessions", &[]), 2);
    assert_eq!(broker.metric("corelog_fetch_session_partitions", &[]), 2);
    assert_eq!(
        broker.metric("corelog_fetch_session_evictions_total", &[]),
        0
    );
}
