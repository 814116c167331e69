//! What the stories about single promises share: a log on the simulated disk, batches, one process.
#![allow(dead_code)] // each test binary uses its part

pub mod dir;

use std::rc::Rc;

use bytes::Bytes;
use corelog_record::batch::TimestampType;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_record::validate::{Rules, validate};
use corelog_runtime::Rt;
use corelog_runtime::sim::{SimWorld, run_until_crash};
use corelog_storage::cold::read_range;
use corelog_storage::config::LogConfig;
use corelog_storage::log::{AppendError, Appended, Log, LogParams, ReadPlan, ValidatedBatch};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

/// Limits of a shard. The test crates whose names end in `_buffered` hold the same stories, told with
/// buffered I/O.
pub fn limits() -> StorageLimits {
    StorageLimits {
        direct: !env!("CARGO_CRATE_NAME").ends_with("_buffered"),
        ..StorageLimits::default()
    }
}

/// A log of its own in the simulated directory.
pub fn params(start: StartKind, recovery_point: i64, config: LogConfig) -> LogParams {
    LogParams {
        dir: "/data/t-0".into(),
        topic: "t".into(),
        partition: 0,
        topic_id: [9; 16],
        leader_epoch: 1,
        recovery_point,
        high_watermark: 0,
        log_start: 0,
        start,
        config,
    }
}

/// Segments of ten batches of 2,000 bytes.
pub fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 20_000,
        index_interval_bytes: 1_000,
        ..LogConfig::default()
    }
}

/// An uncompressed batch.
pub fn batch(records: u64, value_bytes: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, timestamp);
    let value = vec![0x5a; value_bytes];
    for i in 0..records {
        builder.append(timestamp + i as i64, None, Some(&value), &[]);
    }
    builder.build().into()
}

/// What the engine hands to the log.
pub fn checked(bytes: Bytes) -> ValidatedBatch {
    let rules = Rules {
        now_ms: 0,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        decompressed_bytes_max: 1 << 20,
        max_message_bytes: 8 << 20,
    };
    let validated = validate(&bytes, &rules).expect("a valid batch");
    ValidatedBatch { bytes, validated }
}

/// Appends at the end of the order.
pub async fn append(log: &Log, bytes: Bytes) -> Result<Appended, AppendError> {
    log.append(log.admit(), checked(bytes)).await
}

/// Runs one process that ends by itself.
pub fn story<F: Future>(world: &SimWorld, main: impl FnOnce(Rt) -> F) -> F::Output {
    run_until_crash(world, main).expect("no crash is planned")
}

/// The bytes of a plan, from memory or from disk.
pub async fn fetch(rt: &Rt, shard: &Rc<ShardStorage>, log: &Log, plan: &ReadPlan) -> Vec<u8> {
    let mut out = Vec::new();
    for range in &plan.ranges {
        let (mut at, end) = (range.position, range.position + range.len as u64);
        while at < end {
            let piece = match log.lookup_tail(range, at, (end - at) as usize) {
                Some(slices) => slices.concat(),
                None => read_range(rt, shard, range, at, (end - at) as usize)
                    .await
                    .expect("readable")
                    .to_vec(),
            };
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
    }
    out
}
