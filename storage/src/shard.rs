//! What the logs of one shard share: memory and I/O budgets, open files, counters.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use corelog_runtime::BufferPool;
use corelog_runtime::sync::Semaphore;

use crate::fill::Fill;
use crate::guard::{DirGuard, is_device_error};
use crate::log::{LogInner, LogTail, OpenSegment, ReadError, SegmentFile};
use crate::open_files::OpenFiles;

/// Buckets of the flush latency histogram: bucket `i` counts flushes below `2^i` µs, the last one
/// all others.
pub const FLUSH_BUCKETS: usize = 24;

/// Limits of one shard's storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageLimits {
    /// Bytes of written buffers kept for readers of the tail.
    pub tail_cache_bytes: usize,
    /// Bytes of cold reads in flight.
    pub cold_read_bytes: usize,
    /// Descriptors of segment files kept open: one of an active segment, two of a sealed one that
    /// is read. Files at work are never closed, so that a few more may be open for a moment.
    pub open_segments: usize,
    /// Preparation steps (fallocate, zeroing) at a time.
    pub preparers: usize,
    /// Segment files are opened with O_DIRECT; false (`corelog.storage.io=buffered`) where the file
    /// system refuses it: the same blocks then go through the page cache.
    pub direct: bool,
}

impl Default for StorageLimits {
    fn default() -> Self {
        Self {
            tail_cache_bytes: 64 << 20,
            cold_read_bytes: 2 << 20,
            open_segments: 1024,
            preparers: 2,
            direct: true,
        }
    }
}

/// What the logs of a shard did since its start. Plain sums, for /metrics and for tests that must
/// know a rare branch was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageCounters {
    /// Batches appended.
    pub appends: u64,
    /// Their bytes.
    pub append_bytes: u64,
    /// Batches found to be in the log already.
    pub duplicates: u64,
    /// Tail writes handed to the kernel.
    pub device_writes: u64,
    /// Their bytes, padding and rewritten blocks included.
    pub device_write_bytes: u64,
    /// Tail writes made with RWF_DSYNC.
    pub durable_writes: u64,
    /// fdatasync calls for the flush policy or a checkpoint.
    pub flushes: u64,
    /// Time from submission to completion of both, see [`FLUSH_BUCKETS`].
    pub flush_latency: [u64; FLUSH_BUCKETS],
    /// Sum of those times, in µs.
    pub flush_latency_sum_us: u64,
    /// Segments sealed.
    pub rolls: u64,
    /// Rolls while a write of the old segment was still queued.
    pub rolls_with_queued_write: u64,
    /// Writes whose first block had been written before and was merged.
    pub tail_block_merges: u64,
    /// Appends that began a write of their own while another was in flight over their block.
    pub queued_writes: u64,
    /// Preparation steps.
    pub prepare_steps: u64,
    /// Bytes of zeros written ahead.
    pub zeroed_bytes: u64,
    /// Preparation steps refused by a full file system.
    pub no_space: u64,
    /// Files of active segments opened again after they were closed.
    pub reopens: u64,
    /// Active files that gave their unused space back, because nothing was appended for long.
    pub idle_trims: u64,
    /// Read plans made from the tail cache.
    pub tail_hits: u64,
    /// Read plans that had to look at the disk.
    pub tail_misses: u64,
    /// Bytes read from disk for readers.
    pub cold_read_bytes: u64,
    /// Windows of sealed files brought into the page cache.
    pub cold_fills: u64,
    /// Readers that waited for a window another one had asked for.
    pub cold_fills_shared: u64,
    /// Cuts.
    pub cuts: u64,
    /// Cuts at an offset inside a batch.
    pub cuts_inside_batch: u64,
    /// Recoveries that replayed batches.
    pub recoveries: u64,
    /// Recoveries that took bytes off the end of a log.
    pub torn_tails: u64,
    /// Recoveries that found valid batches after a bad one.
    pub damages: u64,
    /// Index files rebuilt.
    pub indexes_rebuilt: u64,
    /// Logs that failed.
    pub failures: u64,
    /// Segments removed by retention, or because they lay below the log start.
    pub segments_removed: u64,
    /// Their bytes.
    pub segment_bytes_removed: u64,
    /// Times a log start was raised.
    pub log_start_raises: u64,
    /// Active segments that rolled because all in them was over.
    pub retention_rolls: u64,
    /// Deleted files unlinked.
    pub files_unlinked: u64,
}

