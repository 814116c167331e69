//! Produce: batches go to the shards that own their partitions, in one message each, at once; the
//! answer is put together when all have what was promised.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use corelog_core::metadata::image::{Image, Topic};
use corelog_core::metadata::names::is_internal;
use corelog_net::frame::RequestFrame;
use corelog_net::produce::{
    LeaderIdAndEpoch, ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse,
    ProduceTopic, ProduceTopicResponse, RecordError, TOPIC_ID_VERSION,
};
use corelog_net::wire::{WireError, WireStr};
use corelog_runtime::{Instant, ShardId};

use super::{CloseOnPanic, Connection, fill, find_topic, topic_id};
use crate::errors::{PartitionError, error_code};
use crate::latency::Stage;
use crate::request_memory::Held;
use crate::shard::Shard;
use crate::shard::append::{admit, append};
use crate::shard::message::{
    AppendAnswer, AppendItem, AppendRefusal, AppendTerms, PartitionKey, Request, Response,
};

/// Client id of Kafka's own tools that may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

type AppendResult = Result<AppendAnswer, AppendRefusal>;

/// Batches for one shard, and which results they are.
#[derive(Default)]
struct ShardWork {
    items: Vec<AppendItem>,
    places: Vec<usize>,
}

/// A request taken apart: what goes where, and the results known already.
struct Work {
    results: Vec<Option<AppendResult>>,
    by_shard: BTreeMap<u16, ShardWork>,
}

/// Begins a Produce request. When this returns, every batch has its place in its partition's
/// order; the answer comes through the connection's slots.
pub fn start(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: RequestFrame,
    permit: Held,
    began: Instant,
) -> Result<(), WireError> {
    let request = ProduceRequest::decode(frame.version, &frame.body)?;
    let terms = AppendTerms {
        acks: request.acks,
        timeout_ms: request.timeout_ms,
    };
    let Work {
        mut results,
        mut by_shard,
    } = take_apart(&shard.image(), &request, &frame);
    let slot = connection.slots.push();

    // All messages leave now, so that the order of requests is the order of offsets.
    let own = by_shard.remove(&shard.id().0);
    let own = own.map(|work| (admit(shard, work.items), work.places));
    let mut asked = Vec::with_capacity(by_shard.len());
    for (to, work) in by_shard {
        asked.push((
            shard.call(ShardId(to), Request::Append(work.items, terms)),
            work.places,
        ));
    }

    let (shard, connection) = (Rc::clone(shard), Rc::clone(connection));
    shard.clone().spawn("produce", async move {
        let _close = CloseOnPanic(Rc::clone(&shard), Rc::clone(&connection));
        if let Some((admitted, places)) = own {
            put(&mut results, places, append(&shard, admitted, terms).await);
        }
        for (answer, places) in asked {
            if let Some(Response::Append(answers)) = answer.await {
                put(&mut results, places, answers);
            }
        }
        drop(permit);
        let answer = finish(&shard, &request, &frame, results);
        let took = shard.rt.now().saturating_duration_since(began);
        shard.stats.stage(Stage::ProduceTotal, took);
        fill(&shard, &connection, slot, answer);
    });
    Ok(())
}

fn put(results: &mut [Option<AppendResult>], places: Vec<usize>, answers: Vec<AppendResult>) {
    for (place, answer) in places.into_iter().zip(answers) {
        results[place] = Some(answer);
    }
}

fn take_apart(image: &Image, request: &ProduceRequest, frame: &RequestFrame) -> Work {
    let count = request
        .topics
        .iter()
        .map(|topic| topic.partitions.len())
        .sum();
    let mut work = Work {
        results: Vec::with_capacity(count),
        by_shard: BTreeMap::new(),
    };
    let refused = refused_whole(request);
    let may_write_internal = frame.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    for topic in &request.topics {
        let known = find_topic(
            image,
            frame.version >= TOPIC_ID_VERSION,
            &topic.name,
            &topic.topic_id,
        );
        for partition in &topic.partitions {
            let place = work.results.len();
            let target = match (&refused, &known) {
                (Some(error), _) | (None, Err(error)) => Err(error.clone()),
                (None, Ok(known)) if is_internal(&known.name) && !may_write_internal => {
                    Err(PartitionError::InternalTopic)
                }
                (None, Ok(known)) => target_of(known, partition),
            };
            match target {
                Ok((owner, item)) => {
                    work.results.push(None);
                    let of_shard = work.by_shard.entry(owner).or_default();
                    of_shard.items.push(item);
                    of_shard.places.push(place);
                }
                Err(error) => work.results.push(Some(Err(error.into()))),
            }
        }
    }
    work
}

