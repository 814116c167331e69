//! Appends on the owning shard: admission at once, then validation, offsets, and the wait for what
//! the acknowledgement promised.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_record::validate::{RejectionKind, Validated, Validator};
use corelog_record::{Recompress, RecompressError};
use corelog_runtime::{Instant, vital};
use corelog_storage::flush_policy::Requirement;
use corelog_storage::log::{Admission, AppendError, Appended, LogError, ValidatedBatch};

use super::Shard;
use super::message::{AppendAnswer, AppendItem, AppendRefusal, AppendTerms};
use super::partition::Partition;
use crate::codec_memory::RecompressTerms;
use crate::errors::PartitionError;
use crate::latency::Stage;
use crate::stats::add;

/// Bytes validated between two yields of the shard.
const VALIDATE_STEP_BYTES: usize = 64 << 10;
/// Largest decompressed size of one batch, as a multiple of nothing: a fixed bound against bombs.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

type AppendResult = Result<AppendAnswer, AppendRefusal>;

/// A batch that has its place in its partition's order.
pub struct Admitted {
    partition: Rc<Partition>,
    place: Admission,
    records: Bytes,
    admitted: Instant,
}

/// Takes a place in the order of each batch's partition. Not async: the order of calls is the
/// order of offsets.
pub fn admit(shard: &Shard, items: Vec<AppendItem>) -> Vec<Result<Admitted, PartitionError>> {
    let admit_one = |item: AppendItem| {
        let partition = shard.partition(&item.key)?;
        let place = partition.log.admit();
        Ok(Admitted {
            partition,
            place,
            records: item.records,
            admitted: shard.rt.now(),
        })
    };
    items.into_iter().map(admit_one).collect()
}

/// Appends admitted batches and waits until each may be acknowledged as `terms` ask.
pub async fn append(
    shard: &Rc<Shard>,
    admitted: Vec<Result<Admitted, PartitionError>>,
    terms: AppendTerms,
) -> Vec<AppendResult> {
    // Only acks=all may time out: a leader's own write is waited for as long as it takes.
    let deadline = shard.rt.now() + Duration::from_millis(terms.timeout_ms.max(0) as u64);
    let mut appended = Vec::with_capacity(admitted.len());
    for item in admitted {
        appended.push(match item {
            Ok(item) => append_one(shard, item).await,
            Err(error) => Err(error.into()),
        });
    }
    let mut results = Vec::with_capacity(appended.len());
    for item in appended {
        results.push(match item {
            Ok((partition, appended)) => {
                acknowledge(shard, &partition, &appended, terms.acks, deadline).await
            }
            Err(refusal) => Err(refusal),
        });
    }
    results
}

/// Waits for what the acknowledgement promises. acks=0 waits too, though nobody is told: until
/// then the request's memory is in use.
async fn acknowledge(
    shard: &Rc<Shard>,
    partition: &Partition,
    appended: &Appended,
    acks: i16,
    deadline: Instant,
) -> AppendResult {
    let failed = |error| AppendRefusal::from(PartitionError::Log(error));
    if acks != -1 {
        wait(shard, partition, appended).await.map_err(failed)?;
        return Ok(answer_of(appended));
    }
    let left = deadline.saturating_duration_since(shard.rt.now());
    let committed = async {
        wait(shard, partition, appended).await?;
        let end = appended.last_offset + 1;
        partition.log.wait_high_watermark(end).await
    };
    match shard.rt.timeout(left, committed).await {
        Some(Ok(())) => Ok(answer_of(appended)),
        Some(Err(error)) => Err(failed(error)),
        None => Err(PartitionError::RequestTimedOut.into()),
    }
}

/// Waits until an append is as safe as the flush policy asks, and notes how long that took.
async fn wait(shard: &Shard, partition: &Partition, appended: &Appended) -> Result<(), LogError> {
    let began = shard.rt.now();
    let outcome = partition.log.wait(appended).await;
    let took = shard.rt.now().saturating_duration_since(began);
    match appended.requirement {
        Requirement::Written => shard.stats.stage(Stage::ProduceWrite, took),
        Requirement::Flushed => {
            shard.stats.stage(Stage::ProduceFlush, took);
            add(&shard.stats.flush_acks, 1);
        }
    }
    outcome
}

fn answer_of(appended: &Appended) -> AppendAnswer {
    AppendAnswer {
        base_offset: appended.base_offset,
        log_append_time_ms: appended.log_append_time_ms,
        log_start_offset: appended.log_start_offset,
    }
}

