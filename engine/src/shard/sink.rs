//! Checkpoint files are written on shard 0; a log that is about to be cut has them lowered first, one
//! that is to begin later has its log start raised there first.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};

use corelog_runtime::ShardId;
use corelog_storage::shard::CheckpointSink;

use super::Shard;
use super::message::{Operation, PartitionKey, Request, Response};
use super::partition::Partition;

/// Changes a partition's checkpoints through shard 0.
pub struct DirectorySink {
    shard: Weak<Shard>,
}

impl DirectorySink {
    /// For the logs of one shard.
    pub fn new(shard: &Rc<Shard>) -> DirectorySink {
        DirectorySink {
            shard: Rc::downgrade(shard),
        }
    }
}

impl CheckpointSink for DirectorySink {
    fn lower<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        recovery_point: i64,
        high_watermark: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            let gone = || io::Error::other("the shard that writes checkpoints is gone");
            let shard = self.shard.upgrade().ok_or_else(gone)?;
            let offset = recovery_point.min(high_watermark);
            let request = Request::Operate(Operation::LowerCheckpoint(
                topic.to_owned(),
                partition,
                offset,
            ));
            match shard.call(ShardId(0), request).await {
                Some(Response::Lowered(result)) => result,
                _ => Err(gone()),
            }
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
            let gone = || io::Error::other("the shard that writes checkpoints is gone");
            let shard = self.shard.upgrade().ok_or_else(gone)?;
            let request = Request::Operate(Operation::RaiseLogStart {
                dir: dir_of(&shard, topic, partition),
                topic: topic.to_owned(),
                partition,
                log_start,
                recovery_point,
            });
            match shard.call(ShardId(0), request).await {
                Some(Response::Raised(result)) => result,
                _ => Err(gone()),
            }
        })
    }
}

/// The log directory of a partition of this shard. While an image is taken its logs are served before
/// it is in force: then all of them are looked through.
fn dir_of(shard: &Shard, topic: &str, partition: i32) -> Option<usize> {
    let known = shard.image().topic(topic).map(|topic| topic.id);
    let by_id = known.and_then(|topic_id| {
        let key = PartitionKey {
            topic_id,
            partition,
        };
        shard.partition(&key).ok()
    });
    let is_it = |own: &Rc<Partition>| own.topic == topic && own.key.partition == partition;
    let found = by_id.or_else(|| shard.partitions().into_iter().find(is_it));
    found.map(|own| own.dir)
}
