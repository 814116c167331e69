//! The clean stop: connections, logs, checkpoints, and last the marker that says all was well.

use std::rc::Rc;

use corelog_runtime::ShardId;

use super::background;
use crate::shard::Shard;
use crate::shard::message::{Operation, Request, Response};

/// Stops all shards. The clean marker is written only when every log closed cleanly and every
/// checkpoint is durable. Shard: 0.
pub async fn shutdown(shard: &Rc<Shard>) {
    shard.stopping.set(true);
    let stop = |to: usize| shard.call(ShardId(to as u16), Request::Operate(Operation::Stop));
    let calls: Vec<_> = (0..shard.shards()).map(stop).collect();
    let mut marks = Vec::new();
    let mut clean = true;
    for call in calls {
        match call.await {
            Some(Response::Stopped(of_shard, closed)) => {
                marks.extend(of_shard);
                clean &= closed;
            }
            _ => clean = false,
        }
    }
    let dir = shard.log_dir.borrow().clone();
    if let Some(dir) = dir
        && clean
        && background::write(shard, &marks, true, background::lowered(shard)).await
    {
        let epoch = shard
            .image()
            .broker(shard.start_config.node_id)
            .map_or(-1, |broker| broker.broker_epoch);
        match dir.write_clean_marker(epoch).await {
            Ok(()) => tracing::info!(partitions = marks.len(), "stopped cleanly"),
            Err(error) => tracing::error!(%error, "the clean marker could not be written"),
        }
    }
}
