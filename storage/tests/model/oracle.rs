//! What a log must hold: every batch with its bytes, what was promised of it, and what a crash may
//! take (design: flush table, R31, R32).

use bytes::Bytes;
use corelog_record::batch::patch_base_offset_and_epoch;
use corelog_storage::flush_policy::{FlushPolicy, Requirement};

/// A batch that was given offsets.
#[derive(Debug, Clone)]
pub struct Batch {
    pub base: i64,
    pub next: i64,
    /// As they must stand in the log.
    pub bytes: Bytes,
    pub timestamps: Vec<i64>,
    pub policy: FlushPolicy,
    pub requirement: Requirement,
    /// When `wait` said its requirement holds.
    pub acked_at_ns: Option<u64>,
    /// First sequence, of the one producer in use.
    pub sequence: Option<i32>,
}

impl Batch {
    /// The bytes of a client's batch after its append.
    pub fn placed(bytes: &[u8], base: i64, leader_epoch: i32) -> Bytes {
        let mut bytes = bytes.to_vec();
        patch_base_offset_and_epoch(&mut bytes, base, leader_epoch);
        bytes.into()
    }
}

/// How the last process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    Kill,
    PowerLoss,
}

/// The model of one partition. Outlives crashes.
#[derive(Debug, Default)]
pub struct Oracle {
    pub batches: Vec<Batch>,
    /// Largest marks ever said by the log since it was opened.
    pub written_claim: i64,
    pub flushed_claim: i64,
    pub committable_claim: i64,
    /// A cut to this offset was under way.
    pub cutting: Option<i64>,
    /// The log start. Batches below it stay here, and are no part of the log.
    pub start: i64,
    /// How far a raise of the log start that was tried may have gone.
    pub start_tried: i64,
    /// Power was lost since the log was last open.
    pub power_lost: bool,
    pub crashed: bool,
    /// Acknowledged records a power loss took under the policy `unset`.
    pub acked_lost_unset: u64,
    /// The same under `flush.messages` > 1 and under `flush.ms`.
    pub acked_lost_messages: u64,
    pub acked_lost_ms: u64,
    pub crashed_at_ns: u64,
    /// Longest flush believable, ns.
    pub flush_ns_max: u64,
}

impl Oracle {
    pub fn end(&self) -> i64 {
        self.batches.last().map_or(0, |b| b.next).max(self.start)
    }

    pub fn crash(&mut self, kind: Crash, now_ns: u64) {
        if !self.crashed {
            self.crashed_at_ns = now_ns;
        }
        self.crashed = true;
        self.power_lost |= kind == Crash::PowerLoss;
    }

    /// The log was cut to `offset`: where it must end.
    pub fn cut_end(&self, offset: i64) -> i64 {
        let holder = self.batches.iter().find(|b| b.next > offset);
        let end = holder.map_or(offset.min(self.end()), |b| b.base.min(offset));
        end.max(self.start)
    }

    /// The log says that it starts at `start`.
    pub fn starts_at(&mut self, start: i64) -> Result<(), String> {
        if start < self.start {
            return Err(format!(
                "the log start went back from {} to {start}",
                self.start
            ));
        }
        if start > self.start.max(self.start_tried) {
            return Err(format!(
                "the log starts at {start}, nobody asked for more than {}",
                self.start_tried
            ));
        }
        self.start = start;
        Ok(())
    }

    pub fn truncate(&mut self, end: i64) {
        self.batches.retain(|b| b.next <= end);
        self.written_claim = self.written_claim.min(end);
        self.flushed_claim = self.flushed_claim.min(end);
        self.committable_claim = self.committable_claim.min(end);
    }

    /// The log is open again and ends at `end`. What must not be lost was not; then the model ends
    /// there too.
    pub fn reopened(&mut self, start: i64, end: i64, clean: bool) -> Result<(), String> {
        self.starts_at(start)?;
        let is_boundary = end == self.start || self.batches.iter().any(|b| b.next == end);
        if end > self.end() || !is_boundary {
            return Err(format!(
                "the log ends at {end}, the model at {}: not one of its batches",
                self.end()
            ));
        }
        if clean && end != self.end() {
            return Err(format!("a clean stop lost {end}..{}", self.end()));
        }
        let claim = if self.power_lost {
            self.flushed_claim
        } else {
            self.written_claim
        };
        // What a cut under way was to take may be gone or not.
        let cut_end = self
            .cutting
            .take()
            .map_or(i64::MAX, |cut| self.cut_end(cut));
        if end < claim.min(cut_end) {
            let what = if self.power_lost {
                "flushed"
            } else {
                "written"
            };
            return Err(format!(
                "{what} up to {claim}, but after the crash the log ends at {end}"
            ));
        }
        if self.power_lost {
            self.check_third_column(end, cut_end)?;
        } else if let Some(b) = self
            .batches
            .iter()
            .find(|b| b.acked_at_ns.is_some() && b.base >= end && b.base < cut_end)
        {
            return Err(format!("kill -9 took the acknowledged batch at {}", b.base));
        }
        self.truncate(end);
        self.written_claim = end;
        self.flushed_claim = end;
        self.committable_claim = 0;
        self.power_lost = false;
        self.crashed = false;
        Ok(())
    }

