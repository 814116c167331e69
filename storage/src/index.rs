//! The two indexes of a segment: offset -> position, and timestamp -> offset.
//!
//! An index is a hint: lookups answer where to begin to scan, never what is there. Files hold
//! whole entries, big endian: 8 bytes (relative offset u32, position u32) in `.index`, 12 bytes
//! (timestamp i64, relative offset u32) in `.timeindex`. Offsets are relative to the base offset in
//! the file's name; all u32 stay below 2^31, since other readers take them as signed.

use std::fmt;

/// Bytes of an entry of `.index`.
pub const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of an entry of `.timeindex`.
pub const TIME_ENTRY_BYTES: usize = 12;

/// Largest relative offset and position an entry can hold.
const I32_MAX: u32 = i32::MAX as u32;

/// Why the bytes of an index file are not an index of its segment. It is then rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexError {
    /// The file's length is not a multiple of the entry's.
    PartialEntry {
        /// Bytes of the file.
        len: usize,
        /// Bytes of an entry.
        entry_bytes: usize,
    },
    /// An entry does not follow the one before, or points outside its segment.
    BadEntry {
        /// Index of the entry, from 0.
        entry: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexError::PartialEntry { len, entry_bytes } => {
                write!(f, "index of {len} bytes: not a multiple of {entry_bytes}")
            }
            IndexError::BadEntry { entry, why } => write!(f, "index entry {entry}: {why}"),
        }
    }
}

impl std::error::Error for IndexError {}

/// One entry of `.index`: the batch that begins at `position` has this last offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of the batch, minus the segment's base offset.
    pub relative_offset: u32,
    /// First byte of the batch in the `.log` file.
    pub position: u32,
}

/// One entry of `.timeindex`: no record up to this offset has a greater timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeEntry {
    /// Greatest timestamp so far, ms since the Unix epoch.
    pub timestamp: i64,
    /// Last offset of the batch that brought it, minus the segment's base offset.
    pub relative_offset: u32,
}

/// Offset index of one segment, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetIndex {
    base_offset: i64,
    entries: Vec<OffsetEntry>,
}

impl OffsetIndex {
    /// No entries.
    pub fn new(base_offset: i64) -> OffsetIndex {
        OffsetIndex {
            base_offset,
            entries: Vec::new(),
        }
    }

    /// The entries, in ascending order.
    pub fn entries(&self) -> &[OffsetEntry] {
        &self.entries
    }

    /// Where to begin to scan for `offset`: the position of the last batch known to begin at or
    /// below it; 0 when none is.
    pub fn position_for(&self, offset: i64) -> u32 {
        let n = self
            .entries
            .partition_point(|e| self.base_offset + i64::from(e.relative_offset) <= offset);
        n.checked_sub(1).map_or(0, |i| self.entries[i].position)
    }

    /// The largest batch boundary known at or below `limit` bytes; 0 when there is none.
    pub fn boundary_at_or_below(&self, limit: u32) -> u32 {
        let n = self.entries.partition_point(|e| e.position <= limit);
        n.checked_sub(1).map_or(0, |i| self.entries[i].position)
    }

    /// Bytes of the `.index` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * OFFSET_ENTRY_BYTES);
        for e in &self.entries {
            out.extend_from_slice(&e.relative_offset.to_be_bytes());
            out.extend_from_slice(&e.position.to_be_bytes());
        }
        out
    }

    /// Reads and checks an `.index` file of a segment of `log_bytes`: offsets and positions rise,
    /// positions lie inside the segment.
    pub fn decode(
        base_offset: i64,
        bytes: &[u8],
        log_bytes: u64,
    ) -> Result<OffsetIndex, IndexError> {
        let (chunks, rest) = bytes.as_chunks::<OFFSET_ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexError::PartialEntry {
                len: bytes.len(),
                entry_bytes: OFFSET_ENTRY_BYTES,
            });
        }
        let mut entries: Vec<OffsetEntry> = Vec::with_capacity(chunks.len());
        for (i, chunk) in chunks.iter().enumerate() {
            let [a, b, c, d, e, f, g, h] = *chunk;
            let entry = OffsetEntry {
                relative_offset: u32::from_be_bytes([a, b, c, d]),
                position: u32::from_be_bytes([e, f, g, h]),
            };
            let bad = |why| Err(IndexError::BadEntry { entry: i, why });
            if entry.relative_offset > I32_MAX {
                return bad("relative offset over 2^31 - 1");
            }
            if base_offset
                .checked_add(i64::from(entry.relative_offset))
                .is_none()
            {
                return bad("offset over 2^63 - 1");
            }
            if u64::from(entry.position) >= log_bytes {
                return bad("position past the end of the segment");
            }
            if let Some(last) = entries.last() {
                if entry.relative_offset <= last.relative_offset {
                    return bad("offset does not rise");
                }
                if entry.position <= last.position {
                    return bad("position does not rise");
                }
            }
            entries.push(entry);
        }
        Ok(OffsetIndex {
            base_offset,
            entries,
        })
    }
}

