//! Records of the coordinator: how its state is written, and how it is read back.

use std::sync::Arc;

use bytes::Bytes;
use corelog_record::schemas::consumer_offsets::{
    self, GroupMetadataValue, Key, MemberValue, OffsetCommitValue,
};

use super::state::{CommittedOffset, Group, GroupState, Member};
use super::types::{LoadRecord, WriteRecord};
use crate::Uuid;

const BOUNDED: &str = "the texts of a request were bounded before it was taken";

fn key_bytes(key: &Key) -> Bytes {
    Bytes::from(key.encode().expect(BOUNDED))
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Bytes {
    key_bytes(&Key::OffsetCommit {
        group: group.to_owned(),
        topic: topic.to_owned(),
        partition,
    })
}

/// A committed offset.
pub(super) fn offset(
    group: &str,
    topic: &str,
    partition: i32,
    value: &CommittedOffset,
) -> WriteRecord {
    let value = OffsetCommitValue {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.clone(),
        commit_timestamp_ms: value.commit_timestamp_ms,
        expire_timestamp_ms: value.expire_timestamp_ms.unwrap_or(-1),
        topic_id: value.topic_id.to_bytes(),
    };
    WriteRecord {
        key: offset_key(group, topic, partition),
        value: Some(Bytes::from(value.encode().expect(BOUNDED))),
    }
}

/// No more committed offset.
pub(super) fn offset_tombstone(group: &str, topic: &str, partition: i32) -> WriteRecord {
    WriteRecord {
        key: offset_key(group, topic, partition),
        value: None,
    }
}

/// The group as it is now, each member with the assignment that `assignment` says.
pub(super) fn group(group: &Group, assignment: impl Fn(&Member) -> Bytes) -> WriteRecord {
    let protocol = group.protocol.as_deref();
    let members = group.members.values().map(|member| MemberValue {
        member_id: member.id.to_string(),
        group_instance_id: member.group_instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        session_timeout_ms: member.session_timeout_ms,
        subscription: member.metadata(protocol.unwrap_or_default()),
        assignment: assignment(member),
    });
    let value = GroupMetadataValue {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol.clone(),
        leader: group.leader.as_deref().map(str::to_owned),
        current_state_timestamp_ms: group.state_since_ms.unwrap_or(-1),
        members: members.collect(),
    };
    group_record(&group.id, &value)
}

/// A group that has just been created and has no generation yet.
pub(super) fn new_group(group: &Group) -> WriteRecord {
    let value = GroupMetadataValue {
        protocol_type: String::new(),
        generation: 0,
        protocol: None,
        leader: None,
        current_state_timestamp_ms: group.state_since_ms.unwrap_or(-1),
        members: Vec::new(),
    };
    group_record(&group.id, &value)
}

fn group_record(id: &str, value: &GroupMetadataValue) -> WriteRecord {
    WriteRecord {
        key: key_bytes(&Key::GroupMetadata {
            group: id.to_owned(),
        }),
        value: Some(Bytes::from(value.encode().expect(BOUNDED))),
    }
}

/// No more group.
pub(super) fn group_tombstone(id: &str) -> WriteRecord {
    WriteRecord {
        key: key_bytes(&Key::GroupMetadata {
            group: id.to_owned(),
        }),
        value: None,
    }
}

/// What a record says.
pub(super) enum Loaded {
    Offset {
        group: String,
        topic: String,
        partition: i32,
        value: Option<CommittedOffset>,
    },
    Group {
        group: String,
        value: Option<GroupMetadataValue>,
    },
    /// Of a kind that is not ours.
    Other,
    /// Bytes that make no sense, or of a version from the future.
    Unreadable,
}

/// Reads a record of the partition.
pub(super) fn read(record: &LoadRecord) -> Loaded {
    let Ok(key) = consumer_offsets::decode_key(&record.key) else {
        return Loaded::Unreadable;
    };
    match key {
        Key::Other { .. } => Loaded::Other,
        Key::OffsetCommit {
            group,
            topic,
            partition,
        } => {
            let value = match record.value.as_deref().map(OffsetCommitValue::decode) {
                None => None,
                Some(Ok(value)) => Some(committed(value)),
                Some(Err(_)) => return Loaded::Unreadable,
            };
            Loaded::Offset {
                group,
                topic,
                partition,
                value,
            }
        }
        Key::GroupMetadata { group } => {
            let value = match record.value.as_deref().map(GroupMetadataValue::decode) {
                None => None,
                Some(Ok(value)) => Some(value),
                Some(Err(_)) => return Loaded::Unreadable,
            };
            Loaded::Group { group, value }
        }
    }
}

fn committed(value: OffsetCommitValue) -> CommittedOffset {
    CommittedOffset {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata,
        commit_timestamp_ms: value.commit_timestamp_ms,
        expire_timestamp_ms: Some(value.expire_timestamp_ms).filter(|at_ms| *at_ms != -1),
        topic_id: uuid(value.topic_id),
    }
}

fn uuid(bytes: [u8; 16]) -> Uuid {
    let bits = u128::from_be_bytes(bytes);
    Uuid::from_parts((bits >> 64) as u64, bits as u64)
}

/// The group of a record: stable where it has members, else empty. Its offsets are none.
pub(super) fn to_group(id: &str, value: GroupMetadataValue) -> Group {
    let since_ms = Some(value.current_state_timestamp_ms).filter(|at_ms| *at_ms != -1);
    let mut group = Group::new(Arc::from(id), since_ms);
    group.generation = value.generation;
    group.protocol_type = Some(value.protocol_type.clone()).filter(|name| !name.is_empty());
    group.protocol = value.protocol.clone();
    if !value.members.is_empty() {
        group.state = GroupState::Stable;
        // Only a damaged record lacks it; an empty name keeps the members.
        group.protocol.get_or_insert_default();
    }
    let protocol = group.protocol.clone().unwrap_or_default();
    for member in value.members {
        let taken = member
            .group_instance_id
            .as_ref()
            .is_some_and(|instance| group.static_members.contains_key(instance));
        if taken || group.members.contains_key(member.member_id.as_str()) {
            continue;
        }
        let member = Member {
            id: Arc::from(member.member_id),
            group_instance_id: member.group_instance_id,
            client_id: member.client_id,
            client_host: member.client_host,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            protocols: vec![(protocol.clone(), member.subscription)],
            assignment: member.assignment,
            join: None,
            sync: None,
            is_new: false,
        };
        group.add(member, &value.protocol_type);
    }
    if let Some(leader) = value.leader
        && let Some((id, _)) = group.members.get_key_value(leader.as_str())
    {
        group.leader = Some(Arc::clone(id));
    }
    group.subscribed = group.subscribed_topics();
    group
}
