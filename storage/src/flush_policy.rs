//! When a partition must be flushed, and what that means for its acknowledgements.
//!
//! A pure machine: the log tells it what happened (append, completed write, flush submitted and
//! done, timer), it says what an append's answer waits for, when a flush is wanted and how far the
//! high watermark may go. No clock: times are milliseconds of the shard's monotonic clock.

use std::collections::VecDeque;

use crate::marks::broken;

/// `flush.messages` and `flush.ms` of one topic. `None` = not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlushPolicy {
    /// Records since the last flush that make a flush due (>= 1).
    pub messages: Option<u64>,
    /// Milliseconds since the oldest unflushed append that make a flush due.
    pub ms: Option<u64>,
}

/// What the answer to an append waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// The direct write completed: survives `kill -9`.
    Written,
    /// Stable storage: survives power loss.
    Flushed,
}

/// A run of neighbouring unflushed appends that the policy treats alike.
#[derive(Debug, Clone, Copy)]
struct Span {
    base_offset: i64,
    next_offset: i64,
    records: u64,
    /// When the oldest append of the run was made.
    at_ms: u64,
    /// Base offset of the first append of the run that made the policy due. In a run that was not
    /// folded, all appends made it due or none.
    first_due: Option<i64>,
}

/// Runs kept per partition. Appends of the same millisecond and dueness share one, exactly; past
/// this count the two oldest are folded, which can only make a flush come earlier.
const SPANS_MAX: usize = 64;

/// The flush policy of one partition at work.
///
/// Shard: the partition's owner.
#[derive(Debug)]
pub struct FlushState {
    policy: FlushPolicy,
    spans: VecDeque<Span>,
    unflushed_records: u64,
    log_end: i64,
    written_end: i64,
    flushed_end: i64,
    /// End of the last append that made the policy due.
    due: i64,
    /// A flush is wanted up to here: `due`, or where the timer found the log's end.
    wanted_end: i64,
    /// A flush that will cover everything below is on its way.
    submitted_end: i64,
    flights_full: bool,
}

impl FlushState {
    /// A log whose bytes below `flushed_end` are flushed and whose end is `log_end`, all written.
    /// What lies between counts as one append of that many records, made at `now_ms`.
    pub fn new(policy: FlushPolicy, now_ms: u64, flushed_end: i64, log_end: i64) -> FlushState {
        let mut state = FlushState {
            policy,
            spans: VecDeque::new(),
            unflushed_records: 0,
            log_end,
            written_end: log_end,
            flushed_end,
            due: flushed_end,
            wanted_end: flushed_end,
            submitted_end: flushed_end,
            flights_full: false,
        };
        if log_end > flushed_end {
            let records = (log_end - flushed_end) as u64;
            state.push(Span {
                base_offset: flushed_end,
                next_offset: log_end,
                records,
                at_ms: now_ms,
                first_due: None,
            });
        }
        state
    }

    /// The policy in force.
    pub fn policy(&self) -> FlushPolicy {
        self.policy
    }

    /// A new policy, which binds appends from now on. What was due stays due.
    pub fn set_policy(&mut self, policy: FlushPolicy) {
        self.policy = policy;
    }

    /// An append was given the offsets `base_offset..next_offset`. Call it when they are fixed; the
    /// answer is what its acknowledgement waits for.
    pub fn on_append(
        &mut self,
        now_ms: u64,
        base_offset: i64,
        next_offset: i64,
        records: u64,
    ) -> Requirement {
        if base_offset < self.log_end || next_offset <= base_offset {
            broken(format_args!(
                "flush policy: append {base_offset}..{next_offset} after log end {}",
                self.log_end
            ));
        }
        let oldest_ms = self.first_beyond(self.submitted_end).unwrap_or(now_ms);
        let enough = self
            .policy
            .messages
            .is_some_and(|n| self.unflushed_records.saturating_add(records) >= n);
        let late = self
            .policy
            .ms
            .is_some_and(|t| self.flights_full || now_ms.saturating_sub(oldest_ms) >= t);
        let due = enough || late;
        self.log_end = next_offset;
        if due {
            self.due = next_offset;
            self.wanted_end = next_offset;
        }
        self.push(Span {
            base_offset,
            next_offset,
            records,
            at_ms: now_ms,
            first_due: due.then_some(base_offset),
        });
        if due {
            Requirement::Flushed
        } else {
            Requirement::Written
        }
    }