async fn append_one(
    shard: &Rc<Shard>,
    item: Admitted,
) -> Result<(Rc<Partition>, Appended), AppendRefusal> {
    let Admitted {
        partition,
        place,
        records,
        admitted,
    } = item;
    let log_start_offset = partition.log.marks().log_start;
    let validated = match validate(shard, &partition, &records).await {
        Ok(validated) => validated,
        Err(refusal) => {
            return Err(AppendRefusal {
                log_start_offset,
                ..refusal
            });
        }
    };
    if validated.header.is_transactional() {
        return Err(AppendRefusal {
            log_start_offset,
            ..PartitionError::TransactionsNotServed.into()
        });
    }
    let count = validated.header.records_count.max(0) as u64;
    let mut bytes = records.len() as u64;
    let batch = ValidatedBatch {
        bytes: records,
        validated,
    };
    let appended = match recompression(&partition, &batch) {
        None => vital(partition.log.append(place, batch)).await,
        Some(recompress) => {
            // In its turn: what is made anew for one batch is not held while it waits for others.
            let turn = place.turn().await;
            let terms = RecompressTerms {
                batch: &batch.bytes,
                decompressed_bytes: batch.validated.decompressed_bytes,
                codec: recompress.codec,
                batch_bytes_max: recompress.batch_bytes_max,
            };
            let _held = shard.codec_memory.to_recompress(&terms).await;
            let made = recompressed(shard, recompress, batch).await;
            let batch = made.map_err(|refusal| AppendRefusal {
                log_start_offset,
                ..refusal
            })?;
            bytes = batch.bytes.len() as u64;
            vital(partition.log.append_in_turn(turn, batch)).await
        }
    };
    match appended {
        Ok(appended) => {
            let took = shard.rt.now().saturating_duration_since(admitted);
            shard.stats.stage(Stage::ProduceAdmission, took);
            if !appended.duplicate {
                add(&shard.stats.produce_bytes, bytes);
                add(&shard.stats.produce_records, count);
                add(&shard.stats.produce_batches, 1);
            }
            Ok((partition, appended))
        }
        Err(error) => Err(refusal_of(error, log_start_offset)),
    }
}

/// What is to be made of a batch that came with another codec than the topic stores.
fn recompression(partition: &Partition, batch: &ValidatedBatch) -> Option<Recompress> {
    let rules = partition.rules();
    let stored = rules.stored_codec?;
    let came_with = batch.validated.header.codec().ok()?;
    (came_with != stored.codec).then_some(Recompress {
        codec: stored.codec,
        level: stored.level,
        batch_bytes_max: rules.max_message_bytes,
    })
}

/// The batch with the topic's codec, made on a thread that may take its time.
async fn recompressed(
    shard: &Rc<Shard>,
    recompress: Recompress,
    batch: ValidatedBatch,
) -> Result<ValidatedBatch, AppendRefusal> {
    let ValidatedBatch { bytes, validated } = batch;
    let records_bytes = validated.decompressed_bytes;
    let made = shard
        .rt
        .blocking(move || recompress.batch(&bytes, records_bytes))
        .await;
    let refused = |message: String, kind| AppendRefusal {
        message,
        ..PartitionError::Rejected(kind).into()
    };
    match made {
        Ok(bytes) => Ok(ValidatedBatch {
            bytes: bytes.into(),
            validated,
        }),
        Err(error @ RecompressError::TooLarge { .. }) => {
            Err(refused(error.to_string(), RejectionKind::MessageTooLarge))
        }
        // Validation has read all of it: the bytes are no longer what they were.
        Err(error @ RecompressError::Batch(_)) => {
            Err(refused(error.to_string(), RejectionKind::CorruptMessage))
        }
    }
}

fn refusal_of(error: AppendError, log_start_offset: i64) -> AppendRefusal {
    let message = error.to_string();
    AppendRefusal {
        error: PartitionError::Append(error),
        record_errors: Vec::new(),
        message,
        log_start_offset,
    }
}

/// Validates in steps, so that a large compressed batch does not hold the shard.
async fn validate(
    shard: &Rc<Shard>,
    partition: &Partition,
    records: &Bytes,
) -> Result<Validated, AppendRefusal> {
    let rules = partition.rules();
    // One that is too large is refused before it is looked into.
    let _held = match records.len() <= rules.max_message_bytes {
        true => {
            shard
                .codec_memory
                .to_read(records, DECOMPRESSED_BYTES_MAX)
                .await
        }
        false => None,
    };
    let rules = rules.at(shard.rt.wall_clock_ms(), DECOMPRESSED_BYTES_MAX);
    let mut validator = Validator::new(records, rules);
    loop {
        match validator.step(VALIDATE_STEP_BYTES) {
            Some(Ok(validated)) => return Ok(validated),
            Some(Err(rejection)) => {
                return Err(AppendRefusal {
                    error: PartitionError::Rejected(rejection.error),
                    record_errors: rejection.batch_index_errors,
                    message: rejection.message,
                    log_start_offset: -1,
                });
            }
            None => shard.rt.yield_now().await,
        }
    }
}
