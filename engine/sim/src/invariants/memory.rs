//! When all is quiet, what clients made the broker take is given back: connections, waits, memory of
//! requests, tasks.

use super::Broken;

/// What one shard holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections open.
    pub connections: u64,
    /// Fetches that wait.
    pub waits: u64,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Tasks alive.
    pub tasks: u64,
    /// Bytes of written buffers kept for readers.
    pub tail_bytes: u64,
    /// The bound of those.
    pub tail_bytes_max: u64,
    /// Tasks that panicked.
    pub task_panics: u64,
}

/// Tasks a shard may have beside its partitions when nobody asks for anything: what runs always, and
/// small flushes and retries in the background.
const TASKS_MAX: u64 = 24;
/// And for each partition: its timers, its preparation.
const TASKS_PER_PARTITION: u64 = 4;

/// Checks one quiet shard.
pub fn check(shard: usize, held: &Held, partitions: u64) -> Result<(), Broken> {
    let tasks_max = TASKS_MAX + TASKS_PER_PARTITION * partitions;
    if held.task_panics > 0 {
        return Err(format!(
            "memory: {} tasks of shard {shard} panicked",
            held.task_panics
        ));
    }
    if held.connections > 0 || held.waits > 0 || held.request_bytes > 0 {
        return Err(format!("memory: shard {shard} is quiet and holds {held:?}"));
    }
    if held.tail_bytes > held.tail_bytes_max {
        return Err(format!(
            "memory: shard {shard} keeps more of the tail than it may: {held:?}"
        ));
    }
    if held.tasks > tasks_max {
        return Err(format!(
            "memory: shard {shard} is quiet and has {} tasks, at most {tasks_max} are expected",
            held.tasks
        ));
    }
    Ok(())
}
