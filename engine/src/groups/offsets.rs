//! OffsetCommit, OffsetFetch and OffsetDelete on the connection's shard: topics are looked up in
//! the metadata here, the coordinator knows only what groups committed.

use std::collections::{BTreeMap, BTreeSet};

use corelog_core::group::{CommitPartition, CommitTopic, Request, Response, error_response};
use corelog_core::metadata::Image;
use corelog_core::metadata::image::Topic;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestTopic,
};
use corelog_net::cold::messages::offset_commit_response::OffsetCommitResponseData;
use corelog_net::cold::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
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

use super::ASKED_AT_ONCE;
use super::requests::{Asked, Asker, Gone};
use crate::connection::aside::{aside, discard, is_heavy};

/// First version of OffsetCommit and OffsetFetch that names topics by id.
const TOPIC_ID_VERSION: i16 = 10;
/// First version of OffsetFetch that asks for several groups.
const SEVERAL_GROUPS_VERSION: i16 = 8;
/// First version of OffsetFetch with an error of the whole.
const TOP_LEVEL_ERROR_VERSION: i16 = 2;
/// Most partitions of one commit, which its coordinator takes in one step. The records of more do
/// not fit in a batch of Kafka's default `message.max.bytes`, and it answers the same.
const COMMIT_PARTITIONS_MAX: usize = 20_000;
/// Partitions that one step of a coordinator looks up or deletes.
const PARTITIONS_AT_ONCE: usize = 1024;

/// Answers OffsetCommit.
pub async fn commit(
    asker: Asker<'_>,
    mut request: OffsetCommitRequestData,
) -> Result<OffsetCommitResponseData, Gone> {
    let version = asker.frame.version;
    let image = asker.shard.image();
    let mut count = 0;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        count += topic.partitions.len();
        topics.push(commit_topic(asker, &image, topic).await);
    }
    let asked = std::mem::take(&mut request.topics);
    discard(asker.shard, is_heavy(asker.frame), asked).await;
    let request = Request::OffsetCommit {
        version,
        group_id: request.group_id.to_string(),
        generation: request.generation_id_or_member_epoch,
        member_id: request.member_id.to_string(),
        group_instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
        retention_time_ms: request.retention_time_ms,
        topics,
    };
    let Request::OffsetCommit { group_id, .. } = &request else {
        return Err(Gone);
    };
    let group_id = group_id.clone();
    let answer = if count > COMMIT_PARTITIONS_MAX {
        let refuse = move || error_response(&request, ErrorCode::InvalidCommitOffsetSize);
        aside(asker.shard, true, refuse).await
    } else {
        asker.ask(&group_id, request).await?
    };
    match answer {
        Response::OffsetCommit(response) => Ok(response),
        _ => Err(Gone),
    }
}

/// A topic of a commit with its name and id, and errors for what does not exist.
async fn commit_topic(
    asker: Asker<'_>,
    image: &Image,
    topic: &OffsetCommitRequestTopic,
) -> CommitTopic {
    let by_id = asker.frame.version >= TOPIC_ID_VERSION;
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
    let mut partitions = Vec::with_capacity(topic.partitions.len());
    for partition in &topic.partitions {
        let metadata = partition.committed_metadata.as_ref();
        partitions.push(CommitPartition {
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: metadata.map(ToString::to_string),
            error_code: error_of(partition.partition_index).code(),
        });
        asker.shard.rt.yield_if_needed().await;
    }
    let name = |topic: &Topic| topic.name.to_string();
    CommitTopic {
        name: match known {
            Some(known) => name(known),
            None => topic.name.to_string(),
        },
        topic_id: known.map_or(topic.topic_id, |known| known.id),
        partitions,
    }
}

/// Answers OffsetFetch: one group up to version 7, any number from 8 on.
pub async fn fetch(
    asker: Asker<'_>,
    request: OffsetFetchRequestData,
) -> Result<OffsetFetchResponseData, Gone> {
    let version = asker.frame.version;
    if version >= SEVERAL_GROUPS_VERSION {
        // All of a group once, however often: the answer may be much larger than the question.
        let mut all = BTreeSet::new();
        let mut seen = Seen::new();
        let mut groups = Vec::new();
        let mut left = request.groups.into_iter();
        while left.len() > 0 {
            let mut asked = Vec::new();
            for group in left.by_ref().take(ASKED_AT_ONCE) {
                if group.topics.is_none() && !all.insert(group.group_id.to_string()) {
                    continue;
                }
                let stable = request.require_stable;
                asked.push(GroupFetch::send(asker, group, stable, &mut seen).await);
            }
            for ask in asked {
                groups.push(ask.answer(asker).await?);
            }
        }
        discard(asker.shard, is_heavy(asker.frame), seen).await;
        return Ok(OffsetFetchResponseData::default().with_groups(groups));
    }
    let topics = request.topics.as_ref();
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(request.group_id.clone())
        .with_member_id(None)
        .with_member_epoch(-1)
        .with_topics(topics.map(|topics| topics.iter().map(asked_by_name).collect()));
    let mut seen = Seen::new();
    let answered = GroupFetch::send(asker, group, request.require_stable, &mut seen).await;
    let group = answered.answer(asker).await?;
    discard(asker.shard, is_heavy(asker.frame), seen).await;
    let heavy = is_heavy(asker.frame);
    Ok(aside(asker.shard, heavy, move || single(version, &request, group)).await)
}

