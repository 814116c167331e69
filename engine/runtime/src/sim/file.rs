//! A simulated file: sparse pages, sizes with their history, allocated ranges, late writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::config::FaultCounters;
use super::page::{IN_FLIGHT, PAGE_BYTES, POISONED, Page, SECTOR_BYTES};
use super::rng::Rng;

/// A change of i_size that is not durable yet.
struct SizeChange {
    op: u64,
    order: u64,
    completed: u64,
    size: u64,
}

/// A direct write that its killed process left in flight.
pub(super) struct LateWrite {
    pub(super) at_ns: u64,
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

/// Who changes a file, and which place that takes in the order of effects.
#[derive(Clone, Copy)]
pub(super) struct Cause {
    pub(super) op: u64,
    pub(super) order: u64,
}

#[derive(Default)]
pub(super) struct SimFile {
    size: u64,
    durable_size: u64,
    /// Order of the last change of size that is durable.
    durable_order: u64,
    sizes: Vec<SizeChange>,
    pages: BTreeMap<u64, Page>,
    /// Pages with versions that are not durable.
    dirty: BTreeSet<u64>,
    /// Allocated pages: start -> end, disjoint.
    allocated: BTreeMap<u64, u64>,
    pub(super) late: Vec<LateWrite>,
    /// 64 KiB windows that buffered I/O brought into the page cache.
    pub(super) cached: BTreeSet<u64>,
    /// Wall clock of the last change.
    pub(super) modified_ms: i64,
}

/// Reads a list of buffers from front to back.
struct Gather<'a> {
    bufs: std::slice::Iter<'a, Bytes>,
    rest: &'a [u8],
}

impl Gather<'_> {
    fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.rest.is_empty() {
                match self.bufs.next() {
                    Some(buf) => self.rest = buf,
                    None => return,
                }
                continue;
            }
            let n = out.len().min(self.rest.len());
            out[..n].copy_from_slice(&self.rest[..n]);
            self.rest = &self.rest[n..];
            out = &mut out[n..];
        }
    }
}

/// Bits of the sectors that `from..to` (bytes within a page) touches.
fn sector_mask(from: usize, to: usize) -> u8 {
    let (first, last) = (from / SECTOR_BYTES, (to - 1) / SECTOR_BYTES);
    (first..=last).fold(0, |mask, bit| mask | 1 << bit)
}

