//! Making a log, opening one that was stopped cleanly, and putting its parts together.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use corelog_runtime::sync::{FifoMutex, Notify};
use corelog_runtime::{File, OpenOptions, Rt};

use super::{Log, LogError, LogInner, LogParams, RecoveryReport, State};
use crate::checkpoint_files::{PARTITION_METADATA, encode_partition_metadata};
use crate::flush_policy::FlushState;
use crate::guard::log_dir_of;
use crate::index::{IndexBuilder, OffsetIndex, TimeIndex};
use crate::leader_epochs::{self, LeaderEpochs};
use crate::log::files::{
    INDEX_BYTES_MAX, SNAPSHOT_BYTES_MAX, replace_files, set_aside, unlink_if_there,
};
use crate::log::recovery::recover;
use crate::log::roll::{NextFile, segment_options};
use crate::log::scan::{Found, LOOKUP_BYTES, Scanner};
use crate::log::segment::{
    DELETED, INDEX, LOG, OpenSegment, SNAPSHOT, SealedSegment, SegmentFile, TIME_INDEX, TXN_INDEX,
    parse_segment_name, segment_path,
};
use crate::log::tail::LogTail;
use crate::log::unlink::unlink_in_background;
use crate::log::waiters::Waiters;
use crate::log::writer::align_down;
use crate::log_dir::StartKind;
use crate::marks::LiveMarks;
use crate::producer_state::ProducerState;
use crate::shard::ShardStorage;

/// Largest epoch file read.
const EPOCHS_BYTES_MAX: usize = 16 << 20;

/// The parts of a log as they lie on disk, all of them flushed.
pub(crate) struct Parts {
    pub sealed: Vec<Rc<SealedSegment>>,
    pub active: Rc<OpenSegment>,
    pub epochs: LeaderEpochs,
    pub producers: ProducerState,
    pub report: RecoveryReport,
}

/// What opening needs to hand around.
pub(crate) struct Opening<'a> {
    pub rt: &'a Rt,
    pub shard: &'a Rc<ShardStorage>,
    pub params: &'a LogParams,
    /// Files that were deleted and wait to be unlinked.
    pub deleted: RefCell<Vec<PathBuf>>,
}

impl Log {
    /// Makes an empty log: the directory (its parent exists), `partition.metadata`, the first
    /// segment at `log_start`; all of it durable. Fails when the directory holds segments.
    pub async fn create(
        rt: &Rt,
        shard: &Rc<ShardStorage>,
        params: LogParams,
    ) -> Result<Log, LogError> {
        let opening = Opening {
            rt,
            shard,
            params: &params,
            deleted: RefCell::default(),
        };
        let parts = opening.create().await;
        let parts = parts.map_err(|error| opening.refused("cannot make", &error))?;
        Ok(assemble(rt, shard, &params, parts))
    }

    /// Opens a log. After anything but a clean stop it is recovered first: replayed from the
    /// recovery point, a torn tail cut, indexes and producer state rebuilt (R32). A directory
    /// without segments, as a crash during [`Log::create`] leaves it, becomes an empty log.
    pub async fn open(
        rt: &Rt,
        shard: &Rc<ShardStorage>,
        params: LogParams,
    ) -> Result<(Log, RecoveryReport), LogError> {
        let opening = Opening {
            rt,
            shard,
            params: &params,
            deleted: RefCell::default(),
        };
        let parts = opening.open().await;
        let parts = parts.map_err(|error| opening.refused("cannot open", &error))?;
        let report = parts.report.clone();
        let end = parts.active.end_offset.get();
        if (params.recovery_point > end || params.high_watermark > end)
            && let Some(sink) = shard.sink()
        {
            // What is appended past the end from now on was never flushed.
            let lowered = sink.lower(
                &params.topic,
                params.partition,
                params.recovery_point.min(end),
                params.high_watermark.min(end),
            );
            lowered
                .await
                .map_err(|error| LogError::io("cannot lower checkpoints", &error))?;
        }
        if report.replayed {
            shard.count(|c| {
                c.recoveries += 1;
                c.torn_tails += u64::from(report.bytes_cut > 0);
                c.damages += u64::from(report.damaged);
                c.indexes_rebuilt += u64::from(report.indexes_rebuilt);
            });
        }
        let deleted = opening.deleted.take();
        let log = assemble(rt, shard, &params, parts);
        unlink_in_background(rt, shard, deleted);
        Ok((log, report))
    }
}

