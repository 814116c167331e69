//! What the limit of open files is spent on.

use std::fmt;

/// Descriptors of the process by purpose. What is left over is for small files, directories, rings
/// and files at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// RLIMIT_NOFILE.
    pub limit: usize,
    /// Connections open at once.
    pub connections: usize,
    /// Segment files that one shard keeps open.
    pub segments_per_shard: usize,
    shards: usize,
}

impl Descriptors {
    /// Half of the limit for segment files, a quarter for connections, but no more of those than
    /// `max.connections` allows.
    pub fn of(limit: u64, shards: usize, max_connections: u32) -> Descriptors {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let allowed = usize::try_from(max_connections).unwrap_or(0);
        Descriptors {
            limit,
            connections: (limit / 4).min(allowed),
            segments_per_shard: (limit / 2 / shards.max(1)).max(1),
            shards,
        }
    }
}

impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open files: limit {}: {} for segment files ({} shards with {} each; others close and \
             open again on demand), {} for connections",
            self.limit,
            self.segments_per_shard * self.shards,
            self.shards,
            self.segments_per_shard,
            self.connections
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_limit_is_for_segment_files() {
        let files = Descriptors::of(16_384, 2, u32::MAX);
        assert_eq!(files.segments_per_shard, 4_096);
        assert_eq!(files.connections, 4_096);
        assert!(files.to_string().contains("limit 16384: 8192 for segment"));
        assert_eq!(Descriptors::of(16_384, 2, 100).connections, 100);
    }

    #[test]
    fn a_tiny_limit_leaves_every_shard_one_file() {
        assert_eq!(Descriptors::of(8, 64, 10).segments_per_shard, 1);
    }
}
