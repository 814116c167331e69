//! From what goes wrong inside to Kafka's error codes: one exhaustive map, no catch-all arm.

use corelog_core::group::WriteError;
use corelog_net::error_code::ErrorCode;
use corelog_record::validate::RejectionKind;
use corelog_storage::log::{AppendError, LogError, ReadError};

/// What can go wrong for one partition of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionError {
    /// No such topic or partition here.
    UnknownTopicOrPartition,
    /// No topic has this id.
    UnknownTopicId,
    /// The partition exists; this shard does not have it (it is being made or dropped).
    NotLeaderOrFollower,
    /// The partition's log directory is offline.
    DirOffline,
    /// The client's epoch is older than the partition's.
    FencedLeaderEpoch,
    /// The client's epoch is newer than the partition's.
    UnknownLeaderEpoch,
    /// The offset is outside the log.
    OffsetOutOfRange,
    /// The wait ended before the acknowledgement was due.
    RequestTimedOut,
    /// The topic is the coordinators' own: clients do not write to it.
    InternalTopic,
    /// The topic's `cleanup.policy` does not let records be deleted.
    PolicyViolation,
    /// acks is not -1, 0 or 1.
    InvalidRequiredAcks,
    /// The request itself makes no sense for this partition.
    InvalidRequest,
    /// The partition's owner is gone: the process is stopping.
    Stopping,
    /// Transactions are not served.
    TransactionsNotServed,
    /// The batch failed validation.
    Rejected(RejectionKind),
    /// The log refused the batch.
    Append(AppendError),
    /// The log could not do what was asked.
    Log(LogError),
    /// The log could not be read.
    Read(ReadError),
}

/// The code a client is told.
pub fn error_code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        PartitionError::UnknownTopicId => ErrorCode::UnknownTopicId,
        PartitionError::NotLeaderOrFollower | PartitionError::Stopping => {
            ErrorCode::NotLeaderOrFollower
        }
        PartitionError::DirOffline => ErrorCode::KafkaStorageError,
        PartitionError::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
        PartitionError::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch,
        PartitionError::OffsetOutOfRange => ErrorCode::OffsetOutOfRange,
        PartitionError::RequestTimedOut => ErrorCode::RequestTimedOut,
        PartitionError::InternalTopic => ErrorCode::InvalidTopicException,
        PartitionError::PolicyViolation => ErrorCode::PolicyViolation,
        PartitionError::InvalidRequiredAcks => ErrorCode::InvalidRequiredAcks,
        PartitionError::InvalidRequest => ErrorCode::InvalidRequest,
        PartitionError::TransactionsNotServed => ErrorCode::InvalidTxnState,
        PartitionError::Rejected(kind) => rejection_code(*kind),
        PartitionError::Append(error) => append_code(error),
        PartitionError::Log(error) => log_code(error),
        PartitionError::Read(error) => read_code(error),
    }
}

/// What a group coordinator is told of a write of its own that failed.
pub fn group_write_error(error: &PartitionError) -> WriteError {
    match error_code(error) {
        ErrorCode::NotLeaderOrFollower => WriteError::NotLeader,
        ErrorCode::UnknownTopicOrPartition => WriteError::UnknownPartition,
        ErrorCode::RequestTimedOut => WriteError::TimedOut,
        ErrorCode::MessageTooLarge => WriteError::TooLarge,
        // The disk; the coordinator's own batches are not refused for what is in them.
        _ => WriteError::Storage,
    }
}

fn append_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        AppendError::NoSpace | AppendError::DirOffline(_) => ErrorCode::KafkaStorageError,
        AppendError::Closed => ErrorCode::NotLeaderOrFollower,
        AppendError::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::Malformed(_) => ErrorCode::CorruptMessage,
    }
}

fn log_code(error: &LogError) -> ErrorCode {
    match error {
        LogError::Io(_) | LogError::NoSpace => ErrorCode::KafkaStorageError,
        LogError::Closed | LogError::Truncated => ErrorCode::NotLeaderOrFollower,
    }
}

fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Io(_) => ErrorCode::KafkaStorageError,
        ReadError::Corrupt(_) => ErrorCode::CorruptMessage,
        ReadError::Stale | ReadError::Closed => ErrorCode::NotLeaderOrFollower,
    }
}

fn rejection_code(kind: RejectionKind) -> ErrorCode {
    match kind {
        RejectionKind::CorruptMessage => ErrorCode::CorruptMessage,
        RejectionKind::InvalidRecord => ErrorCode::InvalidRecord,
        RejectionKind::InvalidTimestamp => ErrorCode::InvalidTimestamp,
        RejectionKind::UnsupportedForMessageFormat => ErrorCode::UnsupportedForMessageFormat,
        RejectionKind::MessageTooLarge => ErrorCode::MessageTooLarge,
        RejectionKind::UnsupportedCompressionType => ErrorCode::UnsupportedCompressionType,
    }
}
