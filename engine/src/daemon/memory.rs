//! `corelog.memory.bytes`: one bound for caches, pools and requests, shared equally by the shards.

use corelog_runtime::doctor;

/// Least memory a shard can work with.
const SHARD_BYTES_MIN: u64 = 8 << 20;
/// Memory taken as present when the system does not say.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// What one shard may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMemory {
    /// Written buffers kept for readers of the tail.
    pub tail_cache_bytes: usize,
    /// Requests received and not answered.
    pub request_bytes: usize,
    /// Fetch sessions.
    pub session_bytes: usize,
    /// Free buffers kept for reuse.
    pub pool_bytes: usize,
    /// Cold reads in flight.
    pub cold_read_bytes: usize,
}

/// Shares `total` out: half for the tail, a quarter for requests, an eighth for free buffers, a
/// thirty-second for fetch sessions and another for codecs (an eighth of what requests have, see
/// `codec_memory`), the rest for what is counted nowhere else.
pub fn share(total: u64, shards: usize) -> ShardMemory {
    let each = (total / shards.max(1) as u64).max(SHARD_BYTES_MIN);
    let part = |of: u64| usize::try_from(each / of).unwrap_or(usize::MAX);
    ShardMemory {
        tail_cache_bytes: part(2),
        request_bytes: part(4),
        session_bytes: part(32),
        pool_bytes: part(8),
        cold_read_bytes: part(16).clamp(256 << 10, 2 << 20),
    }
}

/// The default: a quarter of the smaller of RAM and the control groups' limits.
pub fn default_bytes() -> u64 {
    doctor::memory_limit_bytes().unwrap_or(UNKNOWN_BYTES) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_total_above_the_minimum() {
        for shards in [1, 2, 7, 64] {
            let total = 4 << 30;
            let memory = share(total, shards);
            let each = memory.tail_cache_bytes
                + memory.request_bytes
                + memory.session_bytes
                + memory.pool_bytes
                + memory.cold_read_bytes;
            assert!((each * shards) as u64 <= total);
        }
    }
}