    /// What a repeated append of the batch at `base_offset` waits for: the same as the first one.
    pub fn requirement_of(&self, base_offset: i64) -> Requirement {
        if base_offset < self.flushed_end {
            return Requirement::Written;
        }
        let i = self.spans.partition_point(|s| s.next_offset <= base_offset);
        match self.spans.get(i).and_then(|s| s.first_due) {
            Some(first) if base_offset >= first => Requirement::Flushed,
            _ => Requirement::Written,
        }
    }

    /// Direct writes completed for everything below `written_end`.
    pub fn on_written(&mut self, written_end: i64) {
        self.written_end = self.written_end.max(written_end);
    }

    /// The end up to which a flush is wanted and none is on its way yet.
    pub fn flush_wanted_to(&self) -> Option<i64> {
        (self.wanted_end > self.submitted_end).then_some(self.wanted_end)
    }

    /// An fdatasync is being submitted: it covers everything written by now, up to the offset
    /// returned, whatever is written until it completes.
    pub fn on_flush_submitted(&mut self) -> i64 {
        self.submitted_end = self.submitted_end.max(self.written_end);
        self.written_end
    }

    /// A write that is durable by itself (RWF_DSYNC) is being submitted; with those before it, it
    /// covers everything below `end`.
    pub fn on_durable_write_submitted(&mut self, end: i64) {
        self.submitted_end = self.submitted_end.max(end);
    }

    /// A flush on its way failed: only what is flushed counts as covered.
    pub fn on_flush_failed(&mut self) {
        self.submitted_end = self.flushed_end;
    }

    /// Everything below `flushed_end` is on stable storage.
    pub fn on_flushed(&mut self, flushed_end: i64) {
        if flushed_end <= self.flushed_end {
            return;
        }
        self.flushed_end = flushed_end;
        self.submitted_end = self.submitted_end.max(flushed_end);
        while let Some(front) = self.spans.front_mut() {
            if front.next_offset <= flushed_end {
                self.unflushed_records -= front.records;
                self.spans.pop_front();
                continue;
            }
            if front.base_offset < flushed_end {
                // A run holds at least as many offsets as records, so what remains of it holds at
                // most as many records as offsets.
                let left = front.records.min((front.next_offset - flushed_end) as u64);
                self.unflushed_records -= front.records - left;
                front.records = left;
                front.base_offset = flushed_end;
                front.first_due = front.first_due.map(|first| first.max(flushed_end));
            }
            break;
        }
        if self.spans.is_empty() {
            // An idle partition keeps no memory for this.
            self.spans = VecDeque::new();
        }
    }

    /// A flush was submitted at this time. What it does not cover was not written by then, and so
    /// not acknowledged: its time runs from here.
    pub fn restart_clock(&mut self, now_ms: u64) {
        let first = self
            .spans
            .partition_point(|s| s.next_offset <= self.submitted_end);
        for span in self.spans.iter_mut().skip(first) {
            span.at_ms = span.at_ms.max(now_ms);
        }
    }

    /// Whether as many flushes are under way as there may be. Until one ends no further one can be
    /// submitted, and under `flush.ms` every append waits for its flush.
    pub fn set_flights_full(&mut self, full: bool) {
        self.flights_full = full;
    }

    /// When the first append that no flush submitted up to `end` covers began to count.
    fn first_beyond(&self, end: i64) -> Option<u64> {
        let first = self.spans.partition_point(|s| s.next_offset <= end);
        self.spans.get(first).map(|s| s.at_ms)
    }

