//! Segment files: the shared handle that readers hold, the segment being written, sealed ones.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use corelog_runtime::sync::Notify;
use corelog_runtime::{Advice, File, FileHandle, OpenOptions, Rt};

use crate::index::{IndexBuilder, OffsetIndex, TimeIndex};
use crate::log::writer::TailWriter;

/// File suffixes, Kafka's.
pub(crate) const LOG: &str = "log";
pub(crate) const INDEX: &str = "index";
pub(crate) const TIME_INDEX: &str = "timeindex";
pub(crate) const TXN_INDEX: &str = "txnindex";
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Added to the name of a file that waits to be unlinked.
pub(crate) const DELETED: &str = ".deleted";
/// The next segment's file before its roll.
pub(crate) const PREPARED_NAME: &str = "next.log.prepared";

/// `<20 digits>.<suffix>` in the partition's directory.
pub(crate) fn segment_path(dir: &Path, base_offset: i64, suffix: &str) -> PathBuf {
    dir.join(format!("{base_offset:020}.{suffix}"))
}

/// The name under which a deleted file waits to be unlinked.
pub(crate) fn deleted_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DELETED);
    name.into()
}

/// Opens a file of a segment, also when it is being deleted: a reader that had planned to read it
/// goes on until it is unlinked.
pub(crate) async fn open_or_deleted(
    rt: &Rt,
    path: &Path,
    options: OpenOptions,
) -> io::Result<File> {
    match rt.open(path, options).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rt.open(deleted_path(path), options).await
        }
        result => result,
    }
}

/// The base offset and suffix of a file name of this form.
pub(crate) fn parse_segment_name(name: &str) -> Option<(i64, &str)> {
    let (digits, suffix) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, suffix))
}

