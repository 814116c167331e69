//! The coordinator's outer shape: events in, commands out.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::delete_groups_response::DeletableGroupResult;
use kacrab_protocol::generated::describe_groups_response::DescribedGroup;
use kacrab_protocol::generated::heartbeat_response::HeartbeatResponseData;
use kacrab_protocol::generated::join_group_response::JoinGroupResponseData;
use kacrab_protocol::generated::leave_group_response::LeaveGroupResponseData;
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;
use kacrab_protocol::generated::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kacrab_protocol::generated::offset_delete_response::OffsetDeleteResponseData;
use kacrab_protocol::generated::offset_fetch_response::OffsetFetchResponseGroup;
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use super::types::{
    Command, CommitTopic, Event, GroupCounts, GroupSettings, Input, Request, Response,
};

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct GroupCoordinator {
    settings: GroupSettings,
}

impl GroupCoordinator {
    /// A coordinator that is loading: requests are answered COORDINATOR_LOAD_IN_PROGRESS until
    /// [`Event::Loaded`].
    pub fn new(settings: GroupSettings) -> GroupCoordinator {
        GroupCoordinator { settings }
    }

    /// Takes an event and says what is to be done, in order.
    pub fn handle(&mut self, _input: Input, event: Event) -> Vec<Command> {
        match event {
            Event::Request { token, request, .. } => vec![Command::Reply {
                token,
                response: error_response(&request, ErrorCode::CoordinatorNotAvailable),
            }],
            Event::SettingsChanged(settings) => {
                self.settings = settings;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// When the next [`Event::Tick`] is due, milliseconds since the epoch. It may lie in the past.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        None
    }

    /// The committed offsets: group, topic, partition, offset.
    pub fn committed(&self) -> impl Iterator<Item = (&str, &str, i32, i64)> {
        std::iter::empty()
    }

    /// How many groups there are in each state.
    pub fn group_counts(&self) -> GroupCounts {
        GroupCounts::default()
    }
}

/// The answer to a request that fails as a whole.
pub(super) fn error_response(request: &Request, error: ErrorCode) -> Response {
    let code = error.code();
    match request {
        Request::Join { request, .. } => Response::Join(
            JoinGroupResponseData::default()
                .with_error_code(code)
                .with_generation_id(-1)
                .with_member_id(request.member_id.clone()),
        ),
        Request::Sync { .. } => {
            Response::Sync(SyncGroupResponseData::default().with_error_code(code))
        }
        Request::Heartbeat { .. } => {
            Response::Heartbeat(HeartbeatResponseData::default().with_error_code(code))
        }
        Request::Leave { .. } => {
            Response::Leave(LeaveGroupResponseData::default().with_error_code(code))
        }
        Request::OffsetCommit {
            version, topics, ..
        } => Response::OffsetCommit(commit_response(*version, topics, |_| code)),
        Request::OffsetFetch { group, .. } => Response::OffsetFetch(
            OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(code),
        ),
        Request::OffsetDelete { .. } => {
            Response::OffsetDelete(OffsetDeleteResponseData::default().with_error_code(code))
        }
        Request::Describe { group_id, .. } => Response::Describe(
            DescribedGroup::default()
                .with_group_id(KafkaString::from(group_id.clone()))
                .with_error_code(code),
        ),
        Request::Delete { group_id } => Response::Delete(
            DeletableGroupResult::default()
                .with_group_id(KafkaString::from(group_id.clone()))
                .with_error_code(code),
        ),
        Request::List { .. } => {
            Response::List(ListGroupsResponseData::default().with_error_code(code))
        }
    }
}

/// The answer to an OffsetCommit: the caller's errors, and `code` for the other partitions.
pub(super) fn commit_response(
    version: i16,
    topics: &[CommitTopic],
    code: impl Fn(&super::types::CommitPartition) -> i16,
) -> OffsetCommitResponseData {
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = match partition.error_code {
                0 => code(partition),
                found => found,
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition)
                .with_error_code(code)
        });
        let response = OffsetCommitResponseTopic::default().with_partitions(partitions.collect());
        if version >= 10 {
            response.with_topic_id(topic.topic_id)
        } else {
            response.with_name(KafkaString::from(topic.name.clone()))
        }
    });
    OffsetCommitResponseData::default().with_topics(topics.collect())
}
