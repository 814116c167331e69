//! The words of the log's interface: what goes in, what comes out, what can go wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use corelog_record::validate::Validated;

use crate::config::LogConfig;
use crate::flush_policy::Requirement;
use crate::log::segment::SegmentFile;
use crate::log_dir::StartKind;

/// What a log must know to be made or opened.
#[derive(Debug, Clone)]
pub struct LogParams {
    /// The partition's own directory, `<log.dir>/<topic>-<partition>`.
    pub dir: PathBuf,
    /// Topic name.
    pub topic: String,
    /// Partition index.
    pub partition: i32,
    /// Topic id, stored in `partition.metadata`.
    pub topic_id: [u8; 16],
    /// Leader epoch patched into appended batches.
    pub leader_epoch: i32,
    /// From `recovery-point-offset-checkpoint`: everything below was flushed. 0 when unknown.
    pub recovery_point: i64,
    /// From `replication-offset-checkpoint`, clamped to what the log holds.
    pub high_watermark: i64,
    /// From `log-start-offset-checkpoint`, or 0. What the files hold below it is no part of the log.
    pub log_start: i64,
    /// How the previous process ended.
    pub start: StartKind,
    /// Settings.
    pub config: LogConfig,
}

/// A batch that passed validation, and what validation learned of it.
#[derive(Debug, Clone)]
pub struct ValidatedBatch {
    /// Exactly one batch, as the client sent it.
    pub bytes: Bytes,
    /// Header and facts.
    pub validated: Validated,
}

/// An append whose offsets are fixed. It is acknowledged only after `Log::wait`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// The broker's time in ms under `LogAppendTime`, else -1.
    pub log_append_time_ms: i64,
    /// Log start when the offsets were fixed.
    pub log_start_offset: i64,
    /// The batch was in the log already (a producer's retry); the offsets are the first one's.
    pub duplicate: bool,
    /// What has to hold before it may be acknowledged.
    pub requirement: Requirement,
    /// Cuts of the log seen at the append: a wait fails when a later one took these offsets.
    pub(crate) cut_generation: u64,
}

/// Why an append was refused. No offset was given, nothing of the batch is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendError {
    /// Kafka's OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfOrderSequence {
        /// Producer.
        producer_id: i64,
        /// First sequence of the batch.
        sequence: i32,
        /// Sequence that was due.
        expected: i32,
    },
    /// Kafka's INVALID_PRODUCER_EPOCH.
    InvalidProducerEpoch {
        /// Producer.
        producer_id: i64,
        /// Epoch of the batch.
        epoch: i16,
        /// Epoch the log knows.
        current: i16,
    },
    /// The file system has no room for it: KAFKA_STORAGE_ERROR, retriable (R33).
    NoSpace,
    /// The directory failed before; the first reason.
    DirOffline(Arc<str>),
    /// The log is closed or deleted.
    Closed,
    /// Larger than `max.message.bytes`: MESSAGE_TOO_LARGE.
    MessageTooLarge {
        /// Bytes of the batch.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bytes do not hold the batch their validation described, or (appends that keep their
    /// offsets) do not continue the log: CORRUPT_MESSAGE.
    Malformed(String),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrderSequence {
                producer_id,
                sequence,
                expected,
            } => {
                write!(
                    f,
                    "producer {producer_id} sent sequence {sequence}, expected {expected}"
                )
            }
            Self::InvalidProducerEpoch {
                producer_id,
                epoch,
                current,
            } => {
                write!(
                    f,
                    "producer {producer_id} has epoch {epoch}, current is {current}"
                )
            }
            Self::NoSpace => write!(f, "no space left in the log directory"),
            Self::DirOffline(why) => write!(f, "the log directory is offline: {why}"),
            Self::Closed => write!(f, "the log is closed"),
            Self::MessageTooLarge { bytes, max } => {
                write!(f, "the batch has {bytes} bytes, max.message.bytes is {max}")
            }
            Self::Malformed(why) => write!(f, "the batch cannot be appended: {why}"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Why a log could not do what was asked, appends and reads apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// An I/O error; the log takes no more appends. What failed, and how.
    Io(Arc<str>),
    /// The file system is full.
    NoSpace,
    /// The log is closed or deleted.
    Closed,
    /// The offsets waited for were cut off the log.
    Truncated,
}

impl LogError {
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        if is_no_space(error) {
            Self::NoSpace
        } else {
            Self::Io(format!("{what}: {error}").into())
        }
    }
}

