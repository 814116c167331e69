//! Fetch sessions as connections use them: requests of the wire in, plans out.

use std::sync::Arc;

use corelog_core::fetch_session::{
    FINAL_EPOCH, Found, NO_SESSION, Plan, Planned, Seen, SessionRequest, Terms, TopicRef, Wanted,
};
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchRequest, TOPIC_ID_VERSION};
use corelog_net::wire::{TopicId, WireStr};

use super::topic_id;
use crate::shard::Shard;

/// Time without use after which a session gives way to any other, as with Kafka.
pub const EVICTION_MS: i64 = 120_000;

/// What becomes of a session when its request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is none.
    Sessionless,
    /// One is made if there is room.
    Full {
        /// For a follower.
        privileged: bool,
        /// Topics go by id.
        by_id: bool,
    },
    /// It goes on: id and epoch after this request.
    Incremental(i32, i32),
}

/// What one Fetch request asks for.
#[derive(Debug)]
pub struct Fetch {
    /// Its session.
    pub kind: Kind,
    /// Partitions, in the order in which they are served.
    pub planned: Vec<Planned>,
}

fn now_ms(shard: &Shard) -> i64 {
    (shard.rt.now().0 / 1_000_000) as i64
}

/// Finds out what a request asks for. An error is one of the whole request.
pub fn begin(shard: &Shard, request: &FetchRequest, version: i16) -> Result<Fetch, ErrorCode> {
    let by_id = version >= TOPIC_ID_VERSION;
    let wanted = wanted(request, by_id);
    let plain = |wanted: Vec<Wanted>| {
        let seen = Seen::NOTHING;
        let planned = wanted.into_iter().map(|wanted| Planned { wanted, seen });
        planned.collect()
    };
    if (request.session_id, request.session_epoch) == (NO_SESSION, FINAL_EPOCH) {
        return Ok(Fetch {
            kind: Kind::Sessionless,
            planned: plain(wanted),
        });
    }
    let privileged = is_follower(shard, request.replica_id);
    let asked = SessionRequest {
        session_id: request.session_id,
        epoch: request.session_epoch,
        by_id,
        privileged,
        wanted,
        forgotten: forgotten(request, by_id),
    };
    let plan = shard
        .fetch_sessions
        .borrow_mut()
        .begin(asked, now_ms(shard));
    match plan {
        Plan::Sessionless(wanted) => Ok(Fetch {
            kind: Kind::Sessionless,
            planned: plain(wanted),
        }),
        Plan::Full(wanted) => Ok(Fetch {
            kind: Kind::Full { privileged, by_id },
            planned: plain(wanted),
        }),
        Plan::Incremental {
            session_id,
            epoch,
            planned,
        } => Ok(Fetch {
            kind: Kind::Incremental(session_id, epoch),
            planned,
        }),
        Plan::IdNotFound => Err(ErrorCode::FetchSessionIdNotFound),
        Plan::InvalidEpoch => Err(ErrorCode::InvalidFetchSessionEpoch),
        Plan::TopicIdError => Err(ErrorCode::FetchSessionTopicIdError),
    }
}

/// The session's id for the answer, in which `found` is told, partition by partition.
pub fn finish(shard: &Shard, fetch: &Fetch, found: &[Found]) -> Result<i32, ErrorCode> {
    let mut sessions = shard.fetch_sessions.borrow_mut();
    match fetch.kind {
        Kind::Sessionless => Ok(NO_SESSION),
        Kind::Full { privileged, by_id } => {
            let wanted = fetch.planned.iter().map(|planned| planned.wanted.clone());
            let answered = wanted.zip(found.iter().copied());
            let random = shard.rt.random_u64();
            Ok(sessions.create(privileged, by_id, answered, random, now_ms(shard)))
        }
        Kind::Incremental(session_id, epoch) => {
            let told = fetch.planned.iter().zip(found.iter().copied());
            match sessions.finish(session_id, epoch, told) {
                true => Ok(session_id),
                false => Err(ErrorCode::InvalidFetchSessionEpoch),
            }
        }
    }
}

/// Another broker of this cluster: the only peers whose sessions go before those of consumers.
fn is_follower(shard: &Shard, replica_id: i32) -> bool {
    replica_id >= 0
        && replica_id != shard.config().node_id
        && shard.image().broker(replica_id).is_some()
}

fn topic_ref(by_id: bool, name: &WireStr, id: &TopicId) -> TopicRef {
    match by_id {
        true => TopicRef::Id(topic_id(id)),
        false => TopicRef::Name(Arc::from(name.as_str())),
    }
}

fn wanted(request: &FetchRequest, by_id: bool) -> Vec<Wanted> {
    let count = request.topics.iter().map(|t| t.partitions.len()).sum();
    let mut wanted = Vec::with_capacity(count);
    for topic in &request.topics {
        let name = topic_ref(by_id, &topic.name, &topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|partition| Wanted {
            topic: name.clone(),
            index: partition.index,
            terms: Terms {
                fetch_offset: partition.fetch_offset,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                max_bytes: partition.max_bytes,
            },
        }));
    }
    wanted
}

fn forgotten(request: &FetchRequest, by_id: bool) -> Vec<(TopicRef, i32)> {
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics {
        let name = topic_ref(by_id, &topic.name, &topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|index| (name.clone(), *index)));
    }
    forgotten
}
