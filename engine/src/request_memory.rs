//! Memory of requests on one shard: taken before a body is read, given back when it is answered.
//!
//! Small requests have a share of their own, so that large ones that stand still inside their
//! bodies, or wait for one another, hold nobody up but themselves. So have requests that wait for
//! other clients: a member of a group that joins waits for the others.

use corelog_runtime::sync::{Permit, Semaphore};

/// A request that counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// The three shares.
#[derive(Debug)]
pub struct RequestMemory {
    small: Semaphore,
    small_bytes: usize,
    large: Semaphore,
    large_bytes: usize,
    parked: Semaphore,
    all_bytes: usize,
}

impl RequestMemory {
    /// Shares `bytes` out: a quarter for small requests, an eighth for those that are parked.
    pub fn new(bytes: usize) -> RequestMemory {
        let small_bytes = (bytes / 4).max(1);
        let parked_bytes = bytes / 8;
        let large_bytes = (bytes - bytes / 4 - parked_bytes).max(1);
        RequestMemory {
            small: Semaphore::new(small_bytes),
            small_bytes,
            large: Semaphore::new(large_bytes),
            large_bytes,
            parked: Semaphore::new(parked_bytes),
            all_bytes: small_bytes + large_bytes + parked_bytes,
        }
    }

    /// Taken and not given back.
    pub fn used_bytes(&self) -> usize {
        let left = [&self.small, &self.large, &self.parked].map(Semaphore::available);
        self.all_bytes.saturating_sub(left.iter().sum())
    }

    /// Memory for a request that waits for what other clients do; `None` when there is none left.
    /// Nobody waits for this share: those who hold it might wait for the one who would. Small
    /// requests are not charged: a connection has one at most, and connections are limited.
    pub fn try_park(&self, bytes: usize) -> Option<Permit> {
        let charge = if bytes <= SMALL_BYTES_MAX { 0 } else { bytes };
        self.parked.try_acquire(charge)
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
    fn r20_large_requests_that_wait_for_other_clients_are_bounded_and_small_ones_are_not() {
        let memory = RequestMemory::new(8 << 20);
        let large = memory.try_park(600 << 10);
        assert!(large.is_some());
        assert!(memory.try_park(600 << 10).is_none());
        assert!((0..100_000).all(|_| memory.try_park(1 << 10).is_some()));
        drop(large);
        assert!(memory.try_park(600 << 10).is_some());
    }

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
