//! What a consumer makes of an answer, and how it finds a place to go on.

use std::rc::Rc;

use corelog_net::client::Client;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::FetchPartitionResponse;

use bytes::Bytes;

use super::Actor;
use super::requests::record_bytes;
use crate::oracle::Extent;
use crate::oracle::log::Key;
use crate::stage::{Lost, Stage};

/// What was known of a partition when a request was made: no answer may say less.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// High watermark.
    pub high_watermark: i64,
    /// Log start.
    pub start: i64,
    /// When, ns.
    pub asked_ns: u64,
}

impl Before {
    /// Now.
    pub fn now(stage: &Stage, key: &Key) -> Before {
        let oracle = stage.oracle.borrow();
        Before {
            high_watermark: oracle.high_watermark(key),
            start: oracle.log_start(key),
            asked_ns: stage.now_ns(),
        }
    }
}

/// Tells the oracle of an answer to a fetch of one partition from an offset on. Gives the next offset,
/// which is the log's start where that offset is out of range; `None` after other errors.
pub async fn take(
    actor: &Actor,
    client: &Client,
    key: Key,
    from: i64,
    before: &Before,
    answer: &FetchPartitionResponse<Bytes>,
) -> Result<Option<i64>, Lost> {
    take_as(actor, client, (key, from), before, answer, Extent::Whole).await
}

/// The same for one of several partitions, of which all but the first may end inside a batch, or have
/// nothing.
pub async fn take_part(
    actor: &Actor,
    client: &Client,
    key: Key,
    from: i64,
    before: &Before,
    answer: &FetchPartitionResponse<Bytes>,
) -> Result<Option<i64>, Lost> {
    take_as(actor, client, (key, from), before, answer, Extent::Cut).await
}

async fn take_as(
    actor: &Actor,
    client: &Client,
    (key, from): (Key, i64),
    before: &Before,
    answer: &FetchPartitionResponse<Bytes>,
    extent: Extent,
) -> Result<Option<i64>, Lost> {
    let stage = Rc::clone(&actor.stage);
    match answer.error_code {
        ErrorCode::None => {}
        ErrorCode::OffsetOutOfRange => return out_of_range(actor, client, key, from, before).await,
        _ => return Ok(None),
    }
    let mut oracle = stage.oracle.borrow_mut();
    let start = (answer.log_start_offset, before.start);
    oracle.log_start_told(key, start, before.asked_ns, stage.now_ns());
    oracle.high_watermark_told(key, answer.high_watermark, before.high_watermark);
    let bytes = record_bytes(answer);
    if !bytes.is_empty() {
        oracle.tally.hit("fetch: records");
    }
    let place = (from, before.start);
    let next = oracle.fetched(key, place, answer.high_watermark, (&bytes, extent));
    Ok(Some(next))
}

/// An offset was out of range: it is below the log's start, or power loss took it from the end.
async fn out_of_range(
    actor: &Actor,
    client: &Client,
    key: Key,
    from: i64,
    before: &Before,
) -> Result<Option<i64>, Lost> {
    if from < before.start {
        actor.stage.hit("fetch: below the log start");
    }
    let Some(start) = offset_of(actor, client, key, Edge::Start).await? else {
        return Ok(None);
    };
    if (start..=before.high_watermark).contains(&from) {
        let broken = format!(
            "high watermark: {from} is out of range after {} was seen, the log starts at {start}",
            before.high_watermark
        );
        actor.stage.oracle.borrow_mut().note(Err(broken));
    }
    Ok(Some(start))
}

/// What ListOffsets is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The high watermark.
    End,
    /// The log start.
    Start,
}

/// An edge of a partition, which the oracle hears of; `None` when the broker does not say, or means
/// another topic by now.
pub async fn offset_of(
    actor: &Actor,
    client: &Client,
    key: Key,
    edge: Edge,
) -> Result<Option<i64>, Lost> {
    let stage = Rc::clone(&actor.stage);
    let name = || {
        let oracle = stage.oracle.borrow();
        let topic = oracle.topics.get(&key.0);
        topic.filter(|t| !t.known.dying).map(|t| t.name.clone())
    };
    let Some(asked) = name() else { return Ok(None) };
    let before = Before::now(&stage, &key);
    let timestamp = match edge {
        Edge::End => -1,
        Edge::Start => -2,
    };
    let asking = client.list_offset(&asked, key.1, timestamp, 0);
    let answer = stage.answer(&actor.name, "ListOffsets", asking).await?;
    stage.hit("list offsets");
    // By name: another topic may have it by now.
    if answer.error_code != 0 || name().is_none() {
        return Ok(None);
    }
    let mut oracle = stage.oracle.borrow_mut();
    match edge {
        Edge::End => oracle.high_watermark_told(key, answer.offset, before.high_watermark),
        Edge::Start => {
            let start = (answer.offset, before.start);
            oracle.log_start_told(key, start, before.asked_ns, stage.now_ns());
        }
    }
    Ok(Some(answer.offset))
}
