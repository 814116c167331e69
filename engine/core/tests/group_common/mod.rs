//! Drives a coordinator of groups: a clock, a disk that may wait and fail, and the requests.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use corelog_core::Uuid;
use corelog_core::group::{
    Client, Command, CommitPartition, CommitTopic, Event, GroupCoordinator, GroupSettings, Input,
    LoadRecord, Request, Response, WriteError, WriteRecord,
};
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::describe_groups_response::DescribedGroup;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::join_group_request::{
    JoinGroupRequestData, JoinGroupRequestProtocol,
};
use kacrab_protocol::generated::join_group_response::JoinGroupResponseData;
use kacrab_protocol::generated::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use kacrab_protocol::generated::leave_group_response::LeaveGroupResponseData;
use kacrab_protocol::generated::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kacrab_protocol::generated::sync_group_request::{
    SyncGroupRequestAssignment, SyncGroupRequestData,
};
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

pub const NONE: i16 = 0;
pub const UNKNOWN_SERVER_ERROR: i16 = -1;
pub const OFFSET_METADATA_TOO_LARGE: i16 = 12;
pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
pub const NOT_COORDINATOR: i16 = 16;
pub const ILLEGAL_GENERATION: i16 = 22;
pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
pub const INVALID_GROUP_ID: i16 = 24;
pub const UNKNOWN_MEMBER_ID: i16 = 25;
pub const INVALID_SESSION_TIMEOUT: i16 = 26;
pub const REBALANCE_IN_PROGRESS: i16 = 27;
pub const NON_EMPTY_GROUP: i16 = 68;
pub const GROUP_ID_NOT_FOUND: i16 = 69;
pub const MEMBER_ID_REQUIRED: i16 = 79;
pub const GROUP_MAX_SIZE_REACHED: i16 = 81;
pub const FENCED_INSTANCE_ID: i16 = 82;
pub const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;

pub const SESSION_MS: i64 = 10_000;
pub const REBALANCE_MS: i64 = 60_000;

pub fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// A subscription as consumers write it.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    Bytes::from(bytes)
}

/// A coordinator with its surroundings.
pub struct Driver {
    pub coordinator: GroupCoordinator,
    pub settings: GroupSettings,
    pub now_ms: i64,
    pub next_token: u64,
    random: u128,
    pub client: Client,
    pub replies: BTreeMap<u64, Response>,
    /// Tokens that had their reply.
    pub answered: BTreeSet<u64>,
    /// Writes that have not ended.
    pub writes: VecDeque<(u64, Vec<WriteRecord>)>,
    /// What is on the disk.
    pub log: Vec<LoadRecord>,
    /// Writes end well at once.
    pub auto: bool,
}

impl Driver {
    /// An empty coordinator that still loads.
    pub fn loading(settings: GroupSettings) -> Driver {
        Driver {
            coordinator: GroupCoordinator::new(settings.clone()),
            settings,
            now_ms: 1_000_000,
            next_token: 0,
            random: 0,
            client: Client {
                id: "client".to_owned(),
                host: "/127.0.0.1".to_owned(),
            },
            replies: BTreeMap::new(),
            answered: BTreeSet::new(),
            writes: VecDeque::new(),
            log: Vec::new(),
            auto: true,
        }
    }

    pub fn new(settings: GroupSettings) -> Driver {
        let mut driver = Driver::loading(settings);
        driver.event(Event::Loaded);
        driver
    }

    /// No initial delay: a first member has its generation at once.
    pub fn quick() -> Driver {
        Driver::new(GroupSettings {
            initial_rebalance_delay_ms: 0,
            ..GroupSettings::default()
        })
    }

    pub fn event(&mut self, event: Event) {
        self.random += 1;
        let input = Input {
            now_ms: self.now_ms,
            random: (self.random << 64 | self.random).to_be_bytes(),
        };
        for command in self.coordinator.handle(input, event) {
            match command {
                Command::Reply { token, response } => {
                    assert!(token < self.next_token, "a token that was never given");
                    assert!(
                        self.answered.insert(token),
                        "token {token} was answered twice"
                    );
                    self.replies.insert(token, response);
                }
                Command::Write { write, records } => {
                    assert!(!records.is_empty(), "a write without records");
                    self.writes.push_back((write, records));
                }
            }
        }
        if self.auto {
            while !self.writes.is_empty() {
                self.finish(Ok(()));
            }
        }
    }

    /// Ends the earliest write.
    pub fn finish(&mut self, result: Result<(), WriteError>) -> Vec<WriteRecord> {
        let (write, records) = self.writes.pop_front().expect("something is being written");
        if result.is_ok() {
            self.append(&records);
        }
        self.event(Event::Written { write, result });
        records
    }

    pub fn append(&mut self, records: &[WriteRecord]) {
        for WriteRecord { key, value } in records {
            self.log.push(LoadRecord {
                key: key.clone(),
                value: value.clone(),
                timestamp_ms: self.now_ms,
            });
        }
    }

