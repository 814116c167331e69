//! What a shard counts, as /metrics asks for it.

use super::Shard;
use crate::log_dirs;
use crate::stats::ShardStats;

/// Counts log directories, on the shard that looks after them.
fn count_dirs(shard: &Shard, is_counted: fn(&log_dirs::Dir) -> bool) -> i64 {
    let dirs = shard.log_dirs.borrow();
    let dirs = dirs.as_ref().map_or(&[][..], |dirs| dirs.dirs());
    dirs.iter().filter(|dir| is_counted(dir)).count() as i64
}

fn reserve_bytes(shard: &Shard) -> i64 {
    let dirs = shard.log_dirs.borrow();
    let dirs = dirs.as_ref().map_or(&[][..], |dirs| dirs.dirs());
    let open = dirs.iter().filter_map(log_dirs::Dir::online);
    open.map(|dir| dir.reserve_bytes() as i64).sum()
}

pub(super) fn stats(shard: &Shard) -> ShardStats {
    let mut stats = shard.stats.snapshot(usize::from(shard.id().0));
    stats.partitions = shard.partitions.borrow().len() as u64;
    stats.log_dirs = log_dirs::health(shard);
    crate::stats::add_runtime(&mut stats, &shard.rt.counters());
    crate::stats::add_storage(&mut stats, &shard.storage);
    shard.scrub.add_counts(&mut stats);
    let sessions = shard.fetch_sessions.borrow();
    stats.others.push((
        "corelog_fetch_session_evictions",
        "Fetch sessions that gave way to others.",
        sessions.evictions(),
    ));
    stats.gauges.extend([
        (
            "corelog_fetch_sessions",
            "Fetch sessions.",
            sessions.len() as i64,
        ),
        (
            "corelog_fetch_session_partitions",
            "Partitions of fetch sessions.",
            sessions.partitions() as i64,
        ),
        (
            "corelog_fetch_session_bytes",
            "Memory of fetch sessions.",
            sessions.bytes() as i64,
        ),
        (
            "corelog_fetch_waits",
            "Fetches that wait for data of partitions of this shard.",
            shard.waits.borrow().len() as i64,
        ),
        (
            "corelog_partitions_offline",
            "Partitions whose logs cannot be opened, or whose log directories are offline.",
            shard.offline.len() as i64,
        ),
        (
            "corelog_segment_files_open",
            "Descriptors of segment files kept open, about.",
            shard.storage.open_files() as i64,
        ),
        (
            "corelog_log_dirs_offline",
            "Log directories that failed and serve nothing until the next start.",
            count_dirs(shard, |dir| dir.failure().is_some()),
        ),
        (
            "corelog_log_dirs_full",
            "Log directories whose disk is full: appends are refused.",
            count_dirs(shard, log_dirs::Dir::is_full),
        ),
        (
            "corelog_log_dirs_reserve_bytes",
            "Space kept back for metadata, checkpoints and internal topics on full disks.",
            reserve_bytes(shard),
        ),
    ]);
    stats.stalls = shard.rt.stalls();
    // Tail and requests are held in buffers, or beside them: these are no sum.
    stats.memory = vec![
        ("tail", shard.storage.tail_bytes() as u64),
        ("buffers", shard.rt.pool().allocated_bytes() as u64),
        ("requests", shard.request_memory.used_bytes() as u64),
    ];
    stats
}