/// An error of the whole request, which every partition is told.
fn refused_whole(request: &ProduceRequest) -> Option<PartitionError> {
    if !matches!(request.acks, -1..=1) {
        return Some(PartitionError::InvalidRequiredAcks);
    }
    request
        .transactional_id
        .as_ref()
        .map(|_| PartitionError::TransactionsNotServed)
}

fn target_of(
    topic: &Topic,
    partition: &ProducePartition,
) -> Result<(u16, AppendItem), PartitionError> {
    let known = topic
        .partition(partition.index)
        .ok_or(PartitionError::UnknownTopicOrPartition)?;
    let key = PartitionKey {
        topic_id: topic.id,
        partition: partition.index,
    };
    // Null records reach validation as an empty batch and are refused there, as Kafka does.
    let records = partition.records.clone().unwrap_or_default();
    Ok((known.shard, AppendItem { key, records }))
}

/// The answer's bytes; `None` when the connection has to be closed instead.
fn finish(
    shard: &Shard,
    request: &ProduceRequest,
    frame: &RequestFrame,
    results: Vec<Option<AppendResult>>,
) -> Option<Bytes> {
    let api = frame.api.number();
    let mut refused = false;
    let mut results = results.into_iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    let image = shard.image();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let result = results.next().expect("one result per partition asked");
            let result = result.unwrap_or_else(|| Err(PartitionError::Stopping.into()));
            let answer = partition_response(&image, topic, partition.index, result);
            shard.stats.count_error(api, answer.error_code.code());
            refused |= answer.error_code.code() != 0;
            partitions.push(answer);
        }
        topics.push(ProduceTopicResponse {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    if request.acks == 0 {
        return (!refused).then(Bytes::new);
    }
    let response = ProduceResponse {
        topics,
        ..ProduceResponse::default()
    };
    match response.encode_frame(frame.version, frame.correlation_id) {
        Ok(bytes) => Some(bytes.freeze()),
        Err(error) => {
            tracing::error!(%error, "a Produce answer could not be encoded");
            None
        }
    }
}

fn partition_response(
    image: &Image,
    topic: &ProduceTopic,
    index: i32,
    result: AppendResult,
) -> ProducePartitionResponse {
    match result {
        Ok(answer) => ProducePartitionResponse {
            index,
            base_offset: answer.base_offset,
            log_append_time_ms: answer.log_append_time_ms,
            log_start_offset: answer.log_start_offset,
            ..ProducePartitionResponse::default()
        },
        Err(refusal) => {
            let record_error = |(batch_index, message): (i32, String)| RecordError {
                batch_index,
                message: Some(WireStr::from(message)),
            };
            let moved = refusal.error == PartitionError::NotLeaderOrFollower;
            ProducePartitionResponse {
                index,
                error_code: error_code(&refusal.error),
                log_start_offset: refusal.log_start_offset,
                record_errors: refusal
                    .record_errors
                    .into_iter()
                    .map(record_error)
                    .collect(),
                error_message: (!refusal.message.is_empty())
                    .then(|| WireStr::from(refusal.message)),
                current_leader: moved.then(|| current_leader(image, topic, index)).flatten(),
                ..ProducePartitionResponse::default()
            }
        }
    }
}

fn current_leader(image: &Image, topic: &ProduceTopic, index: i32) -> Option<LeaderIdAndEpoch> {
    let by_name = image.topic(&topic.name);
    let known = by_name.or_else(|| image.topic_by_id(&topic_id(&topic.topic_id)))?;
    let partition = known.partition(index)?;
    Some(LeaderIdAndEpoch {
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
    })
}