/// Why records were not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteRecordsError {
    /// The offset is past the high watermark: Kafka's OFFSET_OUT_OF_RANGE.
    OffsetOutOfRange {
        /// Committed end of the log.
        high_watermark: i64,
    },
    /// The log could not do it. It may have been done all the same, save for [`LogError::NoSpace`].
    Log(LogError),
}

impl From<LogError> for DeleteRecordsError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl fmt::Display for DeleteRecordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffsetOutOfRange { high_watermark } => {
                write!(f, "the offset is past the high watermark {high_watermark}")
            }
            Self::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeleteRecordsError {}

/// ENOSPC or EDQUOT, or a write that again and again took less than a block: the last bytes of a disk.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero
    )
}

/// The file system knows no such operation.
pub(crate) fn is_unsupported(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::Unsupported)
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(why) => f.write_str(why),
            Self::NoSpace => write!(f, "no space left in the log directory"),
            Self::Closed => write!(f, "the log is closed"),
            Self::Truncated => write!(f, "the offsets were cut off the log"),
        }
    }
}

impl std::error::Error for LogError {}

/// Why a read was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// Kafka's OFFSET_OUT_OF_RANGE.
    OffsetOutOfRange {
        /// First offset of the log.
        log_start: i64,
        /// Next offset to be given.
        log_end: i64,
    },
    /// An I/O error: KAFKA_STORAGE_ERROR.
    Io(Arc<str>),
    /// The bytes on disk are not the batches that were written: CORRUPT_MESSAGE.
    Corrupt(Arc<str>),
    /// The range was cut off or its segment deleted since the plan was made: plan again.
    Stale,
    /// The log is closed or deleted.
    Closed,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffsetOutOfRange { log_start, log_end } => {
                write!(f, "the offset is outside {log_start}..={log_end}")
            }
            Self::Io(why) | Self::Corrupt(why) => f.write_str(why),
            Self::Stale => write!(f, "the range is gone"),
            Self::Closed => write!(f, "the log is closed"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Whole batches to be sent to a reader. `Send`: any shard may read the ranges.
#[derive(Debug, Clone, Default)]
pub struct ReadPlan {
    /// In offset order; together they are whole batches, the first of which holds the offset
    /// asked for.
    pub ranges: Vec<FileRange>,
    /// Sum of the ranges.
    pub bytes: usize,
    /// Where the next read goes on, when the plan's last batch is known to end there.
    pub next_offset: Option<i64>,
}

/// Bytes of one segment file. They never change while `generation` is the file's.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The file.
    pub segment: Arc<SegmentFile>,
    /// The file's generation when the range was planned; a cut or delete raises it.
    pub generation: u64,
    /// First byte.
    pub position: u64,
    /// Bytes.
    pub len: usize,
}

/// What opening a log found and did (R32).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// False after a clean stop: nothing had to be replayed.
    pub replayed: bool,
    /// Batches whose CRC was checked.
    pub batches_checked: u64,
    /// Bytes of those batches.
    pub bytes_checked: u64,
    /// Bytes taken off the end of the log, zeros of preallocation not counted.
    pub bytes_cut: u64,
    /// Valid batches followed the first bad one: damage, not a torn tail. The bytes were kept in
    /// `<base>.log.cut`.
    pub damaged: bool,
    /// Index files rebuilt.
    pub indexes_rebuilt: u32,
    /// Files set aside under another name.
    pub set_aside: Vec<String>,
    /// Why the log ends where it ends, when a batch was refused.
    pub end_reason: Option<String>,
}