/// A segment's file as readers on any shard hold it. Open as long as anyone does.
pub struct SegmentFile {
    base_offset: i64,
    pub(crate) path: PathBuf,
    sealed: AtomicBool,
    /// Its name is gone: it can be read through the descriptors that are open, and no other.
    unlinked: AtomicBool,
    generation: AtomicU64,
    options: OpenOptions,
    own: Mutex<Option<FileHandle>>,
    buffered: Mutex<Option<FileHandle>>,
    /// Its place among the open files of its shard; 0 = none.
    last_use: AtomicU64,
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentFile")
            .field("base_offset", &self.base_offset)
            .field("sealed", &self.sealed())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl SegmentFile {
    pub(crate) fn new(
        base_offset: i64,
        path: PathBuf,
        sealed: bool,
        options: OpenOptions,
        handle: Option<FileHandle>,
    ) -> Arc<Self> {
        let (sealed, generation) = (AtomicBool::new(sealed), AtomicU64::new(0));
        Arc::new(Self {
            base_offset,
            path,
            sealed,
            unlinked: AtomicBool::new(false),
            generation,
            options,
            own: Mutex::new(handle),
            buffered: Mutex::new(None),
            last_use: AtomicU64::new(0),
        })
    }

    pub(crate) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    pub(crate) fn set_last_use(&self, at: u64) {
        self.last_use.store(at, Ordering::Relaxed);
    }

    /// The segment's own descriptor, if it is open.
    pub(crate) fn own(&self) -> Option<FileHandle> {
        lock(&self.own).clone()
    }

    /// Opens the segment's own descriptor, or gives the one that is open.
    pub(crate) async fn open_own(&self, rt: &Rt) -> io::Result<FileHandle> {
        if let Some(open) = self.own() {
            return Ok(open);
        }
        let file = open_or_deleted(rt, &self.path, self.options).await?;
        // Another task may have been faster.
        Ok(lock(&self.own).get_or_insert(file.handle().clone()).clone())
    }

    /// Lets go of both descriptors; operations in flight hold theirs until they end, and whoever
    /// needs one next opens it again.
    pub(crate) fn close(&self) {
        let closed = (lock(&self.own).take(), lock(&self.buffered).take());
        drop(closed);
    }

    /// Offset of its first record.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// It takes no more appends: its bytes end with the file and may be read through the page cache.
    pub fn sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Its bytes may be sent from the page cache: it is sealed, and not known to be unlinked.
    pub fn is_sendable(&self) -> bool {
        self.sealed() && !self.unlinked.load(Ordering::Acquire)
    }

    /// Changes when bytes already handed out as ranges are cut off, or the whole log is deleted.
    /// Retention leaves it: who holds the file may read on.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// A descriptor for block-aligned reads on any shard: the segment's own, or when that is closed
    /// one for the caller alone.
    pub async fn reader(&self, rt: &Rt) -> io::Result<FileHandle> {
        if let Some(open) = self.own() {
            return Ok(open);
        }
        let options = OpenOptions {
            write: false,
            ..self.options
        };
        let file = open_or_deleted(rt, &self.path, options).await?;
        Ok(file.handle().clone())
    }

    /// A buffered descriptor for sendfile and its probes, opened at the first call and kept while the
    /// file is among those kept open, else for the caller alone; the kernel does not read ahead on
    /// it. NotFound when the file is unlinked. Only for sealed files (InvalidInput
    /// otherwise): cached pages of an active file would push every later direct write to a worker
    /// thread.
    pub async fn buffered(&self, rt: &Rt) -> io::Result<FileHandle> {
        if !self.sealed() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an active segment is never read buffered",
            ));
        }
        if let Some(open) = &*lock(&self.buffered) {
            return Ok(open.clone());
        }
        let options = OpenOptions {
            read: true,
            ..OpenOptions::default()
        };
        let file = match open_or_deleted(rt, &self.path, options).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.unlinked.store(true, Ordering::Release);
                return Err(error);
            }
            result => result?,
        };
        // Windows are ours (see `fill`). A hint: a refusal costs time alone.
        let _hint = file.fadvise(Advice::Random, 0, 0).await;
        let handle = file.handle().clone();
        let mut kept = lock(&self.buffered);
        // Looked at under the lock: what pushes the file out says so before it closes.
        if self.last_use() > 0 {
            *kept = Some(handle.clone());
        }
        drop(kept);
        Ok(handle)
    }
}

fn lock(handle: &Mutex<Option<FileHandle>>) -> std::sync::MutexGuard<'_, Option<FileHandle>> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A segment that is written, or was until its roll and is not sealed yet. Its file is opened with
/// `LogInner::file` by whoever works on it.
pub(crate) struct OpenSegment {
    pub base_offset: i64,
    pub shared: Arc<SegmentFile>,
    pub writer: RefCell<TailWriter>,
    pub index: RefCell<IndexBuilder>,
    /// Offset after the last appended batch.
    pub end_offset: Cell<i64>,
    /// First offset and position no write set has taken.
    pub dispatched_offset: Cell<i64>,
    /// Bytes from here on belong to the preparer, below to the writer.
    pub prepared_end: Cell<u64>,
    /// Extents and i_size reach here; the preparer's steps move within. Never below `prepared_end`.
    pub allocated_end: Cell<u64>,
    /// i_size known to be durable: RWF_DSYNC writes below it need no other flush.
    pub durable_len: Cell<u64>,
    /// Bytes of the next preparation step.
    pub prepare_step: Cell<u64>,
    /// When the last step ended, in ms of the shard's clock.
    pub prepared_at_ms: Cell<u64>,
    pub preparing: Cell<bool>,
    /// An append waits for the step under way.
    pub prepare_urgent: Cell<bool>,
    /// The bytes before this segment are whole on disk: `written_end` may enter it.
    pub entered: Cell<bool>,
    /// The bytes before it, and its name, are on stable storage: `flushed_end` may enter it.
    pub flush_entered: Cell<bool>,
    /// No append goes here any more.
    pub rolled: Cell<bool>,
    /// When the first batch came, in ms of the wall clock; `None` when there is none, or when the
    /// file was opened with it and nobody has asked yet.
    pub first_append_ms: Cell<Option<i64>>,
    /// Chance for `segment.jitter.ms`, of which it takes a part.
    pub roll_chance: Cell<u64>,
    /// Ends when writes, the preparer or a flush made progress.
    pub progress: Notify,
}

