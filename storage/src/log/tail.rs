//! The tail cache of one log: the written buffers themselves, in offset order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use corelog_record::batch::{BatchHeader, HEADER_BYTES};

/// The bytes of one set of writes: whole batches.
struct Entry {
    /// Base offset of the segment.
    segment: i64,
    position: u64,
    len: u64,
    first_offset: i64,
    end_offset: i64,
    data: Vec<Bytes>,
    /// Memory it holds, about.
    cost: usize,
    /// Read since it was last looked at for eviction.
    touched: Cell<bool>,
}

impl Entry {
    /// Copies the batch header at `at` bytes into the entry.
    fn header_at(&self, mut at: u64) -> Option<BatchHeader> {
        let mut header = [0u8; HEADER_BYTES];
        let mut filled = 0;
        for piece in &self.data {
            if at >= piece.len() as u64 {
                at -= piece.len() as u64;
                continue;
            }
            let from = &piece[at as usize..];
            let n = from.len().min(HEADER_BYTES - filled);
            header[filled..filled + n].copy_from_slice(&from[..n]);
            filled += n;
            at = 0;
            if filled == HEADER_BYTES {
                return BatchHeader::parse(&header).ok();
            }
        }
        None
    }

    /// Bytes of its batches below `written_end`: a set of several writes completes piece by piece.
    fn visible_bytes(&self, written_end: i64) -> u64 {
        if self.end_offset <= written_end {
            return self.len;
        }
        let mut at = 0;
        while let Some(header) = self.header_at(at) {
            if header.next_offset() > written_end {
                break;
            }
            at += header.size_bytes() as u64;
        }
        at.min(self.len)
    }
}

/// A run of whole batches found in the tail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TailRun {
    pub segment: i64,
    pub position: u64,
    pub len: u64,
    /// Offset after its last batch.
    pub end_offset: i64,
}

/// The tail cache of one log. Entries lie in offset order; they leave from the front when the
/// shard's budget is spent, and from the back at a cut.
pub struct LogTail {
    entries: RefCell<VecDeque<Entry>>,
    /// Bytes at or past this offset are invisible, and pinned.
    written_end: Cell<i64>,
    shard_bytes: Rc<Cell<usize>>,
}

impl LogTail {
    pub(crate) fn new(shard_bytes: Rc<Cell<usize>>, written_end: i64) -> Rc<LogTail> {
        Rc::new(LogTail {
            entries: RefCell::default(),
            written_end: Cell::new(written_end),
            shard_bytes,
        })
    }

    pub(crate) fn set_written_end(&self, offset: i64) {
        self.written_end.set(offset);
    }

    /// Adds what a set of writes carries.
    pub(crate) fn push(
        &self,
        segment: i64,
        position: u64,
        first_offset: i64,
        end_offset: i64,
        data: Vec<Bytes>,
    ) {
        let len: u64 = data.iter().map(|d| d.len() as u64).sum();
        // A region begins at a block of its own: a small entry holds a block.
        let cost = (len as usize).next_multiple_of(4096) + 256;
        self.shard_bytes.set(self.shard_bytes.get() + cost);
        let touched = Cell::new(false);
        let entry = Entry {
            segment,
            position,
            len,
            first_offset,
            end_offset,
            data,
            cost,
            touched,
        };
        // The last write of a segment may be dispatched after the first ones of the next.
        let mut entries = self.entries.borrow_mut();
        let after = entries
            .iter()
            .rev()
            .take_while(|e| e.first_offset > first_offset);
        let place = entries.len() - after.count();
        entries.insert(place, entry);
    }

