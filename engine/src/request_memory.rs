//! Memory of requests on one shard: taken before a body is read, given back when it is answered.
//!
//! Small requests have a share of their own, so that large ones that stand still inside their
//! bodies, or wait for one another, hold nobody up but themselves.

use corelog_runtime::sync::{Permit, Semaphore};

/// A request that counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// The two shares.
#[derive(Debug)]
pub struct RequestMemory {
    small: Semaphore,
    small_bytes: usize,
    large: Semaphore,
    large_bytes: usize,
}

impl RequestMemory {
    /// Shares `bytes` out: a quarter for small requests.
    pub fn new(bytes: usize) -> RequestMemory {
        let small_bytes = (bytes / 4).max(1);
        let large_bytes = (bytes - bytes / 4).max(1);
        RequestMemory {
            small: Semaphore::new(small_bytes),
            small_bytes,
            large: Semaphore::new(large_bytes),
            large_bytes,
        }
    }

    /// Waits for memory, in the order of asking; more than all of it is cut to all of it. Nobody
    /// asks for more while holding some.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        if bytes <= SMALL_BYTES_MAX.min(self.small_bytes) {
            self.small.acquire(bytes).await
        } else {
            self.large.acquire(bytes.min(self.large_bytes)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use corelog_runtime::sim::{SimConfig, SimWorld, run_until_crash};

    use super::*;

    #[test]
    fn r20_small_requests_do_not_wait_for_large_ones() {
        let world = SimWorld::new(1, SimConfig::default());
        let done = run_until_crash(&world, |rt| async move {
            let memory = RequestMemory::new(1 << 20);
            // All that large requests have, and one that waits for it.
            let held = memory.acquire(64 << 20).await;
            let mut waiting = Box::pin(memory.acquire(1 << 19));
            let soon = std::time::Duration::from_millis(1);
            assert!(rt.timeout(soon, &mut waiting).await.is_none());
            drop(memory.acquire(100).await);
            drop(held);
            drop(waiting.await);
            true
        });
        assert_eq!(done, Some(true));
    }
}