/// Time index of one segment, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeIndex {
    base_offset: i64,
    entries: Vec<TimeEntry>,
}

impl TimeIndex {
    /// No entries.
    pub fn new(base_offset: i64) -> TimeIndex {
        TimeIndex {
            base_offset,
            entries: Vec::new(),
        }
    }

    /// The entries, in ascending order.
    pub fn entries(&self) -> &[TimeEntry] {
        &self.entries
    }

    /// Where to begin to scan for the first record with a timestamp of at least `timestamp`: an
    /// offset below which there is none. The base offset when no entry says more.
    pub fn offset_for(&self, timestamp: i64) -> i64 {
        let n = self.entries.partition_point(|e| e.timestamp < timestamp);
        // All batches up to this entry's are older, so even its own batch may be passed over; it
        // is kept as the start, as it is a batch boundary the offset index knows.
        n.checked_sub(1).map_or(self.base_offset, |i| {
            self.base_offset + i64::from(self.entries[i].relative_offset)
        })
    }

    /// Greatest timestamp the index knows, and the last offset of the batch that brought it.
    pub fn last(&self) -> Option<(i64, i64)> {
        self.entries
            .last()
            .map(|e| (e.timestamp, self.base_offset + i64::from(e.relative_offset)))
    }

    /// Bytes of the `.timeindex` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * TIME_ENTRY_BYTES);
        for e in &self.entries {
            out.extend_from_slice(&e.timestamp.to_be_bytes());
            out.extend_from_slice(&e.relative_offset.to_be_bytes());
        }
        out
    }

    /// Reads and checks a `.timeindex` file: timestamps rise and offsets do not fall, all below
    /// `next_offset`, the end of the segment.
    pub fn decode(
        base_offset: i64,
        bytes: &[u8],
        next_offset: i64,
    ) -> Result<TimeIndex, IndexError> {
        let (chunks, rest) = bytes.as_chunks::<TIME_ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexError::PartialEntry {
                len: bytes.len(),
                entry_bytes: TIME_ENTRY_BYTES,
            });
        }
        let mut entries: Vec<TimeEntry> = Vec::with_capacity(chunks.len());
        for (i, chunk) in chunks.iter().enumerate() {
            let [a, b, c, d, e, f, g, h, o, p, q, r] = *chunk;
            let entry = TimeEntry {
                timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
                relative_offset: u32::from_be_bytes([o, p, q, r]),
            };
            let bad = |why| Err(IndexError::BadEntry { entry: i, why });
            if entry.relative_offset > I32_MAX
                || base_offset.saturating_add(i64::from(entry.relative_offset)) >= next_offset
            {
                return bad("offset past the end of the segment");
            }
            if let Some(last) = entries.last() {
                if entry.timestamp <= last.timestamp {
                    return bad("timestamp does not rise");
                }
                if entry.relative_offset < last.relative_offset {
                    return bad("offset falls");
                }
            }
            entries.push(entry);
        }
        Ok(TimeIndex {
            base_offset,
            entries,
        })
    }
}

/// Builds both indexes of a segment as batches are appended, replayed or scanned: an entry before
/// a batch when more than `index.interval.bytes` went in since the last one, as Kafka does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBuilder {
    interval_bytes: u64,
    bytes_since_entry: u64,
    offsets: OffsetIndex,
    times: TimeIndex,
    max_timestamp: Option<(i64, i64)>,
}

