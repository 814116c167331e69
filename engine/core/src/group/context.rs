//! What the logic of a group needs of its surroundings: the time, timers, replies and writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kacrab_protocol::generated::offset_commit_response::OffsetCommitResponseData;
use kacrab_protocol::generated::offset_delete_response::OffsetDeleteResponseData;
use kacrab_protocol::generated::offset_fetch_request::OffsetFetchRequestGroup;

use super::state::{CommittedOffset, Member};
use super::timers::{TimerKey, TimerKind, Timers};
use super::types::{Command, CommitTopic, GroupSettings, Response, WriteRecord};

/// An offset of a commit, once it is written.
#[derive(Debug)]
pub(super) struct NewOffset {
    pub topic: String,
    pub partition: i32,
    pub value: CommittedOffset,
}

/// What a tombstone removes.
#[derive(Debug, Clone)]
pub(super) enum Removal {
    Offset {
        group: Arc<str>,
        topic: String,
        partition: i32,
    },
    Group(Arc<str>),
}

/// Who waits for tombstones.
#[derive(Debug)]
pub(super) enum RemovalReply {
    Nobody,
    OffsetDelete {
        token: u64,
        response: OffsetDeleteResponseData,
    },
    DeleteGroup {
        token: u64,
        group: Arc<str>,
    },
}

/// A static member that took the place of its predecessor while the group was stable.
#[derive(Debug)]
pub(super) struct StaticSwap {
    pub group: Arc<str>,
    pub group_instance_id: String,
    pub new_member_id: Arc<str>,
    /// The predecessor, as it was.
    pub old_member: Member,
    /// The leader before the change.
    pub old_leader: Option<Arc<str>>,
    pub generation: i32,
    pub token: u64,
    pub version: i16,
}

/// What a write does when it ends.
#[derive(Debug)]
pub(super) enum Effect {
    Commit {
        token: u64,
        version: i16,
        group: String,
        topics: Vec<CommitTopic>,
        response: OffsetCommitResponseData,
        offsets: Vec<NewOffset>,
    },
    Remove {
        removals: Vec<Removal>,
        reply: RemovalReply,
    },
    /// A group was created by a join.
    NewGroup {
        group: Arc<str>,
    },
    /// A group lost its last member.
    EmptyGroup,
    /// The leader's assignment.
    Assignment {
        group: Arc<str>,
        generation: i32,
        assignments: BTreeMap<Arc<str>, Bytes>,
    },
    StaticSwap(Box<StaticSwap>),
}

/// What waits in the order of writes.
#[derive(Debug)]
pub(super) enum Pending {
    Write {
        write: u64,
        effect: Effect,
    },
    /// An OffsetFetch that wants to see what was asked before it.
    Fetch {
        token: u64,
        group: OffsetFetchRequestGroup,
    },
}

/// The surroundings.
#[derive(Debug)]
pub(super) struct Context {
    pub settings: GroupSettings,
    pub now_ms: i64,
    pub random: [u8; 16],
    pub timers: Timers,
    /// Tokens whose reply is still to come.
    pub open: BTreeSet<u64>,
    pub pending: VecDeque<Pending>,
    pub commands: Vec<Command>,
    pub next_write: u64,
}

impl Context {
    pub fn new(settings: GroupSettings) -> Context {
        Context {
            settings,
            now_ms: 0,
            random: [0; 16],
            timers: Timers::default(),
            open: BTreeSet::new(),
            pending: VecDeque::new(),
            commands: Vec::new(),
            next_write: 0,
        }
    }

    /// Answers, unless the asker is gone.
    pub fn reply(&mut self, token: u64, response: Response) {
        if self.open.remove(&token) {
            self.commands.push(Command::Reply { token, response });
        }
    }

    /// Asks for a write.
    pub fn write(&mut self, records: Vec<WriteRecord>, effect: Effect) {
        let write = self.next_write;
        self.next_write += 1;
        self.commands.push(Command::Write { write, records });
        self.pending.push_back(Pending::Write { write, effect });
    }

    /// The effects that are being written.
    pub fn effects(&mut self) -> impl Iterator<Item = &mut Effect> {
        self.pending.iter_mut().filter_map(|pending| match pending {
            Pending::Write { effect, .. } => Some(effect),
            Pending::Fetch { .. } => None,
        })
    }

    /// The offsets of a group that are being written: topic, partition.
    pub fn offsets_in_flight(&self, group_id: &str) -> BTreeSet<(String, i32)> {
        let mut found = BTreeSet::new();
        for pending in &self.pending {
            if let Pending::Write {
                effect: Effect::Commit { group, offsets, .. },
                ..
            } = pending
                && group == group_id
            {
                found.extend(offsets.iter().map(|o| (o.topic.clone(), o.partition)));
            }
        }
        found
    }

    /// Sets a timer of a group to this long from now.
    pub fn set_timer(&mut self, group: &Arc<str>, kind: TimerKind, after_ms: i64) {
        let key = TimerKey {
            group: Arc::clone(group),
            kind,
        };
        self.timers.set(key, self.now_ms.saturating_add(after_ms));
    }

    pub fn cancel_timer(&mut self, group: &Arc<str>, kind: TimerKind) {
        self.timers.cancel(&TimerKey {
            group: Arc::clone(group),
            kind,
        });
    }

    /// A new id: what the member is called, and a random UUID.
    pub fn new_member_id(&self, prefix: &str) -> Arc<str> {
        let mut bits = u128::from_be_bytes(self.random);
        // Version 4, variant 1.
        bits = bits & !(0xf000 << 64) | (0x4000 << 64);
        bits = bits & !(0xc000 << 48) | (0x8000 << 48);
        let hex = format!("{bits:032x}");
        Arc::from(format!(
            "{prefix}-{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ))
    }
}
