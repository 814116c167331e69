//! A member of a consumer group: joins, is assigned partitions of the first topic, reads and commits,
//! and leaves, or dies without a word.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use corelog_net::client::Client;
use corelog_net::cold::messages::find_coordinator_request::FindCoordinatorRequestData;
use corelog_net::cold::messages::heartbeat_request::HeartbeatRequestData;
use corelog_net::cold::messages::join_group_request::{
    JoinGroupRequestData, JoinGroupRequestProtocol,
};
use corelog_net::cold::messages::join_group_response::JoinGroupResponseData;
use corelog_net::cold::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use corelog_net::cold::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use corelog_net::cold::messages::sync_group_request::{
    SyncGroupRequestAssignment, SyncGroupRequestData,
};
use corelog_net::error_code::ErrorCode;

use super::Actor;
use super::fetching::{Before, take};
use super::requests::{code, fetch, text, uuid};
use crate::oracle::log::TopicId;
use crate::stage::{Lost, Stage};

/// A member is missed after so long, in milliseconds.
const SESSION_MS: i32 = 3_000;
/// And waited for when it rebalances.
const REBALANCE_MS: i32 = 4_000;
/// A pause before another try, µs.
const PAUSE_US: u64 = 30_000;

struct Member {
    actor: Actor,
    group: String,
    id: String,
    generation: i32,
    /// Next offset by partition.
    positions: BTreeMap<i32, i64>,
}

/// Reads all that a group has committed, without being a member; `Err` says what does not serve.
pub async fn probe(stage: &Rc<Stage>, group: u64) -> Result<(), String> {
    let mut prober = Member::new(stage, group, 9);
    let Some((_, partitions)) = prober.topic() else {
        return Ok(());
    };
    prober.positions = (0..partitions).map(|partition| (partition, -1)).collect();
    let lost = |lost: Lost| format!("group {group}: {lost:?}");
    let client = prober.actor.client().await.map_err(lost)?;
    if !prober.find_coordinator(&client).await.map_err(lost)? {
        return Err(format!("group {group} has no coordinator"));
    }
    if !prober.find_positions(&client).await.map_err(lost)? {
        return Err(format!("group {group} does not tell its offsets"));
    }
    Ok(())
}

/// How a membership goes on.
enum Next {
    Stay,
    Rejoin,
    /// Its id is of no use any more.
    Forget,
}

/// Runs a member to the end of the history.
pub async fn run(stage: Rc<Stage>, group: u64, number: u64) {
    let _working = stage.begin();
    let mut member = Member::new(&stage, group, number);
    while !stage.finishing.get() {
        let _inside = stage.enter().await;
        while stage.is_open() && !stage.finishing.get() {
            if let Err(lost) = member.be_member().await {
                member.actor.lost(&lost).await;
            }
        }
        member.actor.disconnect();
    }
}

impl Member {
    fn new(stage: &Rc<Stage>, group: u64, number: u64) -> Member {
        let name = format!("group-{group}-{number}");
        Member {
            actor: Actor::new(stage, name, 200 + 10 * group + number),
            group: format!("group-{group}"),
            id: String::new(),
            generation: -1,
            positions: BTreeMap::new(),
        }
    }

    async fn be_member(&mut self) -> Result<(), Lost> {
        let client = self.actor.client().await?;
        if !self.find_coordinator(&client).await? || !self.join(&client).await? {
            self.actor.pause(PAUSE_US).await;
            return Ok(());
        }
        let stage = Rc::clone(&self.actor.stage);
        loop {
            if !stage.is_open() || stage.finishing.get() {
                return Ok(());
            }
            match self.work(&client).await? {
                Next::Stay => {}
                Next::Rejoin => return Ok(()),
                Next::Forget => {
                    self.id.clear();
                    return Ok(());
                }
            }
            match self.actor.chance.below(60) {
                0 => return self.leave(&client).await,
                1 => {
                    stage.hit("group: member vanished");
                    self.actor.disconnect();
                    self.id.clear();
                    self.actor.pause(2_000_000).await;
                    return Ok(());
                }
                _ => self.actor.pause(PAUSE_US).await,
            }
        }
    }

