//! What moves the marks: tail writes, flushes and the timer of `flush.ms`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Instant;

use super::{LogError, LogInner};
use crate::log::api::is_no_space;
use crate::log::preparer::is_refusal;
use crate::log::segment::OpenSegment;
use crate::log::writer::WriteOut;

/// Flushes under way at most: the second only when time ran out during the first.
const FLIGHTS_MAX: u32 = 2;

/// Between two tries of a write that found no space.
const SPACE_PAUSE: Duration = Duration::from_millis(200);

/// A write that waits for space, for as long as it does.
struct SpaceWait(Rc<LogInner>);

impl SpaceWait {
    fn begin(log: &Rc<LogInner>) -> SpaceWait {
        log.space_waits.set(log.space_waits.get() + 1);
        log.space_wanted.notify_all();
        SpaceWait(log.clone())
    }
}

impl Drop for SpaceWait {
    fn drop(&mut self) {
        self.0.space_waits.set(self.0.space_waits.get() - 1);
    }
}

impl LogInner {
    /// Starts the writes of this turn at its end, so that one write carries all that was appended
    /// in it.
    pub fn schedule_pump(self: &Rc<Self>) {
        if self.pump_scheduled.replace(true) {
            return;
        }
        let log = self.clone();
        self.background("log pump", async move {
            // A fast disk leaves next to nothing waiting in memory: the planted bug shows only when
            // something does.
            #[cfg(feature = "planted")]
            if log.shard.is_planted("ack-on-append") {
                log.rt.sleep(Duration::from_millis(20)).await;
            }
            log.pump_scheduled.set(false);
            log.pump();
        });
    }

    /// Hands to the kernel what may be written now.
    pub fn pump(self: &Rc<Self>) {
        let open: Vec<_> = {
            let state = self.state.borrow();
            if state.failed.is_some() {
                return;
            }
            state.open.iter().cloned().collect()
        };
        for segment in open {
            self.pump_segment(&segment);
        }
    }

    fn pump_segment(self: &Rc<Self>, segment: &Rc<OpenSegment>) {
        let end_offset = segment.end_offset.get();
        let first_offset = segment.dispatched_offset.get();
        let wants_durable = self
            .state
            .borrow()
            .flush_ends
            .back()
            .is_some_and(|&end| end > first_offset);
        let set = segment.writer.borrow_mut().take_writes(
            end_offset,
            wants_durable,
            segment.durable_len.get(),
        );
        let Some(set) = set else {
            if segment.writer.borrow().has_pending() {
                self.shard.count(|c| c.queued_writes += 1);
            }
            return;
        };
        segment.dispatched_offset.set(end_offset);
        self.tail.push(
            segment.base_offset,
            set.data_start,
            first_offset,
            end_offset,
            set.data,
        );
        self.shard.tail_added(&self.tail);
        self.shard.count(|c| {
            c.tail_block_merges += u64::from(set.merges_tail_block);
            c.device_writes += set.writes.len() as u64;
            c.device_write_bytes += set.writes.iter().map(|w| w.bytes).sum::<u64>();
            c.durable_writes += if set.dsync {
                set.writes.len() as u64
            } else {
                0
            };
        });
        if set.dsync {
            let mut state = self.state.borrow_mut();
            state.flush.on_durable_write_submitted(end_offset);
            state.flush_submitted = state.flush_submitted.max(end_offset);
        }
        let limit = segment.prepared_end.get();
        #[cfg(feature = "planted")]
        let writes = self.unmerged(set.writes, set.data_start);
        #[cfg(not(feature = "planted"))]
        let writes = set.writes;
        for write in writes {
            assert!(
                write.position + write.bytes <= limit,
                "a write beyond the prepared end"
            );
            self.start_write(segment, write, set.dsync);
        }
    }

    /// The planted bug `lost-tail-block-merge`: zeros where the first block's old bytes were.
    #[cfg(feature = "planted")]
    fn unmerged(&self, mut writes: Vec<WriteOut>, data_start: u64) -> Vec<WriteOut> {
        if self.shard.is_planted("lost-tail-block-merge")
            && let Some(first) = writes.first_mut()
        {
            let old: Vec<u8> = first.bufs.iter().flat_map(|b| b.iter().copied()).collect();
            let kept = usize::try_from(data_start.saturating_sub(first.position)).unwrap_or(0);
            let kept = kept.min(old.len());
            let mut buf = self.rt.pool().get(old.len());
            buf.as_mut_slice()[..kept].fill(0);
            buf.as_mut_slice()[kept..old.len()].copy_from_slice(&old[kept..]);
            buf.set_len(old.len());
            first.bufs = vec![buf.freeze()];
        }
        writes
    }