impl OpenSegment {
    pub fn new(
        shared: Arc<SegmentFile>,
        end: u64,
        end_offset: i64,
        partial: Vec<u8>,
        index: IndexBuilder,
    ) -> Rc<Self> {
        Rc::new(Self {
            base_offset: shared.base_offset(),
            shared,
            writer: RefCell::new(TailWriter::new(end, end_offset, partial)),
            index: RefCell::new(index),
            end_offset: Cell::new(end_offset),
            dispatched_offset: Cell::new(end_offset),
            prepared_end: Cell::new(end),
            allocated_end: Cell::new(end),
            durable_len: Cell::new(end),
            prepare_step: Cell::new(0),
            prepared_at_ms: Cell::new(0),
            preparing: Cell::new(false),
            prepare_urgent: Cell::new(false),
            entered: Cell::new(true),
            flush_entered: Cell::new(true),
            rolled: Cell::new(false),
            first_append_ms: Cell::new(None),
            roll_chance: Cell::new(0),
            progress: Notify::new(),
        })
    }

    pub fn size(&self) -> u64 {
        self.writer.borrow().append_pos()
    }

    /// Where the written batches end, as file position and as offset.
    pub fn written(&self) -> (u64, i64) {
        let writer = self.writer.borrow();
        (writer.written_offset_pos(), writer.written_offset())
    }

    pub fn written_offset(&self) -> i64 {
        self.writer.borrow().written_offset()
    }

    pub fn flushed_offset(&self) -> i64 {
        self.writer.borrow().flushed_offset()
    }

    /// Something is pending, in flight or being prepared, or the segment is on its way to be sealed.
    pub fn is_at_work(&self) -> bool {
        let writer = self.writer.borrow();
        let is_writing = !writer.is_settled() || writer.has_writes_in_flight();
        is_writing || self.preparing.get() || self.rolled.get() || !self.entered.get()
    }

    /// All its bytes are on stable storage.
    pub fn is_flushed(&self) -> bool {
        self.flushed_offset() == self.end_offset.get()
    }
}

/// A segment that takes no more appends. Its file is opened when a reader comes.
pub(crate) struct SealedSegment {
    pub base_offset: i64,
    /// Base offset of the next segment.
    pub end_offset: Cell<i64>,
    pub size: u64,
    pub file: RefCell<Weak<SegmentFile>>,
    /// Both indexes, once a reader needed them.
    pub index: RefCell<Option<Rc<SealedIndex>>>,
    /// Its greatest timestamp, once retention asked; -1 when its records carry none.
    pub max_timestamp: Cell<Option<i64>>,
    /// When this process first knew it, in ms of the wall clock: its age if its records carry no
    /// timestamps.
    pub known_since_ms: i64,
    /// Its files are being renamed: nothing is written beside them any more.
    pub retired: Cell<bool>,
}

impl SealedSegment {
    pub fn new(rt: &Rt, base_offset: i64, end_offset: i64, size: u64) -> Rc<Self> {
        Rc::new(Self {
            base_offset,
            end_offset: Cell::new(end_offset),
            size,
            file: RefCell::new(Weak::new()),
            index: RefCell::new(None),
            max_timestamp: Cell::new(None),
            known_since_ms: rt.wall_clock_ms(),
            retired: Cell::new(false),
        })
    }
}

/// Both indexes of a sealed segment.
pub(crate) struct SealedIndex {
    pub offsets: OffsetIndex,
    pub times: TimeIndex,
}
