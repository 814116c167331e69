//! Memory of requests on one shard: taken before a body is read, given back when it is answered.
//!
//! Small requests have a share of their own, so that large ones that stand still inside their
//! bodies, or wait for one another, hold nobody up but themselves. So has what waits for other
//! clients: a member of a group that joins waits for the others, a fetch for a produce. No
//! connection has more than half of a share, save for one request that is larger than that, and
//! then never all of it.

use std::time::Duration;

use corelog_runtime::sync::{Permit, Semaphore};

/// A request that counts as small.
pub const SMALL_BYTES_MAX: usize = 64 << 10;
/// Longest stand-still inside a body: memory was taken for all of it.
const STILL_MAX: Duration = Duration::from_secs(10);
/// How long a body may come slowly while others wait for the memory it was given.
const SLOW_MAX: Duration = Duration::from_secs(5);
/// What is slow then, in bytes per second.
const SLOW_BYTES_PER_S: u64 = 512 << 10;

/// The shares.
#[derive(Debug)]
pub struct RequestMemory {
    small: Semaphore,
    small_bytes: usize,
    large: Semaphore,
    large_bytes: usize,
    parked: Semaphore,
    all_bytes: usize,
    working: Semaphore,
    working_bytes: usize,
}

/// What one connection may have of a shard's memory.
#[derive(Debug)]
pub struct ConnectionMemory {
    small: Semaphore,
    small_bytes: usize,
    large: Semaphore,
    large_bytes: usize,
}

/// Memory of one request; given back on drop.
#[derive(Debug)]
pub struct Held {
    of_connection: Permit,
    of_shard: Permit,
}

impl Held {
    /// Gives back what `bytes` do not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.of_connection.shrink_to(bytes);
        self.of_shard.shrink_to(bytes);
    }
}

/// Memory that a request is decoded and answered in; given back on drop.
#[derive(Debug)]
pub enum Answering {
    /// Of a share that no client's pace keeps: it is given back before the answer leaves.
    Working(Permit),
    /// Kept until the answer has left.
    Kept(Held),
}

/// How a body has come so far.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Since memory was taken for it.
    pub elapsed: Duration,
    /// Since its last step.
    pub still: Duration,
    /// Bytes that came.
    pub bytes: usize,
}

impl RequestMemory {
    /// Shares `bytes` out: a quarter for small requests, an eighth for those that are parked, an
    /// eighth for what is worked on, half for large requests.
    pub fn new(bytes: usize) -> RequestMemory {
        let small_bytes = (bytes / 4).max(1);
        let parked_bytes = bytes / 8;
        let working_bytes = (bytes / 8).max(1);
        let large_bytes = (bytes / 2).max(1);
        RequestMemory {
            small: Semaphore::new(small_bytes),
            small_bytes,
            large: Semaphore::new(large_bytes),
            large_bytes,
            parked: Semaphore::new(parked_bytes),
            all_bytes: small_bytes + large_bytes + parked_bytes + working_bytes,
            working: Semaphore::new(working_bytes),
            working_bytes,
        }
    }

    /// For a new connection.
    pub fn connection(&self) -> ConnectionMemory {
        let half = |share: usize| (share / 2).max(1);
        ConnectionMemory {
            small: Semaphore::new(half(self.small_bytes)),
            small_bytes: half(self.small_bytes),
            large: Semaphore::new(half(self.large_bytes)),
            large_bytes: half(self.large_bytes),
        }
    }

    /// Taken and not given back.
    pub fn used_bytes(&self) -> usize {
        let shares = [&self.small, &self.large, &self.parked, &self.working];
        let left = shares.map(Semaphore::available);
        self.all_bytes.saturating_sub(left.iter().sum())
    }

    /// Memory for what waits for other clients, or for one that does not read; `None` when there
    /// is none left. Nobody waits for this share: those who hold it might wait for the one who
    /// would. Small ones are not charged: a connection has one at most, and connections are limited.
    pub fn try_park(&self, bytes: usize) -> Option<Permit> {
        let charge = if bytes <= SMALL_BYTES_MAX { 0 } else { bytes };
        self.parked.try_acquire(charge)
    }

    /// Waits for memory to work on a request with, which no client's pace keeps: it is held while
    /// the answer is found, and no longer.
    pub async fn work(&self, bytes: usize) -> Permit {
        let most = (self.working_bytes - self.working_bytes / 4).max(1);
        self.working.acquire(bytes.min(most)).await
    }

    /// Waits for memory to decode and answer a request in, many times the bytes of its frame. Small
    /// frames do not wait for what large ones hold: bodies on their way, and answers.
    pub async fn answering(
        &self,
        of: &ConnectionMemory,
        frame_bytes: usize,
        bytes: usize,
    ) -> Answering {
        if frame_bytes <= SMALL_BYTES_MAX {
            Answering::Working(self.work(bytes).await)
        } else {
            Answering::Kept(self.acquire(of, bytes).await)
        }
    }

    fn is_small(&self, bytes: usize) -> bool {
        bytes <= SMALL_BYTES_MAX.min(self.small_bytes / 2)
    }

    /// Waits for memory, in the order of asking, first in the connection's line and then in the
    /// shard's. More than three quarters of a share are cut to that. Nobody asks for more while
    /// holding some, save for requests that follow one another on a connection.
    pub async fn acquire(&self, of: &ConnectionMemory, bytes: usize) -> Held {
        let (own, own_max, shared, shared_max) = if self.is_small(bytes) {
            (&of.small, of.small_bytes, &self.small, self.small_bytes)
        } else {
            (&of.large, of.large_bytes, &self.large, self.large_bytes)
        };
        let most = (shared_max - shared_max / 4).max(1);
        let of_connection = own.acquire(bytes.min(own_max)).await;
        let of_shard = shared.acquire(bytes.min(most)).await;
        Held {
            of_connection,
            of_shard,
        }
    }

    /// Others wait for memory of the kind that a request of so many bytes holds.
    pub fn is_contended(&self, bytes: usize) -> bool {
        let share = match self.is_small(bytes) {
            true => &self.small,
            false => &self.large,
        };
        share.waiting() > 0
    }
}

impl Progress {
    /// The client is given up: it stands still, or is slow while others wait.
    pub fn is_hopeless(&self, contended: bool) -> bool {
        let needed = self.elapsed.as_millis() as u64 * SLOW_BYTES_PER_S / 1000;
        self.still >= STILL_MAX
            || (contended && self.elapsed >= SLOW_MAX && (self.bytes as u64) < needed)
    }
}

#[cfg(test)]
#[path = "request_memory_test.rs"]
mod tests;