fn asked_by_name(topic: &OffsetFetchRequestTopic) -> OffsetFetchRequestTopics {
    OffsetFetchRequestTopics::default()
        .with_name(topic.name.clone())
        .with_partition_indexes(topic.partition_indexes.clone())
}

/// Partitions that an OffsetFetch has asked for, by group, topic and topic id: each is answered once.
type Seen = BTreeMap<((String, String), [u8; 16]), BTreeSet<i32>>;

/// One group's part of an OffsetFetch that is under way.
struct GroupFetch {
    asked: Asked,
    /// What the coordinator is asked next, when the group is asked for many partitions.
    rest: std::vec::IntoIter<OffsetFetchRequestTopics>,
    /// The request without topics.
    group: OffsetFetchRequestGroup,
    require_stable: bool,
    /// Topics of unknown ids; their answer goes after the others.
    unknown: Vec<OffsetFetchResponseTopics>,
}

impl GroupFetch {
    async fn send(
        asker: Asker<'_>,
        mut group: OffsetFetchRequestGroup,
        require_stable: bool,
        seen: &mut Seen,
    ) -> GroupFetch {
        let mut unknown = Vec::new();
        let mut rest = Vec::new().into_iter();
        if let Some(asked) = group.topics.take() {
            let image = asker.shard.image();
            let mut topics = Vec::with_capacity(asked.len());
            for mut topic in asked {
                let texts = (group.group_id.to_string(), topic.name.to_string());
                let seen = seen.entry((texts, topic.topic_id.to_bytes())).or_default();
                let mut indexes = Vec::new();
                for index in std::mem::take(&mut topic.partition_indexes) {
                    if seen.insert(index) {
                        indexes.push(index);
                    }
                    asker.shard.rt.yield_if_needed().await;
                }
                if indexes.is_empty() {
                    continue; // nothing, or nothing new, is asked
                }
                topic.partition_indexes = indexes;
                if asker.frame.version < TOPIC_ID_VERSION {
                    topics.push(topic);
                } else if let Some(known) = image.topic_by_id(&topic.topic_id) {
                    topic.name = KafkaString::from(known.name.to_string());
                    topics.push(topic);
                } else {
                    unknown.push(unknown_id(&topic));
                }
                asker.shard.rt.yield_if_needed().await;
            }
            rest = topics.into_iter();
            group.topics = Some(next_part(&mut rest));
        }
        let all = group.topics.is_none();
        let request = Request::OffsetFetch {
            group: group.clone(),
            require_stable,
        };
        GroupFetch {
            asked: asker.send(group.group_id.as_str(), request),
            rest,
            group: group.with_topics((!all).then(Vec::new)),
            require_stable,
            unknown,
        }
    }

    async fn answer(mut self, asker: Asker<'_>) -> Result<OffsetFetchResponseGroup, Gone> {
        let mut answered = of_fetch(self.asked.answer(asker.connection).await?)?;
        while answered.error_code == 0 && self.rest.len() > 0 {
            let part = Some(next_part(&mut self.rest));
            let request = Request::OffsetFetch {
                group: self.group.clone().with_topics(part),
                require_stable: self.require_stable,
            };
            let more = of_fetch(asker.ask(self.group.group_id.as_str(), request).await?)?;
            if more.error_code != 0 {
                return Ok(more);
            }
            join_topics(&mut answered.topics, more.topics);
        }
        if answered.error_code != 0 {
            return Ok(answered);
        }
        if asker.frame.version >= TOPIC_ID_VERSION {
            let image = asker.shard.image();
            let found = std::mem::take(&mut answered.topics);
            for mut topic in found {
                if topic.topic_id.is_nil()
                    && let Some(known) = image.topic(topic.name.as_str())
                {
                    topic.topic_id = known.id;
                }
                // Without an id a topic cannot be told of: it is gone.
                if !topic.topic_id.is_nil() {
                    answered.topics.push(topic);
                }
                asker.shard.rt.yield_if_needed().await;
            }
            answered.topics.extend(self.unknown);
        }
        Ok(answered)
    }
}

