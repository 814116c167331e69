//! Fetch: every owning shard is asked once for file ranges; if they are short of `min_bytes`, one
//! waiter is left per shard, and everything is asked again when one of them has news.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use corelog_core::Uuid;
use corelog_core::metadata::image::{Image, Topic};
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{
    EpochEndOffset, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse,
    FetchTopicResponse, Part, RecordRange, ResponseBuilder, TOPIC_ID_VERSION,
};
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;
use corelog_storage::log::FileRange;

use super::{Connection, find_topic, peer};
use crate::errors::{PartitionError, error_code};
use crate::race::race;
use crate::shard::Shard;
use crate::shard::message::{DataWait, PartitionKey, ReadAnswer, ReadItem, Request, Response};
use crate::shard::read::read;

/// Longest wait for data. Clients ask for half a second; one that asks for more asks again.
const WAIT_MS_MAX: i32 = 60_000;

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

/// One partition of the request, as asked and as found.
struct Asked {
    owner: ShardId,
    item: ReadItem,
    answer: ReadAnswer,
}

/// Answers a Fetch request with header bytes and ranges.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &RequestFrame,
) -> Result<Vec<Part<RangeRef>>, WireError> {
    let request = FetchRequest::decode(frame.version, &frame.body)?;
    let builder = ResponseBuilder::new(frame.version, frame.correlation_id)?;
    if let Some(error) = session_error(&request) {
        shard.stats.count_error(frame.api.number(), error.code());
        return builder.build(FetchResponse {
            error_code: error,
            ..FetchResponse::default()
        });
    }
    let max_wait_ms = request.max_wait_ms.clamp(0, WAIT_MS_MAX);
    let deadline = shard.rt.now() + Duration::from_millis(max_wait_ms as u64);
    let max_bytes = shard
        .config()
        .fetch_max_bytes
        .min(request.max_bytes.max(0) as usize);
    let asked = loop {
        let mut asked = resolve(&shard.image(), &request, frame.version, max_bytes);
        read_all(shard, &mut asked).await;
        let total: usize = asked.iter().map(|a| a.answer.bytes).sum();
        let at_once = asked
            .iter()
            .any(|a| a.answer.error.is_some() || a.answer.diverging.is_some());
        let left = deadline.saturating_duration_since(shard.rt.now());
        if at_once
            || asked.is_empty()
            || total as i64 >= i64::from(request.min_bytes)
            || left.is_zero()
            || peer::is_closed(connection)
            || connection.closing.get()
        {
            break asked;
        }
        wait_for_news(shard, connection, &asked, left).await;
    };
    builder.build(response(shard, &request, frame, asked, max_bytes))
}

/// Sessions are not kept: a client that opens one is answered with session 0, which is legal.
fn session_error(request: &FetchRequest) -> Option<ErrorCode> {
    match (request.session_id, request.session_epoch) {
        (0, -1 | 0) => None,
        (0, _) => Some(ErrorCode::InvalidFetchSessionEpoch),
        (_, -1) => None,
        _ => Some(ErrorCode::FetchSessionIdNotFound),
    }
}

fn resolve(image: &Image, request: &FetchRequest, version: i16, max_bytes: usize) -> Vec<Asked> {
    let mut asked = Vec::new();
    for topic in &request.topics {
        let known = find_topic(
            image,
            version >= TOPIC_ID_VERSION,
            &topic.name,
            &topic.topic_id,
        );
        for partition in &topic.partitions {
            asked.push(resolve_one(&known, partition, max_bytes));
        }
    }
    asked
}

fn resolve_one(
    known: &Result<&Topic, PartitionError>,
    partition: &FetchPartition,
    max_bytes: usize,
) -> Asked {
    let topic_id = known.as_ref().map_or(Uuid::ZERO, |topic| topic.id);
    let mut asked = Asked {
        owner: ShardId(0),
        item: ReadItem {
            key: PartitionKey {
                topic_id,
                partition: partition.index,
            },
            fetch_offset: partition.fetch_offset,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
            max_bytes: max_bytes.min(partition.max_bytes.max(0) as usize),
        },
        answer: ReadAnswer {
            high_watermark: -1,
            log_start_offset: -1,
            ..ReadAnswer::default()
        },
    };
    match known {
        Ok(topic) => match topic.partition(partition.index) {
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
    for ask in asked
        .iter_mut()
        .filter(|ask| ask.owner == own && ask.answer.error.is_none())
    {
        ask.answer = read(shard, &ask.item).await;
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

/// Leaves one waiter per owning shard and waits for the first to fire, the time to run out, or the
/// client to go. The waiters of the other shards are called off. (A client that closed its sending
/// end alone gets what there is, as if its time had run out: the two look the same from here.)
async fn wait_for_news(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    asked: &[Asked],
    left: Duration,
) {
    let mut by_owner: BTreeMap<ShardId, Vec<(PartitionKey, i64)>> = BTreeMap::new();
    for ask in asked {
        by_owner
            .entry(ask.owner)
            .or_default()
            .push((ask.item.key, ask.answer.high_watermark));
    }
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

/// Puts the answers in the order of the request and trims them to the response's bound: the first
/// partition with data keeps its first batch whole.
fn response(
    shard: &Shard,
    request: &FetchRequest,
    frame: &RequestFrame,
    asked: Vec<Asked>,
    max_bytes: usize,
) -> FetchResponse<RangeRef> {
    let mut asked = asked.into_iter();
    let mut left = max_bytes;
    let mut first = true;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let ask = asked.next().expect("one per partition asked");
            let code = ask
                .answer
                .error
                .as_ref()
                .map_or(ErrorCode::None, error_code);
            shard.stats.count_error(frame.api.number(), code.code());
            let records = trim(&ask, left, first);
            let taken: usize = records.iter().map(|range| range.len).sum();
            first &= taken == 0;
            left = left.saturating_sub(taken);
            partitions.push(FetchPartitionResponse {
                index: partition.index,
                error_code: code,
                high_watermark: ask.answer.high_watermark,
                last_stable_offset: ask.answer.high_watermark,
                log_start_offset: ask.answer.log_start_offset,
                diverging_epoch: ask
                    .answer
                    .diverging
                    .map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
                aborted_transactions: request.is_read_committed().then(Vec::new),
                records,
                ..FetchPartitionResponse::default()
            });
        }
        topics.push(FetchTopicResponse {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    FetchResponse {
        topics,
        ..FetchResponse::default()
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
