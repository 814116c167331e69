//! What a shard knows of the log directories, and what it does when one of them fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use crate::daemon::start_state::StartState;

/// What shard 0 tells all shards.
#[derive(Debug, Clone)]
pub enum DirNews {
    /// A directory failed.
    Offline(usize, Arc<str>),
    /// A directory is full, or is not any more.
    Full(usize, bool),
}

/// Directories that do not serve, by their place in the start's list. Shard: its own copy.
#[derive(Debug, Default)]
pub struct ShardDirs {
    failures: RefCell<BTreeMap<usize, Arc<str>>>,
    full: RefCell<BTreeSet<usize>>,
}

impl ShardDirs {
    /// Why a directory is offline.
    pub fn failure(&self, at: usize) -> Option<Arc<str>> {
        self.failures.borrow().get(&at).cloned()
    }

    /// Those that are offline.
    pub fn offline(&self) -> Vec<usize> {
        self.failures.borrow().keys().copied().collect()
    }

    /// A directory has no room for ordinary appends.
    pub fn is_full(&self, at: usize) -> bool {
        self.full.borrow().contains(&at)
    }
}

/// Takes what the start found.
pub fn begin(shard: &Shard, start: &StartState) {
    let failed = start.dirs.iter().enumerate();
    let failed = failed.filter_map(|(at, dir)| Some((at, Arc::clone(dir.failure.as_ref()?))));
    shard.dirs.failures.borrow_mut().extend(failed);
}

/// Takes news of a directory.
pub fn take(shard: &Rc<Shard>, news: DirNews) {
    match news {
        DirNews::Full(at, true) => _ = shard.dirs.full.borrow_mut().insert(at),
        DirNews::Full(at, false) => {
            shard.dirs.full.borrow_mut().remove(&at);
            shard.offline.hurry();
        }
        DirNews::Offline(at, why) => {
            let mut failures = shard.dirs.failures.borrow_mut();
            failures.entry(at).or_insert_with(|| Arc::clone(&why));
            drop(failures);
            for partition in shard.partitions() {
                if partition.dir == at {
                    shard.remove_partition(&partition.key);
                    shard.offline.add_dir(partition.key);
                    crate::groups::closed(shard, &partition.key);
                    partition.log.condemn(&why);
                    partition.fire_waiters();
                }
            }
        }
    }
}
