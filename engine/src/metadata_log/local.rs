//! The metadata log of a node that is its own quorum.
//!
//! Files in `<log dir>/corelog-metadata/`: `vote`, `snapshot`, and `<20 digits>.entries` whose name
//! is the index of its first entry. Every proposal is one write with RWF_DSYNC: it is durable
//! before it is applied. Shard: 0.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::driver::OpenOptions;
use corelog_runtime::sync::{FifoMutex, Notify};
use corelog_runtime::{File, Instant, Rt};
use corelog_storage::guard;
use corelog_storage::log::is_no_space;
use corelog_storage::log_dir::LogDir;

use super::format::{
    DecodedEntries, Entry, EntryType, Snapshot, Vote, decode_entries, decode_snapshot, decode_vote,
    encode_entry, encode_snapshot, encode_vote,
};
use super::{Applied, AppliedContent, LocalBoxFuture, MetadataLog, Proposed};

/// Directory of the log inside a log directory. Not a legal topic-partition name.
pub const DIRECTORY: &str = "corelog-metadata";
/// Largest entries or snapshot file read at start.
const FILE_BYTES_MAX: usize = 1 << 30;

/// Why the log could not be opened.
#[derive(Debug)]
pub enum MetadataLogError {
    /// A file operation failed.
    Io {
        /// What was done.
        verb: &'static str,
        /// To which file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Bytes that were durable are no longer what was written.
    Damaged {
        /// File.
        path: PathBuf,
        /// First bad byte.
        at: u64,
        /// What is wrong there.
        what: String,
    },
}

impl fmt::Display for MetadataLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { verb, path, source } => write!(f, "{verb} {}: {source}", path.display()),
            Self::Damaged { path, at, what } => {
                write!(
                    f,
                    "metadata file {} is damaged at byte {at}: {what}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for MetadataLogError {}

/// A quorum of one.
pub struct LocalLog {
    rt: Rt,
    dir: PathBuf,
    term: u64,
    order: FifoMutex,
    state: RefCell<State>,
    applied: RefCell<VecDeque<Applied>>,
    applied_more: Notify,
    /// Set by the first failed write: nothing is acknowledged after it.
    failed: Cell<bool>,
    /// The log directory it is in, whose reserve it may use.
    log_dir: Option<Rc<LogDir>>,
    /// Told of an error of the device.
    on_failure: RefCell<Option<OnFailure>>,
    /// After a snapshot that failed: none is tried before, and the pause after the next failure.
    snapshot_pause: Cell<Option<(Instant, Duration)>>,
}

/// First and longest pause after a snapshot that failed.
const SNAPSHOT_PAUSE_MIN: Duration = Duration::from_secs(1);
const SNAPSHOT_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Called with the reason.
pub type OnFailure = Box<dyn Fn(&str)>;

struct State {
    file: File,
    path: PathBuf,
    file_bytes: u64,
    next_index: u64,
    last_term: u64,
}

impl LocalLog {
    /// Opens or makes the log below `log_dir`, cuts a torn tail, takes a new term and commits its
    /// blank entry.
    pub async fn open(rt: &Rt, log_dir: &Path, node_id: i32) -> Result<LocalLog, MetadataLogError> {
        Self::open_with(rt, log_dir, None, node_id).await
    }

    /// As [`LocalLog::open`]; when the disk is full the reserve of the log directory is used.
    pub async fn open_in(
        rt: &Rt,
        log_dir: Rc<LogDir>,
        node_id: i32,
    ) -> Result<LocalLog, MetadataLogError> {
        let path = log_dir.path().to_path_buf();
        Self::open_with(rt, &path, Some(log_dir), node_id).await
    }

    /// Who is told, once, that the device failed: the log takes no more writes then.
    pub fn on_failure(&self, told: OnFailure) {
        *self.on_failure.borrow_mut() = Some(told);
    }

    async fn open_with(
        rt: &Rt,
        path: &Path,
        log_dir: Option<Rc<LogDir>>,
        node_id: i32,
    ) -> Result<LocalLog, MetadataLogError> {
        let dir = path.join(DIRECTORY);
        rt.mkdir_all(&dir).await.map_err(io_error("make", &dir))?;
        rt.sync_dir(path).await.map_err(io_error("fsync", path))?;
        let snapshot = read_snapshot(rt, &dir).await?;
        let vote = loop {
            match next_vote(rt, &dir, node_id).await {
                Err(MetadataLogError::Io { source, .. })
                    if is_no_space(&source) && release(log_dir.as_ref()).await => {}
                result => break result?,
            }
        };

        let found = read_entries_files(rt, &dir, snapshot.as_ref().map_or(0, |s| s.index)).await?;
        let mut applied = VecDeque::new();
        if let Some(s) = snapshot {
            applied.push_back(Applied {
                term: s.term,
                index: s.index,
                content: AppliedContent::Snapshot(s.payload),
            });
        }
        applied.extend(found.entries.into_iter().map(applied_of));
        let log = LocalLog {
            rt: rt.clone(),
            dir,
            term: vote.term,
            order: FifoMutex::new(),
            state: RefCell::new(State {
                file: found.file,
                path: found.path,
                file_bytes: found.file_bytes,
                next_index: found.next_index,
                last_term: vote.term,
            }),
            applied: RefCell::new(applied),
            applied_more: Notify::new(),
            failed: Cell::new(false),
            log_dir,
            on_failure: RefCell::default(),
            snapshot_pause: Cell::new(None),
        };
        match log.commit(EntryType::Blank, Vec::new()).await {
            Ok(_) => Ok(log),
            Err(source) => Err(MetadataLogError::Io {
                verb: "append to",
                path: log.state.borrow().path.clone(),
                source,
            }),
        }
    }

    /// Writes one entry durably and queues it for [`MetadataLog::next_applied`].
    async fn commit(&self, entry_type: EntryType, payload: Vec<u8>) -> io::Result<u64> {
        let _turn = self.order.ticket().wait().await;
        if self.failed.get() {
            return Err(io::Error::other(
                "an earlier write of the metadata log failed",
            ));
        }
        let (file, offset, entry) = {
            let state = self.state.borrow();
            let entry = Entry {
                term: self.term,
                index: state.next_index,
                entry_type,
                payload,
            };
            (state.file.clone(), state.file_bytes, entry)
        };
        let mut bytes = Vec::with_capacity(entry.payload.len() + 64);
        encode_entry(&entry, &mut bytes);
        let length = bytes.len() as u64;
        let bytes = Bytes::from(bytes);
        while let Err(error) = file.write_at(vec![bytes.clone()], offset, true).await {
            if is_no_space(&error) && release(self.log_dir.as_ref()).await {
                continue;
            }
            self.take_back(&file, offset).await;
            if guard::condemns(&error) {
                self.fail(&error);
            }
            return Err(error);
        }
        let index = entry.index;
        {
            let mut state = self.state.borrow_mut();
            state.file_bytes += length;
            state.next_index = index + 1;
            state.last_term = self.term;
        }
        self.applied.borrow_mut().push_back(applied_of(entry));
        self.applied_more.notify_all();
        Ok(index)
    }

    /// After a failed write: nothing of the entry may be found by a later start, since its proposer
    /// is told that it failed. If that cannot be had, the log takes no more writes.
    async fn take_back(&self, file: &File, offset: u64) {
        let taken_back = match file.ftruncate(offset).await {
            Ok(()) => file.fdatasync().await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken_back {
            tracing::error!(%error, "the metadata log is read-only until a restart");
            self.failed.set(true);
        }
    }

    fn fail(&self, error: &io::Error) {
        self.failed.set(true);
        let told = self.on_failure.borrow_mut().take();
        if let Some(told) = told {
            told(&format!("metadata log: {error}"));
        }
    }

    /// Order matters: the next entries file is durable before the snapshot that lets the old one
    /// go. Whatever fails on the way, entries go on into the old file, and a start reads both.
    async fn write_snapshot(&self, index: u64, image: Vec<u8>) -> io::Result<()> {
        let _turn = self.order.ticket().wait().await;
        if self.state.borrow().next_index != index + 1 || self.failed.get() {
            return Ok(()); // entries beyond the image exist: the next offer will cover them
        }
        let path = self.dir.join(entries_file_name(index + 1));
        if self.state.borrow().path == path {
            return Ok(()); // nothing came since the last one
        }
        let file = match self.begin_snapshot(&path, index, image).await {
            Ok(file) => file,
            Err(error) => {
                // A start reads an empty file as such; but the next try may have another name.
                let _stays_until_the_next_start = self.rt.unlink(&path).await;
                return Err(error);
            }
        };
        let old = {
            let mut state = self.state.borrow_mut();
            state.file = file;
            state.file_bytes = 0;
            std::mem::replace(&mut state.path, path)
        };
        self.rt.unlink(&old).await
    }

    /// Makes the next entries file, then the snapshot that lets the old one go; both durable.
    async fn begin_snapshot(&self, path: &Path, index: u64, image: Vec<u8>) -> io::Result<File> {
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            truncate: true,
            ..OpenOptions::default()
        };
        let log_dir = self.log_dir.as_ref();
        let file = loop {
            match self.rt.open(path, options).await {
                Err(error) if is_no_space(&error) && release(log_dir).await => {}
                opened => break opened?,
            }
        };
        self.rt.sync_dir(&self.dir).await?;
        let snapshot = Snapshot {
            term: self.state.borrow().last_term,
            index,
            payload: image,
        };
        let bytes = encode_snapshot(&snapshot);
        let at = self.dir.join("snapshot");
        loop {
            match self.rt.write_atomic(&at, bytes.clone()).await {
                Err(error) if is_no_space(&error) && release(log_dir).await => {}
                written => return written.map(|()| file),
            }
        }
    }

    /// Notes how a snapshot went. While they fail, not every change of the metadata is to try one.
    fn note_snapshot(&self, written: io::Result<()>) {
        let Err(error) = written else {
            return self.snapshot_pause.set(None);
        };
        tracing::warn!(%error, "metadata snapshot failed; the log keeps its entries");
        let pause = match self.snapshot_pause.get() {
            Some((_, pause)) => (pause * 2).min(SNAPSHOT_PAUSE_MAX),
            None => SNAPSHOT_PAUSE_MIN,
        };
        let until = self.rt.now() + pause;
        self.snapshot_pause.set(Some((until, pause)));
    }
}

impl MetadataLog for LocalLog {
    fn leader_term(&self) -> Option<u64> {
        (!self.failed.get()).then_some(self.term)
    }

    fn propose(&self, term: u64, payload: Vec<u8>) -> LocalBoxFuture<'_, Proposed> {
        Box::pin(async move {
            if term != self.term || self.failed.get() {
                return Proposed::NotLeader;
            }
            match self.commit(EntryType::Records, payload).await {
                Ok(index) => Proposed::Committed(index),
                Err(error) => {
                    tracing::error!(%error, "metadata log write failed; metadata is read-only until a restart");
                    Proposed::Unknown
                }
            }
        })
    }

    fn next_applied(&self) -> LocalBoxFuture<'_, Applied> {
        Box::pin(async move {
            loop {
                let more = self.applied_more.notified();
                if let Some(applied) = self.applied.borrow_mut().pop_front() {
                    return applied;
                }
                more.await;
            }
        })
    }

    fn offer_snapshot(&self, index: u64, image: Vec<u8>) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let pause = self.snapshot_pause.get();
            if pause.is_none_or(|(until, _)| until <= self.rt.now()) {
                let written = self.write_snapshot(index, image).await;
                self.note_snapshot(written);
            }
        })
    }

    fn bytes_since_snapshot(&self) -> u64 {
        self.state.borrow().file_bytes
    }
}