impl IndexBuilder {
    /// Indexes of an empty segment. `interval_bytes` is `index.interval.bytes`.
    pub fn new(base_offset: i64, interval_bytes: u64) -> IndexBuilder {
        IndexBuilder {
            interval_bytes,
            bytes_since_entry: 0,
            offsets: OffsetIndex::new(base_offset),
            times: TimeIndex::new(base_offset),
            max_timestamp: None,
        }
    }

    /// Continues indexes read from files. The caller then feeds every batch from the position
    /// returned on; entries that are already there are not repeated.
    pub fn resume(
        offsets: OffsetIndex,
        times: TimeIndex,
        interval_bytes: u64,
    ) -> (IndexBuilder, u32) {
        let from = offsets.entries.last().map_or(0, |e| e.position);
        let max_timestamp = times.last();
        (
            IndexBuilder {
                interval_bytes,
                bytes_since_entry: 0,
                offsets,
                times,
                max_timestamp,
            },
            from,
        )
    }

    /// Whether a batch that ends at `last_offset` and begins at `position` can be indexed in this
    /// segment; if not, the log rolls first. `index_bytes_max` is `segment.index.bytes`.
    pub fn has_room_for(&self, last_offset: i64, position: u64, index_bytes_max: u64) -> bool {
        let max = usize::try_from(index_bytes_max).unwrap_or(usize::MAX);
        last_offset - self.offsets.base_offset <= i64::from(I32_MAX)
            && position <= u64::from(I32_MAX)
            && self.offsets.entries.len() < max / OFFSET_ENTRY_BYTES
            // One entry is kept for the seal.
            && self.times.entries.len() + 1 < max / TIME_ENTRY_BYTES
    }

