//! OffsetCommit, OffsetFetch and OffsetDelete on the connection's shard: topics are looked up in
//! the metadata here, the coordinator knows only what groups committed.

use corelog_core::group::{CommitPartition, CommitTopic, Request, Response};
use corelog_core::metadata::Image;
use corelog_core::metadata::image::Topic;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestTopic,
};
use corelog_net::cold::messages::offset_commit_response::OffsetCommitResponseData;
use corelog_net::cold::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestTopic,
};
use corelog_net::cold::messages::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use corelog_net::cold::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
};
use corelog_net::cold::messages::offset_fetch_response::{
    OffsetFetchResponseData, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kacrab_protocol::generated::ErrorCode;

use super::requests::{Asked, Asker, Gone};

/// First version of OffsetCommit and OffsetFetch that names topics by id.
const TOPIC_ID_VERSION: i16 = 10;
/// First version of OffsetFetch that asks for several groups.
const SEVERAL_GROUPS_VERSION: i16 = 8;
/// First version of OffsetFetch with an error of the whole.
const TOP_LEVEL_ERROR_VERSION: i16 = 2;

/// Answers OffsetCommit.
pub async fn commit(
    asker: Asker<'_>,
    request: OffsetCommitRequestData,
) -> Result<OffsetCommitResponseData, Gone> {
    let version = asker.frame.version;
    let image = asker.shard.image();
    let topics = request.topics.iter();
    let request = Request::OffsetCommit {
        version,
        group_id: request.group_id.to_string(),
        generation: request.generation_id_or_member_epoch,
        member_id: request.member_id.to_string(),
        group_instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
        retention_time_ms: request.retention_time_ms,
        topics: topics.map(|t| commit_topic(&image, version, t)).collect(),
    };
    let Request::OffsetCommit { group_id, .. } = &request else {
        return Err(Gone);
    };
    let group_id = group_id.clone();
    match asker.ask(&group_id, request).await? {
        Response::OffsetCommit(response) => Ok(response),
        _ => Err(Gone),
    }
}

/// A topic of a commit with its name and id, and errors for what does not exist.
fn commit_topic(image: &Image, version: i16, topic: &OffsetCommitRequestTopic) -> CommitTopic {
    let by_id = version >= TOPIC_ID_VERSION;
    let known = if by_id {
        image.topic_by_id(&topic.topic_id)
    } else {
        image.topic(topic.name.as_str())
    };
    let error_of = |partition: i32| match known {
        None if by_id => ErrorCode::UnknownTopicId,
        Some(known) if known.partition(partition).is_some() => ErrorCode::None,
        _ => ErrorCode::UnknownTopicOrPartition,
    };
    let partitions = topic.partitions.iter().map(|partition| CommitPartition {
        partition: partition.partition_index,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition
            .committed_metadata
            .as_ref()
            .map(ToString::to_string),
        error_code: error_of(partition.partition_index).code(),
    });
    let name = |topic: &Topic| topic.name.to_string();
    CommitTopic {
        name: match known {
            Some(known) => name(known),
            None => topic.name.to_string(),
        },
        topic_id: known.map_or(topic.topic_id, |known| known.id),
        partitions: partitions.collect(),
    }
}

/// Answers OffsetFetch: one group up to version 7, any number from 8 on.
pub async fn fetch(
    asker: Asker<'_>,
    request: OffsetFetchRequestData,
) -> Result<OffsetFetchResponseData, Gone> {
    let version = asker.frame.version;
    if version >= SEVERAL_GROUPS_VERSION {
        let require_stable = request.require_stable;
        let asked: Vec<_> = request
            .groups
            .into_iter()
            .map(|group| GroupFetch::send(asker, group, require_stable))
            .collect();
        let mut groups = Vec::with_capacity(asked.len());
        for ask in asked {
            groups.push(ask.answer(asker).await?);
        }
        return Ok(OffsetFetchResponseData::default().with_groups(groups));
    }
    let topics = request.topics.as_ref();
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(request.group_id.clone())
        .with_member_id(None)
        .with_member_epoch(-1)
        .with_topics(topics.map(|topics| topics.iter().map(asked_by_name).collect()));
    let answered = GroupFetch::send(asker, group, request.require_stable);
    let group = answered.answer(asker).await?;
    Ok(single(version, &request, group))
}

fn asked_by_name(topic: &OffsetFetchRequestTopic) -> OffsetFetchRequestTopics {
    OffsetFetchRequestTopics::default()
        .with_name(topic.name.clone())
        .with_partition_indexes(topic.partition_indexes.clone())
}

/// One group's part of an OffsetFetch that is under way.
struct GroupFetch {
    asked: Asked,
    /// Topics of unknown ids; their answer goes after the others.
    unknown: Vec<OffsetFetchResponseTopics>,
}

impl GroupFetch {
    fn send(
        asker: Asker<'_>,
        mut group: OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> GroupFetch {
        let mut unknown = Vec::new();
        if asker.frame.version >= TOPIC_ID_VERSION
            && let Some(topics) = &mut group.topics
        {
            let image = asker.shard.image();
            topics.retain_mut(|topic| match image.topic_by_id(&topic.topic_id) {
                Some(known) => {
                    topic.name = KafkaString::from(known.name.to_string());
                    true
                }
                None => {
                    unknown.push(unknown_id(topic));
                    false
                }
            });
        }
        let group_id = group.group_id.clone();
        let request = Request::OffsetFetch {
            group,
            require_stable,
        };
        GroupFetch {
            asked: asker.send(group_id.as_str(), request),
            unknown,
        }
    }

    async fn answer(self, asker: Asker<'_>) -> Result<OffsetFetchResponseGroup, Gone> {
        let Response::OffsetFetch(mut group) = self.asked.answer(asker.connection).await? else {
            return Err(Gone);
        };
        if group.error_code != 0 {
            return Ok(group);
        }
        if asker.frame.version >= TOPIC_ID_VERSION {
            let image = asker.shard.image();
            // Without an id a topic cannot be told of: it is gone.
            group.topics.retain_mut(|topic| {
                if topic.topic_id.is_nil()
                    && let Some(known) = image.topic(topic.name.as_str())
                {
                    topic.topic_id = known.id;
                }
                !topic.topic_id.is_nil()
            });
            group.topics.extend(self.unknown);
        }
        Ok(group)
    }
}

fn unknown_id(topic: &OffsetFetchRequestTopics) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|&index| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(KafkaString::default()))
            .with_error_code(ErrorCode::UnknownTopicId.code())
    });
    OffsetFetchResponseTopics::default()
        .with_topic_id(topic.topic_id)
        .with_partitions(partitions.collect())
}

