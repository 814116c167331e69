//! Read plans: which bytes of which files hold the batches a reader asked for.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::File;

use super::{FileRange, Log, LogInner, ReadError, ReadPlan};
use crate::index::{IndexBuilder, OffsetIndex};
use crate::log::files::replace_derived_files;
use crate::log::open::{feed, read_indexes};
use crate::log::roll::segment_options;
use crate::log::scan::{Found, LOOKUP_BYTES, SCAN_BYTES, Scanner};
use crate::log::segment::{
    INDEX, LOG, OpenSegment, SealedIndex, SealedSegment, SegmentFile, TIME_INDEX, open_or_deleted,
    segment_path,
};

/// A segment as a reader finds it.
pub(crate) enum Segment {
    Open(Rc<OpenSegment>),
    Sealed(Rc<SealedSegment>),
}

/// What a reader needs of a segment: its file, and its written, whole batches.
pub(crate) struct View {
    pub shared: Arc<SegmentFile>,
    pub generation: u64,
    pub file: File,
    /// Bytes up to `end_offset`.
    pub size: u64,
    pub end_offset: i64,
    pub index: IndexView,
}

/// The offset index of a view.
pub(crate) enum IndexView {
    Open(Rc<OpenSegment>),
    Sealed(Rc<SealedIndex>),
}

impl IndexView {
    fn with<T>(&self, f: impl FnOnce(&OffsetIndex) -> T) -> T {
        match self {
            Self::Open(segment) => f(segment.index.borrow().offsets()),
            Self::Sealed(index) => f(&index.offsets),
        }
    }

    /// Where to begin to scan for `offset`.
    pub fn position_for(&self, offset: i64) -> u64 {
        self.with(|index| u64::from(index.position_for(offset)))
    }

    /// The largest known batch boundary at or below `size` bytes that no batch past `limit_offset`
    /// begins or lies before.
    pub fn boundary(&self, base: i64, size: u64, limit_offset: i64) -> u64 {
        self.with(|index| {
            let entries = index.entries();
            let fits = |e: &crate::index::OffsetEntry| {
                u64::from(e.position) <= size && base + i64::from(e.relative_offset) <= limit_offset
            };
            let n = entries.partition_point(fits);
            n.checked_sub(1)
                .map_or(0, |i| u64::from(entries[i].position))
        })
    }
}

impl Log {
    /// Plans a read of whole batches from the one that holds `from` on: about `max_bytes` of them
    /// (at least one if `min_one_batch`), none at or past `limit_offset` nor past what is written.
    /// A plan may end before `max_bytes` are reached, at a segment's end at the latest; it is empty
    /// only when nothing may be read. Fails with `OffsetOutOfRange` outside log start and end.
    pub async fn read(
        &self,
        from: i64,
        max_bytes: usize,
        min_one_batch: bool,
        limit_offset: i64,
    ) -> Result<ReadPlan, ReadError> {
        let log = &self.0;
        loop {
            let generation = log.state.borrow().cut_generation;
            let result = log
                .plan(from, max_bytes as u64, min_one_batch, limit_offset)
                .await;
            // A cut on the way: what was found may be gone. Gone below the log start: out of range.
            if log.state.borrow().cut_generation == generation {
                if matches!(result, Err(ReadError::Stale)) {
                    log.check_range(from, limit_offset)?;
                }
                return result;
            }
        }
    }
}

impl LogInner {
    /// Checks `from` against the marks; `Ok(limit)` is how far may be read.
    pub fn check_range(&self, from: i64, limit_offset: i64) -> Result<i64, ReadError> {
        let state = self.state.borrow();
        if state.closed {
            return Err(ReadError::Closed);
        }
        let (log_start, log_end) = (state.marks.log_start, state.marks.log_end);
        if from < log_start || from > log_end {
            return Err(ReadError::OffsetOutOfRange { log_start, log_end });
        }
        Ok(limit_offset.min(state.marks.written_end))
    }

