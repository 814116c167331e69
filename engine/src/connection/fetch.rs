//! Fetch: every owning shard is asked once for file ranges; if they are short of `min_bytes`, one
//! waiter is left per shard, and everything is asked again when one of them has news.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use corelog_core::Uuid;
use corelog_core::fetch_session::{Found, NO_SESSION, Planned, Seen, TopicRef, Wanted};
use corelog_core::metadata::image::{Image, Topic};
use corelog_net::api::ApiKey;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{
    EpochEndOffset, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse, Part,
    RecordRange, ResponseBuilder,
};
use corelog_net::frame::RequestFrame;
use corelog_net::wire::{NO_TOPIC_ID, WireError, WireStr};
use corelog_runtime::ShardId;
use corelog_runtime::sync::Permit;
use corelog_storage::log::FileRange;

use super::sessions::{self, Fetch, Kind};
use super::{Connection, or_closing, peer};
use crate::errors::{PartitionError, error_code};
use crate::race::race;
use crate::shard::Shard;
use crate::shard::message::{DataWait, PartitionKey, ReadAnswer, ReadItem, Request, Response};
use crate::shard::read::read;

/// Longest wait for data. Clients ask for half a second; one that asks for more asks again.
const WAIT_MS_MAX: i32 = 60_000;

/// Bytes in memory for a byte of the request: what names a partition in few bytes is a struct.
const NAMED_FACTOR: usize = 26;
/// Memory of one partition while a request is worked on: as asked, as found, as answered.
const WORKING_BYTES: usize = 640;
/// Memory of one partition while its fetch waits for data.
const PARKED_BYTES: usize = 256;
/// Partitions between two looks at the clock.
const LOOK_UP_EVERY: usize = 64;

/// Part of an answer whose bytes are looked up when the socket can take them.
#[derive(Debug, Clone)]
pub struct RangeRef {
    /// Shard that owns the partition.
    pub owner: ShardId,
    /// Partition.
    pub key: PartitionKey,
    /// Which bytes.
    pub range: FileRange,
}

/// What a request asks for besides its partitions.
#[derive(Debug, Clone, Copy)]
struct Limits {
    max_bytes: usize,
    min_bytes: i32,
    max_wait_ms: i32,
    is_read_committed: bool,
}

/// One partition of the request, as asked and as found.
struct Asked {
    owner: ShardId,
    item: ReadItem,
    answer: ReadAnswer,
}

/// Answers a Fetch request with header bytes and ranges. `None`: the connection is to be closed.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: RequestFrame,
) -> Result<Option<Vec<Part<RangeRef>>>, WireError> {
    let named = frame.body.len() * NAMED_FACTOR;
    let Some(decoding) = working_memory(shard, connection, named).await else {
        return Ok(None);
    };
    let request = FetchRequest::decode(frame.version, &frame.body)?;
    let builder = ResponseBuilder::new(frame.version, frame.correlation_id)?;
    let fetch = match sessions::begin(shard, &request, frame.version) {
        Ok(fetch) => fetch,
        Err(error) => {
            let refused = refusal(shard, error, NO_SESSION);
            return builder.build(refused).map(Some);
        }
    };
    let limits = Limits {
        max_bytes: shard
            .config()
            .fetch_max_bytes
            .min(request.max_bytes.max(0) as usize),
        min_bytes: request.min_bytes,
        max_wait_ms: request.max_wait_ms.clamp(0, WAIT_MS_MAX),
        is_read_committed: request.is_read_committed(),
    };
    // A fetch may wait for long: what it was asked in does not wait with it.
    drop((request, frame, decoding));
    let partitions = fetch.planned.len();
    let deadline = shard.rt.now() + Duration::from_millis(limits.max_wait_ms as u64);
    let (asked, _memory) = loop {
        let working = partitions * WORKING_BYTES;
        let Some(memory) = working_memory(shard, connection, working).await else {
            return Ok(None);
        };
        let mut asked = resolve(shard, &fetch.planned, limits.max_bytes).await;
        read_all(shard, &mut asked).await;
        let total: usize = asked.iter().map(|a| a.answer.bytes).sum();
        let at_once = asked
            .iter()
            .any(|a| a.answer.error.is_some() || a.answer.diverging.is_some());
        let left = deadline.saturating_duration_since(shard.rt.now());
        if at_once
            || asked.is_empty()
            || total as i64 >= i64::from(limits.min_bytes)
            || left.is_zero()
            || peer::is_closed(connection)
            || connection.closing.get()
        {
            break (asked, memory);
        }
        // Nobody waits for data while holding what others wait for. Where the memory of waits is
        // used up, the answer is what there is now.
        let Some(_parked) = shard.request_memory.try_park(partitions * PARKED_BYTES) else {
            break (asked, memory);
        };
        let seen = seen_by_owner(&asked);
        drop((asked, memory));
        wait_for_news(shard, connection, seen, left).await;
    };
    let response = response(shard, limits, &fetch, asked).await;
    builder.build(response).map(Some)
}

