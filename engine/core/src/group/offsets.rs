//! Committed offsets: commit, fetch, delete, expire.

use std::sync::Arc;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kacrab_protocol::generated::offset_delete_request::OffsetDeleteRequestData;
use kacrab_protocol::generated::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kacrab_protocol::generated::offset_fetch_request::OffsetFetchRequestGroup;
use kacrab_protocol::generated::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};

use super::context::{Context, Effect, NewOffset, Removal, RemovalReply};
use super::records;
use super::state::{CommittedOffset, Group, GroupState};
use super::types::{CommitPartition, CommitTopic, Response};
use crate::Uuid;

/// Up to this version a commit may say how long its offsets are kept.
const COMMIT_VERSION_WITH_RETENTION_MAX: i16 = 4;
/// From this version on a commit to a group that is not there is told so.
const COMMIT_VERSION_WITH_GROUP_ID_NOT_FOUND: i16 = 9;
/// From this version on topics have ids in place of names.
const COMMIT_VERSION_WITH_TOPIC_ID: i16 = 10;
/// Most tombstones of one write, so that it does not outgrow a batch.
const TOMBSTONES_PER_WRITE: usize = 1000;

/// An OffsetCommit.
pub(super) struct Commit {
    pub token: u64,
    pub version: i16,
    pub group_id: String,
    pub generation: i32,
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub retention_time_ms: i64,
    pub topics: Vec<CommitTopic>,
}

/// The answer to an OffsetCommit: the caller's errors, and `code` for the other partitions.
pub(super) fn commit_response(
    version: i16,
    topics: &[CommitTopic],
    code: impl Fn(&CommitPartition) -> ErrorCode,
) -> OffsetCommitResponseData {
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = match partition.error_code {
                0 => code(partition).code(),
                found => found,
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition)
                .with_error_code(code)
        });
        let response = OffsetCommitResponseTopic::default().with_partitions(partitions.collect());
        if version >= COMMIT_VERSION_WITH_TOPIC_ID {
            response.with_topic_id(topic.topic_id)
        } else {
            response.with_name(KafkaString::from(topic.name.clone()))
        }
    });
    OffsetCommitResponseData::default().with_topics(topics.collect())
}

/// Longer than the configuration allows (in Java's characters), or than a record can hold.
fn is_too_long(ctx: &Context, metadata: Option<&str>) -> bool {
    let Some(metadata) = metadata else {
        return false;
    };
    let max = ctx.settings.offset_metadata_max_bytes;
    metadata.len() > super::TEXT_BYTES_MAX
        || (metadata.len() > max && metadata.encode_utf16().count() > max)
}

/// Takes an OffsetCommit; `group` is `None` where there is none yet.
pub(super) fn commit(ctx: &mut Context, group: Option<&mut Group>, commit: Commit) {
    let asked = |topic: &CommitTopic| topic.partitions.iter().any(|p| p.error_code == 0);
    if !commit.topics.iter().any(asked) {
        // The caller has found an error for every partition.
        let response = commit_response(commit.version, &commit.topics, |_| ErrorCode::None);
        ctx.reply(commit.token, Response::OffsetCommit(response));
        return;
    }
    let checked = match &group {
        Some(group) => group.check_commit(&commit),
        // Whoever manages its partitions itself needs no group before its first commit.
        None if commit.generation < 0 => Ok(()),
        None if commit.version >= COMMIT_VERSION_WITH_GROUP_ID_NOT_FOUND => {
            Err(ErrorCode::GroupIdNotFound)
        }
        None => Err(ErrorCode::IllegalGeneration),
    };
    if let Err(error) = checked {
        let response = commit_response(commit.version, &commit.topics, |_| error);
        ctx.reply(commit.token, Response::OffsetCommit(response));
        return;
    }
    if let Some(group) = group
        && matches!(
            group.state,
            GroupState::Stable | GroupState::PreparingRebalance
        )
    {
        group.restart_session(ctx, &commit.member_id);
    }
    write_commit(ctx, commit);
}