/// Changes what a log directory's checkpoint files say of a partition: before a cut, and before a
/// log's begin goes. An error puts off what was to follow, and is no failure of the log: should it
/// be the directory's, whoever writes these files tells.
pub trait CheckpointSink {
    /// Writes checkpoints that name at most these offsets for the partition, durably, and orders
    /// every later write of those files after this one.
    fn lower<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        recovery_point: i64,
        high_watermark: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>>;

    /// Writes a log start and a recovery point of at least these offsets for the partition, durably;
    /// no later write of those files may say less. `StorageFull` when there is no room for it.
    fn raise_log_start<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        log_start: i64,
        recovery_point: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>>;
}

/// What the logs of one shard share.
///
/// Shard: lives and dies on its own; never sent.
pub struct ShardStorage {
    limits: StorageLimits,
    counters: RefCell<StorageCounters>,
    pub(crate) cold_reads: Semaphore,
    pub(crate) preparers: Semaphore,
    pub(crate) tail_bytes: Rc<Cell<usize>>,
    /// One entry per entry of a tail, oldest first; eviction takes the oldest of that tail.
    tail_order: RefCell<VecDeque<Weak<LogTail>>>,
    open_files: RefCell<OpenFiles>,
    /// Windows of sealed files on their way into the page cache.
    pub(crate) fills: RefCell<Vec<Rc<Fill>>>,
    sendfile_refused: Cell<bool>,
    sink: RefCell<Option<Rc<dyn CheckpointSink>>>,
    guard: RefCell<Option<Rc<dyn DirGuard>>>,
    zeros: RefCell<Option<Bytes>>,
    #[cfg(feature = "planted")]
    planted: RefCell<Option<String>>,
}