    fn start_write(self: &Rc<Self>, segment: &Rc<OpenSegment>, write: WriteOut, dsync: bool) {
        let (log, segment) = (self.clone(), segment.clone());
        self.background("log write", async move {
            let began = log.rt.now();
            let write_at = async || {
                let file = log.file(&segment).await?;
                let bufs = write.bufs.clone();
                file.write_at(bufs, write.position, dsync).await
            };
            let mut waits = None;
            let result = loop {
                match write_at().await {
                    Err(error) if is_refusal(&error) => {
                        waits.get_or_insert_with(|| SpaceWait::begin(&log));
                        if !log.wait_for_space(&error).await {
                            break Err(error);
                        }
                    }
                    result => break result,
                }
            };
            drop(waits);
            match result {
                Ok(()) => {
                    if dsync {
                        let took = log.rt.now().saturating_duration_since(began);
                        log.shard.time_flush(took.as_micros() as u64);
                    }
                    segment.writer.borrow_mut().on_written(write.id);
                    segment.progress.notify_all();
                    log.shard.close_over_limit();
                    log.advance();
                    log.pump_segment_unless_failed(&segment);
                }
                Err(error) => {
                    log.fail(
                        format_args!("write of segment {}", segment.base_offset),
                        &error,
                    );
                }
            }
        });
    }

    /// A device that lends out more than it has may lack space for what the file system had promised.
    /// The bytes have their offsets: they are written when there is space, from the reserve (where
    /// the log has a right to it, a piece at a time) or otherwise. The same goes for what else
    /// passes. False when the log stops meanwhile, or when nobody looks after the directory.
    async fn wait_for_space(&self, error: &io::Error) -> bool {
        if self.shard.guard().is_none() {
            return false;
        }
        if is_no_space(error) {
            let uses_reserve = self.config.borrow().uses_reserve;
            self.make_space(uses_reserve).await;
        }
        self.rt.sleep(SPACE_PAUSE).await;
        let state = self.state.borrow();
        state.failed.is_none() && !state.closed
    }

    fn pump_segment_unless_failed(self: &Rc<Self>, segment: &Rc<OpenSegment>) {
        if self.state.borrow().failed.is_none() {
            self.pump_segment(segment);
        }
    }

    /// Recomputes `written_end` and `flushed_end` from the segments, wakes those who waited, and
    /// starts a flush when one is wanted.
    pub fn advance(self: &Rc<Self>) {
        let (written_end, flushed_end, moved) = {
            let mut state = self.state.borrow_mut();
            if state.failed.is_some() || state.cutting {
                return;
            }
            let written_end = state.ends(|s| s.entered.get(), |s| s.written_offset());
            let flushed_end = state.ends(
                |s| s.entered.get() && s.flush_entered.get(),
                |s| s.flushed_offset(),
            );
            let flushed_end = flushed_end.min(written_end);
            let moved =
                written_end > state.marks.written_end || flushed_end > state.marks.flushed_end;
            if moved {
                let written_end = written_end.max(state.marks.written_end);
                state.marks.set_written_end(written_end);
                state.flush.on_written(written_end);
                let flushed_end = flushed_end.max(state.marks.flushed_end);
                state.marks.set_flushed_end(flushed_end);
                state.flush.on_flushed(flushed_end);
                state.flush_submitted = state.flush_submitted.max(flushed_end);
                while state
                    .flush_ends
                    .front()
                    .is_some_and(|&end| end <= flushed_end)
                {
                    state.flush_ends.pop_front();
                }
            }
            (state.marks.written_end, state.marks.flushed_end, moved)
        };
        if moved {
            self.tail.set_written_end(written_end);
            self.written_waiters.wake(written_end);
            let skipped = i64::from(self.shard.is_planted("flush-skips-a-waiter"));
            self.flushed_waiters.wake(flushed_end - skipped);
            self.call_progress();
        }
        self.pump_flush();
    }

