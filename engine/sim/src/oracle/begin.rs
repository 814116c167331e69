//! The begin of partitions as the oracle knows it: who moved it, and whether they might.

use super::Oracle;
use super::log::{Key, Retained, TopicId};
use crate::invariants::log_start::{self, Allowed, Gone, Why};
use crate::invariants::{Broken, log_start::never_back};
use crate::plan::Retention;

/// How long after a rule was replaced a retention may still be under way that looked at it, ns; with
/// a disk that is slow.
pub const UNDER_WAY_NS: (u64, u64) = (200_000_000, 3_000_000_000);

impl Oracle {
    /// The log start below which nothing may be told to a request made now.
    pub fn log_start(&self, key: &Key) -> i64 {
        self.partitions.get(key).map_or(0, |p| p.begin.start)
    }

    /// A topic's rules are being changed.
    pub fn retention_sent(&mut self, id: &TopicId, rules: Retention, now_ns: u64) {
        if let Some(topic) = self.topics.get_mut(id) {
            topic.retention.push(Retained {
                rules,
                from_ns: now_ns,
                to_ns: None,
            });
        }
    }

    /// The rules sent last are the topic's.
    pub fn retention_acked(&mut self, id: &TopicId, now_ns: u64) {
        if let Some(topic) = self.topics.get_mut(id)
            && let Some((_, before)) = topic.retention.split_last_mut()
        {
            for span in before {
                span.to_ns.get_or_insert(now_ns);
            }
        }
    }

    /// DeleteRecords is on its way; `None` = up to the high watermark.
    pub fn deletion_sent(&mut self, key: Key, offset: Option<i64>) {
        let begin = &mut self.partitions.entry(key).or_default().begin;
        match offset {
            Some(offset) => {
                begin.deleted = begin.deleted.max(offset);
                begin.unanswered = Some(offset);
            }
            None => begin.unknown += 1,
        }
    }

    /// It is done, with this low watermark. `floor`: the high watermark known when it was sent.
    pub fn deletion_acked(&mut self, key: Key, offset: Option<i64>, told: i64, floor: i64) {
        let begin = &mut self.partitions.entry(key).or_default().begin;
        begin.unanswered = None;
        if offset.is_none() {
            begin.unknown -= 1;
            begin.deleted = begin.deleted.max(told);
        }
        let wanted = offset.unwrap_or(floor);
        self.note(log_start::deleted(wanted, told));
    }

    /// It was refused and changes nothing.
    pub fn deletion_refused(&mut self, key: Key, offset: Option<i64>) {
        let begin = &mut self.partitions.entry(key).or_default().begin;
        begin.unanswered = None;
        begin.unknown -= u64::from(offset.is_none());
    }

    /// An answer, asked for at `asked_ns` when `floor` had been told, names a log start.
    pub fn log_start_told(
        &mut self,
        key: Key,
        (start, floor): (i64, i64),
        asked_ns: u64,
        now_ns: u64,
    ) {
        let result = self.try_start_told(key, (start, floor), asked_ns, now_ns);
        self.note(result.map_err(|broken| format!("partition {}: {broken}", key.1)));
    }

    fn try_start_told(
        &mut self,
        key: Key,
        (start, floor): (i64, i64),
        asked_ns: u64,
        now_ns: u64,
    ) -> Result<(), Broken> {
        never_back(start, floor)?;
        let known = self.log_start(&key);
        if start > known {
            let since_ns = self.partitions.get(&key).map_or(0, |p| p.begin.since_ns);
            for gone in self.gone(&key, known, start) {
                self.judge_gone(&key, &gone, start, (since_ns, now_ns))?;
            }
        }
        if start >= known {
            let begin = &mut self.partitions.entry(key).or_default().begin;
            begin.start = start;
            begin.since_ns = match start > known {
                true => asked_ns,
                false => begin.since_ns.max(asked_ns),
            };
        }
        Ok(())
    }