fn of_fetch(response: Response) -> Result<OffsetFetchResponseGroup, Gone> {
    match response {
        Response::OffsetFetch(group) => Ok(group),
        _ => Err(Gone),
    }
}

/// Topics for one step of a coordinator, a piece of one at their end.
fn next_part(
    topics: &mut std::vec::IntoIter<OffsetFetchRequestTopics>,
) -> Vec<OffsetFetchRequestTopics> {
    let mut part = Vec::new();
    let mut room = PARTITIONS_AT_ONCE;
    while let Some(next) = topics.as_mut_slice().first_mut() {
        if next.partition_indexes.len() > room {
            let rest = next.partition_indexes.split_off(room);
            let piece = std::mem::replace(&mut next.partition_indexes, rest);
            part.push(next.clone().with_partition_indexes(piece));
            break;
        }
        room = room.saturating_sub(1 + next.partition_indexes.len());
        part.extend(topics.next());
        if room == 0 {
            break;
        }
    }
    part
}

/// Adds what a further step answered; a topic that was asked in two pieces becomes one again.
fn join_topics(all: &mut Vec<OffsetFetchResponseTopics>, more: Vec<OffsetFetchResponseTopics>) {
    let mut more = more.into_iter();
    if let (Some(last), Some(first)) = (all.last_mut(), more.as_slice().first())
        && last.name == first.name
        && last.topic_id == first.topic_id
    {
        let rest = more.next().map(|first| first.partitions);
        last.partitions.extend(rest.into_iter().flatten());
    }
    all.extend(more);
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

/// A topic of an OffsetDelete: a partition that is named twice is answered once.
struct Deletion {
    name: KafkaString,
    known: BTreeSet<i32>,
    unknown: BTreeSet<i32>,
}

/// Answers OffsetDelete: what does not exist is answered here, the rest by the coordinator.
pub async fn delete(
    asker: Asker<'_>,
    request: OffsetDeleteRequestData,
) -> Result<OffsetDeleteResponseData, Gone> {
    let image = asker.shard.image();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut deletions: Vec<Deletion> = Vec::new();
    for topic in &request.topics {
        let known = image.topic(topic.name.as_str());
        let at = *places.entry(topic.name.to_string()).or_insert_with(|| {
            deletions.push(Deletion {
                name: topic.name.clone(),
                known: BTreeSet::new(),
                unknown: BTreeSet::new(),
            });
            deletions.len() - 1
        });
        for partition in &topic.partitions {
            let index = partition.partition_index;
            if known.is_some_and(|known| known.partition(index).is_some()) {
                deletions[at].known.insert(index);
            } else {
                deletions[at].unknown.insert(index);
            }
            asker.shard.rt.yield_if_needed().await;
        }
        asker.shard.rt.yield_if_needed().await;
    }
    let group_id = request.group_id.clone();
    discard(asker.shard, is_heavy(asker.frame), (request, places)).await;
    let named = deletions.iter().filter(|topic| !topic.known.is_empty());
    let topics = named.map(|topic| {
        let partitions = topic
            .known
            .iter()
            .map(|&index| OffsetDeleteRequestPartition::default().with_partition_index(index));
        OffsetDeleteRequestTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let request = OffsetDeleteRequestData::default()
        .with_group_id(group_id.clone())
        .with_topics(topics.collect());
    let request = Request::OffsetDelete { request };
    let Response::OffsetDelete(mut response) = asker.ask(group_id.as_str(), request).await? else {
        return Err(Gone);
    };
    if response.error_code == 0 {
        let mut answered = std::mem::take(&mut response.topics).into_iter();
        for topic in deletions {
            let answer = (!topic.known.is_empty()).then(|| answered.next()).flatten();
            let mut answer = answer
                .unwrap_or_else(|| OffsetDeleteResponseTopic::default().with_name(topic.name));
            answer
                .partitions
                .extend(topic.unknown.into_iter().map(unknown_partition));
            response.topics.push(answer);
            asker.shard.rt.yield_if_needed().await;
        }
    }
    Ok(response)
}

fn unknown_partition(index: i32) -> OffsetDeleteResponsePartition {
    OffsetDeleteResponsePartition::default()
        .with_partition_index(index)
        .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
}