    async fn find_coordinator(&mut self, client: &Client) -> Result<bool, Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let request =
            FindCoordinatorRequestData::default().with_coordinator_keys(vec![text(&self.group)]);
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "FindCoordinator", calling)
            .await?;
        Ok(answer
            .coordinators
            .iter()
            .any(|found| found.error_code == 0))
    }

    async fn join_once(&mut self, client: &Client) -> Result<JoinGroupResponseData, Lost> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"subscription"));
        let request = JoinGroupRequestData::default()
            .with_group_id(text(&self.group))
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let stage = Rc::clone(&self.actor.stage);
        stage.step();
        stage
            .answer(&self.actor.name, "JoinGroup", client.call(&request))
            .await
    }

    /// Joins and syncs; false when that has to be tried again.
    async fn join(&mut self, client: &Client) -> Result<bool, Lost> {
        let mut answer = self.join_once(client).await?;
        if code(answer.error_code) == ErrorCode::MemberIdRequired {
            self.id = answer.member_id.to_string();
            answer = self.join_once(client).await?;
        }
        let stage = Rc::clone(&self.actor.stage);
        match code(answer.error_code) {
            ErrorCode::None => {}
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                self.id.clear();
                return Ok(false);
            }
            _ => return Ok(false),
        }
        stage.hit("group: joined");
        self.id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        let assignments = if answer.leader == answer.member_id {
            self.assign(&answer)
        } else {
            Vec::new()
        };
        self.sync(client, assignments).await
    }

    /// Partitions of the first topic, dealt out to all members.
    fn assign(&self, answer: &JoinGroupResponseData) -> Vec<SyncGroupRequestAssignment> {
        let partitions = self.topic().map_or(0, |(_, partitions)| partitions);
        let members = answer.members.len().max(1);
        let of = |(number, member): (
            usize,
            &corelog_net::cold::messages::join_group_response::JoinGroupResponseMember,
        )| {
            let own = (0..partitions).filter(|p| *p as usize % members == number);
            let bytes: Vec<u8> = own.map(|p| p as u8).collect();
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from(bytes))
        };
        answer.members.iter().enumerate().map(of).collect()
    }

    async fn sync(
        &mut self,
        client: &Client,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<bool, Lost> {
        let request = SyncGroupRequestData::default()
            .with_group_id(text(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments);
        let stage = Rc::clone(&self.actor.stage);
        stage.step();
        let calling = client.call(&request);
        let answer = stage.answer(&self.actor.name, "SyncGroup", calling).await?;
        match code(answer.error_code) {
            ErrorCode::None => {}
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                self.id.clear();
                return Ok(false);
            }
            _ => return Ok(false),
        }
        let own: Vec<i32> = answer.assignment.iter().map(|&p| i32::from(p)).collect();
        stage.say(format!(
            "{} owns {own:?} in generation {}",
            self.actor.name, self.generation
        ));
        {
            let mut oracle = stage.oracle.borrow_mut();
            let now_ns = stage.now_ns();
            let (group, id) = (&self.group, &self.id);
            let result = oracle
                .owners
                .assigned(group, self.generation, id, &own, now_ns);
            oracle.note(result);
            oracle.tally.hit("group: assigned");
        }
        self.positions = own.iter().map(|&partition| (partition, -1)).collect();
        self.find_positions(client).await
    }

    fn topic(&self) -> Option<(TopicId, i32)> {
        let stage = &self.actor.stage;
        let name = &stage.plan.topics[0].name;
        let oracle = stage.oracle.borrow();
        let found = oracle.topics.iter().find(|(_, topic)| topic.name == *name);
        found.map(|(id, topic)| (*id, topic.known.partitions))
    }

    /// Begins where the group has committed, else at the start.
    async fn find_positions(&mut self, client: &Client) -> Result<bool, Lost> {
        let Some((id, _)) = self.topic() else {
            return Ok(true);
        };
        if self.positions.is_empty() {
            return Ok(true);
        }
        let topic = OffsetFetchRequestTopics::default()
            .with_topic_id(uuid(&id))
            .with_partition_indexes(self.positions.keys().copied().collect());
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(text(&self.group))
            .with_member_epoch(-1)
            .with_topics(Some(vec![topic]));
        let request = OffsetFetchRequestData::default().with_groups(vec![group]);
        let stage = Rc::clone(&self.actor.stage);
        let asked_ns = stage.now_ns();
        let calling = client.call_at(10, &request);
        let answer = stage
            .answer(&self.actor.name, "OffsetFetch", calling)
            .await?;
        let Some(group) = answer.groups.into_iter().next() else {
            return Ok(false);
        };
        if group.error_code != 0 {
            return Ok(false);
        }
        let now_ns = stage.now_ns();
        for partition in group.topics.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != 0 {
                return Ok(false);
            }
            let (index, offset) = (partition.partition_index, partition.committed_offset);
            let mut oracle = stage.oracle.borrow_mut();
            let result = oracle
                .commits
                .read(&self.group, index, offset, asked_ns, now_ns);
            oracle.note(result);
            oracle.tally.hit("group: offsets fetched");
            self.positions.insert(index, offset.max(0));
        }
        Ok(true)
    }

    /// One round: heartbeat, records of one partition, a commit.
    async fn work(&mut self, client: &Client) -> Result<Next, Lost> {
        let stage = Rc::clone(&self.actor.stage);
        stage.step();
        let request = HeartbeatRequestData::default()
            .with_group_id(text(&self.group))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation);
        let asked_ns = stage.now_ns();
        let calling = client.call(&request);
        let answer = stage.answer(&self.actor.name, "Heartbeat", calling).await?;
        match code(answer.error_code) {
            ErrorCode::None => self.obeyed("a heartbeat", asked_ns),
            ErrorCode::RebalanceInProgress => {
                stage.hit("group: rebalance while a member");
                return Ok(Next::Rejoin);
            }
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => return Ok(Next::Forget),
            _ => return Ok(Next::Rejoin),
        }
        let own: Vec<i32> = self.positions.keys().copied().collect();
        if own.is_empty() {
            return Ok(Next::Stay);
        }
        let partition = self.actor.chance.pick(&own);
        self.consume(client, partition).await?;
        if self.actor.chance.one_in(2) {
            return self.commit(client, partition).await;
        }
        Ok(Next::Stay)
    }

    fn obeyed(&self, what: &str, asked_ns: u64) {
        let mut oracle = self.actor.stage.oracle.borrow_mut();
        let obeyed = oracle
            .owners
            .obeyed(&self.group, self.generation, &self.id, what, asked_ns);
        oracle.note(obeyed);
    }

    async fn consume(&mut self, client: &Client, partition: i32) -> Result<(), Lost> {
        let Some((id, _)) = self.topic() else {
            return Ok(());
        };
        let (stage, key) = (Rc::clone(&self.actor.stage), (id, partition));
        let from = self.positions.get(&partition).copied().unwrap_or(0);
        let before = Before::now(&stage, &key);
        let terms = (10_000, 10);
        let answer = fetch(&stage, &self.actor.name, client, key, from, terms).await?;
        let Some(answer) = answer else { return Ok(()) };
        // Where power loss took what the group had read, or retention what it had not, it goes on at
        // the start.
        if let Some(next) = take(&self.actor, client, key, from, &before, &answer).await? {
            self.positions.insert(partition, next);
        }
        Ok(())
    }

    async fn commit(&mut self, client: &Client, partition: i32) -> Result<Next, Lost> {
        let Some((id, _)) = self.topic() else {
            return Ok(Next::Stay);
        };
        let stage = Rc::clone(&self.actor.stage);
        let offset = self.positions.get(&partition).copied().unwrap_or(0);
        let of_partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text("")));
        let topic = OffsetCommitRequestTopic::default()
            .with_topic_id(uuid(&id))
            .with_partitions(vec![of_partition]);
        let request = OffsetCommitRequestData::default()
            .with_group_id(text(&self.group))
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(text(&self.id))
            .with_topics(vec![topic]);
        let asked_ns = stage.now_ns();
        let group = self.group.clone();
        let write = {
            let mut oracle = stage.oracle.borrow_mut();
            oracle.commits.sent(&group, partition, offset, asked_ns)
        };
        stage.step();
        let calling = client.call_at(10, &request);
        let answer = stage
            .answer(&self.actor.name, "OffsetCommit", calling)
            .await?;
        let told = answer
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .next();
        let error = told.map_or(ErrorCode::UnknownServerError, |p| code(p.error_code));
        stage.say(format!(
            "{} commits {offset} of partition {partition}: {}",
            self.actor.name,
            error.name()
        ));
        let mut oracle = stage.oracle.borrow_mut();
        match error {
            ErrorCode::None => {
                oracle
                    .commits
                    .acked(&group, partition, write, stage.now_ns());
                oracle.tally.hit("group: offsets committed");
                drop(oracle);
                self.obeyed("a commit", asked_ns);
                Ok(Next::Stay)
            }
            ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId => {
                oracle.commits.refused(&group, partition, write);
                Ok(Next::Forget)
            }
            ErrorCode::RebalanceInProgress => {
                oracle.commits.refused(&group, partition, write);
                Ok(Next::Rejoin)
            }
            _ => Ok(Next::Rejoin),
        }
    }

    async fn leave(&mut self, client: &Client) -> Result<(), Lost> {
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequestData::default()
            .with_group_id(text(&self.group))
            .with_members(vec![member]);
        let stage = Rc::clone(&self.actor.stage);
        let calling = client.call(&request);
        stage
            .answer(&self.actor.name, "LeaveGroup", calling)
            .await?;
        stage.hit("group: left");
        self.id.clear();
        self.actor.pause(200_000).await;
        Ok(())
    }
}