    /// A batch turned out to stand where the log does not reach any more.
    pub(super) fn met_below(
        &mut self,
        key: Key,
        base: i64,
        from_to_ns: (u64, u64),
    ) -> Result<(), Broken> {
        let start = self.log_start(&key);
        let next = self
            .partitions
            .get(&key)
            .and_then(|p| p.placed.get(&base))
            .map_or(base, |placed| placed.next);
        if base >= start {
            return Ok(());
        }
        let of_it: Vec<Gone> = self
            .gone(&key, base, start.min(next))
            .into_iter()
            .filter(|gone| gone.base == base)
            .collect();
        of_it
            .iter()
            .try_for_each(|gone| self.judge_gone(&key, gone, start, from_to_ns))
    }

    fn judge_gone(
        &mut self,
        key: &Key,
        gone: &Gone,
        start: i64,
        from_to_ns: (u64, u64),
    ) -> Result<(), Broken> {
        let allowed = self.allowed(key, from_to_ns);
        let why = log_start::may_lack(gone, start, &allowed)?;
        self.tally.hit(match why {
            Why::Deleted => "batch gone: deleted",
            Why::Size => "batch gone: retention.bytes",
            Why::Age => "batch gone: retention.ms",
        });
        Ok(())
    }

    /// Known batches of which something lies in `from..start`.
    fn gone(&self, key: &Key, from: i64, start: i64) -> Vec<Gone> {
        let Some(partition) = self.partitions.get(key) else {
            return Vec::new();
        };
        let bytes_of = |batch: &u64| self.sent.get(batch).map_or(0, |sent| sent.bytes_max);
        // What is not known to stand anywhere may stand at the end.
        let of_key = self.sent.values().filter(|sent| sent.key == *key);
        let mut behind: u64 = of_key
            .map(|sent| u64::from(sent.pending) * sent.bytes_max)
            .sum();
        let mut gone = Vec::new();
        for (&base, placed) in partition.placed.iter().rev() {
            if base < start && placed.next > from {
                let sent = self.sent.get(&placed.batch);
                gone.push(Gone {
                    base,
                    next: placed.next,
                    timestamp_ms: sent.map_or(i64::MIN, |sent| sent.timestamp_ms),
                    bytes_behind: behind,
                });
            }
            behind += bytes_of(&placed.batch);
        }
        gone
    }

    fn allowed(&self, key: &Key, (since_ns, now_ns): (u64, u64)) -> Allowed {
        let begin = self.partitions.get(key).map(|p| &p.begin);
        let deleted = match begin {
            // Nobody heard that the topic was made, nor with what.
            _ if !self.topics.contains_key(&key.0) => i64::MAX,
            Some(begin) if begin.unknown > 0 => i64::MAX,
            Some(begin) => begin.deleted,
            None => 0,
        };
        let spans = self.topics.get(&key.0).map_or(&[][..], |t| &t.retention);
        let held = |span: &&Retained| {
            let until = |to_ns: u64| to_ns.saturating_add(self.under_way_ns);
            span.to_ns.is_none_or(|to_ns| until(to_ns) >= since_ns)
        };
        let held: Vec<Retention> = spans.iter().filter(held).map(|span| span.rules).collect();
        Allowed {
            deleted,
            bytes: held.iter().filter_map(|rules| rules.bytes).min(),
            ms: held.iter().filter_map(|rules| rules.ms).min(),
            now_ms: self.epoch_ms + (now_ns / 1_000_000) as i64,
        }
    }

    /// After a start: deletions without an answer are done or not.
    pub(super) fn deletions_end(&mut self, key: &Key, start: i64) {
        let begin = &mut self.partitions.entry(*key).or_default().begin;
        if begin.unknown > 0 {
            begin.unknown = 0;
            begin.deleted = begin.deleted.max(start);
        }
        if let Some(offset) = begin.unanswered.take() {
            self.tally.hit(match start >= offset {
                true => "DeleteRecords without an answer: done",
                false => "DeleteRecords without an answer: not done",
            });
        }
    }
}
