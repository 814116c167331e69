//! A group and its members: what is known, and the rules that need nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::generated::ErrorCode;

use super::subscription;
use crate::Uuid;

/// Protocol type of consumers.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// State of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Members (re)join; who has joined waits for its answer.
    PreparingRebalance,
    /// The generation is decided; members wait for the leader's assignment.
    CompletingRebalance,
    /// Every member may know its assignment.
    Stable,
    /// Its tombstone is being written.
    Dead,
}

impl GroupState {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
            GroupState::Dead => "Dead",
        }
    }
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parked {
    pub token: u64,
    pub version: i16,
}

/// Name of an assignor and what the member says for it.
pub(super) type Protocols = Vec<(String, Bytes)>;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub id: Arc<str>,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the member's order of preference; names are unique.
    pub protocols: Protocols,
    pub assignment: Bytes,
    pub join: Option<Parked>,
    pub sync: Option<Parked>,
    /// It has not yet got the answer to its first JoinGroup: it cannot send heartbeats.
    pub is_new: bool,
}

impl Member {
    /// What the member says for a protocol; empty when it does not know it.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    /// Whether silence is no sign of death: it waits for us.
    pub fn is_waiting(&self) -> bool {
        !self.is_new && (self.join.is_some() || self.sync.is_some())
    }
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommittedOffset {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp_ms: i64,
    pub expire_timestamp_ms: Option<i64>,
    pub topic_id: Uuid,
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub id: Arc<str>,
    pub state: GroupState,
    /// Before the last change.
    pub previous_state: GroupState,
    pub state_since_ms: Option<i64>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub generation: i32,
    pub leader: Option<Arc<str>>,
    pub members: BTreeMap<Arc<str>, Member>,
    /// Member id of each static member.
    pub static_members: BTreeMap<String, Arc<str>>,
    /// Ids that were given out and have not joined yet.
    pub pending_join: BTreeSet<Arc<str>>,
    /// Members that have not asked for their assignment yet.
    pub pending_sync: BTreeSet<Arc<str>>,
    /// Topics of the members of a consumer group; `None` = not known.
    pub subscribed: Option<BTreeSet<String>>,
    /// A member came during the initial delay.
    pub new_member_added: bool,
    /// While the initial delay runs: its length, and how much longer it may become.
    pub initial_delay: Option<(i64, i64)>,
    /// The leader's assignment of this generation is being written.
    pub assignment_in_flight: bool,
    pub offsets: BTreeMap<String, BTreeMap<i32, CommittedOffset>>,
    supported: BTreeMap<String, usize>,
    awaiting_join: usize,
}

impl Group {
    /// A group without anything.
    pub fn new(id: Arc<str>, state_since_ms: Option<i64>) -> Group {
        Group {
            id,
            state: GroupState::Empty,
            previous_state: GroupState::Dead,
            state_since_ms,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed: None,
            new_member_added: false,
            initial_delay: None,
            assignment_in_flight: false,
            offsets: BTreeMap::new(),
            supported: BTreeMap::new(),
            awaiting_join: 0,
        }
    }

    pub fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn transition(&mut self, state: GroupState, now_ms: i64) {
        self.previous_state = self.state;
        self.state = state;
        self.state_since_ms = Some(now_ms);
    }

