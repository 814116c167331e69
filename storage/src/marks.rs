//! The marks of one partition: seven offsets on one axis, and the order they must always keep.

use std::fmt;
use std::ops::Deref;

/// Where a partition stands. Every field is an offset; a mark that names an end is exclusive.
///
/// Order, after every change:
/// `log_start <= last_stable <= high_watermark <= written_end <= log_end` and
/// `recovery_point <= flushed_end <= written_end`.
///
/// This is a snapshot, free to copy. The marks that live are [`LiveMarks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// First offset a reader may ask for.
    pub log_start: i64,
    /// No open transaction begins below it.
    pub last_stable: i64,
    /// Committed end: consumers see nothing at or past it.
    pub high_watermark: i64,
    /// End of the contiguous prefix whose direct writes completed; survives `kill -9`.
    pub written_end: i64,
    /// Next offset to be given.
    pub log_end: i64,
    /// Everything below is on stable storage with its index entries and producer state, and a
    /// checkpoint says so.
    pub recovery_point: i64,
    /// End of the contiguous prefix on stable storage; survives power loss.
    pub flushed_end: i64,
}

impl Marks {
    /// The first rule of the order that does not hold.
    pub fn broken_rule(&self) -> Option<&'static str> {
        let rules = [
            (
                self.log_start <= self.last_stable,
                "log_start <= last_stable",
            ),
            (
                self.last_stable <= self.high_watermark,
                "last_stable <= high_watermark",
            ),
            (
                self.high_watermark <= self.written_end,
                "high_watermark <= written_end",
            ),
            (self.written_end <= self.log_end, "written_end <= log_end"),
            (
                self.recovery_point <= self.flushed_end,
                "recovery_point <= flushed_end",
            ),
            (
                self.flushed_end <= self.written_end,
                "flushed_end <= written_end",
            ),
            (self.log_start >= 0, "0 <= log_start"),
            (self.recovery_point >= 0, "0 <= recovery_point"),
        ];
        rules
            .iter()
            .find(|(holds, _)| !holds)
            .map(|&(_, rule)| rule)
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log_start={} last_stable={} high_watermark={} written_end={} log_end={} \
             recovery_point={} flushed_end={}",
            self.log_start,
            self.last_stable,
            self.high_watermark,
            self.written_end,
            self.log_end,
            self.recovery_point,
            self.flushed_end
        )
    }
}

/// The living marks of one partition. Reads go through `Deref` to [`Marks`]; every setter checks
/// the order and ends the process when it is broken, because then nothing the partition says of
/// its records can be believed.
///
/// Shard: the partition's owner.
#[derive(Debug)]
pub struct LiveMarks(Marks);

impl Deref for LiveMarks {
    type Target = Marks;

    fn deref(&self) -> &Marks {
        &self.0
    }
}

impl LiveMarks {
    /// Marks of an empty log that begins at `offset`.
    pub fn starting_at(offset: i64) -> LiveMarks {
        let live = LiveMarks(Marks {
            log_start: offset,
            last_stable: offset,
            high_watermark: offset,
            written_end: offset,
            log_end: offset,
            recovery_point: offset,
            flushed_end: offset,
        });
        live.check("starting_at", offset);
        live
    }

    /// Marks of a log found on disk that holds `log_start..log_end`, all of it written. The high
    /// watermark and the recovery point come from checkpoints, which may be older or newer than
    /// the files: both are clamped. Only what the recovery point vouches for counts as flushed.
    pub fn opened(
        log_start: i64,
        log_end: i64,
        high_watermark: i64,
        recovery_point: i64,
    ) -> LiveMarks {
        let high_watermark = high_watermark.max(log_start).min(log_end);
        let recovery_point = recovery_point.max(0).min(log_end);
        let live = LiveMarks(Marks {
            log_start,
            last_stable: high_watermark,
            high_watermark,
            written_end: log_end,
            log_end,
            recovery_point,
            flushed_end: recovery_point,
        });
        live.check("opened", log_end);
        live
    }

    /// A copy of the marks.
    pub fn get(&self) -> Marks {
        self.0
    }