    async fn plan(
        self: &Rc<Self>,
        from: i64,
        max_bytes: u64,
        min_one: bool,
        limit_offset: i64,
    ) -> Result<ReadPlan, ReadError> {
        let limit = self.check_range(from, limit_offset)?;
        let empty = ReadPlan {
            next_offset: Some(from),
            ..ReadPlan::default()
        };
        if from >= limit {
            return Ok(empty);
        }
        if let Some(run) = self.tail.find(from, max_bytes, min_one, limit) {
            self.shard.count(|c| c.tail_hits += 1);
            if run.len == 0 {
                return Ok(empty);
            }
            let shared = self.shared_of(run.segment).await?;
            let generation = shared.generation();
            let range = FileRange {
                segment: shared,
                generation,
                position: run.position,
                len: run.len as usize,
            };
            return Ok(ReadPlan {
                bytes: range.len,
                ranges: vec![range],
                next_offset: Some(run.end_offset),
            });
        }
        self.shard.count(|c| c.tail_misses += 1);
        let mut from = from;
        loop {
            let Some(segment) = self.segment_of(from) else {
                return Ok(empty);
            };
            let view = self.view(&segment).await?;
            if from < view.end_offset {
                if let Some(plan) = self
                    .plan_on_disk(&view, from, max_bytes, min_one, limit)
                    .await?
                {
                    return Ok(plan);
                }
                return Ok(empty);
            }
            // A hole at the end of a segment: the next one goes on.
            let next = self.next_base(view.shared.base_offset());
            match next.filter(|&base| base < limit && base >= from) {
                Some(base) if base > from => from = base,
                _ => return Ok(empty),
            }
        }
    }

