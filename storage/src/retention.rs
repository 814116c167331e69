//! Which segments are over: the rules of `retention.ms`, `retention.bytes` and the log start, as a
//! plain state machine. It is told of the segments from the oldest on and stops at the first that
//! stays. Who asks looks at the files and the clock.

/// What the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `cleanup.policy` contains `delete`; else only what lies below the log start goes.
    pub deletes: bool,
    /// `retention.bytes`.
    pub bytes: Option<u64>,
    /// `retention.ms`.
    pub ms: Option<u64>,
    /// The wall clock, ms.
    pub now_ms: i64,
    /// First offset a reader may ask for.
    pub log_start: i64,
    /// Committed end: no segment that reaches past it goes.
    pub high_watermark: i64,
}

/// A segment as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Offset after its last one: for a sealed segment the base of the next.
    pub end_offset: i64,
    /// Bytes.
    pub bytes: u64,
    /// It takes the appends.
    pub active: bool,
}

/// What is to become of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Goes(Why),
    /// It goes if its greatest timestamp is too old: ask [`Judge::is_expired`].
    ByAge,
    /// It stays, and all after it.
    Stays,
}

/// Why a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It lies below the log start.
    LogStart,
    /// The log is larger than `retention.bytes` without it.
    Size,
    /// All its records are older than `retention.ms`.
    Age,
}

/// Judges the segments of one log, oldest first.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    /// Bytes over `retention.bytes`, less those that go; `None` once the size is no reason any more.
    excess: Option<u64>,
    bytes_left: u64,
    below_start: bool,
}

impl Judge {
    /// A log of `bytes` in all.
    pub fn new(rules: Rules, bytes: u64) -> Judge {
        Judge {
            rules,
            excess: None,
            bytes_left: bytes,
            below_start: true,
        }
    }

    /// The next segment's verdict.
    pub fn judge(&mut self, segment: Candidate) -> Verdict {
        // An empty log has nothing that could go.
        let is_empty = segment.active && segment.bytes == 0;
        if is_empty || segment.end_offset > self.rules.high_watermark {
            return Verdict::Stays;
        }
        if self.below_start {
            if !segment.active && segment.end_offset <= self.rules.log_start {
                self.bytes_left = self.bytes_left.saturating_sub(segment.bytes);
                return Verdict::Goes(Why::LogStart);
            }
            self.below_start = false;
            // What lies below the log start does not count.
            self.excess = self
                .rules
                .bytes
                .and_then(|max| self.bytes_left.checked_sub(max));
        }
        if !self.rules.deletes {
            return Verdict::Stays;
        }
        match self
            .excess
            .and_then(|excess| excess.checked_sub(segment.bytes))
        {
            Some(left) => {
                self.excess = Some(left);
                Verdict::Goes(Why::Size)
            }
            None => {
                self.excess = None;
                match self.rules.ms {
                    Some(_) => Verdict::ByAge,
                    None => Verdict::Stays,
                }
            }
        }
    }

    /// A segment whose greatest timestamp is this one is over. A timestamp in the future keeps it.
    pub fn is_expired(&self, greatest_timestamp: i64) -> bool {
        self.rules.ms.is_some_and(|ms| {
            let age_ms = i128::from(self.rules.now_ms) - i128::from(greatest_timestamp);
            age_ms > i128::from(ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            deletes: true,
            bytes: None,
            ms: None,
            now_ms: 10_000,
            log_start: 0,
            high_watermark: 40,
        }
    }

    /// Segments of ten offsets and 100 bytes; the last one, of 50 bytes, takes the appends.
    fn verdicts(rules: Rules) -> Vec<Verdict> {
        let mut judge = Judge::new(rules, 350);
        let mut all = Vec::new();
        for i in 1..=4 {
            let active = i == 4;
            let verdict = judge.judge(Candidate {
                end_offset: i * 10,
                bytes: if active { 50 } else { 100 },
                active,
            });
            all.push(verdict);
            if verdict == Verdict::Stays {
                break;
            }
        }
        all
    }

    #[test]
    fn r05_without_limits_everything_stays() {
        assert_eq!(verdicts(rules()), [Verdict::Stays]);
    }

    #[test]
    fn r05_by_size_a_segment_goes_only_when_the_rest_is_still_as_large_as_allowed() {
        let by_bytes = |bytes| {
            verdicts(Rules {
                bytes: Some(bytes),
                ..rules()
            })
        };
        let size = Verdict::Goes(Why::Size);
        assert_eq!(by_bytes(351), [Verdict::Stays]);
        assert_eq!(by_bytes(251), [Verdict::Stays]);
        assert_eq!(by_bytes(250), [size, Verdict::Stays]);
        assert_eq!(by_bytes(150), [size, size, Verdict::Stays]);
        assert_eq!(
            by_bytes(0),
            [size; 4],
            "the active one too, which then rolls"
        );
    }

    #[test]
    fn r05_by_age_after_size_and_nothing_at_or_past_the_high_watermark() {
        let both = Rules {
            bytes: Some(250),
            ms: Some(1_000),
            ..rules()
        };
        let expected = [
            Verdict::Goes(Why::Size),
            Verdict::ByAge,
            Verdict::ByAge,
            Verdict::ByAge,
        ];
        assert_eq!(verdicts(both), expected);
        let uncommitted = Rules {
            high_watermark: 19,
            ..both
        };
        assert_eq!(
            verdicts(uncommitted),
            [Verdict::Goes(Why::Size), Verdict::Stays]
        );
    }

    #[test]
    fn r05_below_the_log_start_all_goes_whatever_the_policy_says_and_does_not_count_as_size() {
        let start = Verdict::Goes(Why::LogStart);
        let compacted = Rules {
            deletes: false,
            log_start: 25,
            bytes: Some(0),
            ms: Some(0),
            ..rules()
        };
        assert_eq!(verdicts(compacted), [start, start, Verdict::Stays]);
        let sized = Rules {
            deletes: true,
            ms: None,
            bytes: Some(150),
            ..compacted
        };
        assert_eq!(verdicts(sized), [start, start, Verdict::Stays]);
        let emptied = Rules {
            log_start: 40,
            bytes: None,
            ..sized
        };
        assert_eq!(
            verdicts(emptied),
            [start, start, start, Verdict::Stays],
            "the active segment takes the appends"
        );
    }

    #[test]
    fn r05_an_empty_active_segment_stays() {
        let mut judge = Judge::new(
            Rules {
                bytes: Some(0),
                ..rules()
            },
            0,
        );
        let empty = Candidate {
            end_offset: 7,
            bytes: 0,
            active: true,
        };
        assert_eq!(judge.judge(empty), Verdict::Stays);
    }

    #[test]
    fn r05_the_greatest_timestamp_decides_and_the_future_keeps() {
        let judge = Judge::new(
            Rules {
                ms: Some(1_000),
                ..rules()
            },
            0,
        );
        assert!(judge.is_expired(8_999));
        assert!(!judge.is_expired(9_000), "as old as allowed");
        assert!(!judge.is_expired(i64::MAX));
        assert!(judge.is_expired(i64::MIN));
        assert!(!Judge::new(rules(), 0).is_expired(0), "no limit");
    }
}