    pub fn ask(&mut self, request: Request) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let client = self.client.clone();
        self.event(Event::Request {
            token,
            client,
            request,
        });
        token
    }

    /// Asks what is answered at once.
    pub fn answer(&mut self, request: Request) -> Response {
        let token = self.ask(request);
        self.take(token)
    }

    pub fn take(&mut self, token: u64) -> Response {
        let reply = self.replies.remove(&token);
        reply.unwrap_or_else(|| panic!("token {token} has no answer"))
    }

    pub fn is_parked(&self, token: u64) -> bool {
        !self.replies.contains_key(&token)
    }

    /// Lets time pass; every deadline on the way is kept.
    pub fn advance(&mut self, by_ms: i64) {
        let until_ms = self.now_ms + by_ms;
        for round in 0.. {
            assert!(round < 100_000, "a deadline that stays");
            match self.coordinator.next_deadline_ms() {
                Some(at_ms) if at_ms <= until_ms => self.now_ms = self.now_ms.max(at_ms),
                _ => break,
            }
            self.event(Event::Tick);
        }
        self.now_ms = until_ms;
    }

    /// A coordinator made of what is on the disk.
    pub fn reloaded(&self) -> Driver {
        let mut driver = Driver::loading(self.settings.clone());
        driver.now_ms = self.now_ms;
        driver.next_token = self.next_token;
        driver.random = self.random;
        driver.log.clone_from(&self.log);
        // In two parts, as it may come.
        let (first, second) = self.log.split_at(self.log.len() / 2);
        driver.event(Event::Load(first.to_vec()));
        driver.event(Event::Load(second.to_vec()));
        driver.event(Event::Loaded);
        driver
    }

    pub fn committed(&self) -> Vec<(String, String, i32, i64)> {
        let all = self.coordinator.committed();
        all.map(|(g, t, p, o)| (g.to_owned(), t.to_owned(), p, o))
            .collect()
    }

    pub fn describe(&mut self, group: &str) -> DescribedGroup {
        let request = Request::Describe {
            version: 5,
            group_id: group.to_owned(),
            include_authorized_operations: false,
        };
        match self.answer(request) {
            Response::Describe(described) => described,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self, group: &str) -> String {
        self.describe(group).group_state.as_str().to_owned()
    }

    /// A consumer that joins, with ids as they are asked for; returns the token of the JoinGroup
    /// that waits or was answered.
    pub fn enter(&mut self, group: &str) -> (String, u64) {
        let token = self.ask(join(group, "", None));
        let id = join_of(self.take(token));
        assert_eq!(id.error_code, MEMBER_ID_REQUIRED);
        let id = id.member_id.as_str().to_owned();
        let token = self.ask(join(group, &id, None));
        (id, token)
    }

    /// A stable group of one: its member id and generation.
    pub fn stable(&mut self, group: &str) -> (String, i32) {
        let (id, token) = self.enter(group);
        let delay_ms = self.settings.initial_rebalance_delay_ms;
        self.advance(delay_ms);
        let joined = join_of(self.take(token));
        assert_eq!(joined.error_code, NONE);
        let token = self.ask(sync(group, &id, joined.generation_id, &[(&id, b"all")]));
        assert_eq!(sync_of(self.take(token)).assignment, &b"all"[..]);
        (id, joined.generation_id)
    }

    pub fn commit(&mut self, request: Request) -> i16 {
        let token = self.ask(request);
        commit_code(&self.take(token))
    }

    pub fn fetch(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        match self.answer(fetch(group, Some(&[(topic, partition)]), false)) {
            Response::OffsetFetch(group) => {
                assert_eq!(group.error_code, NONE);
                group.topics[0].partitions[0].committed_offset
            }
            other => panic!("{other:?}"),
        }
    }
}

/// JoinGroup 5 of a consumer of topic `t`.
pub fn join(group: &str, member_id: &str, instance: Option<&str>) -> Request {
    join_as(9, group, member_id, instance, &[("range", &["t"])])
}

pub fn join_data(
    group: &str,
    member_id: &str,
    instance: Option<&str>,
    protocols: &[(&str, &[&str])],
) -> JoinGroupRequestData {
    let protocols = protocols.iter().map(|(name, topics)| {
        JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(subscription(topics))
    });
    JoinGroupRequestData::default()
        .with_group_id(text(group))
        .with_member_id(text(member_id))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_session_timeout_ms(SESSION_MS as i32)
        .with_rebalance_timeout_ms(REBALANCE_MS as i32)
        .with_protocols(protocols.collect())
}

pub fn join_as(
    version: i16,
    group: &str,
    member_id: &str,
    instance: Option<&str>,
    protocols: &[(&str, &[&str])],
) -> Request {
    Request::Join {
        version,
        request: join_data(group, member_id, instance, protocols),
    }
}

pub fn sync_data(
    group: &str,
    member_id: &str,
    generation: i32,
    assignments: &[(&str, &[u8])],
) -> SyncGroupRequestData {
    let assignments = assignments.iter().map(|(id, bytes)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(id))
            .with_assignment(Bytes::copy_from_slice(bytes))
    });
    SyncGroupRequestData::default()
        .with_group_id(text(group))
        .with_member_id(text(member_id))
        .with_generation_id(generation)
        .with_assignments(assignments.collect())
}