    /// A batch of `bytes` begins at `position`. Batches come in order; see
    /// [`IndexBuilder::has_room_for`] for what fits.
    pub fn on_batch(&mut self, position: u32, bytes: u32, last_offset: i64, max_timestamp: i64) {
        if self
            .max_timestamp
            .is_none_or(|(max, _)| max_timestamp > max)
        {
            self.max_timestamp = Some((max_timestamp, last_offset));
        }
        if self.bytes_since_entry > self.interval_bytes {
            if let Some(relative_offset) = self.relative(last_offset)
                && self
                    .offsets
                    .entries
                    .last()
                    .is_none_or(|e| e.relative_offset < relative_offset && e.position < position)
            {
                self.offsets.entries.push(OffsetEntry {
                    relative_offset,
                    position,
                });
            }
            self.note_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += u64::from(bytes);
    }

    /// Ends the segment: the time index's last entry is then its greatest timestamp.
    pub fn seal(&mut self) {
        self.note_time();
    }

    /// The segment now ends at `offset` (exclusive). Entries past it are dropped; the caller then
    /// feeds every batch that remains from the position returned on.
    pub fn truncate_to(&mut self, offset: i64) -> u32 {
        let base = self.offsets.base_offset;
        let keep = self
            .offsets
            .entries
            .partition_point(|e| base + i64::from(e.relative_offset) < offset);
        self.offsets.entries.truncate(keep);
        let keep = self
            .times
            .entries
            .partition_point(|e| base + i64::from(e.relative_offset) < offset);
        self.times.entries.truncate(keep);
        self.bytes_since_entry = 0;
        self.max_timestamp = self.times.last();
        self.offsets.entries.last().map_or(0, |e| e.position)
    }

    /// The offset index so far.
    pub fn offsets(&self) -> &OffsetIndex {
        &self.offsets
    }

    /// The time index so far.
    pub fn times(&self) -> &TimeIndex {
        &self.times
    }

    /// Greatest timestamp fed, and the last offset of the batch that brought it.
    pub fn max_timestamp(&self) -> Option<(i64, i64)> {
        self.max_timestamp
    }

    /// Both indexes, sealed.
    pub fn finish(mut self) -> (OffsetIndex, TimeIndex) {
        self.seal();
        (self.offsets, self.times)
    }

    fn relative(&self, offset: i64) -> Option<u32> {
        u32::try_from(offset.checked_sub(self.offsets.base_offset)?)
            .ok()
            .filter(|&r| r <= I32_MAX)
    }

    fn note_time(&mut self) {
        let Some((timestamp, offset)) = self.max_timestamp else {
            return;
        };
        let Some(relative_offset) = self.relative(offset) else {
            return;
        };
        if self
            .times
            .entries
            .last()
            .is_none_or(|e| timestamp > e.timestamp && relative_offset >= e.relative_offset)
        {
            self.times.entries.push(TimeEntry {
                timestamp,
                relative_offset,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Batches of (records, bytes, max timestamp) laid out from `base`.
    fn lay_out(base: i64, batches: &[(u8, u16, i64)]) -> Vec<(u32, u32, i64, i64)> {
        let (mut offset, mut position) = (base, 0u32);
        let mut out = Vec::new();
        for &(records, bytes, ts) in batches {
            let (records, bytes) = (i64::from(records) + 1, u32::from(bytes) + 62);
            out.push((position, bytes, offset + records - 1, ts));
            offset += records;
            position += bytes;
        }
        out
    }

    fn build(base: i64, interval: u64, layout: &[(u32, u32, i64, i64)]) -> IndexBuilder {
        let mut b = IndexBuilder::new(base, interval);
        for &(position, bytes, last, ts) in layout {
            b.on_batch(position, bytes, last, ts);
        }
        b
    }

    #[test]
    fn an_entry_past_the_last_offset_there_can_be_is_refused() {
        let entry = |relative: u32| [relative.to_be_bytes(), 7u32.to_be_bytes()].concat();
        let base = i64::MAX - 8;
        let index = OffsetIndex::decode(base, &entry(8), 100).unwrap();
        assert_eq!(index.position_for(i64::MAX), 7);
        assert!(OffsetIndex::decode(base, &entry(9), 100).is_err());
    }

    #[test]
    fn an_entry_comes_before_the_batch_that_follows_more_than_the_interval() {
        let mut b = IndexBuilder::new(100, 200);
        b.on_batch(0, 200, 104, 7);
        b.on_batch(200, 1, 105, 9);
        assert!(
            b.offsets().entries().is_empty(),
            "200 bytes are not more than 200"
        );
        b.on_batch(201, 300, 109, 8);
        b.on_batch(501, 300, 110, 8);
        assert_eq!(
            b.offsets().entries(),
            &[
                OffsetEntry {
                    relative_offset: 9,
                    position: 201
                },
                OffsetEntry {
                    relative_offset: 10,
                    position: 501
                }
            ]
        );
        assert_eq!(
            b.times().entries(),
            &[TimeEntry {
                timestamp: 9,
                relative_offset: 5
            }]
        );
        assert_eq!(b.max_timestamp(), Some((9, 105)));
        let (offsets, times) = b.finish();
        assert_eq!(
            offsets.encode(),
            [0, 0, 0, 9, 0, 0, 0, 201, 0, 0, 0, 10, 0, 0, 1, 245]
        );
        assert_eq!(times.encode(), [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 5]);
        assert_eq!(offsets.position_for(108), 0);
        assert_eq!(offsets.position_for(109), 201);
        assert_eq!(offsets.position_for(5000), 501);
        assert_eq!(offsets.boundary_at_or_below(200), 0);
        assert_eq!(offsets.boundary_at_or_below(500), 201);
    }

    #[test]
    fn refuses_files_that_are_no_index_of_their_segment() {
        let offsets = |b: &[u8]| OffsetIndex::decode(0, b, 100).map(|_| ());
        let entry =
            |offset: u32, position: u32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
        let bad = |entry, why| Err(IndexError::BadEntry { entry, why });
        assert_eq!(
            offsets(&[0; 7]),
            Err(IndexError::PartialEntry {
                len: 7,
                entry_bytes: 8
            })
        );
        assert_eq!(offsets(&[0; 16]), bad(1, "offset does not rise"));
        assert_eq!(
            offsets(&entry(0, 100)),
            bad(0, "position past the end of the segment")
        );
        assert_eq!(
            offsets(&[entry(0, 5), entry(1, 5)].concat()),
            bad(1, "position does not rise")
        );
        assert_eq!(
            offsets(&entry(1 << 31, 5)),
            bad(0, "relative offset over 2^31 - 1")
        );
        let times = |b: &[u8]| TimeIndex::decode(10, b, 20).map(|_| ());
        let entry =
            |ts: i64, offset: u32| [&ts.to_be_bytes()[..], &offset.to_be_bytes()[..]].concat();
        assert_eq!(
            times(&[0; 13]),
            Err(IndexError::PartialEntry {
                len: 13,
                entry_bytes: 12
            })
        );
        assert_eq!(
            times(&entry(5, 10)),
            bad(0, "offset past the end of the segment")
        );
        assert_eq!(
            times(&[entry(5, 1), entry(5, 2)].concat()),
            bad(1, "timestamp does not rise")
        );
        assert_eq!(
            times(&[entry(5, 2), entry(6, 1)].concat()),
            bad(1, "offset falls")
        );
        assert_eq!(times(&[entry(5, 2), entry(6, 9)].concat()), Ok(()));
    }

    #[test]
    fn a_segment_is_full_at_the_limits_of_its_entries() {
        let b = build(0, 0, &[(0, 100, 0, 1), (100, 100, 1, 2)]);
        assert!(b.has_room_for(2, 200, 1024));
        assert!(!b.has_room_for(2, 200, 8), "one offset entry fills 8 bytes");
        assert!(
            !b.has_room_for(2, 200, 24),
            "one time entry is kept for the seal"
        );
        assert!(!b.has_room_for(1 << 31, 200, 1024));
        assert!(!b.has_room_for(2, 1 << 31, 1024));
    }

    proptest! {
        #[test]
        fn lookups_never_pass_over_what_is_looked_for(
            base in 0i64..1000,
            interval in 0u64..4096,
            batches in prop::collection::vec((any::<u8>(), 0u16..2000, 0i64..50), 1..80),
        ) {
            let layout = lay_out(base, &batches);
            let (offsets, times) = build(base, interval, &layout).finish();
            for &(position, bytes, last, _) in &layout {
                let at = offsets.position_for(last);
                prop_assert!(at <= position);
                prop_assert!(layout.iter().any(|b| b.0 == at));
                prop_assert!(u64::from(at) + interval + 2062 + u64::from(bytes) >= u64::from(position), "an index entry is near");
                let boundary = offsets.boundary_at_or_below(position);
                prop_assert!(boundary <= position && layout.iter().any(|b| b.0 == boundary));
            }
            for ts in 0..52 {
                let first = layout.iter().find(|b| b.3 >= ts);
                let from = offsets.position_for(times.offset_for(ts));
                if let Some(first) = first {
                    prop_assert!(from <= first.0);
                }
            }
            prop_assert_eq!(times.last().map(|l| l.0), layout.iter().map(|b| b.3).max());
            let end = layout.last().map_or(0, |b| b.0 + b.1);
            prop_assert_eq!(OffsetIndex::decode(base, &offsets.encode(), u64::from(end)), Ok(offsets));
            let next = layout.last().map_or(base, |b| b.2 + 1);
            prop_assert_eq!(TimeIndex::decode(base, &times.encode(), next), Ok(times));
        }

        #[test]
        fn a_cut_and_a_resume_give_what_a_fresh_build_gives(
            interval in 0u64..4096,
            batches in prop::collection::vec((any::<u8>(), 0u16..2000, 0i64..50), 1..80),
            keep in 0usize..80,
        ) {
            let layout = lay_out(0, &batches);
            let keep = keep.min(layout.len());
            let fresh = build(0, interval, &layout[..keep]);
            let mut cut = build(0, interval, &layout);
            let from = cut.truncate_to(keep.checked_sub(1).map_or(0, |i| layout[i].2 + 1));
            for &(position, bytes, last, ts) in layout[..keep].iter().filter(|b| b.0 >= from) {
                cut.on_batch(position, bytes, last, ts);
            }
            prop_assert_eq!(&cut.offsets, &fresh.offsets);
            prop_assert_eq!(cut.max_timestamp().map(|m| m.0), fresh.max_timestamp().map(|m| m.0));
            prop_assert_eq!(cut.bytes_since_entry, fresh.bytes_since_entry);
            let (mut resumed, from) = IndexBuilder::resume(fresh.offsets.clone(), fresh.times.clone(), interval);
            for &(position, bytes, last, ts) in layout[..keep].iter().filter(|b| b.0 >= from) {
                resumed.on_batch(position, bytes, last, ts);
            }
            prop_assert_eq!(&resumed.offsets, &fresh.offsets);
            prop_assert_eq!(resumed.bytes_since_entry, fresh.bytes_since_entry);
        }
    }
}