impl fmt::Debug for ShardStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardStorage")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl ShardStorage {
    /// Makes the shared part of a shard's storage.
    pub fn new(limits: StorageLimits) -> Rc<ShardStorage> {
        Rc::new(ShardStorage {
            limits,
            counters: RefCell::default(),
            cold_reads: Semaphore::new(limits.cold_read_bytes.max(1)),
            preparers: Semaphore::new(limits.preparers.max(1)),
            tail_bytes: Rc::default(),
            tail_order: RefCell::default(),
            open_files: RefCell::default(),
            fills: RefCell::default(),
            sendfile_refused: Cell::new(false),
            sink: RefCell::default(),
            guard: RefCell::default(),
            zeros: RefCell::default(),
            #[cfg(feature = "planted")]
            planted: RefCell::default(),
        })
    }

    /// Its limits.
    pub fn limits(&self) -> StorageLimits {
        self.limits
    }

    /// What was counted so far.
    pub fn counters(&self) -> StorageCounters {
        *self.counters.borrow()
    }

    /// Bytes of written buffers kept for readers of the tail now.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes.get()
    }

    /// False once a file system could not say which pages are in memory: without that a sendfile
    /// might wait for the disk, so that sealed files are read on the ring.
    pub fn can_sendfile(&self) -> bool {
        !self.sendfile_refused.get()
    }

    pub(crate) fn refuse_sendfile(&self) {
        self.sendfile_refused.set(true);
    }

    /// Who changes checkpoint files before a cut, and before a log start is raised. Without one, a cut
    /// below a checkpointed offset is safe only if the caller lowered the files itself, and a raised
    /// log start does not outlive the process.
    pub fn set_checkpoint_sink(&self, sink: Rc<dyn CheckpointSink>) {
        *self.sink.borrow_mut() = Some(sink);
    }

    pub(crate) fn sink(&self) -> Option<Rc<dyn CheckpointSink>> {
        self.sink.borrow().clone()
    }

    /// Who looks after the directories of the logs. Without one a failure is its log's alone, and a
    /// full disk is found again by every log.
    pub fn set_guard(&self, guard: Rc<dyn DirGuard>) {
        *self.guard.borrow_mut() = Some(guard);
    }

    pub(crate) fn guard(&self) -> Option<Rc<dyn DirGuard>> {
        self.guard.borrow().clone()
    }

    pub(crate) fn tell_failed(&self, log_dir: &Path, why: &Arc<str>) {
        if let Some(guard) = self.guard() {
            guard.failed(log_dir, why);
        }
    }

    /// An error of a read below this directory, told to its guard when it is the device's.
    pub(crate) fn read_error(
        &self,
        log_dir: &Path,
        what: impl fmt::Display,
        error: &io::Error,
    ) -> ReadError {
        let why: Arc<str> = format!("{what}: {error}").into();
        if is_device_error(error) {
            self.tell_failed(log_dir, &why);
        }
        ReadError::Io(why)
    }

    /// Plants a known bug, to show that the tests find it. `ack-on-append`, `ack-before-write`: an
    /// append's requirement holds at once (with the first, writes are late as well).
    /// `flush-skips-a-waiter`: a flush tells all that wait for it but the last.
    /// `lost-tail-block-merge`: a block that is written again loses what it held.
    /// `recovery-off-by-one`: recovery leaves out the last good batch. `cut-leaves-old-batches`:
    /// recovery leaves on disk what lies behind a log's end, and believes it the next time.
    /// `panic-on-append`: every append panics.
    #[cfg(feature = "planted")]
    pub fn plant(&self, bug: &str) {
        *self.planted.borrow_mut() = Some(bug.to_owned());
    }

    /// Whether this bug was planted; never without the feature.
    #[cfg(feature = "planted")]
    pub fn is_planted(&self, bug: &str) -> bool {
        self.planted.borrow().as_deref() == Some(bug)
    }

    /// Whether this bug was planted; never without the feature.
    #[cfg(not(feature = "planted"))]
    pub fn is_planted(&self, _bug: &str) -> bool {
        false
    }

    /// A shared buffer of zeros.
    pub(crate) fn zeros(&self, pool: &BufferPool, len: usize) -> Bytes {
        let mut zeros = self.zeros.borrow_mut();
        if let Some(zeros) = zeros.as_ref().filter(|z| z.len() == len) {
            return zeros.clone();
        }
        let mut buf = pool.get(len);
        buf.set_len(len);
        buf.as_mut_slice()[..len].fill(0);
        zeros.insert(buf.freeze()).clone()
    }

    pub(crate) fn count(&self, f: impl FnOnce(&mut StorageCounters)) {
        f(&mut self.counters.borrow_mut());
    }

    pub(crate) fn count_flush(&self, took_us: u64) {
        self.count(|c| c.flushes += 1);
        self.time_flush(took_us);
    }

    /// A durable write, or a flush, took so long.
    pub(crate) fn time_flush(&self, took_us: u64) {
        let bucket = (u64::BITS - took_us.leading_zeros()) as usize;
        self.count(|c| {
            c.flush_latency[bucket.min(FLUSH_BUCKETS - 1)] += 1;
            c.flush_latency_sum_us = c.flush_latency_sum_us.saturating_add(took_us);
        });
    }

    /// Notes a new entry of a tail and evicts old ones over the budget. Entries read since they
    /// came to the front get a second round.
    pub(crate) fn tail_added(&self, tail: &Rc<LogTail>) {
        let mut order = self.tail_order.borrow_mut();
        order.push_back(Rc::downgrade(tail));
        let mut tries = order.len();
        while self.tail_bytes.get() > self.limits.tail_cache_bytes && tries > 0 {
            tries -= 1;
            let Some(oldest) = order.pop_front() else {
                return;
            };
            if let Some(tail) = oldest.upgrade()
                && !tail.evict_oldest()
            {
                order.push_back(oldest);
            }
        }
    }

    /// Descriptors of segment files kept open now, about.
    pub fn open_files(&self) -> usize {
        self.open_files.borrow().descriptors()
    }

    /// Keeps a sealed file open until others push it out.
    pub(crate) fn keep_open(&self, file: &Arc<SegmentFile>) {
        self.open_files.borrow_mut().use_sealed(file);
        self.close_over_limit();
    }

    /// Keeps the file of a segment that is not sealed open until others push it out.
    pub(crate) fn keep_active_open(&self, log: &Rc<LogInner>, segment: &Rc<OpenSegment>) {
        if !self.open_files.borrow().is_fresh(&segment.shared) {
            self.open_files.borrow_mut().use_active(log, segment);
        }
        self.close_over_limit();
    }

    /// Closes files over the limit, as far as they are not at work: called when work ended, too.
    pub(crate) fn close_over_limit(&self) {
        self.close_files(self.limits.open_segments);
    }

    pub(crate) fn forget_open(&self, file: &Arc<SegmentFile>) {
        self.open_files.borrow_mut().forget(file);
    }

    /// The process has no descriptor left: half of the files are closed.
    pub(crate) fn close_half(&self) {
        self.close_files(self.open_files() / 2);
    }

    fn close_files(&self, limit: usize) {
        if self.open_files.borrow().descriptors() <= limit {
            return;
        }
        let is_buffered = !self.limits.direct;
        let to_flush = self.open_files.borrow_mut().shrink(limit, is_buffered);
        for log in to_flush {
            log.want_flush_of_all();
        }
    }
}
