//! The clean stop: connections, logs, checkpoints, and last the marker that says all was well.

use std::collections::BTreeSet;
use std::rc::Rc;

use corelog_runtime::ShardId;

use crate::shard::Shard;
use crate::shard::message::{Operation, Request, Response};

/// Stops all shards. A directory gets its clean marker only when every log in it closed cleanly and
/// its checkpoints are durable. Shard: 0.
pub async fn shutdown(shard: &Rc<Shard>) {
    shard.stopping.set(true);
    let stop = |to: usize| shard.call(ShardId(to as u16), Request::Operate(Operation::Stop));
    let calls: Vec<_> = (0..shard.shards()).map(stop).collect();
    let mut marks = Vec::new();
    let mut unclean = BTreeSet::new();
    let mut is_any_shard_gone = false;
    for call in calls {
        match call.await {
            Some(Response::Stopped(of_shard, of_dirs)) => {
                marks.extend(of_shard);
                unclean.extend(of_dirs);
            }
            _ => is_any_shard_gone = true,
        }
    }
    let dirs = shard.log_dirs.borrow().clone();
    let Some(dirs) = dirs else { return };
    let epoch = shard
        .image()
        .broker(shard.start_config.node_id)
        .map_or(-1, |broker| broker.broker_epoch);
    let is_unclean = |at| is_any_shard_gone || unclean.contains(&at);
    if dirs.close(&marks, epoch, is_unclean).await {
        tracing::info!(partitions = marks.len(), "stopped cleanly");
    }
}