    /// Drops the oldest entry. False when it is pinned or was just read: try later.
    pub(crate) fn evict_oldest(&self) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(front) = entries.front() else {
            return true;
        };
        if front.end_offset > self.written_end.get() || front.touched.take() {
            return false;
        }
        let cost = front.cost;
        entries.pop_front();
        self.shard_bytes.set(self.shard_bytes.get() - cost);
        true
    }

    /// Drops everything: after a cut, or when the log closes.
    pub(crate) fn clear(&self) {
        let freed: usize = self.entries.borrow_mut().drain(..).map(|e| e.cost).sum();
        self.shard_bytes.set(self.shard_bytes.get() - freed);
    }

    /// Whole batches of one segment from the one that holds `from` on: at most `max_bytes` of
    /// them (but the first one if `min_one`), none at or past `limit_offset`.
    pub(crate) fn find(
        &self,
        from: i64,
        max_bytes: u64,
        min_one: bool,
        limit_offset: i64,
    ) -> Option<TailRun> {
        let entries = self.entries.borrow();
        let limit_offset = limit_offset.min(self.written_end.get());
        let first = entries.partition_point(|e| e.end_offset <= from);
        let entry = entries.get(first).filter(|e| e.first_offset <= from)?;
        let mut at = 0;
        let mut header = entry.header_at(at)?;
        while header.next_offset() <= from {
            at += header.size_bytes() as u64;
            header = entry.header_at(at)?;
        }
        let segment = entry.segment;
        let mut run = TailRun {
            segment,
            position: entry.position + at,
            len: 0,
            end_offset: header.base_offset,
        };
        for (i, entry) in entries.iter().enumerate().skip(first) {
            let expected = run.position + run.len;
            if entry.segment != segment || (i > first && entry.position != expected) {
                break;
            }
            entry.touched.set(true);
            let rest = entry.position + entry.len - expected;
            if entry.end_offset <= limit_offset && run.len + rest <= max_bytes {
                run.len += rest;
                run.end_offset = entry.end_offset;
                continue;
            }
            let mut at = expected - entry.position;
            while at < entry.len {
                let header = entry.header_at(at)?;
                let bytes = header.size_bytes() as u64;
                let is_forced = min_one && run.len == 0;
                if header.next_offset() > limit_offset
                    || (run.len + bytes > max_bytes && !is_forced)
                {
                    break;
                }
                run.len += bytes;
                run.end_offset = header.next_offset();
                at += bytes;
            }
            break;
        }
        Some(run)
    }

    /// Slices of the written buffers at `[at, at + max)` of a segment file: as far as they are
    /// here without a gap; `None` when the first byte is not.
    pub(crate) fn slices(&self, segment: i64, at: u64, max: u64) -> Option<Vec<Bytes>> {
        let entries = self.entries.borrow();
        let written_end = self.written_end.get();
        let first = entries.partition_point(|e| (e.segment, e.position + e.len) <= (segment, at));
        let mut found = Vec::new();
        let (mut at, mut left) = (at, max);
        for entry in entries.iter().skip(first) {
            let visible_end = entry.position + entry.visible_bytes(written_end);
            let is_next = entry.segment == segment && entry.position <= at && at < visible_end;
            if !is_next || left == 0 {
                break;
            }
            entry.touched.set(true);
            let mut skip = at - entry.position;
            let left_after = left.saturating_sub(visible_end - at);
            left = left.min(visible_end - at);
            for piece in &entry.data {
                let len = piece.len() as u64;
                if skip >= len {
                    skip -= len;
                    continue;
                }
                let n = (len - skip).min(left);
                if n > 0 {
                    found.push(piece.slice(skip as usize..(skip + n) as usize));
                }
                skip = 0;
                at += n;
                left -= n;
            }
            left += left_after;
        }
        (!found.is_empty()).then_some(found)
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_last_write_may_come_after_the_first_of_the_next() {
        let tail = LogTail::new(Rc::default(), 0);
        let data = || vec![Bytes::from_static(&[7; 8])];
        tail.push(0, 0, 0, 10, data());
        tail.push(20, 0, 20, 30, data());
        tail.push(0, 8, 10, 20, data());
        tail.set_written_end(30);
        let bytes = |segment, at| {
            let slices = tail.slices(segment, at, 64);
            slices.map(|slices| slices.iter().map(Bytes::len).sum::<usize>())
        };
        assert_eq!(bytes(0, 0), Some(16));
        assert_eq!(bytes(0, 8), Some(8));
        assert_eq!(bytes(20, 0), Some(8));
        assert_eq!(bytes(20, 8), None);
    }
}
