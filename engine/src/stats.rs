//! Counters of one shard. The shard adds to plain cells; a scrape gets a copy by message, so that
//! nothing on the hot path is shared between cores.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use std::time::Duration;

use crate::latency::{Buckets, Latency, LatencySummary, Stage};

/// How the bytes of a fetch reached the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchPath {
    /// Slices of the buffers that were written.
    Tail,
    /// sendfile of sealed files from the page cache.
    Sendfile,
    /// Direct reads on the ring.
    Ring,
}

/// Live counters, owned by their shard.
#[derive(Debug)]
pub struct Stats {
    /// Requests answered, by API key.
    pub requests: RefCell<BTreeMap<i16, u64>>,
    /// Errors answered, by API key and Kafka error code.
    pub errors: RefCell<BTreeMap<(i16, i16), u64>>,
    /// Record bytes produced, as stored.
    pub produce_bytes: Cell<u64>,
    /// Records produced.
    pub produce_records: Cell<u64>,
    /// Batches produced.
    pub produce_batches: Cell<u64>,
    /// Record bytes sent to consumers, by path: tail, sendfile, ring.
    pub fetch_bytes: [Cell<u64>; 3],
    /// Connections open now.
    pub connections: Cell<u64>,
    /// Connections accepted.
    pub connections_accepted: Cell<u64>,
    /// Connections closed because what they sent was not acceptable.
    pub connections_refused: Cell<u64>,
    /// Connections closed as they came, by a limit.
    pub connections_over_limit: Cell<u64>,
    /// Connections that came too fast and waited for their turn.
    pub connections_muted: Cell<u64>,
    /// Times a connection with more to do let the others go first.
    pub connection_yields: Cell<u64>,
    /// Appends whose acknowledgement waited for a flush.
    pub flush_acks: Cell<u64>,
    stages: [Latency; Stage::ALL.len()],
}

impl Stats {
    /// All zero.
    pub fn new() -> Stats {
        Stats {
            requests: RefCell::default(),
            errors: RefCell::default(),
            produce_bytes: Cell::new(0),
            produce_records: Cell::new(0),
            produce_batches: Cell::new(0),
            fetch_bytes: Default::default(),
            connections: Cell::new(0),
            connections_accepted: Cell::new(0),
            connections_refused: Cell::new(0),
            connections_over_limit: Cell::new(0),
            connections_muted: Cell::new(0),
            connection_yields: Cell::new(0),
            flush_acks: Cell::new(0),
            stages: Default::default(),
        }
    }

    /// One request of an API was answered.
    pub fn count_request(&self, api_key: i16) {
        *self.requests.borrow_mut().entry(api_key).or_default() += 1;
    }

    /// An answer of an API carried this error code (0 is not counted).
    pub fn count_error(&self, api_key: i16, error_code: i16) {
        self.count_errors(api_key, error_code, 1);
    }

    /// The same, so many times.
    pub fn count_errors(&self, api_key: i16, error_code: i16, times: u64) {
        if error_code != 0 {
            *self
                .errors
                .borrow_mut()
                .entry((api_key, error_code))
                .or_default() += times;
        }
    }

    /// A stage of a request took so long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].record(took);
    }

    /// The same, for `count` requests at once.
    pub fn stage_n(&self, stage: Stage, took: Duration, count: usize) {
        self.stages[stage as usize].record_n(took, count as u64);
    }

    /// Record bytes left for a consumer.
    pub fn count_fetch_bytes(&self, path: FetchPath, bytes: usize) {
        add(&self.fetch_bytes[path as usize], bytes as u64);
    }
}

impl Default for Stats {
    fn default() -> Stats {
        Stats::new()
    }
}

/// Adds to a counter.
pub fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get().wrapping_add(amount));
}

