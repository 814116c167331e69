//! From one segment to the next: prepare the next file, roll, seal the old one.
//!
//! `written_end` enters the next file only after the old one's ftruncate to its exact size
//! returned, `flushed_end` only after its fdatasync and the directory's fsync: recovery takes a
//! segment that is followed by another and has bytes past its last batch for torn.

use std::io;
use std::rc::Rc;

use corelog_runtime::{Advice, FallocateMode, File, OpenOptions};

use super::{AppendError, LogError, LogInner};
use crate::config::LogConfig;
use crate::index::IndexBuilder;
use crate::log::api::{is_no_space, is_unsupported};
use crate::log::files::replace_derived_files;
use crate::log::preparer::{RESERVE_STEP_BYTES, is_refusal, no_space};
use crate::log::read::Segment;
use crate::log::scan::{LOOKUP_BYTES, Scanner};
use crate::log::segment::{
    INDEX, LOG, OpenSegment, PREPARED_NAME, SNAPSHOT, SealedSegment, SegmentFile, TIME_INDEX,
    segment_path,
};

/// Bytes allocated for the next file before its roll, at least.
const NEXT_FILE_BYTES: u64 = 1 << 20;
/// Largest file position a batch may begin at: index positions are 31 bits wide.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// The file of the next segment, under its temporary name.
pub(crate) enum NextFile {
    None,
    Making,
    /// With the bytes allocated, durably.
    Ready(File, u64),
}

/// How segment files are opened.
pub(crate) fn segment_options(direct: bool, write: bool) -> OpenOptions {
    OpenOptions {
        read: true,
        write,
        direct,
        ..OpenOptions::default()
    }
}

impl LogInner {
    /// Whether a batch belongs into a new segment.
    pub fn must_roll(
        &self,
        active: &OpenSegment,
        config: &LogConfig,
        records: i32,
        bytes: u64,
    ) -> bool {
        let size = active.size();
        if size == 0 {
            return false;
        }
        let last_offset = active.end_offset.get() + i64::from(records) - 1;
        let age_ms = active
            .first_append_ms
            .get()
            .map_or(0, |at| self.rt.wall_clock_ms().saturating_sub(at));
        size + bytes > config.segment_bytes.min(SEGMENT_BYTES_MAX)
            || age_ms >= i64::try_from(roll_after_ms(active, config)).unwrap_or(i64::MAX)
            || !active
                .index
                .borrow()
                .has_room_for(last_offset, size, config.segment_index_bytes)
    }

    /// Waits for a roll under way; true when there was one.
    pub async fn wait_for_roll(&self) -> bool {
        let mut waited = false;
        loop {
            let changed = self.segments_changed.notified();
            if !self.state.borrow().rolling {
                return waited;
            }
            waited = true;
            changed.await;
        }
    }

    /// Makes a new active segment at the log's end. The caller holds the gate.
    pub async fn roll(self: &Rc<Self>) -> Result<(), AppendError> {
        self.roll_with(NEXT_FILE_BYTES).await
    }