/// The answer of the versions that ask for one group.
fn single(
    version: i16,
    request: &OffsetFetchRequestData,
    group: OffsetFetchResponseGroup,
) -> OffsetFetchResponseData {
    if group.error_code != 0 {
        if version >= TOP_LEVEL_ERROR_VERSION {
            return OffsetFetchResponseData::default().with_error_code(group.error_code);
        }
        // There is no other place for the error.
        let refused = |&index: &i32| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(KafkaString::default()))
                .with_error_code(group.error_code)
        };
        let topics = request.topics.iter().flatten().map(|topic| {
            OffsetFetchResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(topic.partition_indexes.iter().map(refused).collect())
        });
        return OffsetFetchResponseData::default().with_topics(topics.collect());
    }
    let of_partition = |partition: OffsetFetchResponsePartitions| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_committed_offset(partition.committed_offset)
            .with_committed_leader_epoch(partition.committed_leader_epoch)
            .with_metadata(partition.metadata)
            .with_error_code(partition.error_code)
    };
    let topics = group.topics.into_iter().map(|topic| {
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(topic.partitions.into_iter().map(of_partition).collect())
    });
    OffsetFetchResponseData::default().with_topics(topics.collect())
}

/// Answers OffsetDelete: what does not exist is answered here, the rest by the coordinator.
pub async fn delete(
    asker: Asker<'_>,
    mut request: OffsetDeleteRequestData,
) -> Result<OffsetDeleteResponseData, Gone> {
    let image = asker.shard.image();
    let mut unknown = Vec::new();
    request
        .topics
        .retain_mut(|topic| match take_unknown(&image, topic) {
            Some(found) => {
                unknown.push(found);
                !topic.partitions.is_empty()
            }
            None => true,
        });
    let group_id = request.group_id.clone();
    let request = Request::OffsetDelete { request };
    match asker.ask(group_id.as_str(), request).await? {
        Response::OffsetDelete(mut response) => {
            if response.error_code == 0 {
                unknown.into_iter().for_each(|t| merge(&mut response, t));
            }
            Ok(response)
        }
        _ => Err(Gone),
    }
}

/// Takes partitions that do not exist out of a topic; gives their answer.
fn take_unknown(
    image: &Image,
    topic: &mut OffsetDeleteRequestTopic,
) -> Option<OffsetDeleteResponseTopic> {
    let known = image.topic(topic.name.as_str());
    let mut unknown = Vec::new();
    topic.partitions.retain(|partition| {
        let index = partition.partition_index;
        let exists = known.is_some_and(|known| known.partition(index).is_some());
        if !exists {
            unknown.push(
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code()),
            );
        }
        exists
    });
    (!unknown.is_empty()).then(|| {
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(unknown)
    })
}

fn merge(response: &mut OffsetDeleteResponseData, topic: OffsetDeleteResponseTopic) {
    let same = |other: &&mut OffsetDeleteResponseTopic| other.name == topic.name;
    match response.topics.iter_mut().find(same) {
        Some(other) => other.partitions.extend(topic.partitions),
        None => response.topics.push(topic),
    }
}