/// Copy of one shard's counters.
#[derive(Debug, Clone, Default)]
pub struct ShardStats {
    /// Shard number.
    pub shard: usize,
    /// Log directories, told of by shard 0.
    pub log_dirs: Vec<crate::log_dirs::DirHealth>,
    /// Requests by API key.
    pub requests: BTreeMap<i16, u64>,
    /// Errors by API key and code.
    pub errors: BTreeMap<(i16, i16), u64>,
    /// Record bytes produced.
    pub produce_bytes: u64,
    /// Records produced.
    pub produce_records: u64,
    /// Batches produced.
    pub produce_batches: u64,
    /// Fetch bytes: tail, sendfile, ring.
    pub fetch_bytes: [u64; 3],
    /// Open connections.
    pub connections: u64,
    /// Accepted connections.
    pub connections_accepted: u64,
    /// Refused connections.
    pub connections_refused: u64,
    /// Produce latency.
    pub produce_latency: LatencySummary,
    /// Fetch latency.
    pub fetch_latency: LatencySummary,
    /// Stages of requests.
    pub stages: Vec<(Stage, Buckets)>,
    /// Flushes.
    pub flush_buckets: Buckets,
    /// Memory in use, by purpose, in bytes.
    pub memory: Vec<(&'static str, u64)>,
    /// Stalls by what held the shard.
    pub stalls: Vec<(&'static str, corelog_runtime::Stall)>,
    /// Appends whose acknowledgement waited for a flush.
    pub flush_acks: u64,
    /// Partitions this shard owns.
    pub partitions: u64,
    /// Counters of other rooms (runtime, storage): (name, help, value).
    pub others: Vec<(&'static str, &'static str, u64)>,
    /// Gauges of other rooms.
    pub gauges: Vec<(&'static str, &'static str, i64)>,
    /// Flush latency.
    pub flush_latency: LatencySummary,
    /// Groups whose coordinators are on this shard.
    pub groups: crate::groups::stats::GroupStats,
}

impl Stats {
    /// Copies the counters this room keeps; the caller adds those of other rooms.
    pub fn snapshot(&self, shard: usize) -> ShardStats {
        ShardStats {
            shard,
            log_dirs: Vec::new(),
            requests: self.requests.borrow().clone(),
            errors: self.errors.borrow().clone(),
            produce_bytes: self.produce_bytes.get(),
            produce_records: self.produce_records.get(),
            produce_batches: self.produce_batches.get(),
            fetch_bytes: [
                self.fetch_bytes[0].get(),
                self.fetch_bytes[1].get(),
                self.fetch_bytes[2].get(),
            ],
            connections: self.connections.get(),
            connections_accepted: self.connections_accepted.get(),
            connections_refused: self.connections_refused.get(),
            others: vec![
                (
                    "corelog_connections_over_limit",
                    "Connections closed as they came, by a limit.",
                    self.connections_over_limit.get(),
                ),
                (
                    "corelog_connections_muted",
                    "Connections that came too fast and waited for their turn.",
                    self.connections_muted.get(),
                ),
                (
                    "corelog_connection_yields",
                    "Times a connection with more to do let the others go first.",
                    self.connection_yields.get(),
                ),
            ],
            produce_latency: self.stages[Stage::ProduceTotal as usize].summary(),
            fetch_latency: self.stages[Stage::FetchData as usize].summary(),
            stages: Stage::ALL
                .into_iter()
                .zip(&self.stages)
                .map(|(stage, latency)| (stage, latency.buckets()))
                .collect(),
            flush_acks: self.flush_acks.get(),
            ..ShardStats::default()
        }
    }
}

/// Adds the runtime's counters to a copy.
pub fn add_runtime(stats: &mut ShardStats, runtime: &corelog_runtime::RtCounters) {
    stats.others.extend([
        (
            "corelog_shard_stalls",
            "Pieces of the shard's turns over 5 ms.",
            runtime.stalls,
        ),
        (
            "corelog_shard_turns",
            "Turns of the shard's loop.",
            runtime.turns,
        ),
        (
            "corelog_shard_task_polls",
            "Tasks polled.",
            runtime.tasks_polled,
        ),
        (
            "corelog_shard_task_panics",
            "Tasks that panicked.",
            runtime.task_panics,
        ),
        (
            "corelog_ring_operations",
            "Operations submitted to the ring.",
            runtime.driver.submitted,
        ),
        (
            "corelog_ring_enters",
            "io_uring_enter calls.",
            runtime.driver.enters,
        ),
        (
            "corelog_ring_cq_overflows",
            "Completion queue overflows.",
            runtime.driver.cq_overflows,
        ),
        (
            "corelog_ring_io_wq_punts",
            "Operations that ran on a kernel worker.",
            runtime.driver.io_wq_punts,
        ),
        (
            "corelog_sendfile_calls",
            "sendfile calls.",
            runtime.driver.sendfile_calls,
        ),
    ]);
    stats.gauges.extend([
        (
            "corelog_shard_tasks",
            "Tasks alive.",
            runtime.live_tasks as i64,
        ),
        (
            "corelog_shard_stall_longest_microseconds",
            "The longest piece of a turn over 5 ms since the start; 0 when there was none.",
            (runtime.stall_longest_ns / 1000) as i64,
        ),
        (
            "corelog_ring_operations_in_flight",
            "Operations handed to the ring that have not completed.",
            runtime.ops_in_flight as i64,
        ),
    ]);
}

/// Adds the storage's counters to a copy.
pub fn add_storage(stats: &mut ShardStats, storage: &corelog_storage::shard::ShardStorage) {
    let counters = storage.counters();
    stats.others.extend([
        (
            "corelog_flushes",
            "fdatasync calls and durable writes of logs.",
            counters.flushes + counters.durable_writes,
        ),
        (
            "corelog_flush_acks",
            "Appends whose acknowledgement waited for a flush.",
            stats.flush_acks,
        ),
        (
            "corelog_cold_read_bytes",
            "Bytes read from disk for readers.",
            counters.cold_read_bytes,
        ),
        (
            "corelog_device_writes",
            "Writes of logs handed to the kernel.",
            counters.device_writes,
        ),
        (
            "corelog_device_write_bytes",
            "Their bytes, padding and rewritten blocks included.",
            counters.device_write_bytes,
        ),
        (
            "corelog_prepared_zero_bytes",
            "Zeros written ahead of appends.",
            counters.zeroed_bytes,
        ),
        (
            "corelog_duplicate_batches",
            "Batches that were in the log already.",
            counters.duplicates,
        ),
        (
            "corelog_tail_hits",
            "Read plans made from memory.",
            counters.tail_hits,
        ),
        (
            "corelog_tail_misses",
            "Read plans that looked at the disk.",
            counters.tail_misses,
        ),
        (
            "corelog_cold_fills",
            "Windows of sealed files brought into the page cache.",
            counters.cold_fills,
        ),
        (
            "corelog_cold_fills_shared",
            "Readers that waited for a window another reader had asked for.",
            counters.cold_fills_shared,
        ),
        ("corelog_segment_rolls", "Segments sealed.", counters.rolls),
        (
            "corelog_segments_removed",
            "Segments removed by retention, or below the log start.",
            counters.segments_removed,
        ),
        (
            "corelog_segment_bytes_removed",
            "Their bytes.",
            counters.segment_bytes_removed,
        ),
        (
            "corelog_log_start_raises",
            "Log starts raised by retention and DeleteRecords.",
            counters.log_start_raises,
        ),
        (
            "corelog_retention_rolls",
            "Active segments sealed because retention had ended all in them.",
            counters.retention_rolls,
        ),
        (
            "corelog_files_unlinked",
            "Deleted files unlinked.",
            counters.files_unlinked,
        ),
        ("corelog_log_cuts", "Logs cut at an offset.", counters.cuts),
        (
            "corelog_log_failures",
            "Logs that failed and take no appends.",
            counters.failures,
        ),
        (
            "corelog_segment_files_reopened",
            "Files of active segments opened again after they were closed.",
            counters.reopens,
        ),
        (
            "corelog_appends_refused_no_space",
            "Preparations refused by a full file system.",
            counters.no_space,
        ),
    ]);
    stats.flush_latency = flush_summary(&counters.flush_latency);
    stats.flush_buckets =
        Buckets::of_powers(&counters.flush_latency, counters.flush_latency_sum_us);
}

/// Quantiles of a histogram whose bucket `i` counts values below `2^i` µs: upper bounds.
fn flush_summary(buckets: &[u64]) -> LatencySummary {
    let count: u64 = buckets.iter().sum();
    let quantile = |per_mille: u64| {
        let wanted = (count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            seen += bucket;
            if seen >= wanted && count > 0 {
                return 1u64 << at;
            }
        }
        0
    };
    LatencySummary {
        count,
        p50_us: quantile(500),
        p99_us: quantile(990),
        p999_us: quantile(999),
        max_us: quantile(1000),
    }
}
