//! Room on disk ahead of the appends: fallocate, and zeros where small or durable writes profit.
//!
//! `prepared_end` splits the active file: writes go below it, preparation at or above; it moves
//! when a step is complete. ENOSPC meets the preparer, never an append that has offsets.
//!
//! A step covers about a second of traffic. fallocate covers several steps at once: it takes the
//! file's lock, waits for the direct writes in flight and holds off new ones, so that the fewer of
//! them meet traffic the better.

use std::rc::Rc;

use corelog_runtime::{FallocateMode, File};

use super::{AppendError, LogInner};
use crate::guard::is_passing;
use crate::log::api::{is_no_space, is_unsupported};
use crate::log::segment::OpenSegment;
use crate::log::writer::{align_down, align_up};

/// First step: most partitions of a broker with many are idle but for a record now and then.
const STEP_BYTES_FIRST: u64 = 16 << 10;
/// The smallest of the others while there is space.
const STEP_BYTES_MIN: u64 = 256 << 10;
/// Largest step.
const STEP_BYTES_MAX: u64 = 256 << 20;
/// A step that lasted less than this is followed by one twice as large.
const STEP_MS: u64 = 1_000;
/// An allocation takes at most this part of the free space.
const FREE_SPACE_PART: u64 = 16;
/// From this step size on space is allocated for several steps at once.
const STEP_BYTES_GROUPED: u64 = 512 << 10;
const STEPS_PER_ALLOCATION: u64 = 8;
/// A step out of the reserve of a full disk.
pub(super) const RESERVE_STEP_BYTES: u64 = 64 << 10;
/// Zeros are written in pieces of this size, and only up to this much per step.
const ZERO_BYTES: u64 = 256 << 10;
const ZERO_STEP_BYTES_MAX: u64 = 32 << 20;
/// Appends below this on average make zeroing worth its writes.
const SMALL_APPEND_BYTES: u64 = 16 << 10;

/// An error that refuses an append and harms nothing: the next one may do better.
pub(super) fn is_refusal(error: &std::io::Error) -> bool {
    is_no_space(error) || is_passing(error)
}

/// The refusal of a directory that is known to be full.
pub(super) fn no_space() -> std::io::Error {
    std::io::ErrorKind::StorageFull.into()
}

impl LogInner {
    /// Returns true when `bytes` more fit below the prepared end, false when the caller has to look
    /// at the active segment again.
    pub async fn reserve(
        self: &Rc<Self>,
        segment: &Rc<OpenSegment>,
        bytes: u64,
    ) -> Result<bool, AppendError> {
        let end = align_up(segment.size() + bytes);
        if end <= segment.prepared_end.get() {
            return Ok(true);
        }
        let progress = segment.progress.notified();
        if segment.preparing.get() {
            segment.prepare_urgent.set(true);
            progress.await;
            return Ok(false);
        }
        let (log, task_segment) = (self.clone(), segment.clone());
        segment.preparing.set(true);
        let step = self.rt.spawn_vital("log prepare", async move {
            log.prepare(&task_segment, end, true).await
        });
        match step.await {
            Some(Ok(())) => Ok(false),
            Some(Err(error)) if is_refusal(&error) => Err(AppendError::NoSpace),
            Some(Err(error)) => {
                let why = self.fail(
                    format_args!("fallocate of segment {}", segment.base_offset),
                    &error,
                );
                Err(AppendError::DirOffline(why.to_string().into()))
            }
            None => Err(AppendError::Closed),
        }
    }

    /// Starts the next step when half of the last one is used, and the next file near the roll.
    pub fn prepare_ahead(self: &Rc<Self>, size: u64) {
        let segment = self.state.borrow().active();
        let config = self.config.borrow().clone();
        if size >= config.segment_bytes / 10 * 9 {
            self.prepare_next_file();
        }
        let (end, step) = (segment.prepared_end.get(), segment.prepare_step.get());
        let is_needed = end.saturating_sub(size) < step / 2 && end < config.segment_bytes;
        if !is_needed || segment.preparing.replace(true) {
            return;
        }
        let log = self.clone();
        self.background("log prepare ahead", async move {
            match log.prepare(&segment, end + 1, false).await {
                // A refusal comes back to the append that needs the room.
                Err(error) if !is_refusal(&error) => {
                    let what = format_args!("preparation of segment {}", segment.base_offset);
                    log.fail(what, &error);
                }
                _ => {}
            }
        });
    }

    /// One step: the prepared end moves at least to `needed_end`. The caller set `preparing`.
    async fn prepare(
        self: &Rc<Self>,
        segment: &Rc<OpenSegment>,
        needed_end: u64,
        urgent: bool,
    ) -> std::io::Result<()> {
        segment.prepare_urgent.set(urgent);
        let result = self.prepare_step(segment, align_up(needed_end)).await;
        if result.as_ref().is_err_and(is_no_space) {
            self.shard.count(|c| c.no_space += 1);
            segment.prepare_step.set(0);
        }
        segment.preparing.set(false);
        segment.progress.notify_all();
        result
    }

