//! What goes into the coordinator of groups and what comes out.

use bytes::Bytes;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::delete_groups_response::DeletableGroupResult;
use kacrab_protocol::generated::describe_groups_response::DescribedGroup;
use kacrab_protocol::generated::heartbeat_request::HeartbeatRequestData;
use kacrab_protocol::generated::heartbeat_response::HeartbeatResponseData;
use kacrab_protocol::generated::join_group_request::JoinGroupRequestData;
use kacrab_protocol::generated::join_group_response::JoinGroupResponseData;
use kacrab_protocol::generated::leave_group_request::LeaveGroupRequestData;
use kacrab_protocol::generated::leave_group_response::LeaveGroupResponseData;
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;
use kacrab_protocol::generated::offset_commit_response::OffsetCommitResponseData;
use kacrab_protocol::generated::offset_delete_request::OffsetDeleteRequestData;
use kacrab_protocol::generated::offset_delete_response::OffsetDeleteResponseData;
use kacrab_protocol::generated::offset_fetch_request::OffsetFetchRequestGroup;
use kacrab_protocol::generated::offset_fetch_response::OffsetFetchResponseGroup;
use kacrab_protocol::generated::sync_group_request::SyncGroupRequestData;
use kacrab_protocol::generated::sync_group_response::SyncGroupResponseData;

use crate::Uuid;
use crate::config::BrokerConfig;

/// Configuration of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
}

impl GroupSettings {
    /// The settings in force on a broker.
    pub fn from_config(config: &BrokerConfig) -> GroupSettings {
        config.groups.clone()
    }
}

impl Default for GroupSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3000,
            min_session_timeout_ms: 6000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            offsets_retention_check_interval_ms: 600_000,
        }
    }
}

/// Clock and chance of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Milliseconds since the epoch; what is stored counts in it, and time-outs do too.
    pub now_ms: i64,
    /// Fresh random bytes: the id of a member that joins for the first time is made of them.
    pub random: [u8; 16],
}

/// A record of the partition, when it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRecord {
    /// Key.
    pub key: Bytes,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Timestamp of the record, milliseconds since the epoch.
    pub timestamp_ms: i64,
}

/// A record to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRecord {
    /// Key.
    pub key: Bytes,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Client id of the request's header, or empty.
    pub id: String,
    /// Address, as Kafka writes it: `/127.0.0.1`.
    pub host: String,
}

/// Why records could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The partition is not (or no longer) this broker's to write.
    NotLeader,
    /// The disk refused.
    Storage,
    /// The in-sync replicas are fewer than `min.insync.replicas`.
    NotEnoughReplicas,
    /// `offsets.commit.timeout.ms` passed before the replicas had it.
    TimedOut,
    /// The records are larger than the topic allows.
    TooLarge,
    /// There is no such partition here.
    UnknownPartition,
}

impl WriteError {
    /// What the asker is told.
    pub fn response_code(self) -> ErrorCode {
        match self {
            WriteError::NotLeader | WriteError::Storage => ErrorCode::NotCoordinator,
            WriteError::NotEnoughReplicas | WriteError::TimedOut | WriteError::UnknownPartition => {
                ErrorCode::CoordinatorNotAvailable
            }
            WriteError::TooLarge => ErrorCode::UnknownServerError,
        }
    }
}

/// A topic of an [`Request::OffsetCommit`].
#[derive(Debug, Clone, PartialEq)]
pub struct CommitTopic {
    /// Name: resolved by the caller where the request names an id. Empty where the id is unknown;
    /// then every partition must have an error.
    pub name: String,
    /// Id: as in the request, or the caller's knowledge; zero = none. It is stored.
    pub topic_id: Uuid,
    /// Partitions.
    pub partitions: Vec<CommitPartition>,
}

/// A partition of a [`CommitTopic`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPartition {
    /// Number.
    pub partition: i32,
    /// Offset to commit.
    pub offset: i64,
    /// Leader epoch of the last consumed record; -1 = none.
    pub leader_epoch: i32,
    /// The client's text.
    pub metadata: Option<String>,
    /// 0, or an error the caller found: it is echoed and nothing is stored.
    pub error_code: i16,
}