    /// Takes in a member that is not one yet.
    pub fn add(&mut self, member: Member, protocol_type: &str) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        if let Some(instance) = &member.group_instance_id {
            self.static_members
                .insert(instance.clone(), Arc::clone(&member.id));
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&member.id));
        }
        self.pending_join.remove(&member.id);
        self.count_protocols(&member.protocols, true);
        self.awaiting_join += usize::from(member.join.is_some());
        self.members.insert(Arc::clone(&member.id), member);
    }

    /// Takes a member out; whoever waited for it is the caller's to answer.
    pub fn remove(&mut self, member_id: &str) -> Option<Member> {
        self.pending_join.remove(member_id);
        self.pending_sync.remove(member_id);
        let member = self.members.remove(member_id)?;
        self.count_protocols(&member.protocols, false);
        self.awaiting_join -= usize::from(member.join.is_some());
        if let Some(instance) = &member.group_instance_id {
            self.static_members.remove(instance);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Gives a static member another id; it keeps everything but the requests that wait, which
    /// the caller takes from the member that is returned.
    pub fn replace_static(&mut self, old_id: &str, new_id: &Arc<str>) -> Option<Member> {
        let old = self.members.remove(old_id)?;
        self.awaiting_join -= usize::from(old.join.is_some());
        self.pending_sync.remove(old_id);
        let new = Member {
            id: Arc::clone(new_id),
            join: None,
            sync: None,
            is_new: false,
            ..old.clone()
        };
        if let Some(instance) = &new.group_instance_id {
            self.static_members
                .insert(instance.clone(), Arc::clone(new_id));
        }
        if self.is_leader(old_id) {
            self.leader = Some(Arc::clone(new_id));
        }
        self.members.insert(Arc::clone(new_id), new);
        Some(old)
    }

    /// Changes what a member says of itself.
    pub fn update(&mut self, member_id: &str, protocols: Protocols, timeouts_ms: (i32, i32)) {
        let Some(mut member) = self.members.remove(member_id) else {
            return;
        };
        self.count_protocols(&member.protocols, false);
        self.count_protocols(&protocols, true);
        member.protocols = protocols;
        (member.rebalance_timeout_ms, member.session_timeout_ms) = timeouts_ms;
        self.members.insert(Arc::clone(&member.id), member);
    }

    /// Lets a member's JoinGroup wait; returns the one that waited before.
    pub fn park_join(&mut self, member_id: &str, parked: Parked) -> Option<Parked> {
        let member = self.members.get_mut(member_id)?;
        let before = member.join.replace(parked);
        self.awaiting_join += usize::from(before.is_none());
        before
    }

    /// Takes the JoinGroup of a member that waits.
    pub fn take_join(&mut self, member_id: &str) -> Option<Parked> {
        let parked = self.members.get_mut(member_id)?.join.take()?;
        self.awaiting_join -= 1;
        Some(parked)
    }

    pub fn awaiting_join(&self) -> usize {
        self.awaiting_join
    }

    pub fn has_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_join.is_empty()
    }

    /// The longest that any member wants to be waited for.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        let longest = self.members.values().map(|m| m.rebalance_timeout_ms).max();
        i64::from(longest.unwrap_or(0).max(0))
    }

    /// Whether a member with these protocols fits to the others.
    pub fn supports(&self, protocol_type: &str, protocols: &Protocols) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| {
                self.supported.get(name).copied().unwrap_or(0) == self.members.len()
            })
    }

    /// The protocol that all members know and most of them prefer; the first by name among equals.
    pub fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|(name, _)| {
                self.supported.get(name).copied().unwrap_or(0) == self.members.len()
            })?;
            *votes.entry(vote.0.as_str()).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        let winner = votes.into_iter().find(|(_, count)| *count == most)?;
        Some(winner.0.to_owned())
    }

    /// Makes a member that has joined the leader, where the leader has not. `false` when nobody
    /// has.
    pub fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &Arc<str>| self.members.get(id).is_some_and(|m| m.join.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let next = self.members.values().find(|member| member.join.is_some());
        match next {
            Some(member) => {
                self.leader = Some(Arc::clone(&member.id));
                true
            }
            None => false,
        }
    }

    /// Counts a generation: with members the assignment is next, without the group is empty.
    pub fn begin_generation(&mut self, now_ms: i64) {
        // After the greatest it starts over: a generation is never negative.
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.pending_sync.clear();
        self.assignment_in_flight = false;
        let state = if self.members.is_empty() {
            self.protocol = None;
            GroupState::Empty
        } else {
            self.protocol = Some(
                self.select_protocol()
                    .expect("a join without a protocol that all members know is refused"),
            );
            GroupState::CompletingRebalance
        };
        self.subscribed = self.subscribed_topics();
        self.transition(state, now_ms);
    }

    /// The topics of all members, where they can be told.
    pub fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.is_consumer() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription::topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer(),
        }
    }

    /// Whether a request's member is a member, and the one that holds its instance id.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID.
    pub fn check_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if **holder != *member_id => {
                    return Err(ErrorCode::FencedInstanceId);
                }
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ErrorCode::UnknownMemberId)
        }
    }

    pub fn put_offset(&mut self, topic: String, partition: i32, value: CommittedOffset) {
        self.offsets
            .entry(topic)
            .or_default()
            .insert(partition, value);
    }

    pub fn remove_offset(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.offsets.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.offsets.remove(topic);
            }
        }
    }

    pub fn offset(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.offsets.get(topic)?.get(&partition)
    }

    fn count_protocols(&mut self, protocols: &Protocols, add: bool) {
        for (name, _) in protocols {
            if add {
                *self.supported.entry(name.clone()).or_default() += 1;
            } else if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
    }
}
