//! Cut: the log ends earlier than it did. Nothing that was cut ever comes back.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::File;

use super::{CUTS_KEPT, Log, LogError, LogInner};
use crate::index::IndexBuilder;
use crate::log::files::{SNAPSHOT_BYTES_MAX, unlink_if_there};
use crate::log::open::{feed, read_if_there, read_partial_block};
use crate::log::roll::segment_options;
use crate::log::scan::{Found, LOOKUP_BYTES, SCAN_BYTES, Scanner};
use crate::log::segment::{
    INDEX, LOG, OpenSegment, SNAPSHOT, SealedSegment, SegmentFile, TIME_INDEX, TXN_INDEX,
    parse_segment_name, segment_path,
};
use crate::producer_state::{ProducerState, Truncated};

/// Where the log will end.
struct CutPoint {
    base: i64,
    file: File,
    position: u64,
    offset: i64,
    index: IndexBuilder,
}

impl Log {
    /// Cuts the log so that it ends at `offset`, or at the base offset of the batch that holds it;
    /// not below the log start. Durable when it returns: nothing that was cut is ever read again,
    /// and checkpoints above the new end were lowered first (through the shard's
    /// [`crate::shard::CheckpointSink`]). Appends wait meanwhile; waits for what was cut fail.
    pub async fn truncate_to(&self, offset: i64) -> Result<(), LogError> {
        let log = self.0.clone();
        let task = self
            .0
            .rt
            .spawn_vital("log cut", async move { log.cut(offset).await });
        task.await.unwrap_or(Err(LogError::Closed))
    }
}

impl LogInner {
    async fn cut(self: &Rc<Self>, offset: i64) -> Result<(), LogError> {
        let _turn = self.gate.lock().await;
        let _maintenance = self.maintenance.lock().await;
        self.check()?;
        self.wait_for_roll().await;
        self.wait_sealed().await?;
        let active = self.state.borrow().active();
        self.settle(&active).await?;
        // No flush begins from here on, and one that ends moves no mark.
        self.state.borrow_mut().cutting = true;
        if let Err(error) = self.wait_no_flush().await {
            self.state.borrow_mut().cutting = false;
            return Err(error);
        }
        let offset = offset.max(self.state.borrow().marks.log_start);
        let log_end = self.state.borrow().marks.log_end;
        let result = if offset >= log_end {
            Ok(())
        } else {
            self.cut_settled(&active, offset).await
        };
        self.state.borrow_mut().cutting = false;
        self.advance();
        result
    }

    async fn wait_no_flush(&self) -> Result<(), LogError> {
        loop {
            let changed = self.segments_changed.notified();
            self.check()?;
            if self.state.borrow().flushes_in_flight == 0 {
                return Ok(());
            }
            changed.await;
        }
    }

    async fn cut_settled(
        self: &Rc<Self>,
        active: &Rc<OpenSegment>,
        offset: i64,
    ) -> Result<(), LogError> {
        // Up to here nothing of the log changes: a full disk refuses the cut and the log lives on.
        let point = match self.find_cut(active, offset).await {
            Ok(point) => point,
            Err(error) => return Err(self.soft_failure("cut", &error)),
        };
        let end = point.offset;
        // Whoever writes the checkpoints looks after their directory: nothing of this log failed.
        let lowered = self.lower_checkpoints(end).await;
        lowered.map_err(|error| LogError::io("cut: checkpoints", &error))?;
        self.shard.count(|c| {
            c.cuts += 1;
            c.cuts_inside_batch += u64::from(end < offset);
        });
        self.lower_marks(end);
        // Half a cut is no state to go on from.
        self.cut_files(point)
            .await
            .map_err(|error| self.fail("cut", &error))
    }

    async fn lower_checkpoints(&self, end: i64) -> io::Result<()> {
        let marks = self.state.borrow().marks.get();
        let Some(sink) = self
            .shard
            .sink()
            .filter(|_| marks.recovery_point > end || marks.high_watermark > end)
        else {
            return Ok(());
        };
        let (recovery_point, high_watermark) =
            (marks.recovery_point.min(end), marks.high_watermark.min(end));
        sink.lower(&self.topic, self.partition, recovery_point, high_watermark)
            .await
    }