pub fn sync(
    group: &str,
    member_id: &str,
    generation: i32,
    assignments: &[(&str, &[u8])],
) -> Request {
    Request::Sync {
        version: 3,
        request: sync_data(group, member_id, generation, assignments),
    }
}

pub fn heartbeat(group: &str, member_id: &str, generation: i32, instance: Option<&str>) -> Request {
    Request::Heartbeat {
        request: HeartbeatRequestData::default()
            .with_group_id(text(group))
            .with_member_id(text(member_id))
            .with_generation_id(generation)
            .with_group_instance_id(instance.map(text)),
    }
}

pub fn leave(group: &str, members: &[(&str, Option<&str>)]) -> Request {
    let members = members.iter().map(|(id, instance)| {
        MemberIdentity::default()
            .with_member_id(text(id))
            .with_group_instance_id(instance.map(text))
    });
    Request::Leave {
        version: 5,
        request: LeaveGroupRequestData::default()
            .with_group_id(text(group))
            .with_members(members.collect()),
    }
}

pub fn commit(
    group: &str,
    member_id: &str,
    generation: i32,
    offsets: &[(&str, i32, i64)],
) -> Request {
    let topics = offsets
        .iter()
        .map(|(topic, partition, offset)| CommitTopic {
            name: (*topic).to_owned(),
            topic_id: Uuid::from_parts(7, 7),
            partitions: vec![CommitPartition {
                partition: *partition,
                offset: *offset,
                leader_epoch: 3,
                metadata: Some("m".to_owned()),
                error_code: 0,
            }],
        });
    Request::OffsetCommit {
        version: 9,
        group_id: group.to_owned(),
        generation,
        member_id: member_id.to_owned(),
        group_instance_id: None,
        retention_time_ms: -1,
        topics: topics.collect(),
    }
}

pub fn fetch(group: &str, topics: Option<&[(&str, i32)]>, require_stable: bool) -> Request {
    let topics = topics.map(|topics| {
        let topics = topics.iter().map(|(topic, partition)| {
            OffsetFetchRequestTopics::default()
                .with_name(text(topic))
                .with_partition_indexes(vec![*partition])
        });
        topics.collect()
    });
    Request::OffsetFetch {
        group: OffsetFetchRequestGroup::default()
            .with_group_id(text(group))
            .with_topics(topics),
        require_stable,
    }
}

pub fn delete(group: &str) -> Request {
    Request::Delete {
        group_id: group.to_owned(),
    }
}

pub fn list(states: &[&str], types: &[&str]) -> Request {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Request::List {
        states_filter: owned(states),
        types_filter: owned(types),
    }
}

pub fn join_of(response: Response) -> JoinGroupResponseData {
    match response {
        Response::Join(data) => data,
        other => panic!("{other:?}"),
    }
}

pub fn sync_of(response: Response) -> SyncGroupResponseData {
    match response {
        Response::Sync(data) => data,
        other => panic!("{other:?}"),
    }
}

pub fn leave_of(response: Response) -> LeaveGroupResponseData {
    match response {
        Response::Leave(data) => data,
        other => panic!("{other:?}"),
    }
}

/// The code of the first partition of an OffsetCommit's answer.
pub fn commit_code(response: &Response) -> i16 {
    match response {
        Response::OffsetCommit(data) => data.topics[0].partitions[0].error_code,
        other => panic!("{other:?}"),
    }
}

/// The code an answer is about: the first one that is not 0.
pub fn code(response: &Response) -> i16 {
    let first = |codes: Vec<i16>| codes.into_iter().find(|code| *code != 0).unwrap_or(0);
    match response {
        Response::Join(data) => data.error_code,
        Response::Sync(data) => data.error_code,
        Response::Heartbeat(data) => data.error_code,
        Response::Leave(data) => {
            let members = data.members.iter().map(|m| m.error_code);
            first(std::iter::once(data.error_code).chain(members).collect())
        }
        Response::OffsetCommit(data) => {
            let partitions = data.topics.iter().flat_map(|topic| &topic.partitions);
            first(partitions.map(|p| p.error_code).collect())
        }
        Response::OffsetFetch(data) => data.error_code,
        Response::OffsetDelete(data) => {
            let partitions = data.topics.iter().flat_map(|topic| &topic.partitions);
            let codes = partitions.map(|p| p.error_code);
            first(std::iter::once(data.error_code).chain(codes).collect())
        }
        Response::Describe(data) => data.error_code,
        Response::Delete(data) => data.error_code,
        Response::List(data) => data.error_code,
    }
}

/// A stable group of one static member: its member id and generation.
pub fn stable_static(d: &mut Driver, group: &str) -> (String, i32) {
    let token = d.ask(join(group, "", Some("i")));
    d.advance(d.settings.initial_rebalance_delay_ms);
    let joined = join_of(d.take(token));
    let id = joined.member_id.as_str().to_owned();
    let token = d.ask(sync(group, &id, joined.generation_id, &[(&id, b"s")]));
    assert_eq!(sync_of(d.take(token)).error_code, NONE);
    (id, joined.generation_id)
}