    /// Offsets below `offset` were given. Never goes down.
    pub fn set_log_end(&mut self, offset: i64) {
        self.never_down("log_end", self.0.log_end, offset);
        self.0.log_end = offset;
        self.check("set_log_end", offset);
    }

    /// Direct writes completed for everything below `offset`. Never goes down.
    pub fn set_written_end(&mut self, offset: i64) {
        self.never_down("written_end", self.0.written_end, offset);
        self.0.written_end = offset;
        self.check("set_written_end", offset);
    }

    /// Everything below `offset` is on stable storage. Never goes down.
    pub fn set_flushed_end(&mut self, offset: i64) {
        self.never_down("flushed_end", self.0.flushed_end, offset);
        self.0.flushed_end = offset;
        self.check("set_flushed_end", offset);
    }

    /// A checkpoint that says `offset` is durable. Never goes down (see [`LiveMarks::truncate_to`]).
    pub fn set_recovery_point(&mut self, offset: i64) {
        self.never_down("recovery_point", self.0.recovery_point, offset);
        self.0.recovery_point = offset;
        self.check("set_recovery_point", offset);
    }

    /// Raises the high watermark; a lower or equal offset changes nothing. True when it moved.
    /// The caller keeps it at or below `written_end`.
    pub fn set_high_watermark(&mut self, offset: i64) -> bool {
        if offset <= self.0.high_watermark {
            return false;
        }
        self.0.high_watermark = offset;
        self.check("set_high_watermark", offset);
        true
    }

    /// Raises the last stable offset; a lower or equal offset changes nothing. True when it moved.
    /// The caller keeps it at or below the high watermark.
    pub fn set_last_stable(&mut self, offset: i64) -> bool {
        if offset <= self.0.last_stable {
            return false;
        }
        self.0.last_stable = offset;
        self.check("set_last_stable", offset);
        true
    }

    /// Raises the log start, and with it a last stable offset or high watermark that is below; a
    /// lower or equal offset changes nothing. True when it moved.
    pub fn set_log_start(&mut self, offset: i64) -> bool {
        if offset <= self.0.log_start {
            return false;
        }
        self.0.log_start = offset;
        self.0.high_watermark = self.0.high_watermark.max(offset);
        self.0.last_stable = self.0.last_stable.max(offset);
        self.check("set_log_start", offset);
        true
    }

    /// The log was cut: it now ends at `offset`, which is not below the log start. The only way
    /// down for any mark.
    pub fn truncate_to(&mut self, offset: i64) {
        let m = &mut self.0;
        m.log_end = m.log_end.min(offset);
        m.written_end = m.written_end.min(offset);
        m.flushed_end = m.flushed_end.min(offset);
        m.high_watermark = m.high_watermark.min(offset);
        m.last_stable = m.last_stable.min(offset);
        m.recovery_point = m.recovery_point.min(offset);
        self.check("truncate_to", offset);
    }

    /// The log was emptied and begins anew at `offset`, in either direction.
    pub fn restart_at(&mut self, offset: i64) {
        *self = LiveMarks::starting_at(offset);
    }

    fn check(&self, change: &str, offset: i64) {
        if let Some(rule) = self.0.broken_rule() {
            broken(format_args!(
                "marks: {rule} is broken by {change}({offset}): {}",
                self.0
            ));
        }
    }

    fn never_down(&self, mark: &str, was: i64, offset: i64) {
        if offset < was {
            broken(format_args!(
                "marks: {mark} goes down from {was} to {offset}: {}",
                self.0
            ));
        }
    }
}

