//! Checkpoint files are written on shard 0; a log that is about to be cut has them lowered first, one
//! that is to begin later has its log start raised there first.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};

use corelog_runtime::ShardId;
use corelog_storage::shard::CheckpointSink;

use super::Shard;
use super::message::{Operation, Request, Response};

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
                Some(Response::Lowered(Ok(()))) => Ok(()),
                Some(Response::Lowered(Err(why))) => Err(io::Error::other(why)),
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