    /// Submits one fdatasync when the first flush wanted is written and none is on its way for it.
    /// Waiters that come later are covered as far as their bytes are written by now. A timer that
    /// ran out does not wait for a flush under way that began before its appends were written.
    pub fn pump_flush(self: &Rc<Self>) {
        let segment = {
            let mut state = self.state.borrow_mut();
            if state.failed.is_some() || state.cutting {
                return;
            }
            let submitted = state.flush_submitted;
            let flights_max = if state.flush_urgent_end > submitted {
                FLIGHTS_MAX
            } else {
                1
            };
            if state.flushes_in_flight >= flights_max {
                return;
            }
            let next = state.flush_ends.partition_point(|&end| end <= submitted);
            let Some(&end) = state.flush_ends.get(next) else {
                return;
            };
            let segment = state.active();
            // Older segments are flushed by their seal, which comes back here.
            if end > state.marks.written_end || end <= segment.base_offset || !segment.entered.get()
            {
                return;
            }
            state.flushes_in_flight += 1;
            let full = state.flushes_in_flight >= FLIGHTS_MAX;
            state.flush.set_flights_full(full);
            state.flush.on_flush_submitted();
            state.flush.restart_clock(self.now_ms());
            state.flush_submitted = state.marks.written_end;
            segment
        };
        let log = self.clone();
        self.background("log flush", async move {
            let result = log.flush_segment(&segment).await;
            {
                let mut state = log.state.borrow_mut();
                state.flushes_in_flight -= 1;
                state.flush.set_flights_full(false);
            }
            log.segments_changed.notify_all();
            match result {
                Ok(()) => log.advance(),
                Err(error) => {
                    log.state.borrow_mut().flush.on_flush_failed();
                    log.fail(
                        format_args!("fdatasync of segment {}", segment.base_offset),
                        &error,
                    );
                }
            }
        });
    }

    /// fdatasync of a segment's file: covers what was written when it was submitted, no more.
    pub async fn flush_segment(self: &Rc<Self>, segment: &Rc<OpenSegment>) -> io::Result<()> {
        let target = segment.writer.borrow().flush_target();
        let durable_len = segment.prepared_end.get();
        let started = self.rt.now();
        self.file(segment).await?.fdatasync().await?;
        let took = self.rt.now().saturating_duration_since(started);
        self.shard
            .count_flush(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        segment.writer.borrow_mut().on_flushed(target);
        segment
            .durable_len
            .set(segment.durable_len.get().max(durable_len));
        segment.progress.notify_all();
        Ok(())
    }

    /// A flush up to `end` is wanted.
    pub fn want_flush(self: &Rc<Self>, end: i64) {
        {
            let mut state = self.state.borrow_mut();
            if end <= state.marks.flushed_end {
                return;
            }
            if state.flush_ends.back().is_none_or(|&last| last < end) {
                state.flush_ends.push_back(end);
            }
        }
        self.schedule_pump();
        self.pump_flush();
    }

    /// Flushes all that was appended by now.
    pub async fn flush_all(self: &Rc<Self>) -> Result<(), LogError> {
        let end = self.state.borrow().marks.log_end;
        self.wait_flushed_or_want(end).await
    }

    /// Keeps one timer for `flush.ms` while something unflushed is on the clock.
    pub fn arm_timer(self: &Rc<Self>) {
        let (generation, deadline_ms) = {
            let mut state = self.state.borrow_mut();
            let Some(deadline_ms) = state.flush.deadline_ms().filter(|_| !state.timer_armed) else {
                return;
            };
            state.timer_armed = true;
            (state.timer_generation, deadline_ms)
        };
        let (log, rt) = (Rc::downgrade(self), self.rt.clone());
        self.background("log flush timer", async move {
            let mut deadline_ms = deadline_ms;
            loop {
                rt.sleep_until(Instant(0) + Duration::from_millis(deadline_ms))
                    .await;
                let Some(log) = log.upgrade() else { return };
                let (wanted, next_ms) = {
                    let mut state = log.state.borrow_mut();
                    if state.timer_generation != generation
                        || state.closed
                        || state.failed.is_some()
                    {
                        return;
                    }
                    let now_ms = log.now_ms();
                    let wanted = state
                        .flush
                        .on_timer(now_ms)
                        .then_some(state.marks.written_end);
                    let next_ms = state.flush.deadline_ms();
                    state.timer_armed = next_ms.is_some();
                    (wanted, next_ms)
                };
                if let Some(end) = wanted {
                    log.state.borrow_mut().flush_urgent_end = end;
                    log.want_flush(end);
                }
                let Some(next_ms) = next_ms else { return };
                deadline_ms = next_ms;
            }
        });
    }
}

impl super::State {
    /// How far an end reaches over the open segments: it enters one only when `may_enter` says so
    /// and all before is complete.
    fn ends(
        &self,
        may_enter: impl Fn(&OpenSegment) -> bool,
        end_of: impl Fn(&OpenSegment) -> i64,
    ) -> i64 {
        let mut end = 0;
        for (i, segment) in self.open.iter().enumerate() {
            if i > 0 && !may_enter(segment) {
                break;
            }
            end = end_of(segment);
            if end < segment.end_offset.get() || !segment.rolled.get() {
                break;
            }
        }
        end
    }
}