impl Opening<'_> {
    /// An error of making or opening; what the device refuses is told to the directory's guard.
    fn refused(&self, what: &str, error: &io::Error) -> LogError {
        let dir = &self.params.dir;
        let what = format!("{what} {}", dir.display());
        self.shard.read_error(&log_dir_of(dir), &what, error);
        LogError::io(what, error)
    }

    async fn create(&self) -> io::Result<Parts> {
        self.rt.mkdir_all(&self.params.dir).await?;
        if !self.segment_bases().await?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the directory holds segments",
            ));
        }
        self.create_empty(self.params.log_start).await
    }

    /// An empty log at `base_offset` in a directory that exists.
    pub async fn create_empty(&self, base_offset: i64) -> io::Result<Parts> {
        let dir = &self.params.dir;
        let metadata = (
            dir.join(PARTITION_METADATA),
            encode_partition_metadata(&self.params.topic_id),
        );
        replace_files(self.rt, dir, vec![metadata]).await?;
        let path = segment_path(dir, base_offset, LOG);
        let options = OpenOptions {
            create_new: true,
            ..segment_options(self.shard.limits().direct, true)
        };
        let file = self.rt.open(&path, options).await?;
        self.rt.sync_dir(dir).await?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.rt.sync_dir(parent).await?;
        }
        let index = self.new_index(base_offset);
        Ok(Parts {
            sealed: Vec::new(),
            active: self
                .open_segment(file, base_offset, 0, base_offset, index)
                .await?,
            epochs: LeaderEpochs::new(),
            producers: ProducerState::new(base_offset),
            report: RecoveryReport::default(),
        })
    }

    async fn open(&self) -> io::Result<Parts> {
        let is_there = match self.rt.stat(&self.params.dir).await {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_there {
            return self.create().await;
        }
        let clean = match self.params.start {
            StartKind::Clean => self.open_clean().await?,
            StartKind::ProcessDeath | StartKind::Unclean => None,
        };
        let parts = match clean {
            Some(parts) => parts,
            None => recover(self).await?,
        };
        if parts.active.end_offset.get() < self.params.log_start {
            return self.restart_at_log_start(parts).await;
        }
        Ok(parts)
    }

    /// All that is left lies below the log start, which was durable, as was everything below it:
    /// files are missing, or a cut went to the log start. They are set aside, and the log begins
    /// anew where it has to: no offset is given twice.
    async fn restart_at_log_start(&self, parts: Parts) -> io::Result<Parts> {
        let (dir, log_start) = (&self.params.dir, self.params.log_start);
        let mut report = parts.report;
        tracing::warn!(
            topic = self.params.topic,
            partition = self.params.partition,
            log_start,
            log_end = parts.active.end_offset.get(),
            "the log ends below its start; it begins anew there"
        );
        drop(parts.active);
        for base in self.segment_bases().await?.into_iter().rev() {
            let path = segment_path(dir, base, LOG);
            if self.rt.stat(&path).await?.len == 0 {
                unlink_if_there(self.rt, &path).await?;
            } else if let Some(to) = set_aside(self.rt, &path, "aside").await? {
                report.set_aside.push(to.to_string_lossy().into_owned());
            }
            for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
                unlink_if_there(self.rt, &segment_path(dir, base, suffix)).await?;
            }
        }
        self.rt.sync_dir(dir).await?;
        let mut fresh = self.create_empty(log_start).await?;
        fresh.epochs = parts.epochs;
        if parts.producers.end_offset() == log_start {
            fresh.producers = parts.producers;
        }
        fresh.report = report;
        Ok(fresh)
    }

    /// Base offsets of the segment files, ascending. Notes files that wait to be unlinked.
    pub async fn segment_bases(&self) -> io::Result<Vec<i64>> {
        let entries = self.rt.read_dir(&self.params.dir).await?;
        let deleted = entries.iter().filter(|e| e.name.ends_with(DELETED));
        let deleted = deleted.map(|e| self.params.dir.join(&e.name));
        *self.deleted.borrow_mut() = deleted.collect();
        let mut bases: Vec<i64> = entries
            .iter()
            .filter_map(|e| parse_segment_name(&e.name))
            .filter(|&(_, suffix)| suffix == LOG)
            .map(|(base, _)| base)
            .collect();
        bases.sort_unstable();
        Ok(bases)
    }

    /// The fast way after a clean stop: only the end of the last segment is read. `None` when
    /// anything is not as a clean stop leaves it.
    async fn open_clean(&self) -> io::Result<Option<Parts>> {
        let dir = &self.params.dir;
        let bases = self.segment_bases().await?;
        let Some((&active_base, older)) = bases.split_last() else {
            return Ok(None);
        };
        let mut sealed = Vec::with_capacity(older.len());
        for (i, &base) in older.iter().enumerate() {
            let size = self.rt.stat(segment_path(dir, base, LOG)).await?.len;
            sealed.push(SealedSegment::new(self.rt, base, bases[i + 1], size));
        }
        let file = self.open_log_file(active_base, true).await?;
        let len = file.stat().await?.len;
        let Some((offsets, times)) = self.read_indexes(active_base, len, i64::MAX).await? else {
            return Ok(None);
        };
        let (mut index, from) = IndexBuilder::resume(offsets, times, self.index_interval());
        let mut scanner = Scanner::new(self.rt, file.clone(), len, LOOKUP_BYTES);
        let (mut position, mut end) = (u64::from(from), active_base);
        loop {
            match scanner.batch(position).await? {
                Found::End => break,
                Found::Bad(_) => return Ok(None),
                Found::Batch(header) if header.base_offset < end => return Ok(None),
                Found::Batch(header) => {
                    feed(&mut index, position, &header);
                    position += header.size_bytes() as u64;
                    end = header.next_offset();
                }
            }
        }
        // A cut that went to a log start inside a batch leaves the last batch below it.
        let log_end = end.max(self.params.log_start);
        if self.params.recovery_point != log_end {
            return Ok(None);
        }
        let Some(producers) = self.read_snapshot(log_end).await? else {
            return Ok(None);
        };
        let epochs = self.read_epochs(&mut Vec::new()).await?;
        let active = self
            .open_segment(file, active_base, len, end, index)
            .await?;
        Ok(Some(Parts {
            sealed,
            active,
            epochs,
            producers,
            report: RecoveryReport::default(),
        }))
    }

    pub async fn open_log_file(&self, base: i64, write: bool) -> io::Result<File> {
        let options = segment_options(self.shard.limits().direct, write);
        self.rt
            .open(segment_path(&self.params.dir, base, LOG), options)
            .await
    }

    /// An active segment over a file that ends at `len` bytes; reads its partial block back.
    pub async fn open_segment(
        &self,
        file: File,
        base: i64,
        len: u64,
        end_offset: i64,
        index: IndexBuilder,
    ) -> io::Result<Rc<OpenSegment>> {
        let partial = read_partial_block(self.rt, &file, len).await?;
        let path = segment_path(&self.params.dir, base, LOG);
        // Nobody appends yet: the file closes, and is opened by the first who does.
        let options = segment_options(self.shard.limits().direct, true);
        let shared = SegmentFile::new(base, path, false, options, None);
        Ok(OpenSegment::new(shared, len, end_offset, partial, index))
    }

    pub fn index_interval(&self) -> u64 {
        self.params.config.index_interval_bytes
    }

    pub fn new_index(&self, base: i64) -> IndexBuilder {
        IndexBuilder::new(base, self.index_interval())
    }

    async fn read_indexes(
        &self,
        base: i64,
        len: u64,
        end: i64,
    ) -> io::Result<Option<(OffsetIndex, TimeIndex)>> {
        read_indexes(self.rt, &self.params.dir, base, len, end).await
    }

    /// The producer snapshot at `offset`, if it is there and whole.
    pub async fn read_snapshot(&self, offset: i64) -> io::Result<Option<ProducerState>> {
        let path = segment_path(&self.params.dir, offset, SNAPSHOT);
        let Some(bytes) = read_if_there(self.rt, &path, SNAPSHOT_BYTES_MAX).await? else {
            return Ok(None);
        };
        let expiration_ms = self.params.config.producer_id_expiration_ms;
        Ok(
            ProducerState::decode_snapshot(offset, &bytes, self.rt.wall_clock_ms(), expiration_ms)
                .ok(),
        )
    }

    /// The epoch file; a bad one is set aside and what it said is learned from the batches.
    pub async fn read_epochs(&self, set_aside_names: &mut Vec<String>) -> io::Result<LeaderEpochs> {
        let path = self.params.dir.join(leader_epochs::FILE_NAME);
        let Some(bytes) = read_if_there(self.rt, &path, EPOCHS_BYTES_MAX).await? else {
            return Ok(LeaderEpochs::new());
        };
        match LeaderEpochs::decode(&path.to_string_lossy(), &bytes) {
            Ok(epochs) => Ok(epochs),
            Err(error) => {
                tracing::warn!(%error, "bad epoch file");
                if let Some(to) = set_aside(self.rt, &path, "bad").await? {
                    set_aside_names.push(to.to_string_lossy().into_owned());
                }
                Ok(LeaderEpochs::new())
            }
        }
    }
}

