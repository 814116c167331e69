//! What shards say to each other: each request is answered once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use corelog_core::Uuid;
use corelog_core::api::LogSize;
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::image::Image;
use corelog_storage::log::FileRange;
use corelog_storage::producer_state::ActiveProducer;

use crate::connection::Arrival;
use crate::controller::{AdminAnswer, AdminRequest};
use crate::daemon::start_state::StartState;
use crate::errors::PartitionError;
use crate::log_dirs::Found;
use crate::shard::dirs::DirNews;
use crate::stats::ShardStats;

/// Names a partition everywhere in one process: the topic's id does not come back with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
}

/// One partition's batch of a Produce request.
#[derive(Debug)]
pub struct AppendItem {
    /// Where to.
    pub key: PartitionKey,
    /// The batch as the client made it: a slice of the received frame.
    pub records: Bytes,
}

/// What an acknowledgement waits for, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct AppendTerms {
    /// 0, 1 or -1.
    pub acks: i16,
    /// Longest wait, in milliseconds.
    pub timeout_ms: i32,
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendAnswer {
    /// Offset of its first record.
    pub base_offset: i64,
    /// -1 unless the topic stamps with LogAppendTime.
    pub log_append_time_ms: i64,
    /// First offset of the log.
    pub log_start_offset: i64,
}

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendRefusal {
    /// Error for the client.
    pub error: PartitionError,
    /// Records at fault, by index in the batch, and why.
    pub record_errors: Vec<(i32, String)>,
    /// A sentence, empty when the code says it all.
    pub message: String,
    /// First offset of the log where it is known, else -1.
    pub log_start_offset: i64,
}

impl From<PartitionError> for AppendRefusal {
    fn from(error: PartitionError) -> Self {
        AppendRefusal {
            error,
            record_errors: Vec::new(),
            message: String::new(),
            log_start_offset: -1,
        }
    }
}

/// One partition of a Fetch request.
#[derive(Debug, Clone)]
pub struct ReadItem {
    /// Which.
    pub key: PartitionKey,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch the client believes in; -1 = it does not say.
    pub current_leader_epoch: i32,
    /// Epoch of the last batch the client has; -1 = it does not say.
    pub last_fetched_epoch: i32,
    /// At most this much, save for a first batch that is larger.
    pub max_bytes: usize,
}

/// One partition's part of a Fetch answer: marks and file ranges, no bytes.
#[derive(Debug, Default)]
pub struct ReadAnswer {
    /// Error, if any; then only the marks hold.
    pub error: Option<PartitionError>,
    /// Consumers see nothing at or past this offset; -1 when unknown.
    pub high_watermark: i64,
    /// First offset of the log; -1 when unknown.
    pub log_start_offset: i64,
    /// Where the client's log and this one part ways: (epoch, end offset).
    pub diverging: Option<(i32, i64)>,
    /// Whole batches, in order.
    pub ranges: Vec<FileRange>,
    /// Bytes of `ranges`.
    pub bytes: usize,
}

/// A question about offsets of one partition (ListOffsets).
#[derive(Debug, Clone, Copy)]
pub struct OffsetQuery {
    /// Which.
    pub key: PartitionKey,
    /// -1 latest, -2 earliest, -3 largest timestamp, else the timestamp looked up, in ms.
    pub timestamp: i64,
    /// Epoch the client believes in; -1 = it does not say.
    pub current_leader_epoch: i32,
}

/// The answer: an offset, its timestamp and its epoch (-1 each where there is none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// Offset found.
    pub offset: i64,
    /// Timestamp found, in ms.
    pub timestamp: i64,
    /// Leader epoch of that offset.
    pub leader_epoch: i32,
}

/// Records to be deleted from the begin of a partition (DeleteRecords).
#[derive(Debug, Clone, Copy)]
pub struct Deletion {
    /// Which.
    pub key: PartitionKey,
    /// The new log start; -1 = the high watermark.
    pub offset: i64,
    /// Longest wait, in milliseconds.
    pub timeout_ms: i32,
}

/// A question about where an epoch ended (OffsetForLeaderEpoch).
#[derive(Debug, Clone, Copy)]
pub struct EpochQuery {
    /// Which.
    pub key: PartitionKey,
    /// Epoch asked for.
    pub leader_epoch: i32,
    /// Epoch the client believes in; -1 = it does not say.
    pub current_leader_epoch: i32,
}

/// A wait for data past what a fetch has seen.
#[derive(Debug)]
pub struct DataWait {
    /// Named by the asking shard, for [`Request::CancelWait`].
    pub id: u64,
    /// Partitions and the high watermark the fetch saw.
    pub seen: Vec<(PartitionKey, i64)>,
    /// Longest wait, in milliseconds.
    pub max_wait_ms: u64,
}

/// A request of a client for the coordinator of its group.
#[derive(Debug)]
pub struct GroupCall {
    /// Unlike any other in the process, for [`Request::CancelGroup`].
    pub id: u64,
    /// Partition of the offsets topic that holds the group.
    pub partition: i32,
    /// Who asks.
    pub client: corelog_core::group::Client,
    /// What.
    pub request: corelog_core::group::Request,
}

