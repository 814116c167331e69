//! Reads on the owning shard: plans without bytes, waits for data, offsets and epochs.

use std::rc::Rc;
use std::time::Duration;

use corelog_storage::log::{LogError, ReadError};
use corelog_storage::producer_state::ActiveProducer;

use super::Shard;
use super::message::{
    DataWait, EpochQuery, OffsetAnswer, OffsetQuery, PartitionKey, ReadAnswer, ReadItem,
};
use super::partition::{Partition, Waiter};
use crate::errors::PartitionError;

/// ListOffsets: the next offset to be committed.
pub const LATEST_TIMESTAMP: i64 = -1;
/// ListOffsets: the first offset of the log.
pub const EARLIEST_TIMESTAMP: i64 = -2;
/// ListOffsets: the record with the largest timestamp.
pub const MAX_TIMESTAMP: i64 = -3;
/// ListOffsets: the first offset on local disk (the same as earliest without tiered storage).
pub const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;
/// ListOffsets: the last offset in tiered storage (none here).
pub const LATEST_TIERED_TIMESTAMP: i64 = -5;
/// ListOffsets: the first offset not yet uploaded (the whole log here).
pub const EARLIEST_PENDING_UPLOAD_TIMESTAMP: i64 = -6;

/// Plans one partition's part of a fetch. The first batch of `item` is given whole even when it is
/// larger than `max_bytes`; the connection trims what does not fit its answer.
pub async fn read(shard: &Rc<Shard>, item: &ReadItem) -> ReadAnswer {
    let refused = |error| ReadAnswer {
        error: Some(error),
        high_watermark: -1,
        log_start_offset: -1,
        ..ReadAnswer::default()
    };
    let partition = match shard.partition(&item.key) {
        Ok(partition) => partition,
        Err(error) => return refused(error),
    };
    if let Err(error) = check_epoch(&partition, item.current_leader_epoch) {
        return refused(error);
    }
    let marks = partition.log.marks();
    let mut answer = ReadAnswer {
        high_watermark: marks.high_watermark,
        log_start_offset: marks.log_start,
        ..ReadAnswer::default()
    };
    if item.last_fetched_epoch >= 0 {
        let (epoch, end) = partition.log.epoch_end_offset(item.last_fetched_epoch);
        if epoch >= 0 && (epoch < item.last_fetched_epoch || end < item.fetch_offset) {
            answer.diverging = Some((epoch, end));
            return answer;
        }
    }
    let limit = marks.high_watermark;
    if item.fetch_offset > limit && item.fetch_offset <= marks.log_end {
        return answer; // not committed yet: nothing to give, and not an error
    }
    match partition
        .log
        .read(item.fetch_offset, item.max_bytes, true, limit)
        .await
    {
        Ok(plan) => {
            answer.bytes = plan.bytes;
            answer.ranges = plan.ranges;
        }
        Err(ReadError::OffsetOutOfRange { .. }) => {
            answer.error = Some(PartitionError::OffsetOutOfRange)
        }
        Err(error) => {
            tracing::warn!(topic = %partition.topic, partition = partition.key.partition,
                offset = item.fetch_offset, %error, "read failed");
            answer.error = Some(PartitionError::Read(error));
        }
    }
    answer
}

/// Puts a waiter at every partition of a wait, at once, so that a cancel that comes right after
/// finds it. `None`: there is news already, or a partition is gone.
pub fn begin_wait(shard: &Shard, wait: &DataWait) -> Option<Rc<Waiter>> {
    let waiter = Waiter::new();
    for (key, seen) in &wait.seen {
        let partition = shard.partition(key).ok()?;
        if partition.log.marks().high_watermark > *seen {
            return None;
        }
        partition.add_waiter(&waiter);
    }
    let weak = Rc::downgrade(&waiter);
    shard.waits.borrow_mut().insert(wait.id, weak);
    Some(waiter)
}

/// Resolves when any partition has data past what was seen, when one of them is gone, at a cancel,
/// or at the deadline.
pub async fn end_wait(shard: &Shard, wait: &DataWait, waiter: Rc<Waiter>) {
    let longest = Duration::from_millis(wait.max_wait_ms);
    shard.rt.timeout(longest, waiter.fired()).await;
    shard.waits.borrow_mut().remove(&wait.id);
}

/// Ends a wait whose asker is gone.
pub fn cancel_wait(shard: &Shard, id: u64) {
    let waiter = shard.waits.borrow_mut().remove(&id);
    if let Some(waiter) = waiter.and_then(|weak| weak.upgrade()) {
        waiter.fire();
    }
}

/// Answers one question of ListOffsets.
pub async fn offset(
    shard: &Rc<Shard>,
    query: &OffsetQuery,
) -> Result<OffsetAnswer, PartitionError> {
    let partition = shard.partition(&query.key)?;
    check_epoch(&partition, query.current_leader_epoch)?;
    let marks = partition.log.marks();
    let plain = |offset: i64| OffsetAnswer {
        offset,
        timestamp: -1,
        leader_epoch: epoch_at(&partition, offset),
    };
    let found = match query.timestamp {
        LATEST_TIMESTAMP => return Ok(plain(marks.high_watermark)),
        EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP | EARLIEST_PENDING_UPLOAD_TIMESTAMP => {
            return Ok(plain(marks.log_start));
        }
        LATEST_TIERED_TIMESTAMP => {
            return Ok(OffsetAnswer {
                offset: -1,
                timestamp: -1,
                leader_epoch: -1,
            });
        }
        MAX_TIMESTAMP => partition
            .log
            .max_timestamp()
            .await
            .map_err(PartitionError::Read)?,
        timestamp if timestamp < 0 => return Err(PartitionError::InvalidRequest),
        timestamp => partition
            .log
            .offset_for_timestamp(timestamp)
            .await
            .map_err(PartitionError::Read)?,
    };
    Ok(match found {
        Some((timestamp, offset)) if offset < marks.high_watermark => OffsetAnswer {
            offset,
            timestamp,
            leader_epoch: epoch_at(&partition, offset),
        },
        Some(_) | None => OffsetAnswer {
            offset: -1,
            timestamp: -1,
            leader_epoch: -1,
        },
    })
}

/// Answers one question of OffsetForLeaderEpoch: (-1, -1) for an epoch this log never had.
pub fn epoch_end(shard: &Shard, query: &EpochQuery) -> Result<(i32, i64), PartitionError> {
    let partition = shard.partition(&query.key)?;
    check_epoch(&partition, query.current_leader_epoch)?;
    Ok(partition.log.epoch_end_offset(query.leader_epoch))
}

/// The producers that a partition's log remembers.
pub fn producers(shard: &Shard, key: &PartitionKey) -> Result<Vec<ActiveProducer>, PartitionError> {
    let partition = shard.partition(key)?;
    match partition.log.failure() {
        Some(why) => Err(PartitionError::Log(LogError::Io(why))),
        None => Ok(partition.log.active_producers()),
    }
}

fn check_epoch(partition: &Partition, claimed: i32) -> Result<(), PartitionError> {
    if claimed < 0 || claimed == partition.leader_epoch {
        Ok(())
    } else if claimed < partition.leader_epoch {
        Err(PartitionError::FencedLeaderEpoch)
    } else {
        Err(PartitionError::UnknownLeaderEpoch)
    }
}

/// Epoch of the leadership under which `offset` was, or will be, appended.
fn epoch_at(partition: &Partition, offset: i64) -> i32 {
    partition
        .log
        .epoch_for_offset(offset)
        .unwrap_or(partition.leader_epoch)
}