    /// The segment whose range holds `offset`.
    pub fn segment_of(&self, offset: i64) -> Option<Segment> {
        let state = self.state.borrow();
        if let Some(open) = state.open.iter().rev().find(|s| s.base_offset <= offset) {
            return Some(Segment::Open(open.clone()));
        }
        state
            .sealed
            .range(..=offset)
            .next_back()
            .map(|(_, s)| Segment::Sealed(s.clone()))
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<Segment> {
        let state = self.state.borrow();
        let sealed = state.sealed.values().map(|s| Segment::Sealed(s.clone()));
        sealed
            .chain(state.open.iter().map(|s| Segment::Open(s.clone())))
            .collect()
    }

    fn next_base(&self, base: i64) -> Option<i64> {
        let state = self.state.borrow();
        let sealed = state.sealed.range(base + 1..).next().map(|(&b, _)| b);
        sealed.or_else(|| state.open.iter().map(|s| s.base_offset).find(|&b| b > base))
    }

    async fn shared_of(&self, base: i64) -> Result<Arc<SegmentFile>, ReadError> {
        match self.segment_of(base).ok_or(ReadError::Stale)? {
            Segment::Open(open) => Ok(open.shared.clone()),
            Segment::Sealed(sealed) => self.open_sealed(&sealed).await,
        }
    }

    pub async fn view(self: &Rc<Self>, segment: &Segment) -> Result<View, ReadError> {
        match segment {
            Segment::Open(open) => {
                let (size, end_offset) = open.written();
                let shared = open.shared.clone();
                let generation = shared.generation();
                let file = self.file(open).await.map_err(|error| {
                    self.read_error(
                        format_args!("cannot open segment {}", open.base_offset),
                        &error,
                    )
                })?;
                Ok(View {
                    shared,
                    generation,
                    file,
                    size,
                    end_offset,
                    index: IndexView::Open(open.clone()),
                })
            }
            Segment::Sealed(sealed) => {
                let shared = self.open_sealed(sealed).await?;
                let generation = shared.generation();
                let handle = shared.open_own(&self.rt).await;
                let handle = handle.map_err(|error| self.cannot_open(sealed, &error))?;
                if shared.last_use() == 0 {
                    // Others pushed it out meanwhile.
                    self.shard.keep_open(&shared);
                }
                let file = File::from_handle(&self.rt, handle);
                let index = self.sealed_index(sealed, &file).await;
                let index = index.map_err(|error| self.index_error(sealed, &error))?;
                let (size, end_offset) = (sealed.size, sealed.end_offset.get());
                Ok(View {
                    shared,
                    generation,
                    file,
                    size,
                    end_offset,
                    index: IndexView::Sealed(index),
                })
            }
        }
    }

    /// The file of a sealed segment, opened now or shared with those who have it open.
    async fn open_sealed(&self, sealed: &Rc<SealedSegment>) -> Result<Arc<SegmentFile>, ReadError> {
        let open = sealed.file.borrow().upgrade();
        if let Some(shared) = open {
            self.shard.keep_open(&shared);
            return Ok(shared);
        }
        let path = segment_path(&self.dir.borrow(), sealed.base_offset, LOG);
        let options = segment_options(self.shard.limits().direct, false);
        let file = match open_or_deleted(&self.rt, &path, options).await {
            Ok(file) => file,
            // It was unlinked after the reader had come for it.
            Err(error) if sealed.retired.get() && error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Stale);
            }
            Err(error) => return Err(self.cannot_open(sealed, &error)),
        };
        // Another reader may have been faster: ranges of one file share its generation.
        let open = sealed.file.borrow().upgrade();
        let shared = open.unwrap_or_else(|| {
            let handle = Some(file.handle().clone());
            let shared = SegmentFile::new(sealed.base_offset, path, true, options, handle);
            *sealed.file.borrow_mut() = Arc::downgrade(&shared);
            shared
        });
        self.shard.keep_open(&shared);
        Ok(shared)
    }

    /// A segment that the log has and that is not there is as unreadable as one the device refuses.
    fn cannot_open(&self, sealed: &SealedSegment, error: &io::Error) -> ReadError {
        let base = sealed.base_offset;
        let what = format!("cannot open segment {base}");
        let is_gone = error.kind() == io::ErrorKind::NotFound;
        if is_gone && !self.state.borrow().sealed.contains_key(&base) {
            return ReadError::Stale;
        }
        let error = self.read_error(what, error);
        if let (true, ReadError::Io(why)) = (is_gone, &error) {
            self.shard.tell_failed(&self.log_dir(), why);
        }
        error
    }

    /// An error of [`LogInner::sealed_index`].
    pub fn index_error(&self, sealed: &SealedSegment, error: &io::Error) -> ReadError {
        let base = sealed.base_offset;
        match error.kind() {
            io::ErrorKind::InvalidData => {
                ReadError::Corrupt(format!("segment {base}: {error}").into())
            }
            _ => self.read_error(format_args!("cannot index segment {base}"), error),
        }
    }

    /// The indexes of a sealed segment: from memory, from their files, or rebuilt from the log when
    /// the files are missing or cannot be right. `InvalidData` when the log holds no batch where one
    /// is due.
    pub async fn sealed_index(
        &self,
        sealed: &Rc<SealedSegment>,
        file: &File,
    ) -> io::Result<Rc<SealedIndex>> {
        if let Some(index) = &*sealed.index.borrow() {
            return Ok(index.clone());
        }
        let dir = self.dir.borrow().clone();
        let (base, end) = (sealed.base_offset, sealed.end_offset.get());
        let index = match read_indexes(&self.rt, &dir, base, sealed.size, end).await? {
            Some((offsets, times)) => SealedIndex { offsets, times },
            None => {
                let (offsets, times) = self.rebuild_index(base, sealed.size, file).await?;
                self.shard.count(|c| c.indexes_rebuilt += 1);
                let files = vec![
                    (segment_path(&dir, base, INDEX), offsets.encode()),
                    (segment_path(&dir, base, TIME_INDEX), times.encode()),
                ];
                let _turn = self.small_files.lock().await;
                // Beside a log that is going nothing may appear any more.
                if !sealed.retired.get() {
                    replace_derived_files(&self.rt, &dir, files).await?;
                }
                SealedIndex { offsets, times }
            }
        };
        let index = Rc::new(index);
        *sealed.index.borrow_mut() = Some(index.clone());
        Ok(index)
    }

    async fn rebuild_index(
        &self,
        base: i64,
        size: u64,
        file: &File,
    ) -> io::Result<(OffsetIndex, crate::index::TimeIndex)> {
        let mut index = IndexBuilder::new(base, self.index_interval());
        let mut scanner = Scanner::new(&self.rt, file.clone(), size, SCAN_BYTES);
        let mut position = 0;
        loop {
            match scanner.header(position).await? {
                Found::End => return Ok(index.finish()),
                Found::Bad(why) => {
                    let why = format!("at byte {position}: {why}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                Found::Batch(header) => {
                    feed(&mut index, position, &header);
                    position += header.size_bytes() as u64;
                }
            }
            self.rt.yield_if_needed().await;
        }
    }

    /// A plan from the headers on disk; `None` when the first batch may not be read.
    async fn plan_on_disk(
        &self,
        view: &View,
        from: i64,
        max_bytes: u64,
        min_one: bool,
        limit: i64,
    ) -> Result<Option<ReadPlan>, ReadError> {
        let _permit = self
            .shard
            .cold_reads
            .acquire(LOOKUP_BYTES.min(self.shard.limits().cold_read_bytes))
            .await;
        let mut scanner = Scanner::new(&self.rt, view.file.clone(), view.size, LOOKUP_BYTES);
        let mut start = view.index.position_for(from);
        let first = loop {
            let header = self.header_at(&mut scanner, view, start).await?;
            let Some(header) = header else {
                return Ok(None);
            };
            if header.next_offset() > from {
                break header;
            }
            start += header.size_bytes() as u64;
        };
        let base = view.shared.base_offset();
        let is_all = view.end_offset <= limit && view.size - start <= max_bytes;
        let (end, next_offset) = if is_all {
            (view.size, Some(view.end_offset))
        } else {
            let known =
                view.index
                    .boundary(base, start.saturating_add(max_bytes).min(view.size), limit);
            if known > start {
                (known, None)
            } else {
                let (mut end, mut next, mut header) = (start, first.base_offset, Some(first));
                while let Some(batch) = header {
                    let bytes = batch.size_bytes() as u64;
                    let fits = end - start + bytes <= max_bytes || (min_one && end == start);
                    if batch.next_offset() > limit || !fits {
                        break;
                    }
                    end += bytes;
                    next = batch.next_offset();
                    header = self.header_at(&mut scanner, view, end).await?;
                }
                (end, Some(next))
            }
        };
        self.shard
            .count(|c| c.cold_read_bytes += scanner.bytes_read);
        if end == start {
            return Ok(None);
        }
        let len = (end - start) as usize;
        let (segment, generation) = (view.shared.clone(), view.generation);
        let range = FileRange {
            segment,
            generation,
            position: start,
            len,
        };
        Ok(Some(ReadPlan {
            ranges: vec![range],
            bytes: len,
            next_offset,
        }))
    }

    /// The batch header at `position` of a view; `None` at its end.
    pub async fn header_at(
        &self,
        scanner: &mut Scanner,
        view: &View,
        position: u64,
    ) -> Result<Option<corelog_record::batch::BatchHeader>, ReadError> {
        let base = view.shared.base_offset();
        match scanner.header(position).await {
            Ok(Found::Batch(header)) => Ok(Some(header)),
            Ok(Found::End) => Ok(None),
            Ok(Found::Bad(why)) => Err(ReadError::Corrupt(
                format!("segment {base} at byte {position}: {why}").into(),
            )),
            Err(error) => Err(self.read_error(format_args!("cannot read segment {base}"), &error)),
        }
    }
}