/// A request from one shard to another.
pub enum Request {
    /// Append batches; their order is fixed when the message is taken.
    Append(Vec<AppendItem>, AppendTerms),
    /// Plan reads of partitions, none at or past the high watermark.
    Read(Vec<ReadItem>),
    /// Answer when any of the partitions has data past what was seen.
    WaitForData(DataWait),
    /// The wait of this id, asked by this shard, is no longer of interest.
    CancelWait(u64),
    /// Slices of the written buffers for part of a range.
    LookupTail {
        /// Which partition.
        key: PartitionKey,
        /// A range of an earlier read plan.
        range: FileRange,
        /// First byte wanted, as a position in the file.
        at: u64,
        /// At most this many bytes.
        max: usize,
    },
    /// Look offsets up.
    Offsets(Vec<OffsetQuery>),
    /// Where epochs ended.
    EpochEnds(Vec<EpochQuery>),
    /// Raise log starts.
    DeleteRecords(Vec<Deletion>),
    /// Producers that partitions remember.
    Producers(Vec<PartitionKey>),
    /// Sizes of all logs of the shard.
    LogSizes,
    /// Take a newer image of the metadata: make, change and drop logs; answered when done.
    ApplyImage(Arc<Image>),
    /// For the controller (shard 0).
    Admin {
        /// The change.
        request: AdminRequest,
        /// Whether the decision is one for a helper.
        heavy: bool,
    },
    /// For the coordinator of a partition of the offsets topic; the answer may take as long as the
    /// members of a group like.
    Group(Box<GroupCall>),
    /// Nobody waits any more for the answer to the group request of this id.
    CancelGroup {
        /// Partition of the offsets topic.
        partition: i32,
        /// [`GroupCall::id`].
        id: u64,
    },
    /// Serve this connection; nothing was received on it yet.
    Adopt(Box<Arrival>),
    /// A connection of this address has ended (shard 0).
    ConnectionEnded(IpAddr),
    /// What the daemon does with a shard.
    Operate(Operation),
    /// A copy of the counters.
    Stats,
    /// Flush logs and give their recovery points and high watermarks.
    Checkpoint,
    /// The same marks as they are, without flushing anything.
    Marks,
    /// What the start found on disk; comes before the first image.
    Begin(Arc<StartState>),
    /// A log directory failed, is full, or has space again.
    DirNews(DirNews),
    /// From the maintenance thread: how the scrub of this number ended.
    Scrubbed(u64, Box<corelog_maintenance::Outcome>),
}

/// Requests beside the way of records: checkpoint files, and the stop.
pub enum Operation {
    /// Lower a partition's checkpoints to an offset, durably (shard 0).
    LowerCheckpoint(String, i32, i64),
    /// Raise a partition's log start and recovery point in the checkpoints, durably (shard 0).
    RaiseLogStart {
        /// The partition's log directory, by its place in the start's list; `None` when it is being
        /// deleted.
        dir: Option<usize>,
        /// Topic name.
        topic: String,
        /// Partition index.
        partition: i32,
        /// At least this.
        log_start: i64,
        /// At least this.
        recovery_point: i64,
    },
    /// Drop deleted partitions from the checkpoints, durably (shard 0).
    ForgetCheckpoints(Vec<(String, i32)>),
    /// Drop from the checkpoints, durably, what is left there of a partition whose name is about to
    /// be used again (shard 0).
    ForgetFormer((String, i32)),
    /// Take these values of the configuration file; answered when they are in force.
    Reload(Arc<BrokerConfig>),
    /// Answer: a sign of life.
    Ping,
    /// A log directory met an I/O error, or is full (shard 0).
    DirFound(usize, Found),
    /// Give part of a log directory's reserve back, for something that must be written (shard 0).
    ReleaseReserve(usize),
    /// Close connections and logs.
    Stop,
    /// Stop all shards and leave a clean marker (shard 0).
    Shutdown,
    /// End the shard's thread; the last request it gets.
    Exit,
}

/// Marks of one partition for the checkpoint files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointMarks {
    /// Topic name.
    pub topic: String,
    /// Partition index.
    pub partition: i32,
    /// Its log directory.
    pub dir: usize,
    /// Everything below is flushed, with its indexes and producer state.
    pub recovery_point: i64,
    /// High watermark.
    pub high_watermark: i64,
    /// Log start.
    pub log_start: i64,
}

/// The answer to a [`Request`], of the same name.
pub enum Response {
    /// In the order asked.
    Append(Vec<Result<AppendAnswer, AppendRefusal>>),
    /// In the order asked.
    Read(Vec<ReadAnswer>),
    /// Data came, or the wait ended.
    DataReady,
    /// `None`: the bytes are to be read from the file.
    Tail(Option<Vec<Bytes>>),
    /// In the order asked.
    Offsets(Vec<Result<OffsetAnswer, PartitionError>>),
    /// In the order asked: (epoch, end offset).
    EpochEnds(Vec<Result<(i32, i64), PartitionError>>),
    /// In the order asked: log starts.
    DeleteRecords(Vec<Result<i64, PartitionError>>),
    /// In the order asked.
    Producers(Vec<Result<Vec<ActiveProducer>, PartitionError>>),
    /// Sizes with the logs' directories; the directories that failed, or with a log that failed or
    /// cannot be opened.
    LogSizes(Vec<(usize, LogSize)>, BTreeSet<usize>),
    /// The image holds on this shard.
    ImageApplied,
    /// The controller's answer.
    Admin(AdminAnswer),
    /// The coordinator's answer.
    Group(Box<corelog_core::group::Response>),
    /// Counters.
    Stats(Box<ShardStats>),
    /// Marks of all partitions of the shard whose log could be flushed.
    Checkpoint(Vec<CheckpointMarks>),
    /// Marks at the end, and the directories in which not every log closed cleanly.
    Stopped(Vec<CheckpointMarks>, BTreeSet<usize>),
    /// Lowered or forgotten, or why not.
    Lowered(std::io::Result<()>),
    /// Raised, or why not.
    Raised(std::io::Result<()>),
    /// Whether something of the reserve was left.
    Released(bool),
    /// Taken.
    Done,
}