/// Ends the process: an invariant of the log does not hold, so its state is no longer known. A
/// panic would end one task only and leave the log in use.
pub(crate) fn broken(what: fmt::Arguments<'_>) -> ! {
    tracing::error!(target: "corelog_storage", "{what}");
    if cfg!(test) {
        panic!("{what}");
    }
    corelog_runtime::crash::abort_saying(&format!("corelog-storage: invariant broken: {what}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn marks_move_up_in_the_order_of_an_append() {
        let mut live = LiveMarks::starting_at(5);
        live.set_log_end(10);
        live.set_written_end(10);
        assert!(live.set_high_watermark(10));
        assert!(live.set_last_stable(9));
        live.set_flushed_end(8);
        live.set_recovery_point(7);
        assert_eq!(
            live.get(),
            Marks {
                log_start: 5,
                last_stable: 9,
                high_watermark: 10,
                written_end: 10,
                log_end: 10,
                recovery_point: 7,
                flushed_end: 8
            }
        );
        assert!(
            !live.set_high_watermark(6),
            "a lower high watermark is ignored"
        );
        assert_eq!(live.high_watermark, 10);
    }

    #[test]
    #[should_panic(expected = "high_watermark <= written_end")]
    fn r31_the_high_watermark_never_passes_written_end() {
        let mut live = LiveMarks::starting_at(0);
        live.set_log_end(10);
        live.set_written_end(4);
        live.set_high_watermark(5);
    }

    #[test]
    #[should_panic(expected = "flushed_end <= written_end")]
    fn flushed_end_never_passes_written_end() {
        let mut live = LiveMarks::starting_at(0);
        live.set_log_end(10);
        live.set_flushed_end(1);
    }

    #[test]
    #[should_panic(expected = "recovery_point <= flushed_end")]
    fn recovery_point_never_passes_flushed_end() {
        let mut live = LiveMarks::starting_at(0);
        live.set_log_end(10);
        live.set_written_end(10);
        live.set_recovery_point(1);
    }

    #[test]
    #[should_panic(expected = "written_end goes down from 4 to 3")]
    fn written_end_never_goes_down() {
        let mut live = LiveMarks::starting_at(0);
        live.set_log_end(10);
        live.set_written_end(4);
        live.set_written_end(3);
    }

    #[test]
    #[should_panic(expected = "log_start <= last_stable")]
    fn a_cut_below_the_log_start_is_refused() {
        let mut live = LiveMarks::opened(10, 20, 15, 12);
        live.truncate_to(9);
    }

    #[test]
    fn log_start_lifts_the_high_watermark_and_last_stable_offset() {
        let mut live = LiveMarks::opened(0, 20, 5, 0);
        assert!(live.set_log_start(8));
        assert_eq!(
            (live.log_start, live.last_stable, live.high_watermark),
            (8, 8, 8)
        );
        assert!(!live.set_log_start(3));
    }

    #[test]
    fn checkpoints_newer_or_older_than_the_files_are_clamped() {
        let live = LiveMarks::opened(10, 20, 99, 99);
        assert_eq!(
            (live.high_watermark, live.recovery_point, live.flushed_end),
            (20, 20, 20)
        );
        let live = LiveMarks::opened(10, 20, 3, -1);
        assert_eq!(
            (live.high_watermark, live.last_stable, live.recovery_point),
            (10, 10, 0)
        );
    }

    #[test]
    fn a_cut_lowers_every_mark_above_it_and_no_other() {
        let mut live = LiveMarks::opened(2, 20, 15, 12);
        live.truncate_to(13);
        assert_eq!(
            live.get(),
            Marks {
                log_start: 2,
                last_stable: 13,
                high_watermark: 13,
                written_end: 13,
                log_end: 13,
                recovery_point: 12,
                flushed_end: 12
            }
        );
        live.restart_at(100);
        assert_eq!(live.get(), LiveMarks::starting_at(100).get());
    }

    proptest! {
        #[test]
        fn every_reachable_state_keeps_the_order(steps in prop::collection::vec((0u8..8, 0i64..20), 1..200)) {
            let mut live = LiveMarks::starting_at(0);
            for (what, by) in steps {
                let m = live.get();
                match what {
                    0 => live.set_log_end(m.log_end + by),
                    1 => live.set_written_end((m.written_end + by).min(m.log_end)),
                    2 => live.set_flushed_end((m.flushed_end + by).min(m.written_end)),
                    3 => live.set_recovery_point((m.recovery_point + by).min(m.flushed_end)),
                    4 => { live.set_high_watermark((m.high_watermark + by).min(m.written_end)); }
                    5 => { live.set_last_stable((m.last_stable + by).min(m.high_watermark)); }
                    6 => { live.set_log_start((m.log_start + by).min(m.written_end)); }
                    _ => live.truncate_to((m.log_end - by).max(m.log_start)),
                }
                prop_assert_eq!(live.broken_rule(), None);
            }
        }
    }
}
