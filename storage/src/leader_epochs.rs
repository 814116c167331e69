//! Which leader epoch began where: the cache of `leader-epoch-checkpoint`.
//!
//! The file is text: `0` (version), the number of entries, then `epoch startOffset` per line.

use crate::checkpoint_files::{FormatError, TextLines};

/// Answer for an epoch nothing is known of.
pub const UNDEFINED_EPOCH: i32 = -1;
/// Offset that goes with [`UNDEFINED_EPOCH`].
pub const UNDEFINED_OFFSET: i64 = -1;
/// Name of the file in a partition's directory.
pub const FILE_NAME: &str = "leader-epoch-checkpoint";

/// A leader epoch and the first offset it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    /// Leader epoch.
    pub epoch: i32,
    /// Offset of its first record.
    pub start_offset: i64,
}

/// Epochs of one partition; epochs and start offsets both rise strictly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// No epoch.
    pub fn new() -> LeaderEpochs {
        LeaderEpochs::default()
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The newest epoch, if any.
    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Records that `epoch` begins at `start_offset`. Entries that this contradicts (an epoch or an
    /// offset at or past it) are dropped. True when anything changed and the file must be written.
    /// Negative values, and an epoch that is the newest already, change nothing.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        if epoch < 0 || start_offset < 0 {
            return false;
        }
        if self
            .latest()
            .is_some_and(|last| last.epoch == epoch && last.start_offset <= start_offset)
        {
            return false;
        }
        while self
            .latest()
            .is_some_and(|last| last.epoch >= epoch || last.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        self.entries.push(EpochEntry {
            epoch,
            start_offset,
        });
        true
    }

    /// Where a replica in `epoch` must stop agreeing with this log: the largest epoch known that is
    /// not above, and the offset where the next begins. For the newest epoch that is `log_end`; for
    /// one below all that is known, the start of the oldest; for one above, undefined (-1, -1).
    pub fn end_offset_for(&self, epoch: i32, log_end: i64) -> (i32, i64) {
        let Some(last) = self.latest() else {
            return (UNDEFINED_EPOCH, UNDEFINED_OFFSET);
        };
        if epoch == UNDEFINED_EPOCH || epoch > last.epoch {
            return (UNDEFINED_EPOCH, UNDEFINED_OFFSET);
        }
        if epoch == last.epoch {
            return (epoch, log_end);
        }
        let higher = self.entries.partition_point(|e| e.epoch <= epoch);
        let end = self.entries[higher].start_offset;
        match higher.checked_sub(1) {
            Some(floor) => (self.entries[floor].epoch, end),
            None => (epoch, end),
        }
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let n = self.entries.partition_point(|e| e.start_offset <= offset);
        n.checked_sub(1).map(|i| self.entries[i].epoch)
    }

    /// The log now ends at `end_offset`: epochs that begin at or past it are dropped. True when
    /// anything changed.
    pub fn truncate_from_end(&mut self, end_offset: i64) -> bool {
        let keep = self
            .entries
            .partition_point(|e| e.start_offset < end_offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// The log now begins at `start_offset`: epochs that end at or below it are dropped, and the
    /// one that holds it begins there. True when anything changed.
    pub fn truncate_from_start(&mut self, start_offset: i64) -> bool {
        let below = self
            .entries
            .partition_point(|e| e.start_offset <= start_offset);
        let Some(holder) = below.checked_sub(1) else {
            return false;
        };
        if holder == 0 && self.entries[0].start_offset == start_offset {
            return false;
        }
        self.entries.drain(..holder);
        self.entries[0].start_offset = start_offset;
        true
    }

    /// Forgets every epoch.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("0\n{}\n", self.entries.len());
        for e in &self.entries {
            out.push_str(&format!("{} {}\n", e.epoch, e.start_offset));
        }
        out.into_bytes()
    }

    /// Reads the file; `file` is its path, for the error.
    pub fn decode(file: &str, bytes: &[u8]) -> Result<LeaderEpochs, FormatError> {
        let mut lines = TextLines::new(file, bytes)?;
        lines.version_0()?;
        let count = lines.count()?;
        let mut entries: Vec<EpochEntry> = Vec::new();
        for _ in 0..count {
            let expected =
                "an epoch and a start offset, both above the line before: `epoch startOffset`";
            let [epoch, start] = lines.fields(expected)?;
            let entry = match (epoch.parse(), start.parse()) {
                (Ok(epoch), Ok(start_offset)) => EpochEntry {
                    epoch,
                    start_offset,
                },
                _ => return Err(lines.error(expected)),
            };
            let rises = entries.last().is_none_or(|last| {
                entry.epoch > last.epoch && entry.start_offset > last.start_offset
            });
            if entry.epoch < 0 || entry.start_offset < 0 || !rises {
                return Err(lines.error(expected));
            }
            entries.push(entry);
        }
        lines.end()?;
        Ok(LeaderEpochs { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut e = LeaderEpochs::new();
        for &(epoch, start) in entries {
            assert!(e.assign(epoch, start));
        }
        e
    }

    #[test]
    fn r45_the_end_of_an_epoch_is_the_start_of_the_next() {
        let e = epochs(&[(2, 5), (4, 20), (5, 30)]);
        assert_eq!(
            e.end_offset_for(5, 40),
            (5, 40),
            "the newest epoch ends at the log's end"
        );
        assert_eq!(e.end_offset_for(4, 40), (4, 30));
        assert_eq!(
            e.end_offset_for(3, 40),
            (2, 20),
            "an unknown epoch between: the one below"
        );
        assert_eq!(e.end_offset_for(2, 40), (2, 20));
        assert_eq!(e.end_offset_for(1, 40), (1, 5), "an epoch below all known");
        assert_eq!(e.end_offset_for(6, 40), (-1, -1));
        assert_eq!(e.end_offset_for(-1, 40), (-1, -1));
        assert_eq!(LeaderEpochs::new().end_offset_for(0, 40), (-1, -1));
        assert_eq!(e.epoch_for_offset(4), None);
        assert_eq!(e.epoch_for_offset(19), Some(2));
        assert_eq!(e.epoch_for_offset(20), Some(4));
        assert_eq!(e.epoch_for_offset(1000), Some(5));
    }

    #[test]
    fn assigning_drops_what_it_contradicts() {
        let mut e = epochs(&[(2, 5), (4, 20), (5, 30)]);
        assert!(!e.assign(5, 35), "the newest epoch goes on");
        assert!(!e.assign(-1, 35));
        assert!(e.assign(6, 20), "an epoch that wrote nothing is gone");
        assert_eq!(e, epochs(&[(2, 5), (6, 20)]));
        assert!(e.assign(3, 40), "a lower epoch that comes later wins");
        assert_eq!(e, epochs(&[(2, 5), (3, 40)]));
    }

    #[test]
    fn cuts_at_both_ends() {
        let mut e = epochs(&[(2, 5), (4, 20), (5, 30)]);
        assert!(!e.truncate_from_end(31));
        assert!(e.truncate_from_end(30));
        assert_eq!(e, epochs(&[(2, 5), (4, 20)]));
        assert!(!e.truncate_from_start(5));
        assert!(!e.truncate_from_start(4));
        assert!(e.truncate_from_start(7));
        assert_eq!(e, epochs(&[(2, 7), (4, 20)]));
        assert!(e.truncate_from_start(20));
        assert_eq!(e, epochs(&[(4, 20)]));
        assert!(e.truncate_from_start(99));
        assert_eq!(e, epochs(&[(4, 99)]));
        assert!(e.truncate_from_end(0));
        assert_eq!(e, LeaderEpochs::new());
    }

    #[test]
    fn the_file_is_kafkas() {
        let e = epochs(&[(0, 0), (3, 17)]);
        assert_eq!(e.encode(), b"0\n2\n0 0\n3 17\n");
        assert_eq!(LeaderEpochs::decode("f", b"0\n2\n0 0\n3 17\n"), Ok(e));
        let error = |bytes: &[u8]| LeaderEpochs::decode("d/f", bytes).unwrap_err().to_string();
        assert_eq!(error(b"1\n0\n"), "d/f line 1: `1`: expected version 0");
        assert!(error(b"0\n2\n0 0\n").starts_with("d/f line 4: end of file: expected an epoch"));
        assert!(error(b"0\n2\n3 0\n3 5\n").starts_with("d/f line 4: `3 5`: expected"));
        assert!(
            error(b"0\n1\n0 0\n3 17\n").starts_with("d/f line 4: `3 17`: expected end of file")
        );
        assert!(error(b"0\n99999999999999999999\n").starts_with("d/f line 2"));
    }

    proptest! {
        #[test]
        fn any_history_reads_back(steps in prop::collection::vec((0i32..30, 0i64..100), 0..60)) {
            let mut e = LeaderEpochs::new();
            for (epoch, start) in steps {
                e.assign(epoch, start);
            }
            prop_assert_eq!(LeaderEpochs::decode("f", &e.encode()), Ok(e));
        }

        #[test]
        fn hostile_bytes_are_errors_not_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = LeaderEpochs::decode("f", &bytes);
        }
    }
}