    /// When the timer of `flush.ms` must fire: the oldest append no flush is wanted for yet, plus
    /// `flush.ms`. `None` = no timer.
    pub fn deadline_ms(&self) -> Option<u64> {
        let t = self.policy.ms?;
        let seen = self.wanted_end.max(self.submitted_end);
        let i = self.spans.partition_point(|s| s.next_offset <= seen);
        self.spans.get(i).map(|s| s.at_ms.saturating_add(t))
    }

    /// The timer fired. When it is time, a flush of all that is written is wanted; true then. What is
    /// not written yet was not acknowledged either: its time begins anew with the flush.
    pub fn on_timer(&mut self, now_ms: u64) -> bool {
        if self.deadline_ms().is_none_or(|deadline| now_ms < deadline) {
            return false;
        }
        if self.written_end <= self.submitted_end.max(self.wanted_end) {
            // Nothing that was acknowledged is left; what is not written yet begins anew.
            self.restart_clock(now_ms);
            return false;
        }
        self.wanted_end = self.written_end;
        true
    }

    /// How far this replica's part of the high watermark may go: `written_end`, but while
    /// something due is not flushed, not past max(`flushed_end`, base offset of the first due and
    /// unflushed append).
    pub fn committable_end(&self, written_end: i64, flushed_end: i64) -> i64 {
        if flushed_end >= self.due {
            return written_end;
        }
        let first_due = self
            .spans
            .iter()
            .filter(|s| s.next_offset > flushed_end)
            .find_map(|s| s.first_due)
            .unwrap_or(flushed_end);
        written_end.min(first_due.max(flushed_end))
    }

    /// End of the last append that made the policy due.
    pub fn due(&self) -> i64 {
        self.due
    }

    /// Records appended since the last flush (an upper bound in a log with gaps).
    pub fn unflushed_records(&self) -> u64 {
        self.unflushed_records
    }

    /// The log was cut and now ends at `end`; no write and no flush is in flight.
    pub fn truncate_to(&mut self, end: i64) {
        while let Some(back) = self.spans.back_mut() {
            if back.base_offset >= end {
                self.unflushed_records -= back.records;
                self.spans.pop_back();
                continue;
            }
            if back.next_offset > end {
                let left = back.records.min((end - back.base_offset) as u64);
                self.unflushed_records -= back.records - left;
                back.records = left;
                back.next_offset = end;
                back.first_due = back.first_due.filter(|&first| first < end);
            }
            break;
        }
        for mark in [
            &mut self.log_end,
            &mut self.written_end,
            &mut self.flushed_end,
        ] {
            *mark = (*mark).min(end);
        }
        let last_due = self.spans.iter().rfind(|s| s.first_due.is_some());
        self.due = last_due.map_or(self.flushed_end, |s| s.next_offset);
        self.wanted_end = self.due;
        self.submitted_end = self.flushed_end;
    }

    /// The log was emptied and begins anew at `offset`.
    pub fn restart_at(&mut self, offset: i64) {
        *self = FlushState::new(self.policy, 0, offset, offset);
    }

    fn push(&mut self, span: Span) {
        self.unflushed_records += span.records;
        if let Some(back) = self.spans.back_mut()
            && back.at_ms == span.at_ms
            && back.next_offset == span.base_offset
            && back.first_due.is_some() == span.first_due.is_some()
        {
            back.next_offset = span.next_offset;
            back.records += span.records;
            return;
        }
        self.spans.push_back(span);
        if self.spans.len() > SPANS_MAX
            && let Some(first) = self.spans.pop_front()
            && let Some(second) = self.spans.front_mut()
        {
            second.base_offset = first.base_offset;
            second.records += first.records;
            second.at_ms = first.at_ms;
            second.first_due = first.first_due.or(second.first_due);
        }
    }
}