fn write_commit(ctx: &mut Context, commit: Commit) {
    let expire_timestamp_ms = (commit.version <= COMMIT_VERSION_WITH_RETENTION_MAX
        && commit.retention_time_ms >= 0)
        .then(|| ctx.now_ms.saturating_add(commit.retention_time_ms));
    let mut offsets = Vec::new();
    let mut written = Vec::new();
    for topic in &commit.topics {
        for partition in &topic.partitions {
            let metadata = partition.metadata.as_deref();
            if partition.error_code != 0 || is_too_long(ctx, metadata) {
                continue;
            }
            let expires = expire_timestamp_ms.is_some();
            let value = CommittedOffset {
                offset: partition.offset,
                // A record with an expire timestamp has no room for these two.
                leader_epoch: if expires { -1 } else { partition.leader_epoch },
                topic_id: if expires {
                    Uuid::default()
                } else {
                    topic.topic_id
                },
                metadata: metadata.unwrap_or_default().to_owned(),
                commit_timestamp_ms: ctx.now_ms,
                expire_timestamp_ms,
            };
            let record =
                records::offset(&commit.group_id, &topic.name, partition.partition, &value);
            written.push(record);
            offsets.push(NewOffset {
                topic: topic.name.clone(),
                partition: partition.partition,
                value,
            });
        }
    }
    let response = commit_response(commit.version, &commit.topics, |partition| {
        if is_too_long(ctx, partition.metadata.as_deref()) {
            ErrorCode::OffsetMetadataTooLarge
        } else {
            ErrorCode::None
        }
    });
    if written.is_empty() {
        ctx.reply(commit.token, Response::OffsetCommit(response));
        return;
    }
    let effect = Effect::Commit {
        token: commit.token,
        version: commit.version,
        group: commit.group_id,
        topics: commit.topics,
        response,
        offsets,
    };
    ctx.write(written, effect);
}

/// Takes an OffsetFetch.
pub(super) fn fetch(
    group: Option<&Group>,
    request: &OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
    let found = |index: i32, offset: Option<&CommittedOffset>| {
        let partition = OffsetFetchResponsePartitions::default().with_partition_index(index);
        match offset {
            Some(offset) => partition
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch)
                .with_metadata(Some(KafkaString::from(offset.metadata.clone()))),
            None => partition
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(KafkaString::default())),
        }
    };
    let Some(asked) = &request.topics else {
        let all = group.into_iter().flat_map(|group| &group.offsets);
        let topics = all.map(|(name, partitions)| {
            let partitions = partitions.iter().map(|(i, offset)| found(*i, Some(offset)));
            OffsetFetchResponseTopics::default()
                .with_name(KafkaString::from(name.clone()))
                .with_partitions(partitions.collect())
        });
        return response.with_topics(topics.collect());
    };
    let topics = asked.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let offset = group.and_then(|group| group.offset(topic.name.as_str(), *index));
            found(*index, offset)
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    response.with_topics(topics.collect())
}

/// Asks for tombstones, a bounded number in each write; who waits is answered with the last.
pub(super) fn write_removals(ctx: &mut Context, removals: &[Removal], reply: RemovalReply) {
    let mut reply = Some(reply);
    let writes = removals.len().div_ceil(TOMBSTONES_PER_WRITE);
    for (number, removals) in removals.chunks(TOMBSTONES_PER_WRITE).enumerate() {
        write_removals_at_once(
            ctx,
            removals.to_vec(),
            match number + 1 == writes {
                true => reply.take().unwrap_or(RemovalReply::Nobody),
                false => RemovalReply::Nobody,
            },
        );
    }
}

/// Asks for tombstones in one write: all or none.
pub(super) fn write_removals_at_once(
    ctx: &mut Context,
    removals: Vec<Removal>,
    reply: RemovalReply,
) {
    let tombstones = removals.iter().map(|removal| match removal {
        Removal::Offset {
            group,
            topic,
            partition,
        } => records::offset_tombstone(group, topic, *partition),
        Removal::Group(group) => records::group_tombstone(group),
    });
    let tombstones = tombstones.collect();
    ctx.write(tombstones, Effect::Remove { removals, reply });
}