/// Memory to work on a request with; `None` once the connection is being closed.
async fn working_memory(shard: &Shard, connection: &Connection, bytes: usize) -> Option<Permit> {
    or_closing(connection, shard.request_memory.work(bytes)).await
}

fn refusal(shard: &Shard, error: ErrorCode, session_id: i32) -> FetchResponse<RangeRef> {
    let api = ApiKey::Fetch.number();
    shard.stats.count_error(api, error.code());
    FetchResponse {
        error_code: error,
        session_id,
        ..FetchResponse::default()
    }
}

async fn resolve(shard: &Shard, planned: &[Planned], max_bytes: usize) -> Vec<Asked> {
    let image = shard.image();
    let mut asked = Vec::with_capacity(planned.len());
    let mut last: Option<(&TopicRef, Result<&Topic, PartitionError>)> = None;
    for (at, Planned { wanted, .. }) in planned.iter().enumerate() {
        let known = match last.take() {
            Some((topic, known)) if *topic == wanted.topic => known,
            _ => find(&image, &wanted.topic),
        };
        asked.push(resolve_one(&known, wanted, max_bytes));
        last = Some((&wanted.topic, known));
        look_up(shard, at).await;
    }
    asked
}

/// Lets others run when a request of very many partitions has taken its time.
async fn look_up(shard: &Shard, at: usize) {
    if at % LOOK_UP_EVERY == LOOK_UP_EVERY - 1 {
        shard.rt.yield_if_needed().await;
    }
}

fn find<'a>(image: &'a Image, topic: &TopicRef) -> Result<&'a Topic, PartitionError> {
    let (found, unknown) = match topic {
        TopicRef::Id(id) => (image.topic_by_id(id), PartitionError::UnknownTopicId),
        TopicRef::Name(name) => (image.topic(name), PartitionError::UnknownTopicOrPartition),
    };
    found.map(AsRef::as_ref).ok_or(unknown)
}

fn resolve_one(known: &Result<&Topic, PartitionError>, wanted: &Wanted, max_bytes: usize) -> Asked {
    let mut asked = Asked {
        owner: ShardId(0),
        item: ReadItem {
            key: PartitionKey {
                topic_id: known.as_ref().map_or(Uuid::ZERO, |topic| topic.id),
                partition: wanted.index,
            },
            fetch_offset: wanted.terms.fetch_offset,
            current_leader_epoch: wanted.terms.current_leader_epoch,
            last_fetched_epoch: wanted.terms.last_fetched_epoch,
            max_bytes: max_bytes.min(wanted.terms.max_bytes.max(0) as usize),
        },
        answer: ReadAnswer {
            high_watermark: -1,
            log_start_offset: -1,
            ..ReadAnswer::default()
        },
    };
    match known {
        Ok(topic) => match topic.partition(wanted.index) {
            Some(found) => asked.owner = ShardId(found.shard),
            None => asked.answer.error = Some(PartitionError::UnknownTopicOrPartition),
        },
        Err(error) => asked.answer.error = Some(error.clone()),
    }
    asked
}

/// Asks each owning shard once; other shards work while this one reads its own.
async fn read_all(shard: &Rc<Shard>, asked: &mut [Asked]) {
    let own = shard.id();
    let mut remote: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
    for (at, ask) in asked.iter().enumerate() {
        if ask.answer.error.is_none() && ask.owner != own {
            remote.entry(ask.owner).or_default().push(at);
        }
    }
    let mut answers = Vec::with_capacity(remote.len());
    for (owner, places) in remote {
        let items = places.iter().map(|&at| asked[at].item.clone()).collect();
        answers.push((shard.call(owner, Request::Read(items)), places));
    }
    for (at, ask) in asked.iter_mut().enumerate() {
        if ask.owner == own && ask.answer.error.is_none() {
            ask.answer = read(shard, &ask.item).await;
        }
        look_up(shard, at).await;
    }
    for (answer, places) in answers {
        match answer.await {
            Some(Response::Read(found)) => {
                for (at, found) in places.into_iter().zip(found) {
                    asked[at].answer = found;
                }
            }
            _ => {
                for at in places {
                    asked[at].answer.error = Some(PartitionError::Stopping);
                }
            }
        }
    }
}

/// Partitions by the shard that owns them, and the high watermark that was seen.
type SeenByOwner = BTreeMap<ShardId, Vec<(PartitionKey, i64)>>;

fn seen_by_owner(asked: &[Asked]) -> SeenByOwner {
    let mut by_owner = SeenByOwner::new();
    for ask in asked {
        by_owner
            .entry(ask.owner)
            .or_default()
            .push((ask.item.key, ask.answer.high_watermark));
    }
    by_owner
}

