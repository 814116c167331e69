//! What several test files share.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::PathBuf;

use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Rt, ShardId, blocking};

/// A shard over a real ring, on the calling thread.
pub fn rt() -> Rt {
    let driver = UringDriver::new(64).expect("a ring");
    Rt::new(ShardId(0), Box::new(driver), BufferPool::new(1 << 20))
}

/// A fresh directory below target/, removed on drop.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let mut path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        path.push(format!("{name}-{}", std::process::id()));
        let _may_be_missing = blocking::remove_dir_all(&path);
        blocking::create_dir_all(&path).expect("a directory below target");
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _best_effort = blocking::remove_dir_all(&self.0);
    }
}
