//! A log in a real log directory that keeps its checkpoints.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use corelog_record::batch::BatchIter;
use corelog_runtime::Rt;
use corelog_runtime::sim::{SimConfig, SimWorld};
use corelog_storage::config::LogConfig;
use corelog_storage::log::{Log, LogParams};
use corelog_storage::log_dir::{Identity, LogDir, StartKind};
use corelog_storage::shard::{CheckpointSink, ShardStorage, StorageLimits};

use super::{append, batch, fetch, params, small_segments};

/// A real log directory that keeps the checkpoints of the log.
pub struct Dir {
    pub dir: LogDir,
    /// How often a log start was to be raised.
    pub raises: Cell<u32>,
}

impl CheckpointSink for Dir {
    fn lower<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        recovery_point: i64,
        high_watermark: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            let offset = recovery_point.min(high_watermark);
            let lowered = self.dir.lower(topic, partition, offset).await;
            lowered.map_err(|error| error.into_io())
        })
    }

    fn raise_log_start<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        log_start: i64,
        recovery_point: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            self.raises.set(self.raises.get() + 1);
            let raised = self
                .dir
                .raise_log_start(topic, partition, log_start, recovery_point);
            raised.await.map_err(|error| error.into_io())
        })
    }
}

/// Opens the directory and the log in it as a start after any stop does.
pub async fn open(rt: &Rt, config: LogConfig) -> (Rc<ShardStorage>, Rc<Dir>, Log) {
    let identity = Identity {
        cluster_id: None,
        node_id: 1,
    };
    let dir = LogDir::open(rt, "/data".as_ref(), identity, None)
        .await
        .unwrap();
    let of = |map: corelog_storage::checkpoint_files::OffsetMap| {
        map.get(&("t".to_owned(), 0)).copied().unwrap_or(0)
    };
    let params = LogParams {
        recovery_point: of(dir.recovery_points()),
        log_start: of(dir.log_starts()),
        ..params(StartKind::Unclean, 0, config)
    };
    let shard = ShardStorage::new(StorageLimits::default());
    let dir = Rc::new(Dir {
        dir,
        raises: Cell::new(0),
    });
    shard.set_checkpoint_sink(dir.clone());
    let (log, _) = Log::open(rt, &shard, params).await.unwrap();
    (shard, dir, log)
}

/// Appends records of 2,000 bytes, ten to a segment, and commits them.
pub async fn fill(log: &Log, records: u64, timestamp: i64) {
    for _ in 0..records {
        let appended = append(log, batch(1, 2_000, timestamp)).await.unwrap();
        log.wait(&appended).await.unwrap();
    }
    log.set_high_watermark(log.committable_end());
}

/// Base offsets of the batches that can be read from the log start on.
pub async fn readable(rt: &Rt, shard: &Rc<ShardStorage>, log: &Log) -> BTreeSet<i64> {
    let (mut found, mut from) = (BTreeSet::new(), log.marks().log_start);
    while from < log.marks().log_end {
        let plan = log.read(from, 100_000, true, i64::MAX).await.unwrap();
        for batch in BatchIter::new(&fetch(rt, shard, log, &plan).await) {
            let (_, header, _) = batch.unwrap();
            found.insert(header.base_offset);
            from = header.next_offset();
        }
    }
    found
}

pub async fn names(rt: &Rt) -> Vec<String> {
    let entries = rt.read_dir("/data/t-0").await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

pub fn by_size(bytes: u64) -> LogConfig {
    LogConfig {
        retention_bytes: Some(bytes),
        retention_ms: None,
        ..small_segments()
    }
}

pub fn unexpiring(bytes: u64) -> LogConfig {
    LogConfig {
        producer_id_expiration_ms: i64::MAX,
        ..by_size(bytes)
    }
}

pub fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, SimConfig::default())
}
