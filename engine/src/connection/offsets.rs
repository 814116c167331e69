//! ListOffsets and OffsetForLeaderEpoch: questions to the shards that own the partitions.

use std::collections::BTreeMap;
use std::rc::Rc;

use corelog_core::metadata::image::Image;
use corelog_net::cold::messages::list_offsets_request::ListOffsetsRequestData;
use corelog_net::cold::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponseData, ListOffsetsTopicResponse,
};
use corelog_net::cold::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData;
use corelog_net::cold::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponseData, OffsetForLeaderTopicResult,
};
use corelog_runtime::ShardId;

use crate::errors::{PartitionError, error_code};
use crate::shard::Shard;
use crate::shard::message::{
    EpochQuery, OffsetAnswer, OffsetQuery, PartitionKey, Request, Response,
};

/// Owner and key of a partition by topic name.
pub(super) fn find(
    image: &Image,
    topic: &str,
    partition: i32,
) -> Result<(u16, PartitionKey), PartitionError> {
    let known = image
        .topic(topic)
        .ok_or(PartitionError::UnknownTopicOrPartition)?;
    let found = known
        .partition(partition)
        .ok_or(PartitionError::UnknownTopicOrPartition)?;
    Ok((
        found.shard,
        PartitionKey {
            topic_id: known.id,
            partition,
        },
    ))
}

/// Asks every owner once; the answers come in the order of the questions. However many there are,
/// the shard does not stand still.
pub(super) async fn ask<Q: Clone, A>(
    shard: &Rc<Shard>,
    questions: Vec<Result<(u16, Q), PartitionError>>,
    request: impl Fn(Vec<Q>) -> Request,
    take: impl Fn(Response) -> Option<Vec<Result<A, PartitionError>>>,
) -> Vec<Result<A, PartitionError>> {
    let mut by_owner: BTreeMap<u16, (Vec<Q>, Vec<usize>)> = BTreeMap::new();
    let mut answers: Vec<Option<Result<A, PartitionError>>> = Vec::with_capacity(questions.len());
    for (at, question) in questions.into_iter().enumerate() {
        match question {
            Ok((owner, question)) => {
                let of_owner = by_owner.entry(owner).or_default();
                of_owner.0.push(question);
                of_owner.1.push(at);
                answers.push(None);
            }
            Err(error) => answers.push(Some(Err(error))),
        }
        shard.rt.yield_if_needed().await;
    }
    let mut asked = Vec::with_capacity(by_owner.len());
    for (owner, (questions, places)) in by_owner {
        asked.push((shard.call(ShardId(owner), request(questions)), places));
    }
    for (answer, places) in asked {
        let Some(found) = answer.await.and_then(&take) else {
            continue;
        };
        for (at, found) in places.into_iter().zip(found) {
            answers[at] = Some(found);
            shard.rt.yield_if_needed().await;
        }
    }
    let mut all = Vec::with_capacity(answers.len());
    for answer in answers {
        all.push(answer.unwrap_or(Err(PartitionError::Stopping)));
        shard.rt.yield_if_needed().await;
    }
    all
}

/// First version of ListOffsets whose answers carry leader epochs.
const LEADER_EPOCH_VERSION: i16 = 4;

/// Answers ListOffsets.
pub async fn list_offsets(
    shard: &Rc<Shard>,
    version: i16,
    request: ListOffsetsRequestData,
) -> ListOffsetsResponseData {
    let image = shard.image();
    let mut questions = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let found = find(&image, topic.name.as_str(), partition.partition_index);
            questions.push(found.map(|(owner, key)| {
                let current_leader_epoch = partition.current_leader_epoch;
                (
                    owner,
                    OffsetQuery {
                        key,
                        timestamp: partition.timestamp,
                        current_leader_epoch,
                    },
                )
            }));
            shard.rt.yield_if_needed().await;
        }
        shard.rt.yield_if_needed().await;
    }
    let take = |response| match response {
        Response::Offsets(answers) => Some(answers),
        _ => None,
    };
    let mut answers = ask(shard, questions, Request::Offsets, take)
        .await
        .into_iter();
    let mut response = ListOffsetsResponseData::default();
    for topic in request.topics {
        let mut of_topic = ListOffsetsTopicResponse {
            name: topic.name,
            ..ListOffsetsTopicResponse::default()
        };
        for partition in topic.partitions {
            let answer = answers.next().expect("one answer per question");
            let mut answer = offset_response(partition.partition_index, answer);
            if version < LEADER_EPOCH_VERSION {
                answer.leader_epoch = -1;
            }
            of_topic.partitions.push(answer);
            shard.rt.yield_if_needed().await;
        }
        response.topics.push(of_topic);
        shard.rt.yield_if_needed().await;
    }
    response
}

fn offset_response(
    partition_index: i32,
    answer: Result<OffsetAnswer, PartitionError>,
) -> ListOffsetsPartitionResponse {
    match answer {
        Ok(answer) => ListOffsetsPartitionResponse {
            partition_index,
            timestamp: answer.timestamp,
            offset: answer.offset,
            leader_epoch: answer.leader_epoch,
            ..ListOffsetsPartitionResponse::default()
        },
        Err(error) => ListOffsetsPartitionResponse {
            partition_index,
            error_code: error_code(&error).code(),
            timestamp: -1,
            offset: -1,
            leader_epoch: -1,
            ..ListOffsetsPartitionResponse::default()
        },
    }
}

/// Answers OffsetForLeaderEpoch.
pub async fn epoch_ends(
    shard: &Rc<Shard>,
    request: OffsetForLeaderEpochRequestData,
) -> OffsetForLeaderEpochResponseData {
    let image = shard.image();
    let mut questions = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let found = find(&image, topic.topic.as_str(), partition.partition);
            questions.push(found.map(|(owner, key)| {
                let (leader_epoch, current_leader_epoch) =
                    (partition.leader_epoch, partition.current_leader_epoch);
                (
                    owner,
                    EpochQuery {
                        key,
                        leader_epoch,
                        current_leader_epoch,
                    },
                )
            }));
            shard.rt.yield_if_needed().await;
        }
        shard.rt.yield_if_needed().await;
    }
    let take = |response| match response {
        Response::EpochEnds(answers) => Some(answers),
        _ => None,
    };
    let mut answers = ask(shard, questions, Request::EpochEnds, take)
        .await
        .into_iter();
    let mut response = OffsetForLeaderEpochResponseData::default();
    for topic in request.topics {
        let mut of_topic = OffsetForLeaderTopicResult {
            topic: topic.topic,
            ..Default::default()
        };
        for partition in topic.partitions {
            let (code, epoch, end) = match answers.next().expect("one answer per question") {
                Ok((epoch, end)) => (0, epoch, end),
                Err(error) => (error_code(&error).code(), -1, -1),
            };
            of_topic.partitions.push(EpochEndOffset {
                error_code: code,
                partition: partition.partition,
                leader_epoch: epoch,
                end_offset: end,
                ..EpochEndOffset::default()
            });
            shard.rt.yield_if_needed().await;
        }
        response.topics.push(of_topic);
        shard.rt.yield_if_needed().await;
    }
    response
}