impl Group {
    fn check_commit(&self, commit: &Commit) -> Result<(), ErrorCode> {
        if self.state == GroupState::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let instance = commit.group_instance_id.as_deref();
        if commit.generation < 0 && self.state == GroupState::Empty {
            // An administrator, or a consumer that manages its partitions itself.
            return Ok(());
        }
        if commit.generation >= 0 || !commit.member_id.is_empty() || instance.is_some() {
            self.check_member(&commit.member_id, instance)?;
            if commit.generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if self.state != GroupState::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        if self.state == GroupState::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn offset_removal(&self, topic: &str, partition: i32) -> Removal {
        Removal::Offset {
            group: Arc::clone(&self.id),
            topic: topic.to_owned(),
            partition,
        }
    }

    /// Tombstones of all offsets of the group, written or being written.
    pub fn all_offset_removals(&self, ctx: &Context) -> Vec<Removal> {
        let mut keys = ctx.offsets_in_flight(&self.id);
        for (topic, partitions) in &self.offsets {
            keys.extend(
                partitions
                    .keys()
                    .map(|partition| (topic.clone(), *partition)),
            );
        }
        keys.into_iter()
            .map(|(topic, partition)| self.offset_removal(&topic, partition))
            .collect()
    }

    /// Takes an OffsetDelete.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP for members that are no consumers, GROUP_ID_NOT_FOUND.
    pub fn delete_offsets(
        &self,
        ctx: &mut Context,
        token: u64,
        request: &OffsetDeleteRequestData,
    ) -> Result<(), ErrorCode> {
        match self.state {
            GroupState::Dead => return Err(ErrorCode::GroupIdNotFound),
            GroupState::Empty => {}
            _ if !self.is_consumer() => return Err(ErrorCode::NonEmptyGroup),
            _ => {}
        }
        let in_flight = ctx.offsets_in_flight(&self.id);
        let mut removals = Vec::new();
        let mut topics = Vec::new();
        for topic in &request.topics {
            let name = topic.name.as_str();
            let code = if self.is_subscribed_to(name) {
                ErrorCode::GroupSubscribedToTopic
            } else {
                ErrorCode::None
            };
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let exists = self.offset(name, index).is_some()
                    || in_flight.contains(&(name.to_owned(), index));
                if code == ErrorCode::None && exists {
                    removals.push(self.offset_removal(name, index));
                }
                partitions.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(code.code()),
                );
            }
            topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        let response = OffsetDeleteResponseData::default().with_topics(topics);
        if removals.is_empty() {
            ctx.reply(token, Response::OffsetDelete(response));
        } else {
            let reply = RemovalReply::OffsetDelete { token, response };
            write_removals_at_once(ctx, removals, reply);
        }
        Ok(())
    }

    /// Tombstones of what has expired, and of the group if nothing is left of it; then it is dead
    /// until they are written.
    pub fn expire(&mut self, ctx: &Context) -> Vec<Removal> {
        let in_flight = ctx.offsets_in_flight(&self.id);
        let mut removals = Vec::new();
        let mut all = in_flight.is_empty();
        for (topic, partitions) in &self.offsets {
            let subscribed = self.is_subscribed_to(topic);
            for (partition, offset) in partitions {
                let busy = subscribed || in_flight.contains(&(topic.clone(), *partition));
                if !busy && self.has_expired(ctx, offset) {
                    removals.push(self.offset_removal(topic, *partition));
                } else {
                    all = false;
                }
            }
        }
        if all && self.state == GroupState::Empty && self.pending_join.is_empty() {
            removals.push(Removal::Group(Arc::clone(&self.id)));
            self.state = GroupState::Dead;
        }
        removals
    }

    /// Offsets are kept from when the group became empty; those of a simple group, and of topics
    /// that a stable group of consumers no longer reads, from when they were committed.
    fn has_expired(&self, ctx: &Context, offset: &CommittedOffset) -> bool {
        let committed_ms = offset.commit_timestamp_ms;
        let since_ms = match self.state {
            _ if self.protocol_type.is_none() => committed_ms,
            GroupState::Empty => self.state_since_ms.unwrap_or(committed_ms),
            GroupState::Stable if self.is_consumer() && self.subscribed.is_some() => committed_ms,
            _ => return false,
        };
        match offset.expire_timestamp_ms {
            Some(at_ms) => ctx.now_ms >= at_ms,
            None => ctx.now_ms.saturating_sub(since_ms) >= ctx.settings.offsets_retention_ms,
        }
    }
}