/// A request for one group; [`Request::List`] is for all of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// JoinGroup, 0 to 9.
    Join {
        /// Version of the request.
        version: i16,
        /// The request.
        request: JoinGroupRequestData,
    },
    /// SyncGroup, 0 to 5.
    Sync {
        /// Version of the request.
        version: i16,
        /// The request.
        request: SyncGroupRequestData,
    },
    /// Heartbeat, 0 to 4.
    Heartbeat {
        /// The request.
        request: HeartbeatRequestData,
    },
    /// LeaveGroup, 0 to 5.
    Leave {
        /// Version of the request.
        version: i16,
        /// The request.
        request: LeaveGroupRequestData,
    },
    /// OffsetCommit, 2 to 10. Whether topics and partitions exist was checked by the caller.
    OffsetCommit {
        /// Version of the request.
        version: i16,
        /// Group.
        group_id: String,
        /// Generation; -1 = the group is not managed.
        generation: i32,
        /// Member; empty = the group is not managed.
        member_id: String,
        /// Static member.
        group_instance_id: Option<String>,
        /// Versions 2 to 4: how long the offsets are kept; -1 = the broker's retention.
        retention_time_ms: i64,
        /// Offsets.
        topics: Vec<CommitTopic>,
    },
    /// OffsetFetch, 1 to 10: one group of it. `topics: None` = all.
    OffsetFetch {
        /// What is asked of the group; topics carry names (resolved by the caller), their ids are
        /// echoed.
        group: OffsetFetchRequestGroup,
        /// Wait for what is being written.
        require_stable: bool,
    },
    /// OffsetDelete, 0.
    OffsetDelete {
        /// The request; whether topics exist was checked by the caller.
        request: OffsetDeleteRequestData,
    },
    /// DescribeGroups, 0 to 6: one group of it.
    Describe {
        /// Version of the request.
        version: i16,
        /// Group.
        group_id: String,
        /// Whether the allowed operations are wanted.
        include_authorized_operations: bool,
    },
    /// DeleteGroups, 0 to 3: one group of it.
    Delete {
        /// Group.
        group_id: String,
    },
    /// ListGroups, 0 to 5: the groups of this partition.
    List {
        /// States to list, any case; empty = all.
        states_filter: Vec<String>,
        /// Types to list, any case; empty = all.
        types_filter: Vec<String>,
    },
}

/// The answer to the [`Request`] of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// JoinGroup.
    Join(JoinGroupResponseData),
    /// SyncGroup.
    Sync(SyncGroupResponseData),
    /// Heartbeat.
    Heartbeat(HeartbeatResponseData),
    /// LeaveGroup.
    Leave(LeaveGroupResponseData),
    /// OffsetCommit: topics are named below version 10 and carry their id from there.
    OffsetCommit(OffsetCommitResponseData),
    /// OffsetFetch of one group. Topics carry their name, and the id they were asked with; who
    /// encodes the answer fits both to the version.
    OffsetFetch(OffsetFetchResponseGroup),
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteResponseData),
    /// DescribeGroups of one group.
    Describe(DescribedGroup),
    /// DeleteGroups of one group.
    Delete(DeletableGroupResult),
    /// ListGroups of this partition.
    List(ListGroupsResponseData),
}

/// What happens to the coordinator.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an event is made and taken at once, never kept"
)]
pub enum Event {
    /// Records of the partition, in the order of their offsets; any number of times before
    /// [`Event::Loaded`].
    Load(Vec<LoadRecord>),
    /// All records were given. From now on requests are answered; the sessions of the members
    /// that were loaded start now.
    Loaded,
    /// The partition is no longer hosted here: everybody who waits is answered NOT_COORDINATOR,
    /// and so is every later request. No writes are asked for any more.
    Unloaded,
    /// Somebody asks.
    Request {
        /// Names the request in its reply; not used before.
        token: u64,
        /// Who.
        client: Client,
        /// What.
        request: Request,
    },
    /// How the [`Command::Write`] of that number ended, in the order of the commands.
    Written {
        /// Number of the write.
        write: u64,
        /// Its end.
        result: Result<(), WriteError>,
    },
    /// Some deadline may have passed.
    Tick,
    /// Topics are gone: the offsets committed for them are dropped.
    TopicsDeleted(Vec<(String, Uuid)>),
    /// The configuration changed.
    SettingsChanged(GroupSettings),
    /// The asker is gone and wants no reply. What was asked still happens: a member that was
    /// joining stays until its time-out.
    Cancelled {
        /// Of the request.
        token: u64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Answer a request.
    Reply {
        /// Of the request.
        token: u64,
        /// The answer.
        response: Response,
    },
    /// Append these records to the partition, all or none, in this order; tell the end with
    /// [`Event::Written`].
    Write {
        /// Number of the write: 0, 1, 2...
        write: u64,
        /// At least one record.
        records: Vec<WriteRecord>,
    },
}

/// How many groups there are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Without members.
    pub empty: usize,
    /// Members are (re)joining.
    pub preparing_rebalance: usize,
    /// Members wait for the leader's assignment.
    pub completing_rebalance: usize,
    /// Members consume.
    pub stable: usize,
    /// Being deleted.
    pub dead: usize,
}