/// Feeds a batch found at `position` to an index.
pub(crate) fn feed(
    index: &mut IndexBuilder,
    position: u64,
    header: &corelog_record::batch::BatchHeader,
) {
    let bytes = u32::try_from(header.size_bytes()).expect("a batch's length field is an i32");
    if let Ok(position) = u32::try_from(position) {
        index.on_batch(position, bytes, header.last_offset(), header.max_timestamp);
    }
}

/// The bytes of a file's unfinished last block.
pub(crate) async fn read_partial_block(rt: &Rt, file: &File, len: u64) -> io::Result<Vec<u8>> {
    let start = align_down(len);
    let tail = (len - start) as usize;
    if tail == 0 {
        return Ok(Vec::new());
    }
    let (result, buf) = file.read_at(rt.pool().get(4096), start, 4096).await;
    let read = result?;
    if read < tail {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buf[..tail].to_vec())
}

/// A file's bytes; `None` when it is not there, or is longer than believable.
pub(crate) async fn read_if_there(rt: &Rt, path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    match rt.read_whole(path, max).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Both index files of a segment, if they are there and whole.
pub(crate) async fn read_indexes(
    rt: &Rt,
    dir: &Path,
    base: i64,
    len: u64,
    end: i64,
) -> io::Result<Option<(OffsetIndex, TimeIndex)>> {
    let Some(offsets) = read_if_there(rt, &segment_path(dir, base, INDEX), INDEX_BYTES_MAX).await?
    else {
        return Ok(None);
    };
    let Some(times) =
        read_if_there(rt, &segment_path(dir, base, TIME_INDEX), INDEX_BYTES_MAX).await?
    else {
        return Ok(None);
    };
    let offsets = OffsetIndex::decode(base, &offsets, len);
    let times = TimeIndex::decode(base, &times, end);
    Ok(offsets.ok().zip(times.ok()))
}

/// Puts a log together from its parts.
fn assemble(rt: &Rt, shard: &Rc<ShardStorage>, params: &LogParams, parts: Parts) -> Log {
    let end = parts.active.end_offset.get();
    let first = parts
        .sealed
        .first()
        .map_or(parts.active.base_offset, |s| s.base_offset);
    let log_start = params.log_start.max(first).min(end);
    let mut marks = LiveMarks::opened(log_start, end, params.high_watermark, params.recovery_point);
    // Both ways of opening leave nothing unflushed.
    marks.set_flushed_end(end);
    let now_ms = rt.now().0 / 1_000_000;
    let mut sealed = BTreeMap::new();
    for segment in parts.sealed {
        sealed.insert(segment.base_offset, segment);
    }
    let active = parts.active.clone();
    let (mut epochs, mut epochs_changed) = (parts.epochs, false);
    if log_start > 0 {
        epochs_changed = epochs.truncate_from_start(log_start);
    }
    let state = State {
        marks,
        flush: FlushState::new(params.config.flush, now_ms, end, end),
        flush_ends: VecDeque::new(),
        flush_submitted: end,
        flushes_in_flight: 0,
        flush_urgent_end: end,
        timer_generation: 0,
        timer_armed: false,
        sealed,
        open: VecDeque::from([parts.active]),
        next_file: NextFile::None,
        rolling: false,
        cutting: false,
        epochs,
        epochs_changed,
        producers: parts.producers,
        cuts: VecDeque::new(),
        cut_generation: 0,
        idle_end: end,
        failed: None,
        closed: false,
    };
    let inner = Rc::new(LogInner {
        rt: rt.clone(),
        shard: shard.clone(),
        dir: RefCell::new(params.dir.clone()),
        topic: params.topic.clone(),
        partition: params.partition,
        gate: FifoMutex::new(),
        maintenance: FifoMutex::new(),
        small_files: FifoMutex::new(),
        leader_epoch: Cell::new(params.leader_epoch),
        config: RefCell::new(Rc::new(params.config.clone())),
        state: RefCell::new(state),
        tail: LogTail::new(shard.tail_bytes.clone(), end),
        written_waiters: Waiters::default(),
        flushed_waiters: Waiters::default(),
        high_watermark_waiters: Waiters::default(),
        progress: RefCell::default(),
        segments_changed: Notify::new(),
        pump_scheduled: Cell::new(false),
        space_waits: Cell::new(0),
        space_wanted: Notify::new(),
        config_changed: Notify::new(),
    });
    inner.set_roll_chance(&active);
    Log(inner)
}