    async fn cut_files(self: &Rc<Self>, point: CutPoint) -> io::Result<()> {
        let end = point.offset;
        let _small_files = self.small_files.lock().await;
        self.drop_later_files(point.base, end).await?;
        point.file.ftruncate(point.position).await?;
        point.file.fdatasync().await?;
        let dir = self.dir.borrow().clone();
        self.rt.sync_dir(&dir).await?;
        self.become_active(point).await?;
        self.reload_producers(end).await
    }

    /// The segment and the batch boundary at which a log that ends at or below `offset` ends.
    async fn find_cut(
        self: &Rc<Self>,
        active: &Rc<OpenSegment>,
        offset: i64,
    ) -> io::Result<CutPoint> {
        let sealed = self
            .state
            .borrow()
            .sealed
            .range(..=offset)
            .next_back()
            .map(|(_, s)| s.clone());
        let (base, file, size, mut index) = match sealed {
            Some(sealed) if offset < active.base_offset => {
                let path = segment_path(&self.dir.borrow(), sealed.base_offset, LOG);
                let file = self
                    .rt
                    .open(path, segment_options(self.shard.limits().direct, true))
                    .await?;
                let read = self.sealed_index(&sealed, &file).await?;
                let (index, _) = IndexBuilder::resume(
                    read.offsets.clone(),
                    read.times.clone(),
                    self.index_interval(),
                );
                (sealed.base_offset, file, sealed.size, index)
            }
            _ => (
                active.base_offset,
                self.file(active).await?,
                active.size(),
                active.index.borrow().clone(),
            ),
        };
        let mut position = u64::from(index.truncate_to(offset));
        let mut scanner = Scanner::new(&self.rt, file.clone(), size, LOOKUP_BYTES);
        let mut end = base;
        loop {
            match scanner.header(position).await? {
                Found::Batch(header) if header.next_offset() <= offset => {
                    feed(&mut index, position, &header);
                    position += header.size_bytes() as u64;
                    end = header.next_offset();
                }
                Found::Batch(header) => {
                    // A hole below this batch is no record of ours.
                    end = header.base_offset.min(offset).max(end);
                    break;
                }
                Found::End => {
                    end = end.max(offset);
                    break;
                }
                Found::Bad(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            }
        }
        // The log start may lie inside the batch that goes; it never goes back.
        let end = end.max(self.state.borrow().marks.log_start);
        Ok(CutPoint {
            base,
            file,
            position,
            offset: end,
            index,
        })
    }

    /// The state of the shorter log, before its files are: no reader sees what goes.
    fn lower_marks(&self, end: i64) {
        {
            let mut state = self.state.borrow_mut();
            state.marks.truncate_to(end);
            state.flush.truncate_to(end);
            while state.flush_ends.back().is_some_and(|&wanted| wanted > end) {
                state.flush_ends.pop_back();
            }
            state.flush_submitted = state.flush_submitted.min(end);
            state.flush_urgent_end = state.flush_urgent_end.min(end);
            state.idle_end = state.idle_end.min(end);
            state.cut_generation += 1;
            let generation = state.cut_generation;
            state.cuts.push_back((generation, end));
            if state.cuts.len() > CUTS_KEPT {
                state.cuts.pop_front();
            }
            state.epochs_changed |= state.epochs.truncate_from_end(end);
        }
        self.tail.clear();
        self.tail.set_written_end(end);
        self.end_waits(end);
    }

    /// Removes every later segment, and indexes and snapshots that speak of what goes.
    async fn drop_later_files(&self, base: i64, end: i64) -> io::Result<()> {
        let dir = self.dir.borrow().clone();
        let mut doomed: Vec<(i64, String)> = Vec::new();
        for entry in self.rt.read_dir(&dir).await? {
            let Some((offset, suffix)) = parse_segment_name(&entry.name) else {
                continue;
            };
            let is_doomed = match suffix {
                LOG | TXN_INDEX => offset > base,
                INDEX | TIME_INDEX => offset >= base,
                SNAPSHOT => offset > end,
                _ => false,
            };
            if is_doomed {
                doomed.push((offset, entry.name));
            }
        }
        // From the last to the first: a crash on the way leaves no hole.
        doomed.sort_unstable();
        for (_, name) in doomed.iter().rev() {
            unlink_if_there(&self.rt, &dir.join(name)).await?;
        }
        self.rt.sync_dir(&dir).await
    }

    /// The cut segment takes the appends.
    async fn become_active(self: &Rc<Self>, point: CutPoint) -> io::Result<()> {
        let flushed_end = point.offset;
        let partial = read_partial_block(&self.rt, &point.file, point.position).await?;
        let path = segment_path(&self.dir.borrow(), point.base, LOG);
        let options = segment_options(self.shard.limits().direct, true);
        let shared = SegmentFile::new(point.base, path, false, options, None);
        let segment = OpenSegment::new(shared, point.position, point.offset, partial, point.index);
        self.set_roll_chance(&segment);
        let (gone, open) = {
            let mut state = self.state.borrow_mut();
            let gone = state.sealed.split_off(&point.base);
            let open = std::mem::take(&mut state.open);
            state.open.push_back(segment);
            // All that is left was written before the fdatasync of the cut, or sealed.
            state.marks.set_flushed_end(point.offset);
            state.flush.on_flushed(point.offset);
            state.flush_submitted = point.offset;
            state.flush_ends.clear();
            (gone, open)
        };
        let sealed = gone.values().filter_map(|s| s.file.borrow().upgrade());
        let files: Vec<Arc<SegmentFile>> = sealed
            .chain(open.iter().map(|s| s.shared.clone()))
            .collect();
        for file in files {
            file.next_generation();
            self.shard.forget_open(&file);
        }
        self.written_waiters.wake(flushed_end);
        self.flushed_waiters.wake(flushed_end);
        self.call_progress();
        Ok(())
    }

    /// Producer state of the shorter log: from memory, or from a snapshot and the batches behind it.
    async fn reload_producers(self: &Rc<Self>, end: i64) -> io::Result<()> {
        if self.state.borrow_mut().producers.truncate_to(end) == Truncated::Kept {
            return Ok(());
        }
        let dir = self.dir.borrow().clone();
        let first = {
            let state = self.state.borrow();
            state
                .sealed
                .keys()
                .next()
                .copied()
                .unwrap_or(state.active().base_offset)
        };
        let mut producers = self
            .snapshot_between(first, end)
            .await?
            .unwrap_or_else(|| ProducerState::new(first));
        let from = producers.end_offset();
        let segments: Vec<(i64, u64)> = {
            let state = self.state.borrow();
            let mut all: Vec<&Rc<SealedSegment>> = state.sealed.values().collect();
            all.retain(|s| s.end_offset.get() > from);
            let mut all: Vec<(i64, u64)> = all.iter().map(|s| (s.base_offset, s.size)).collect();
            all.push((state.active().base_offset, state.active().size()));
            all
        };
        for (base, size) in segments {
            let options = segment_options(self.shard.limits().direct, false);
            let file = self.rt.open(segment_path(&dir, base, LOG), options).await?;
            let mut scanner = Scanner::new(&self.rt, file, size, SCAN_BYTES);
            let mut position = 0;
            loop {
                match scanner.header(position).await? {
                    Found::End => break,
                    Found::Bad(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
                    Found::Batch(header) => {
                        if header.base_offset >= producers.end_offset() {
                            producers.on_batch(&header);
                        }
                        position += header.size_bytes() as u64;
                    }
                }
                self.rt.yield_if_needed().await;
            }
        }
        self.state.borrow_mut().producers = producers;
        Ok(())
    }

    /// The newest snapshot in a range of offsets. One below the first segment does not count: what
    /// producers wrote between them is not known.
    async fn snapshot_between(&self, first: i64, end: i64) -> io::Result<Option<ProducerState>> {
        let dir = self.dir.borrow().clone();
        let mut offsets: Vec<i64> = self
            .rt
            .read_dir(&dir)
            .await?
            .iter()
            .filter_map(|e| parse_segment_name(&e.name))
            .filter(|&(offset, suffix)| suffix == SNAPSHOT && (first..=end).contains(&offset))
            .map(|(offset, _)| offset)
            .collect();
        offsets.sort_unstable();
        let expiration_ms = self.config.borrow().producer_id_expiration_ms;
        for &offset in offsets.iter().rev() {
            let path = segment_path(&dir, offset, SNAPSHOT);
            let Some(bytes) = read_if_there(&self.rt, &path, SNAPSHOT_BYTES_MAX).await? else {
                continue;
            };
            let now_ms = self.rt.wall_clock_ms();
            if let Ok(producers) =
                ProducerState::decode_snapshot(offset, &bytes, now_ms, expiration_ms)
            {
                return Ok(Some(producers));
            }
        }
        Ok(None)
    }
}
