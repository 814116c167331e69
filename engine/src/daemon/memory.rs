//! `corelog.memory.bytes`: one bound for caches, pools and requests, shared equally by the shards.

use corelog_runtime::blocking;

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
/// thirty-second for fetch sessions, the rest for what is counted nowhere else.
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

/// The default: a quarter of the smaller of RAM and the control group's limit.
pub fn default_bytes() -> u64 {
    let ram = blocking::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_total(&text));
    let group = blocking::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let smaller = match (ram, group) {
        (Some(ram), Some(group)) => u64::min(ram, group),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => UNKNOWN_BYTES,
    };
    smaller / 4
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
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

    #[test]
    fn reads_the_kernels_total() {
        assert_eq!(
            mem_total("MemTotal:       24576 kB\nMemFree: 1 kB\n"),
            Some(24576 * 1024)
        );
        assert_eq!(mem_total("nothing"), None);
    }
}
