//! Room on disk ahead of the appends: fallocate, and zeros where small or durable writes profit.
//!
//! `prepared_end` splits the active file: writes go below it, preparation at or above; it moves
//! when a step is complete. ENOSPC meets the preparer, never an append that has offsets.

use std::rc::Rc;

use corelog_runtime::FallocateMode;

use super::{AppendError, LogInner};
use crate::log::api::is_no_space;
use crate::log::segment::OpenSegment;
use crate::log::writer::{align_down, align_up};

/// First step, and the smallest while there is space.
const STEP_BYTES_MIN: u64 = 256 << 10;
/// Largest step.
const STEP_BYTES_MAX: u64 = 256 << 20;
/// A step that lasted less than this is followed by one twice as large.
const STEP_MS: u64 = 1_000;
/// From this step size on free space is looked at: a step takes at most this part of it.
const STEP_BYTES_CHECKED: u64 = 8 << 20;
const FREE_SPACE_PART: u64 = 16;
/// Zeros are written in pieces of this size, and only up to this much per step.
const ZERO_BYTES: u64 = 256 << 10;
const ZERO_STEP_BYTES_MAX: u64 = 16 << 20;
/// Appends below this on average make zeroing worth its writes.
const SMALL_APPEND_BYTES: u64 = 16 << 10;

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
            Some(Err(error)) if is_no_space(&error) => Err(AppendError::NoSpace),
            Some(Err(error)) => {
                let why = self.fail(
                    format_args!("fallocate of segment {}", segment.base_offset),
                    error,
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
            // A refusal comes back to the append that needs the room.
            let _ = log.prepare(&segment, end + 1, false).await;
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
            segment.prepare_step.set(STEP_BYTES_MIN);
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
        let step = self.next_step(segment).await;
        let room = self.config.borrow().segment_bytes.saturating_sub(from);
        let mut end = align_up(from + step.min(room)).max(needed_end);
        let mut result = segment
            .file
            .fallocate(FallocateMode::Extend, from, end - from)
            .await;
        if result.as_ref().is_err_and(is_no_space) && end > needed_end {
            end = needed_end;
            result = segment
                .file
                .fallocate(FallocateMode::Extend, from, end - from)
                .await;
        }
        result?;
        let flushes_often = {
            let policy = self.config.borrow().flush;
            policy.messages.is_some() || policy.ms.is_some()
        };
        if flushes_often || self.appends_are_small() {
            self.write_zeros(segment, from, end).await?;
        }
        if flushes_often {
            // RWF_DSYNC writes make their own bytes durable; the size they need must be before.
            segment.file.fdatasync().await?;
            segment.durable_len.set(segment.durable_len.get().max(end));
        }
        segment.prepared_end.set(end);
        segment.prepared_at_ms.set(self.now_ms());
        self.shard.count(|c| c.prepare_steps += 1);
        Ok(())
    }

    /// Size of the next step: twice the last when that was used up within a second.
    async fn next_step(&self, segment: &OpenSegment) -> u64 {
        let last = segment.prepare_step.get();
        let lasted_ms = self.now_ms().saturating_sub(segment.prepared_at_ms.get());
        let step = match last {
            0 => STEP_BYTES_MIN,
            _ if lasted_ms < STEP_MS => (last * 2).min(STEP_BYTES_MAX),
            _ => (last / 2).max(STEP_BYTES_MIN),
        };
        segment.prepare_step.set(step);
        if step < STEP_BYTES_CHECKED {
            return step;
        }
        let dir = self.dir.borrow().clone();
        match self.rt.statfs(dir).await {
            Ok(stat) => step
                .min(align_down(stat.free_bytes / FREE_SPACE_PART))
                .max(STEP_BYTES_MIN),
            Err(_) => STEP_BYTES_MIN,
        }
    }

    fn appends_are_small(&self) -> bool {
        let counters = self.shard.counters();
        counters.append_bytes < counters.appends.saturating_mul(SMALL_APPEND_BYTES)
    }

    /// Turns unwritten extents into written ones: 1.3x to 3x for small and durable writes later.
    /// Ends early when an append waits.
    async fn write_zeros(&self, segment: &OpenSegment, from: u64, end: u64) -> std::io::Result<()> {
        let (mut at, end) = (
            align_up(from),
            end.min(align_up(from) + ZERO_STEP_BYTES_MAX),
        );
        while at < end && !segment.prepare_urgent.get() && !segment.rolled.get() {
            let len = ZERO_BYTES.min(end - at);
            let zeros = self
                .shard
                .zeros(self.rt.pool(), ZERO_BYTES as usize)
                .slice(..len as usize);
            segment.file.write_at(vec![zeros], at, false).await?;
            self.shard.count(|c| c.zeroed_bytes += len);
            at += len;
        }
        Ok(())
    }
}
