//! The begin of the shard's logs: DeleteRecords, and retention now and then.

use std::rc::Rc;
use std::time::Duration;

use corelog_storage::log::{DeleteRecordsError, LogError};

use super::Shard;
use super::message::{Deletion, Response};
use super::partition::Partition;
use crate::errors::PartitionError;

/// DeleteRecords: delete up to the high watermark.
pub const HIGH_WATERMARK: i64 = -1;
/// Partitions of one request worked on at a time.
const AT_ONCE: usize = 64;
/// The least time an own disk gets: clients that ask for less mean the other replicas.
const OWN_TIME_MIN: Duration = Duration::from_secs(1);

/// Raises log starts; each is durable before it is answered.
pub async fn delete_records(shard: Rc<Shard>, deletions: Vec<Deletion>) -> Response {
    let mut answers = Vec::with_capacity(deletions.len());
    for group in deletions.chunks(AT_ONCE) {
        let begin = |deletion: &Deletion| {
            let (shard, deletion) = (Rc::clone(&shard), *deletion);
            shard.rt.clone().spawn("delete_records_of_one", async move {
                delete_of_one(&shard, deletion).await
            })
        };
        let begun: Vec<_> = group.iter().map(begin).collect();
        for task in begun {
            answers.push(task.await.unwrap_or(Err(PartitionError::Stopping)));
        }
    }
    Response::DeleteRecords(answers)
}

async fn delete_of_one(shard: &Shard, deletion: Deletion) -> Result<i64, PartitionError> {
    let partition = shard.partition(&deletion.key)?;
    if partition.rules().compacted && !partition.log.config().deletes {
        return Err(PartitionError::PolicyViolation);
    }
    let offset = match deletion.offset {
        HIGH_WATERMARK => partition.log.marks().high_watermark,
        offset if offset < 0 => return Err(PartitionError::OffsetOutOfRange),
        offset => offset,
    };
    let longest = Duration::from_millis(u64::try_from(deletion.timeout_ms).unwrap_or(0));
    // One that is not waited for any more is done all the same.
    let raised = partition.log.delete_records(offset);
    match shard.rt.timeout(longest.max(OWN_TIME_MIN), raised).await {
        Some(Ok(log_start)) => Ok(log_start),
        Some(Err(DeleteRecordsError::OffsetOutOfRange { .. })) => {
            Err(PartitionError::OffsetOutOfRange)
        }
        Some(Err(DeleteRecordsError::Log(error))) => Err(PartitionError::Log(error)),
        None => Err(PartitionError::RequestTimedOut),
    }
}

/// Applies retention to every partition of the shard, again and again, until it stops.
pub async fn run(shard: Rc<Shard>) {
    let config = shard.config();
    let pause = Duration::from_millis(config.log_retention_check_interval_ms.max(1));
    let first = Duration::from_millis(config.log_initial_task_delay_ms);
    shard.rt.sleep(first).await;
    while !shard.stopping.get() {
        for partition in shard.partitions() {
            if shard.stopping.get() {
                return;
            }
            retain(&partition).await;
            shard.rt.yield_if_needed().await;
        }
        shard.rt.sleep(pause).await;
    }
}

async fn retain(partition: &Partition) {
    if partition.log.failure().is_some() {
        return; // said already
    }
    match partition.log.retain().await {
        Ok(_) | Err(LogError::Closed) => {}
        Err(error) => {
            tracing::warn!(topic = %partition.topic, partition = partition.key.partition, %error,
                "retention will be tried again");
        }
    }
}