    /// What power loss may take of acknowledged records, by policy.
    fn check_third_column(&mut self, end: i64, cut_end: i64) -> Result<(), String> {
        let mut lost_by_policy: Vec<(FlushPolicy, u64)> = Vec::new();
        for b in self
            .batches
            .iter()
            .filter(|b| b.base >= end && b.base < cut_end)
        {
            let Some(acked_at_ns) = b.acked_at_ns else {
                continue;
            };
            let records = (b.next - b.base) as u64;
            if b.requirement == Requirement::Flushed {
                return Err(format!(
                    "power loss took {}, acknowledged as flushed ({:?})",
                    b.base, b.policy
                ));
            }
            if let Some(n) = b.policy.messages {
                self.acked_lost_messages += records;
                let entry = lost_by_policy.iter_mut().find(|(p, _)| *p == b.policy);
                let lost = match entry {
                    Some((_, lost)) => {
                        *lost += records;
                        *lost
                    }
                    None => {
                        lost_by_policy.push((b.policy, records));
                        records
                    }
                };
                if lost >= n {
                    return Err(format!(
                        "flush.messages={n}: power loss took {lost} acknowledged records"
                    ));
                }
            }
            if let Some(t) = b.policy.ms {
                self.acked_lost_ms += records;
                let age_ns = self.crashed_at_ns.saturating_sub(acked_at_ns);
                let max_ns = (t + 1) * 1_000_000 + self.flush_ns_max;
                if age_ns > max_ns {
                    return Err(format!(
                        "flush.ms={t}: power loss took {}, acknowledged {age_ns} ns before",
                        b.base
                    ));
                }
            }
            if b.policy == FlushPolicy::default() {
                self.acked_lost_unset += records;
            }
        }
        Ok(())
    }

    /// The batch that holds `offset`.
    pub fn holder(&self, offset: i64) -> Option<usize> {
        let i = self.batches.partition_point(|b| b.next <= offset);
        (i < self.batches.len()).then_some(i)
    }

    /// `bytes` are whole batches from the one that holds `from` on, none past `limit`. Gives the
    /// offset after the last.
    pub fn check_read(&self, from: i64, limit: i64, bytes: &[u8]) -> Result<i64, String> {
        let mut rest = bytes;
        let mut next = from;
        let first = self
            .holder(from)
            .ok_or_else(|| format!("read at {from}, the model has no such batch"))?;
        for b in &self.batches[first..] {
            if rest.is_empty() {
                return Ok(next);
            }
            if b.next > limit {
                return Err(format!(
                    "read from {from}: batch {}..{} is past the limit {limit}",
                    b.base, b.next
                ));
            }
            let Some(tail) = rest.strip_prefix(&b.bytes[..]) else {
                return Err(format!(
                    "read from {from}: the bytes at {} are not the batch's",
                    b.base
                ));
            };
            rest = tail;
            next = b.next;
        }
        if rest.is_empty() {
            Ok(next)
        } else {
            Err(format!("read from {from}: bytes past the log's end"))
        }
    }

    /// First record in the log below `end` with a timestamp of at least `timestamp`.
    pub fn offset_for_timestamp(&self, timestamp: i64, end: i64) -> Option<(i64, i64)> {
        self.batches.iter().filter(|b| b.next <= end).find_map(|b| {
            let offsets = b.base..;
            let mut records = b.timestamps.iter().zip(offsets);
            let found = records.find(|&(&at, offset)| at >= timestamp && offset >= self.start);
            found.map(|(&at, offset)| (at, offset))
        })
    }

    /// Sequence of the producer's next batch.
    pub fn next_sequence(&self) -> i32 {
        let last = self
            .batches
            .iter()
            .rev()
            .find_map(|b| b.sequence.map(|s| s + (b.next - b.base) as i32));
        last.unwrap_or(0)
    }
}

/// Chance of the test, apart from the world's.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
