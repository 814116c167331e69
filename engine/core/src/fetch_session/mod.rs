//! Incremental fetch sessions (KIP-227): what a client fetches is remembered, so that its requests
//! name only what changes and its answers only what is new.
//!
//! One [`SessionCache`] per shard; the shard's number is in the session's id. Request in, [`Plan`]
//! out; when the partitions were read, the answers are matched with what the client was told last.
//! Time, chance and the bytes it may hold are arguments. Source: KIP-227, KIP-516 for topic ids.

mod cache;
mod session;

use std::sync::Arc;

pub use self::cache::{CacheLimits, SessionCache};
use crate::Uuid;

/// Session of a request that has none.
pub const NO_SESSION: i32 = 0;
/// Epoch of a request that opens a session.
pub const INITIAL_EPOCH: i32 = 0;
/// Epoch of a request that wants no session, and closes the one it names.
pub const FINAL_EPOCH: i32 = -1;

/// The epoch after this one: it grows, and goes on with 1 after the largest.
pub fn next_epoch(epoch: i32) -> i32 {
    match epoch {
        ..0 => FINAL_EPOCH,
        i32::MAX => 1,
        epoch => epoch + 1,
    }
}

/// A topic as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name (Fetch up to version 12).
    Name(Arc<str>),
    /// By id (from version 13).
    Id(Uuid),
}

impl TopicRef {
    fn name_bytes(&self) -> usize {
        match self {
            TopicRef::Name(name) => name.len(),
            TopicRef::Id(_) => 0,
        }
    }
}

/// What is asked of one partition; a later request of the session may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch the client believes in; -1 = it does not say.
    pub current_leader_epoch: i32,
    /// Epoch of the last batch the client has; -1 = it does not say.
    pub last_fetched_epoch: i32,
    /// At most so many bytes.
    pub max_bytes: i32,
}

/// What the client was told last about one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// High watermark; -1 = none, or an error, so that the next good answer is sent.
    pub high_watermark: i64,
    /// First offset of the log.
    pub log_start_offset: i64,
}

impl Seen {
    /// Nothing was told.
    pub const NOTHING: Seen = Seen {
        high_watermark: -1,
        log_start_offset: -1,
    };
}

/// One partition to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its topic.
    pub topic: TopicRef,
    /// Its number.
    pub index: i32,
    /// What is asked.
    pub terms: Terms,
}

/// One partition of a [`Plan::Incremental`]: what is asked, and what the client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What is asked.
    pub wanted: Wanted,
    /// What the client was told last.
    pub seen: Seen,
}

/// What was found in one partition, as far as sessions care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// High watermark and log start of the answer.
    pub marks: Seen,
    /// It has records.
    pub has_records: bool,
    /// It has an error.
    pub is_error: bool,
    /// The client's log parts from this one.
    pub diverges: bool,
}

impl Found {
    /// The partition belongs in an incremental answer to a client that was told `seen`.
    pub fn is_news_to(&self, seen: &Seen) -> bool {
        self.has_records || self.is_error || self.diverges || self.marks != *seen
    }

    /// What the client knows once it has the answer.
    fn told(&self) -> Seen {
        let high_watermark = match self.is_error {
            true => Seen::NOTHING.high_watermark,
            false => self.marks.high_watermark,
        };
        Seen {
            high_watermark,
            ..self.marks
        }
    }
}

/// The session's part of a Fetch request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// Session, or [`NO_SESSION`].
    pub session_id: i32,
    /// [`INITIAL_EPOCH`], [`FINAL_EPOCH`], or the next number of the session.
    pub epoch: i32,
    /// The version names topics by id.
    pub by_id: bool,
    /// It comes from a follower of this cluster, whose sessions go before those of consumers.
    pub privileged: bool,
    /// Partitions named: all for a full request, the new and changed ones for an incremental one.
    pub wanted: Vec<Wanted>,
    /// Partitions that leave the session.
    pub forgotten: Vec<(TopicRef, i32)>,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// All that is named is answered, and no session is made.
    Sessionless(Vec<Wanted>),
    /// All that is named is answered; [`SessionCache::create`] then tries to make a session.
    Full(Vec<Wanted>),
    /// What the session holds is looked at, what is news is answered.
    Incremental {
        /// The session.
        session_id: i32,
        /// Its epoch after this request.
        epoch: i32,
        /// All its partitions, those that gave data last at the end.
        planned: Vec<Planned>,
    },
    /// There is no such session here. The client opens a new one.
    IdNotFound,
    /// It is not the number that comes next.
    InvalidEpoch,
    /// The session names topics by the other of name and id.
    TopicIdError,
}
