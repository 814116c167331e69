//! The sessions of one shard: who has one, and who must go when another wants to come.

use std::collections::{BTreeMap, BTreeSet};

use super::session::{PARTITION_BYTES, SESSION_BYTES, Session};
use super::{
    FINAL_EPOCH, Found, INITIAL_EPOCH, NO_SESSION, Plan, Planned, SessionRequest, Wanted,
    next_epoch,
};

/// Bounds of one shard's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Sessions.
    pub slots: usize,
    /// Bytes of memory.
    pub bytes: usize,
    /// Milliseconds without use after which a session must give way to any other, and age from
    /// which it must give way to a larger one.
    pub eviction_ms: i64,
    /// Number of this shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
}

/// Partitions of one session: more are answered without one. Each request goes through them all.
const PARTITIONS_MAX: usize = 16_384;

/// Rank of a session among those that may have to go: the first goes first.
type Rank = (bool, usize, i32);

/// The sessions of one shard.
#[derive(Debug)]
pub struct SessionCache {
    limits: CacheLimits,
    sessions: BTreeMap<i32, Session>,
    last_used: BTreeSet<(i64, i32)>,
    /// What a consumer's session may push out, and what a follower's may.
    evictable_by_all: BTreeSet<Rank>,
    evictable_by_privileged: BTreeSet<Rank>,
    bytes: usize,
    partitions: usize,
    evictions: u64,
}

impl SessionCache {
    /// No session yet.
    pub fn new(limits: CacheLimits) -> SessionCache {
        SessionCache {
            limits,
            sessions: BTreeMap::new(),
            last_used: BTreeSet::new(),
            evictable_by_all: BTreeSet::new(),
            evictable_by_privileged: BTreeSet::new(),
            bytes: 0,
            partitions: 0,
            evictions: 0,
        }
    }

    /// Sessions now.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Partitions of all sessions.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// Memory of all sessions, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sessions that had to give way to others since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Ids of this shard's sessions: from the first to the second, both included.
    pub fn id_range(&self) -> (i32, i32) {
        let width = i32::MAX / i32::from(self.limits.shards.max(1));
        let first = i32::from(self.limits.shard) * width;
        (first.max(1), first + (width - 1).max(1))
    }

    /// Takes a request: what is to be read for it.
    pub fn begin(&mut self, request: SessionRequest, now_ms: i64) -> Plan {
        if request.epoch == INITIAL_EPOCH || request.epoch == FINAL_EPOCH {
            // A full request ends the session it names.
            self.remove(request.session_id);
            return match request.epoch {
                FINAL_EPOCH => Plan::Sessionless(request.wanted),
                _ => Plan::Full(request.wanted),
            };
        }
        let Some(session) = self.sessions.get(&request.session_id) else {
            return Plan::IdNotFound;
        };
        if session.epoch != request.epoch {
            return Plan::InvalidEpoch;
        }
        if session.by_id != request.by_id {
            return Plan::TopicIdError;
        }
        self.go_on(request, now_ms)
    }

    /// The next request of a session that is there and expects it.
    fn go_on(&mut self, request: SessionRequest, now_ms: i64) -> Plan {
        let session_id = request.session_id;
        let mut session = self
            .unlist(session_id)
            .expect("looked up by the caller just now");
        let named: Vec<Wanted> = request.wanted;
        named
            .iter()
            .for_each(|wanted| session.want(wanted.clone(), None));
        request.forgotten.iter().for_each(|p| session.forget(p));
        if session.len() == 0 {
            return Plan::Sessionless(named);
        }
        session.epoch = next_epoch(session.epoch);
        session.last_used_ms = now_ms;
        let (privileged, size) = (session.privileged, session.len());
        // It has grown: others may have to go, by the same rules as for a new one.
        let fits = size <= PARTITIONS_MAX;
        if !fits || !self.make_room(privileged, size, session.bytes(), now_ms) {
            self.evictions += 1;
            return Plan::IdNotFound;
        }
        let plan = Plan::Incremental {
            session_id,
            epoch: session.epoch,
            planned: session.planned(),
        };
        self.list(session_id, session, now_ms);
        plan
    }