impl SimFile {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Fills `out` from `offset`; bytes past the end are not touched. Returns the bytes read.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let len = self.size.saturating_sub(offset).min(out.len() as u64) as usize;
        let mut at = 0;
        while at < len {
            let position = offset + at as u64;
            let within = (position % PAGE_BYTES) as usize;
            let n = (PAGE_BYTES as usize - within).min(len - at);
            match self.pages.get(&(position / PAGE_BYTES)) {
                Some(page) => out[at..at + n].copy_from_slice(&page.current()[within..within + n]),
                None => out[at..at + n].fill(0),
            }
            at += n;
        }
        len
    }

    /// Puts the first `len` bytes of `bufs` at `offset`, but only the sectors (numbered from the
    /// write's first) that `keep` wants. Grows the file up to the last byte kept.
    pub(super) fn write(
        &mut self,
        cause: Cause,
        offset: u64,
        bufs: &[Bytes],
        len: usize,
        mut keep: impl FnMut(u64) -> bool,
    ) {
        let mut source = Gather {
            bufs: bufs.iter(),
            rest: &[],
        };
        let first_sector = offset / SECTOR_BYTES as u64;
        let end = offset + len as u64;
        let (mut position, mut kept_end) = (offset, 0);
        while position < end {
            let (number, within) = (position / PAGE_BYTES, (position % PAGE_BYTES) as usize);
            let n = (PAGE_BYTES as usize - within).min((end - position) as usize);
            let page = self.pages.entry(number).or_insert_with(Page::hole);
            let mut block = page.copy();
            let data = Arc::make_mut(&mut block);
            source.fill(&mut data[within..within + n]);
            let touched = sector_mask(within, within + n);
            let mut mask = touched;
            for bit in (0..8usize).filter(|bit| touched & (1 << bit) != 0) {
                let range = bit * SECTOR_BYTES..(bit + 1) * SECTOR_BYTES;
                if keep((number * 8 + bit as u64).saturating_sub(first_sector)) {
                    kept_end = kept_end.max((number * PAGE_BYTES + range.end as u64).min(end));
                } else {
                    mask &= !(1 << bit);
                    data[range.clone()].copy_from_slice(&page.current()[range]);
                }
            }
            if mask != 0 {
                page.push(cause.op, cause.order, mask, false, block);
                self.dirty.insert(number);
            }
            position += n as u64;
        }
        self.extend(cause, kept_end);
    }

    /// Makes existing bytes of a range zeros, as a write would.
    pub(super) fn write_zeroes(&mut self, cause: Cause, offset: u64, len: u64) {
        let (end, first, last) = (
            offset + len,
            offset / PAGE_BYTES,
            (offset + len - 1) / PAGE_BYTES,
        );
        for (&number, page) in self.pages.range_mut(first..=last) {
            let from = offset.saturating_sub(number * PAGE_BYTES).min(PAGE_BYTES) as usize;
            let to = (end - number * PAGE_BYTES).min(PAGE_BYTES) as usize;
            let mut block = page.copy();
            Arc::make_mut(&mut block)[from..to].fill(0);
            page.push(cause.op, cause.order, sector_mask(from, to), false, block);
            self.dirty.insert(number);
        }
    }

    /// i_size becomes at least `to`.
    pub(super) fn extend(&mut self, cause: Cause, to: u64) {
        if to > self.size {
            self.push_size(cause, to);
        }
    }

    fn push_size(&mut self, cause: Cause, size: u64) {
        self.size = size;
        self.sizes.push(SizeChange {
            op: cause.op,
            order: cause.order,
            completed: IN_FLIGHT,
            size,
        });
        // The journal may commit at any time: the history stays bounded.
        if self.sizes.len() > 64 {
            self.persist_sizes(1);
        }
    }

    fn persist_sizes(&mut self, count: usize) {
        if let Some(last) = self.sizes.drain(..count).next_back() {
            self.durable_size = last.size;
            self.durable_order = last.order;
        }
    }

    /// ftruncate(2). Returns the number of pages freed.
    pub(super) fn set_len(&mut self, cause: Cause, len: u64) -> u64 {
        if len < self.size {
            let first = len / PAGE_BYTES;
            for (&number, page) in self.pages.range_mut(first..) {
                let from = len.saturating_sub(number * PAGE_BYTES) as usize;
                let mut block = page.copy();
                Arc::make_mut(&mut block)[from..].fill(0);
                page.push(
                    cause.op,
                    cause.order,
                    sector_mask(from, PAGE_BYTES as usize),
                    true,
                    block,
                );
                self.dirty.insert(number);
            }
        }
        if len != self.size {
            self.push_size(cause, len);
        }
        self.free_from(len.div_ceil(PAGE_BYTES))
    }

    /// The completion of what `op` did to pages from `first_page` on is handed out.
    pub(super) fn complete(&mut self, op: u64, first_page: u64, last_page: u64, seq: u64) {
        for number in self.dirty.range(first_page..=last_page) {
            if let Some(page) = self.pages.get_mut(number) {
                page.complete(Some(op), seq);
            }
        }
        for change in self.sizes.iter_mut().filter(|change| change.op == op) {
            change.completed = seq;
        }
    }

    /// The process is gone: what has happened is there for the next one to flush.
    pub(super) fn complete_all(&mut self, seq: u64) {
        for number in &self.dirty {
            if let Some(page) = self.pages.get_mut(number) {
                page.complete(None, seq);
            }
        }
        for change in &mut self.sizes {
            if change.completed == IN_FLIGHT || change.completed == POISONED {
                change.completed = seq;
            }
        }
    }

    /// fdatasync(2) submitted when `covered_seq` was the last completion. `keep` may leave pages
    /// out (a flush cut by a crash).
    pub(super) fn flush(
        &mut self,
        covered_seq: u64,
        sizes_too: bool,
        mut keep: impl FnMut() -> bool,
    ) {
        if sizes_too {
            let covered = self
                .sizes
                .iter()
                .rposition(|change| change.completed <= covered_seq);
            self.persist_sizes(covered.map_or(0, |index| index + 1));
        }
        self.settle(0, u64::MAX, |page| {
            if keep() {
                page.settle_completed(covered_seq, sizes_too);
            }
        });
    }

    /// A write with RWF_DSYNC: its own bytes, and the size that shows them.
    pub(super) fn flush_op(&mut self, op: u64, offset: u64, len: u64) {
        let own = self.sizes.iter().rposition(|change| change.op == op);
        self.persist_sizes(own.map_or(0, |index| index + 1));
        if len > 0 {
            self.settle(
                offset / PAGE_BYTES,
                (offset + len - 1) / PAGE_BYTES,
                |page| page.settle_op(op),
            );
        }
    }

    fn settle(&mut self, first: u64, last: u64, mut each: impl FnMut(&mut Page)) {
        let mut clean = Vec::new();
        for number in self.dirty.range(first..=last) {
            let page = self.pages.get_mut(number).expect("a dirty page exists");
            each(page);
            if !page.is_dirty() {
                clean.push((*number, page.is_settled_hole()));
            }
        }
        for (number, is_hole) in clean {
            self.dirty.remove(&number);
            if is_hole {
                self.pages.remove(&number);
            }
        }
    }

    /// A flush that failed.
    pub(super) fn poison(&mut self, covered_seq: u64) {
        for number in &self.dirty {
            if let Some(page) = self.pages.get_mut(number) {
                page.poison(covered_seq);
            }
        }
        for change in self
            .sizes
            .iter_mut()
            .filter(|change| change.completed <= covered_seq)
        {
            change.completed = POISONED;
        }
    }

    pub(super) fn lose_power(
        &mut self,
        survival: u32,
        rng: &mut Rng,
        counters: &mut FaultCounters,
    ) {
        let history = self.sizes.len();
        let kept = match survival {
            0 => 0,
            256.. => history,
            _ => rng.below(history as u64 + 1) as usize,
        };
        counters.sizes_lost += u64::from(kept < history);
        self.persist_sizes(kept);
        self.sizes.clear();
        self.size = self.durable_size;
        for number in std::mem::take(&mut self.dirty) {
            let page = self.pages.get_mut(&number).expect("a dirty page exists");
            let toll = page.lose_power(self.durable_order, survival, rng);
            counters.sectors_kept += toll.kept;
            counters.sectors_lost += toll.lost;
        }
        drop(self.pages.split_off(&self.size.div_ceil(PAGE_BYTES)));
        let tail = (self.size % PAGE_BYTES) as usize;
        if tail > 0
            && let Some(page) = self.pages.get_mut(&(self.size / PAGE_BYTES))
        {
            page.set_settled(|block| block[tail..].fill(0));
        }
        self.late.clear();
        self.cached.clear();
    }

    /// Damage or repair from outside: durable at once. Bytes past the end are ignored.
    pub(super) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        let len = self.size.saturating_sub(offset).min(bytes.len() as u64) as usize;
        for (at, byte) in bytes[..len].iter().enumerate() {
            let position = offset + at as u64;
            let page = self
                .pages
                .entry(position / PAGE_BYTES)
                .or_insert_with(Page::hole);
            page.set_settled(|block| block[(position % PAGE_BYTES) as usize] = *byte);
        }
    }

    pub(super) fn allocated_pages(&self) -> u64 {
        self.allocated.iter().map(|(start, end)| end - start).sum()
    }

    /// Pages of `first..end` that are not allocated, and where the first `budget` of them end.
    pub(super) fn missing_pages(&self, first: u64, end: u64, budget: u64) -> (u64, u64) {
        let (mut missing, mut at, mut affordable_end) = (0, first, end);
        let before = self
            .allocated
            .range(..=first)
            .next_back()
            .map(|(s, e)| (*s, *e));
        let inside = self
            .allocated
            .range(first + 1..end.max(first + 1))
            .map(|(s, e)| (*s, *e));
        for (start, stop) in before.into_iter().chain(inside).chain([(end, end)]) {
            let gap = start.min(end).saturating_sub(at);
            if missing <= budget && missing + gap > budget {
                affordable_end = affordable_end.min(at + (budget - missing));
            }
            missing += gap;
            at = at.max(stop);
        }
        (missing, affordable_end)
    }

    /// Allocates `first..end`. Returns the number of new pages.
    pub(super) fn allocate(&mut self, first: u64, end: u64) -> u64 {
        if first >= end {
            return 0;
        }
        let (missing, _) = self.missing_pages(first, end, u64::MAX);
        if missing == 0 {
            return 0;
        }
        let (mut start, mut stop) = (first, end);
        if let Some((&s, &e)) = self.allocated.range(..first).next_back()
            && e >= first
        {
            (start, stop) = (s, stop.max(e));
        }
        let swallowed: Vec<u64> = self
            .allocated
            .range(start..=stop)
            .map(|(s, _)| *s)
            .collect();
        for key in swallowed {
            stop = stop.max(self.allocated.remove(&key).unwrap_or(stop));
        }
        self.allocated.insert(start, stop);
        missing
    }

    fn free_from(&mut self, page: u64) -> u64 {
        let cut = self.allocated.split_off(&page);
        let mut freed: u64 = cut.iter().map(|(start, end)| end - start).sum();
        if let Some((_, end)) = self.allocated.range_mut(..page).next_back()
            && *end > page
        {
            freed += *end - page;
            *end = page;
        }
        freed
    }
}
