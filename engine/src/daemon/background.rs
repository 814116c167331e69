//! What runs beside requests on every shard: idle connections, retention, scrub, and on shard 0 the
//! checkpoints.

use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::ShardId;
use corelog_storage::checkpoint_files::OffsetMap;

use crate::shard::Shard;
use crate::shard::message::{CheckpointMarks, Request, Response};

/// How often idle connections are looked for.
const IDLE_SWEEP: Duration = Duration::from_secs(5);

/// Starts what every shard runs.
pub fn start(shard: &Rc<Shard>) {
    let swept = Rc::clone(shard);
    shard.spawn("idle_sweep", async move {
        loop {
            swept.rt.sleep(IDLE_SWEEP).await;
            crate::connection::close_idle(&swept).await;
        }
    });
    if shard.scrub.is_joined() {
        shard.spawn("scrub", crate::shard::scrub::run(Rc::clone(shard)));
    }
    shard.spawn("retention", crate::shard::retention::run(Rc::clone(shard)));
}

/// Starts the writing of checkpoint files. Shard: 0.
pub fn start_checkpoints(shard: &Rc<Shard>) {
    let config = shard.config();
    let watermarks = Duration::from_millis(
        config
            .replica_high_watermark_checkpoint_interval_ms
            .max(100),
    );
    let recovery = Duration::from_millis(config.log_flush_offset_checkpoint_interval_ms.max(100));
    let of_watermarks = Rc::clone(shard);
    shard.spawn("watermark_checkpoint", async move {
        let mut written = OffsetMap::new();
        loop {
            of_watermarks.rt.sleep(watermarks).await;
            let before = lowered(&of_watermarks);
            let marks = gather(&of_watermarks, || Request::Marks).await;
            let offsets = offsets_of(&marks, |marks| marks.high_watermark);
            if offsets != written && write(&of_watermarks, &marks, false, &before).await {
                written = offsets;
            }
        }
    });
    let of_recovery = Rc::clone(shard);
    shard.spawn("recovery_checkpoint", async move {
        loop {
            of_recovery.rt.sleep(recovery).await;
            gather(&of_recovery, || Request::Checkpoint).await;
            let before = lowered(&of_recovery);
            let marks = gather(&of_recovery, || Request::Marks).await;
            write(&of_recovery, &marks, true, &before).await;
        }
    });
}

/// See [`LogDirs::lowered`]: to be read before marks are gathered.
///
/// [`LogDirs::lowered`]: crate::log_dirs::LogDirs::lowered
pub fn lowered(shard: &Shard) -> Vec<u64> {
    let dirs = shard.log_dirs.borrow();
    dirs.as_ref().map_or_else(Vec::new, |dirs| dirs.lowered())
}

/// Marks of all partitions of all shards.
pub async fn gather(shard: &Rc<Shard>, request: impl Fn() -> Request) -> Vec<CheckpointMarks> {
    let ask = |to: usize| shard.call(ShardId(to as u16), request());
    let calls: Vec<_> = (0..shard.shards()).map(ask).collect();
    let mut all = Vec::new();
    for call in calls {
        if let Some(Response::Checkpoint(marks)) = call.await {
            all.extend(marks);
        }
    }
    all
}

/// One mark of every partition, as checkpoint files want it.
pub fn offsets_of(marks: &[CheckpointMarks], mark: impl Fn(&CheckpointMarks) -> i64) -> OffsetMap {
    marks
        .iter()
        .map(|marks| ((marks.topic.clone(), marks.partition), mark(marks)))
        .collect()
}

/// Writes the checkpoint files; `recovery` also the recovery points and log starts. False when a
/// directory refused, or a log in one was cut or deleted since their counters were `as_of`: what was
/// gathered may be too high by now.
pub async fn write(
    shard: &Rc<Shard>,
    marks: &[CheckpointMarks],
    recovery: bool,
    as_of: &[u64],
) -> bool {
    let dirs = shard.log_dirs.borrow().clone();
    match dirs {
        Some(dirs) => dirs.write_checkpoints(shard, marks, recovery, as_of).await,
        None => false,
    }
}