    /// Tries to make a session of what a full request named and was answered. Gives its id, or
    /// [`NO_SESSION`] where there is no room: the client then sends full requests.
    ///
    /// `random` is any number; ids are hard to guess and do not come back soon.
    pub fn create(
        &mut self,
        privileged: bool,
        by_id: bool,
        answered: impl ExactSizeIterator<Item = (Wanted, Found)> + Clone,
        random: u64,
        now_ms: i64,
    ) -> i32 {
        let size = answered.len();
        if size == 0 || size > PARTITIONS_MAX {
            return NO_SESSION;
        }
        let names = answered
            .clone()
            .map(|(wanted, _)| wanted.topic.name_bytes());
        let bytes = SESSION_BYTES + size * PARTITION_BYTES + names.sum::<usize>();
        if !self.make_room(privileged, size, bytes, now_ms) {
            return NO_SESSION;
        }
        let mut session = Session::new(privileged, by_id, now_ms, next_epoch(INITIAL_EPOCH));
        for (wanted, found) in answered {
            session.want(wanted, Some(found.told()));
        }
        let id = self.free_id(random);
        self.list(id, session, now_ms);
        id
    }

    /// Remembers what the client is told by the answer to an incremental request. False when
    /// another request of the session came meanwhile: this one must be refused.
    pub fn finish<'a>(
        &mut self,
        session_id: i32,
        epoch: i32,
        told: impl Iterator<Item = (&'a Planned, Found)>,
    ) -> bool {
        // Gone meanwhile: the answer still holds, and the next request will be told.
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return true;
        };
        if session.epoch != epoch {
            return false;
        }
        for (planned, found) in told {
            if found.is_news_to(&planned.seen) {
                session.tell(&planned.wanted, &found);
            }
        }
        true
    }

    fn remove(&mut self, session_id: i32) {
        self.unlist(session_id);
    }

    /// Lets sessions go until one more of `bytes` fits; false when they may not be asked to.
    fn make_room(&mut self, privileged: bool, size: usize, bytes: usize, now_ms: i64) -> bool {
        if self.limits.slots == 0 || bytes > self.limits.bytes {
            return false;
        }
        while self.sessions.len() >= self.limits.slots || self.bytes + bytes > self.limits.bytes {
            let Some(id) = self.evictable(privileged, size, now_ms) else {
                return false;
            };
            self.unlist(id);
            self.evictions += 1;
        }
        true
    }

    /// Who goes next for a session of that kind and size: one that was not used for long, else the
    /// first in rank if it ranks below the newcomer.
    fn evictable(&self, privileged: bool, size: usize, now_ms: i64) -> Option<i32> {
        let (last_used_ms, id) = self.last_used.first()?;
        if now_ms - last_used_ms > self.limits.eviction_ms {
            return Some(*id);
        }
        let among = match privileged {
            true => &self.evictable_by_privileged,
            false => &self.evictable_by_all,
        };
        let (of_privileged, of_size, id) = among.first()?;
        ((privileged, size) > (*of_privileged, *of_size)).then_some(*id)
    }

    fn list(&mut self, id: i32, session: Session, now_ms: i64) {
        let rank = (session.privileged, session.len(), id);
        let is_old = now_ms - session.created_ms > self.limits.eviction_ms;
        if is_old {
            self.evictable_by_all.insert(rank);
        }
        if is_old || !session.privileged {
            self.evictable_by_privileged.insert(rank);
        }
        self.last_used.insert((session.last_used_ms, id));
        self.partitions += session.len();
        self.bytes += session.bytes();
        self.sessions.insert(id, session);
    }

    fn unlist(&mut self, id: i32) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        let rank = (session.privileged, session.len(), id);
        self.evictable_by_all.remove(&rank);
        self.evictable_by_privileged.remove(&rank);
        self.last_used.remove(&(session.last_used_ms, id));
        self.partitions -= session.len();
        self.bytes -= session.bytes();
        Some(session)
    }

    /// An id of this shard that no session has. There are many more ids than sessions.
    fn free_id(&self, random: u64) -> i32 {
        let (first, last) = self.id_range();
        let count = (last - first) as u64 + 1;
        let mut id = first + (random % count) as i32;
        while self.sessions.contains_key(&id) {
            id = if id == last { first } else { id + 1 };
        }
        id
    }
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod tests;