/// Gives a part of the reserve back; false when there is none.
async fn release(log_dir: Option<&Rc<LogDir>>) -> bool {
    match log_dir {
        Some(log_dir) => log_dir.release_reserve().await,
        None => false,
    }
}

fn applied_of(entry: Entry) -> Applied {
    let content = match entry.entry_type {
        EntryType::Blank => AppliedContent::Blank,
        EntryType::Records => AppliedContent::Records(entry.payload),
    };
    Applied {
        term: entry.term,
        index: entry.index,
        content,
    }
}

fn entries_file_name(first_index: u64) -> String {
    format!("{first_index:020}.entries")
}

fn io_error<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> MetadataLogError + 'a {
    move |source| MetadataLogError::Io {
        verb,
        path: path.to_path_buf(),
        source,
    }
}

async fn read_snapshot(rt: &Rt, dir: &Path) -> Result<Option<Snapshot>, MetadataLogError> {
    let path = dir.join("snapshot");
    let bytes = match rt.read_whole(&path, FILE_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match decode_snapshot(&bytes) {
        Some(snapshot) => Ok(Some(snapshot)),
        None => Err(MetadataLogError::Damaged {
            path,
            at: 0,
            what: "not a whole snapshot with a good CRC".to_owned(),
        }),
    }
}

/// Durably takes the next term for this node.
async fn next_vote(rt: &Rt, dir: &Path, node_id: i32) -> Result<Vote, MetadataLogError> {
    let path = dir.join("vote");
    let term = match rt.read_whole(&path, FILE_BYTES_MAX).await {
        Ok(bytes) => match decode_vote(&bytes) {
            Some(vote) => vote.term + 1,
            None => {
                let what = "not a vote with a good CRC".to_owned();
                return Err(MetadataLogError::Damaged { path, at: 0, what });
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let vote = Vote {
        term,
        voted_for: node_id,
    };
    rt.write_atomic(&path, encode_vote(vote))
        .await
        .map_err(io_error("write", &path))?;
    Ok(vote)
}

/// What the entries files hold beyond the snapshot, and the file to go on with.
struct Found {
    entries: Vec<Entry>,
    next_index: u64,
    file: File,
    path: PathBuf,
    file_bytes: u64,
}

/// Reads the entries files in order. A snapshot that was cut short by a crash leaves more than one:
/// files whose entries the snapshot holds go, and so do empty ones.
///
/// Errors: an index is missing between them, as when the snapshot is gone.
async fn read_entries_files(
    rt: &Rt,
    dir: &Path,
    snapshot_index: u64,
) -> Result<Found, MetadataLogError> {
    let names = rt.read_dir(dir).await.map_err(io_error("list", dir))?;
    let is_entries = |name: &String| first_index_of(name).is_some();
    let names: Vec<String> = names
        .into_iter()
        .map(|entry| entry.name)
        .filter(is_entries)
        .collect();
    let mut entries: Vec<Entry> = Vec::new();
    let mut next_index = snapshot_index + 1;
    let mut newest: Option<(PathBuf, u64)> = None;
    let mut done = Vec::new();
    for name in &names {
        let path = dir.join(name);
        let first_index = first_index_of(name).expect("filtered by it");
        let decoded = read_entries(rt, &path, first_index).await?;
        let last_index = first_index + decoded.entries.len() as u64 - 1;
        if last_index < next_index && first_index <= next_index {
            done.push(path);
            continue;
        }
        // Also of an empty file: it is made when all before it is in a snapshot or in a file.
        if first_index > next_index {
            let what = format!("its first entry is {first_index}, and {next_index} is missing");
            return Err(MetadataLogError::Damaged { path, at: 0, what });
        }
        entries.extend(
            decoded
                .entries
                .into_iter()
                .filter(|entry| entry.index >= next_index),
        );
        next_index = last_index + 1;
        if let Some((old, _)) = newest.replace((path, decoded.good_bytes as u64)) {
            done.push(old);
        }
    }
    let (path, file_bytes) = newest.unwrap_or_else(|| (dir.join(entries_file_name(next_index)), 0));
    let options = OpenOptions {
        read: true,
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let file = rt
        .open(&path, options)
        .await
        .map_err(io_error("open", &path))?;
    for old in done.iter().filter(|old| **old != path) {
        // A file with entries the snapshot does not hold is never among these but for the one
        // before the newest, and that one stays.
        if entries_end(rt, old).await? <= snapshot_index {
            rt.unlink(old).await.map_err(io_error("unlink", old))?;
        }
    }
    rt.sync_dir(dir).await.map_err(io_error("fsync", dir))?;
    Ok(Found {
        entries,
        next_index,
        file,
        path,
        file_bytes,
    })
}

/// Index of the last entry of a file; 0 when it has none.
async fn entries_end(rt: &Rt, path: &Path) -> Result<u64, MetadataLogError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let first_index = first_index_of(name).unwrap_or(0);
    let decoded = read_entries(rt, path, first_index).await?;
    Ok(decoded.entries.last().map_or(0, |entry| entry.index))
}

/// The index in an entries file's name.
fn first_index_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".entries")?;
    let legal = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|index| legal && *index > 0)
}

/// Reads a file's entries and cuts a torn tail; what it gives is on stable storage.
async fn read_entries(
    rt: &Rt,
    path: &Path,
    first_index: u64,
) -> Result<DecodedEntries, MetadataLogError> {
    let bytes = rt
        .read_whole(path, FILE_BYTES_MAX)
        .await
        .map_err(io_error("read", path))?;
    let decoded = decode_entries(&bytes, first_index);
    if decoded.damaged {
        return Err(MetadataLogError::Damaged {
            path: path.to_path_buf(),
            at: decoded.good_bytes as u64,
            what: "a bad entry is followed by good ones".to_owned(),
        });
    }
    // What was read may be in the page cache alone: a process killed inside a write left it there. It
    // must not be lost when entries behind it, each flushed by itself, are not.
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    let file = rt
        .open(path, options)
        .await
        .map_err(io_error("open", path))?;
    if decoded.good_bytes < bytes.len() {
        let cut = bytes.len() - decoded.good_bytes;
        tracing::warn!(path = %path.display(), bytes_cut = cut, "cut a torn tail of the metadata log");
        file.ftruncate(decoded.good_bytes as u64)
            .await
            .map_err(io_error("truncate", path))?;
    }
    file.fdatasync().await.map_err(io_error("fsync", path))?;
    Ok(decoded)
}

#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