    async fn prepare_step(
        self: &Rc<Self>,
        segment: &Rc<OpenSegment>,
        needed_end: u64,
    ) -> std::io::Result<()> {
        let _permit = self.shard.preparers.acquire(1).await;
        let from = segment.prepared_end.get();
        let step = self.next_step(segment);
        let room = self.config.borrow().segment_bytes.saturating_sub(from);
        let end = align_up(from + step.min(room)).max(needed_end);
        let uses_reserve = self.config.borrow().uses_reserve;
        let (file, end) = loop {
            if self.is_out_of_space() {
                return Err(no_space());
            }
            let file = self.file(segment).await?;
            match self.allocate(segment, &file, end, needed_end).await {
                Err(error) if is_no_space(&error) && self.make_space(uses_reserve).await => {}
                result => break (file, result?),
            }
        };
        if self.profits_from_zeros() {
            let is_over = || segment.prepare_urgent.get() || segment.rolled.get();
            self.write_zeros(&file, from, end, is_over).await?;
        }
        if self.flushes_often() {
            // RWF_DSYNC writes make their own bytes durable; the size they need must be before.
            if let Err(error) = file.fdatasync().await {
                // Whatever the error: size, and appends before it, may be lost for good, and the
                // kernel tells once. The next one would succeed and promise what is not there.
                let what = format_args!("fdatasync of segment {}", segment.base_offset);
                self.fail(what, &error);
                return Err(std::io::Error::other(error));
            }
            segment.durable_len.set(segment.durable_len.get().max(end));
        }
        segment.prepared_end.set(end);
        segment.prepared_at_ms.set(self.now_ms());
        self.shard.count(|c| c.prepare_steps += 1);
        Ok(())
    }

    /// Allocates up to `end` at least, or to `needed_end` where the disk has no more. Returns how far
    /// the step may go.
    async fn allocate(
        &self,
        segment: &OpenSegment,
        file: &File,
        end: u64,
        needed_end: u64,
    ) -> std::io::Result<u64> {
        let from = segment.allocated_end.get();
        if end <= from {
            return Ok(end);
        }
        let segment_bytes = align_up(self.config.borrow().segment_bytes);
        let bytes = self.allocation_bytes(segment.prepare_step.get()).await;
        let mut wanted = align_up(from.saturating_add(bytes))
            .min(segment_bytes)
            .max(needed_end);
        if self.is_dir_full() {
            // Out of the reserve: little more than is needed.
            wanted = wanted
                .min(align_up(from + RESERVE_STEP_BYTES))
                .max(needed_end);
        }
        let end = end.min(wanted);
        for to in [wanted, end, needed_end] {
            if to <= from {
                // What the append needs was there already.
                return Ok(from.min(end).max(needed_end));
            }
            let mode = FallocateMode::Extend;
            let mut result = file.fallocate(mode, from, to - from).await;
            if is_unsupported(&result) {
                // Such a file system gives space to what is written, so that is what is done.
                result = self.fill(file, from, to).await;
            }
            match result {
                Ok(()) => {
                    segment.allocated_end.set(to);
                    return Ok(end.min(to));
                }
                Err(error) if is_no_space(&error) && to > needed_end => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last size tried is the needed one, whose refusal is returned")
    }

    /// Size of the next step: twice the last when that was used up within a second.
    fn next_step(&self, segment: &OpenSegment) -> u64 {
        let last = segment.prepare_step.get();
        let lasted_ms = self.now_ms().saturating_sub(segment.prepared_at_ms.get());
        let step = match last {
            0 => STEP_BYTES_FIRST,
            _ if lasted_ms < STEP_MS => (last * 2).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX),
            _ => (last / 2).max(STEP_BYTES_MIN),
        };
        segment.prepare_step.set(step);
        step
    }

    /// Bytes of one fallocate for steps of this size: shrunk as free space shrinks.
    pub(super) async fn allocation_bytes(&self, step: u64) -> u64 {
        if step < STEP_BYTES_GROUPED {
            return step;
        }
        let wanted = (step * STEPS_PER_ALLOCATION).min(STEP_BYTES_MAX).max(step);
        let dir = self.dir.borrow().clone();
        match self.rt.statfs(dir).await {
            Ok(stat) => wanted
                .min(align_down(stat.free_bytes / FREE_SPACE_PART))
                .max(STEP_BYTES_MIN),
            Err(_) => STEP_BYTES_MIN,
        }
    }

    fn flushes_often(&self) -> bool {
        let policy = self.config.borrow().flush;
        policy.messages.is_some() || policy.ms.is_some()
    }

    /// Small writes and durable ones are faster where the extents were written before.
    pub(super) fn profits_from_zeros(&self) -> bool {
        if !self.shard.limits().direct {
            return false;
        }
        let counters = self.shard.counters();
        self.flushes_often()
            || counters.append_bytes < counters.appends.saturating_mul(SMALL_APPEND_BYTES)
    }

    /// Room where there is no fallocate: zeros over all of the range.
    pub(super) async fn fill(&self, file: &File, from: u64, end: u64) -> std::io::Result<()> {
        let mut at = align_up(from);
        while at < end {
            let piece_end = end.min(at + ZERO_STEP_BYTES_MAX);
            self.write_zeros(file, at, piece_end, || false).await?;
            at = piece_end;
        }
        Ok(())
    }

    /// Turns unwritten extents into written ones: 1.3x to 3x for small and durable writes later.
    /// Ends early when `is_over` says so: an append waits, or the segment is left.
    pub(super) async fn write_zeros(
        &self,
        file: &File,
        from: u64,
        end: u64,
        is_over: impl Fn() -> bool,
    ) -> std::io::Result<()> {
        let mut at = align_up(from);
        let end = end.min(at + ZERO_STEP_BYTES_MAX);
        while at < end && !is_over() {
            let len = ZERO_BYTES.min(end - at);
            let zeros = self
                .shard
                .zeros(self.rt.pool(), ZERO_BYTES as usize)
                .slice(..len as usize);
            file.write_at(vec![zeros], at, false).await?;
            self.shard.count(|c| c.zeroed_bytes += len);
            at += len;
        }
        Ok(())
    }
}
