//! What the logs of a shard are told about their directories, and whom they tell.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use corelog_runtime::ShardId;
use corelog_storage::guard::DirGuard;

use super::Found;
use crate::shard::Shard;
use crate::shard::message::{Operation, Request, Response};

/// The guard of one shard's logs: what it is told goes to shard 0.
pub struct ShardGuard {
    shard: Weak<Shard>,
}

impl ShardGuard {
    /// For the logs of one shard.
    pub fn new(shard: &Rc<Shard>) -> ShardGuard {
        ShardGuard {
            shard: Rc::downgrade(shard),
        }
    }

    fn find(&self, log_dir: &Path) -> Option<(Rc<Shard>, usize)> {
        let shard = self.shard.upgrade()?;
        let at = shard.start.borrow().as_ref()?.dir_at(log_dir)?;
        Some((shard, at))
    }

    fn tell(&self, log_dir: &Path, found: Found) {
        if let Some((shard, at)) = self.find(log_dir) {
            let found = Operation::DirFound(at, found);
            shard.cast(ShardId(0), Request::Operate(found));
        }
    }
}

impl DirGuard for ShardGuard {
    fn is_full(&self, log_dir: &Path) -> bool {
        let found = self.find(log_dir);
        found.is_some_and(|(shard, at)| shard.dirs.is_full(at))
    }

    fn no_space(&self, log_dir: &Path) {
        if !self.is_full(log_dir) {
            self.tell(log_dir, Found::NoSpace);
        }
    }

    fn release<'a>(&'a self, log_dir: &'a Path) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async move {
            let Some((shard, at)) = self.find(log_dir) else {
                return false;
            };
            let release = Request::Operate(Operation::ReleaseReserve(at));
            matches!(
                shard.call(ShardId(0), release).await,
                Some(Response::Released(true))
            )
        })
    }

    fn failed(&self, log_dir: &Path, why: &Arc<str>) {
        self.tell(log_dir, Found::Failed(Arc::clone(why)));
    }
}