/// Leaves one waiter per owning shard and waits for the first to fire, the time to run out, or the
/// client to go. The waiters of the other shards are called off. (A client that closed its sending
/// end alone gets what there is, as if its time had run out: the two look the same from here.)
async fn wait_for_news(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    by_owner: SeenByOwner,
    left: Duration,
) {
    let max_wait_ms = (left.as_micros() as u64).div_ceil(1000);
    let news = corelog_runtime::sync::Notify::new();
    let fired = news.notified();
    let mut waits = CancelWaits {
        shard: Rc::clone(shard),
        ids: Vec::with_capacity(by_owner.len()),
    };
    for (owner, seen) in by_owner {
        let id = shard.new_wait_id();
        waits.ids.push((owner, id));
        let answer = shard.call(
            owner,
            Request::WaitForData(DataWait {
                id,
                seen,
                max_wait_ms,
            }),
        );
        let news = news.clone();
        shard.spawn("fetch_wait", async move {
            answer.await;
            news.notify_all();
        });
    }
    let gone = race(connection.closing(), peer::closed(shard, connection));
    race(fired, gone).await;
}

/// Calls off the waits of a fetch that is over, or whose connection is gone.
struct CancelWaits {
    shard: Rc<Shard>,
    ids: Vec<(ShardId, u64)>,
}

impl Drop for CancelWaits {
    fn drop(&mut self) {
        for (owner, id) in self.ids.drain(..) {
            self.shard.cast(owner, Request::CancelWait(id));
        }
    }
}

/// Trims the answers, in the order they are served, to the response's bound: the first partition
/// with data keeps its first batch whole. A session is answered what is news to it.
async fn response(
    shard: &Shard,
    limits: Limits,
    fetch: &Fetch,
    asked: Vec<Asked>,
) -> FetchResponse<RangeRef> {
    let mut left = limits.max_bytes;
    let mut first = true;
    let mut found = Vec::with_capacity(asked.len());
    let mut topics: Vec<FetchTopicResponse<RangeRef>> = Vec::new();
    let mut last_topic = None;
    for (at, (ask, planned)) in asked.iter().zip(&fetch.planned).enumerate() {
        look_up(shard, at).await;
        let records = trim(ask, left, first);
        let taken: usize = records.iter().map(|range| range.len).sum();
        first &= taken == 0;
        left = left.saturating_sub(taken);
        let told = Found {
            marks: Seen {
                high_watermark: ask.answer.high_watermark,
                log_start_offset: ask.answer.log_start_offset,
            },
            has_records: taken > 0,
            is_error: ask.answer.error.is_some(),
            diverges: ask.answer.diverging.is_some(),
        };
        found.push(told);
        if matches!(fetch.kind, Kind::Incremental(..)) && !told.is_news_to(&planned.seen) {
            continue;
        }
        let topic = &planned.wanted.topic;
        if last_topic != Some(topic) {
            topics.push(topic_response(topic));
            last_topic = Some(topic);
        }
        let partition = partition_response(shard, limits, ask, records);
        topics
            .last_mut()
            .expect("pushed above")
            .partitions
            .push(partition);
    }
    match sessions::finish(shard, fetch, &found) {
        Ok(session_id) => FetchResponse {
            session_id,
            topics,
            ..FetchResponse::default()
        },
        Err(error) => match fetch.kind {
            Kind::Incremental(session_id, _) => refusal(shard, error, session_id),
            Kind::Sessionless | Kind::Full { .. } => refusal(shard, error, NO_SESSION),
        },
    }
}

fn topic_response(topic: &TopicRef) -> FetchTopicResponse<RangeRef> {
    let (name, topic_id) = match topic {
        TopicRef::Name(name) => (WireStr::from(&**name), NO_TOPIC_ID),
        TopicRef::Id(id) => (WireStr::default(), id.to_bytes()),
    };
    FetchTopicResponse {
        name,
        topic_id,
        partitions: Vec::new(),
    }
}

fn partition_response(
    shard: &Shard,
    limits: Limits,
    ask: &Asked,
    records: Vec<RecordRange<RangeRef>>,
) -> FetchPartitionResponse<RangeRef> {
    let error = ask.answer.error.as_ref();
    let code = error.map_or(ErrorCode::None, error_code);
    shard.stats.count_error(ApiKey::Fetch.number(), code.code());
    FetchPartitionResponse {
        index: ask.item.key.partition,
        error_code: code,
        high_watermark: ask.answer.high_watermark,
        last_stable_offset: ask.answer.high_watermark,
        log_start_offset: ask.answer.log_start_offset,
        diverging_epoch: ask
            .answer
            .diverging
            .map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
        aborted_transactions: limits.is_read_committed.then(Vec::new),
        records,
        ..FetchPartitionResponse::default()
    }
}

/// Cuts a partition's ranges to `room` bytes. A first partition keeps what its read gave: that is
/// within its own bound, or one batch. A later one may end inside a batch; clients discard it.
fn trim(ask: &Asked, room: usize, first: bool) -> Vec<RecordRange<RangeRef>> {
    let mut room = if first { usize::MAX } else { room };
    let mut records = Vec::with_capacity(ask.answer.ranges.len());
    for range in &ask.answer.ranges {
        let len = range.len.min(room);
        if len == 0 {
            break;
        }
        room -= len;
        let mut range = range.clone();
        range.len = len;
        records.push(RecordRange {
            len,
            range: RangeRef {
                owner: ask.owner,
                key: ask.item.key,
                range,
            },
        });
    }
    records
}