    /// The same, with `least` bytes allocated ahead: none when no append is at hand.
    pub async fn roll_with(self: &Rc<Self>, least: u64) -> Result<(), AppendError> {
        self.state.borrow_mut().rolling = true;
        let log = self.clone();
        // A task of its own: the append that asked for it may go away.
        let task = self.rt.spawn_vital("log roll", async move {
            let result = log.roll_now(least).await;
            log.state.borrow_mut().rolling = false;
            log.segments_changed.notify_all();
            result
        });
        match task.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) if is_refusal(&error) => Err(AppendError::NoSpace),
            Some(Err(_)) if self.state.borrow().closed => Err(AppendError::Closed),
            Some(Err(error)) => {
                let why = self.fail("roll", &error);
                Err(AppendError::DirOffline(why.to_string().into()))
            }
            None => Err(AppendError::Closed),
        }
    }

    async fn roll_now(self: &Rc<Self>, least: u64) -> io::Result<()> {
        // One seal at a time: its writes bound what may be lost to one torn segment.
        loop {
            let changed = self.segments_changed.notified();
            if self.check().is_err() {
                return Err(io::Error::other("the log stopped"));
            }
            let is_sealing = self.state.borrow().open.len() > 1;
            let is_making = matches!(self.state.borrow().next_file, NextFile::Making);
            if !is_sealing && !is_making {
                break;
            }
            changed.await;
        }
        let next = std::mem::replace(&mut self.state.borrow_mut().next_file, NextFile::None);
        let (file, allocated_end) = match next {
            NextFile::Ready(file, allocated_end) => (file, allocated_end),
            _ => self.make_next_file(least).await?,
        };
        let base_offset = self.state.borrow().marks.log_end;
        let dir = self.dir.borrow().clone();
        let path = segment_path(&dir, base_offset, LOG);
        self.rt.rename(dir.join(PREPARED_NAME), &path).await?;
        let options = segment_options(self.shard.limits().direct, true);
        let handle = Some(file.handle().clone());
        let shared = SegmentFile::new(base_offset, path, false, options, handle);
        let interval = self.index_interval();
        let index = IndexBuilder::new(base_offset, interval);
        let segment = OpenSegment::new(shared, 0, base_offset, Vec::new(), index);
        segment.prepared_end.set(allocated_end.min(NEXT_FILE_BYTES));
        segment.allocated_end.set(allocated_end);
        segment.durable_len.set(allocated_end);
        segment.entered.set(false);
        segment.flush_entered.set(false);
        self.set_roll_chance(&segment);
        let (old, snapshot) = {
            let mut state = self.state.borrow_mut();
            let old = state.active();
            // Rates carry over: a busy partition prepares large steps at once.
            segment.prepare_step.set(old.prepare_step.get());
            old.rolled.set(true);
            state.open.push_back(segment.clone());
            (old, state.producers.encode_snapshot())
        };
        self.pump();
        let is_queued = old.writer.borrow().has_pending();
        self.shard.count(|c| {
            c.rolls += 1;
            c.rolls_with_queued_write += u64::from(is_queued);
        });
        let log = self.clone();
        self.background("log seal", async move {
            if let Err(error) = log.seal(&old, &segment, snapshot).await {
                log.fail(format_args!("seal of segment {}", old.base_offset), &error);
            }
        });
        Ok(())
    }

    /// Ends the old segment: exact size, durable, indexed.
    async fn seal(
        self: &Rc<Self>,
        old: &Rc<OpenSegment>,
        next: &Rc<OpenSegment>,
        snapshot: Vec<u8>,
    ) -> io::Result<()> {
        if self.settle(old).await.is_err() {
            // The log failed; its first reason is kept.
            return Ok(());
        }
        let size = old.size();
        let file = self.file(old).await?;
        file.ftruncate(size).await?;
        next.entered.set(true);
        self.advance();
        let target = old.writer.borrow().flush_target();
        file.fdatasync().await?;
        let dir = self.dir.borrow().clone();
        self.rt.sync_dir(&dir).await?;
        old.writer.borrow_mut().on_flushed(target);
        next.flush_entered.set(true);
        self.advance();
        self.pump();
        let files = {
            let mut index = old.index.borrow_mut();
            index.seal();
            vec![
                (
                    segment_path(&dir, old.base_offset, INDEX),
                    index.offsets().encode(),
                ),
                (
                    segment_path(&dir, old.base_offset, TIME_INDEX),
                    index.times().encode(),
                ),
                (segment_path(&dir, next.base_offset, SNAPSHOT), snapshot),
            ]
        };
        {
            let _turn = self.small_files.lock().await;
            replace_derived_files(&self.rt, &dir, files).await?;
        }
        // Sendfile shall begin with no stale page. A hint: a refusal loses nothing.
        let _hint = file.fadvise(Advice::DontNeed, 0, 0).await;
        old.shared.set_sealed();
        old.writer.borrow_mut().release_memory();
        let sealed = SealedSegment::new(&self.rt, old.base_offset, next.base_offset, size);
        *sealed.file.borrow_mut() = std::sync::Arc::downgrade(&old.shared);
        self.shard.keep_open(&old.shared);
        {
            let mut state = self.state.borrow_mut();
            state.open.pop_front();
            state.sealed.insert(sealed.base_offset, sealed);
        }
        self.segments_changed.notify_all();
        self.pump_flush();
        Ok(())
    }

    /// Waits until nothing of a segment is pending or in flight, its preparer included. Fails when
    /// the log fails meanwhile.
    pub async fn settle(self: &Rc<Self>, segment: &Rc<OpenSegment>) -> Result<(), LogError> {
        loop {
            let progress = segment.progress.notified();
            {
                let writer = segment.writer.borrow();
                if writer.is_settled() && !writer.has_writes_in_flight() && !segment.preparing.get()
                {
                    return Ok(());
                }
            }
            if let Some(why) = &self.state.borrow().failed {
                return Err(LogError::Io(why.clone()));
            }
            progress.await;
        }
    }

    /// Starts to make the next file ahead of the roll.
    pub fn prepare_next_file(self: &Rc<Self>) {
        {
            let mut state = self.state.borrow_mut();
            if state.rolling || !matches!(state.next_file, NextFile::None) {
                return;
            }
            state.next_file = NextFile::Making;
        }
        let log = self.clone();
        self.background("log next file", async move {
            let next = match log.make_next_file(NEXT_FILE_BYTES).await {
                Ok((file, end)) => NextFile::Ready(file, end),
                Err(error) => {
                    // After a refusal the roll tries again, and reports.
                    if !is_refusal(&error) {
                        log.fail("the next segment's file", &error);
                    }
                    NextFile::None
                }
            };
            log.state.borrow_mut().next_file = next;
            log.segments_changed.notify_all();
        });
    }

    async fn make_next_file(&self, least: u64) -> io::Result<(File, u64)> {
        let uses_reserve = self.config.borrow().uses_reserve;
        loop {
            // A file without space for appends is made on a full disk too.
            if least > 0 && self.is_out_of_space() {
                return Err(no_space());
            }
            match self.try_next_file(least).await {
                Err(error) if is_no_space(&error) && self.make_space(uses_reserve).await => {}
                result => return result,
            }
        }
    }

    async fn try_next_file(&self, least: u64) -> io::Result<(File, u64)> {
        let path = self.dir.borrow().join(PREPARED_NAME);
        let options = OpenOptions {
            create: true,
            truncate: true,
            ..segment_options(self.shard.limits().direct, true)
        };
        let file = self.rt.open(path, options).await?;
        if least == 0 {
            file.fdatasync().await?;
            return Ok((file, 0));
        }
        let step = self.state.borrow().active().prepare_step.get();
        let segment_bytes = self.config.borrow().segment_bytes.next_multiple_of(4096);
        let (least, step) = if self.is_dir_full() {
            (RESERVE_STEP_BYTES.min(segment_bytes), 0)
        } else {
            (least.min(segment_bytes), step)
        };
        let mut bytes = self
            .allocation_bytes(step)
            .await
            .clamp(least, segment_bytes);
        let mut result = file.fallocate(FallocateMode::Extend, 0, bytes).await;
        if result.as_ref().is_err_and(is_no_space) && bytes > least {
            bytes = least;
            result = file.fallocate(FallocateMode::Extend, 0, bytes).await;
        }
        if is_unsupported(&result) {
            bytes = least;
            result = self.fill(&file, 0, bytes).await;
        }
        result?;
        if self.profits_from_zeros() {
            self.write_zeros(&file, 0, least, || false).await?;
        }
        file.fdatasync().await?;
        Ok((file, bytes))
    }

    pub fn index_interval(&self) -> u64 {
        self.config.borrow().index_interval_bytes
    }

    /// Finds out how old a segment is that was opened with batches in it: its first batch tells, as
    /// in Kafka.
    pub async fn learn_age(self: &Rc<Self>, active: &Rc<OpenSegment>) {
        if active.size() == 0 || active.first_append_ms.get().is_some() {
            return;
        }
        let first = async {
            let view = self.view(&Segment::Open(active.clone())).await?;
            let file = view.file.clone();
            let mut scanner = Scanner::new(&self.rt, file, view.size, LOOKUP_BYTES);
            self.header_at(&mut scanner, &view, 0).await
        };
        let now_ms = self.rt.wall_clock_ms();
        let since = match first.await {
            Ok(Some(header)) if header.max_timestamp >= 0 => header.max_timestamp.min(now_ms),
            _ => now_ms,
        };
        active.first_append_ms.set(Some(since));
    }

    /// Draws the chance of a new active segment.
    pub fn set_roll_chance(&self, segment: &OpenSegment) {
        segment.roll_chance.set(self.rt.random_u64());
    }
}

/// `segment.ms` less a chance part of `segment.jitter.ms`, as they are set now.
fn roll_after_ms(segment: &OpenSegment, config: &LogConfig) -> u64 {
    let jitter = match config.segment_jitter_ms.min(config.segment_ms) {
        0 => 0,
        jitter => segment.roll_chance.get() % jitter,
    };
    config.segment_ms - jitter
}
