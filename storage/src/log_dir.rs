//! One directory of `log.dirs`: whose it is, how its last run ended, and its checkpoints.
//!
//! Opening is: lock, read names, check `meta.properties` (or make it, once), read the clean marker
//! and the boot marker, unlink the clean marker, fsync the directory, read the checkpoints. Only
//! then may anything be appended below.

mod error;
mod offsets;
mod reserve;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use corelog_runtime::Rt;
use corelog_runtime::sync::FifoMutex;

use crate::checkpoint_files::{
    self as files, CLEAN_MARKER, CleanMarker, DirName, FormatError, HIGH_WATERMARKS, LOG_STARTS,
    META_PROPERTIES, MetaProperties, OffsetMap, PARTITION_METADATA, RECOVERY_POINTS,
};

use crate::log::is_no_space;

pub use error::LogDirError;
pub use reserve::RESERVE_FILE;

use reserve::Reserve;

/// Held by the process that uses the directory. Empty.
pub const LOCK_FILE: &str = ".lock";
/// Boot id under which this directory was last whole; see [`LogDir::mark_recovered`].
pub const BOOT_MARKER: &str = ".corelog_boot";
/// Appended to the name of a file that was set aside because it could not be read; with a number
/// when that name is taken.
pub const BAD_SUFFIX: &str = ".bad";
/// The kernel's boot id: another one after every start of the machine.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// Topic of Kafka's own metadata log, which is no partition of ours.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// Bound of the small files.
const SMALL_FILE_BYTES_MAX: usize = 64 << 10;
/// Bound of an offset checkpoint: some 250,000 partitions with the longest names.
const CHECKPOINT_BYTES_MAX: usize = 64 << 20;

/// What the last run left, and so how much of a log must be believed or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartKind {
    /// It stopped cleanly (or this is the first start): every log is whole and flushed.
    Clean,
    /// The process died, the kernel did not: whatever was `written` is there.
    ProcessDeath,
    /// Anything else, power loss included: only what was flushed is there for sure.
    Unclean,
}

/// Who opens a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, when it is known. `None` takes the directory's, or makes one up for a
    /// directory that has none.
    pub cluster_id: Option<String>,
    /// `node.id`.
    pub node_id: i32,
}

/// A held lock; dropping it gives the directory free.
pub type HeldLock = Box<dyn Any + Send>;

/// Takes the lock file at this path for this process: `None` = another process holds it.
pub type TakeLock = fn(&Path) -> io::Result<Option<HeldLock>>;

/// The [`TakeLock`] of a real machine: an exclusive `flock` for the life of the lock. Blocks for
/// as long as opening a file does.
pub fn process_lock(path: &Path) -> io::Result<Option<HeldLock>> {
    Ok(corelog_runtime::blocking::lock_file(path)?.map(|held| Box::new(held) as HeldLock))
}

/// A partition's directory, by its name alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionDir {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Its directory.
    pub path: PathBuf,
}

/// An open, locked log directory.
///
/// Shard: the one that opened it; its checkpoints are written there, one at a time.
pub struct LogDir {
    rt: Rt,
    path: PathBuf,
    meta: MetaProperties,
    start: StartKind,
    boot_id: Option<String>,
    previous_broker_epoch: i64,
    partitions: Vec<PartitionDir>,
    deleted: Vec<PathBuf>,
    damaged: Vec<FormatError>,
    recovery_points: RefCell<OffsetMap>,
    high_watermarks: RefCell<OffsetMap>,
    log_starts: RefCell<OffsetMap>,
    writing: FifoMutex,
    raises: RefCell<offsets::Raises>,
    lowered: Cell<u64>,
    reserve: Reserve,
    on_release: RefCell<Option<Rc<dyn Fn()>>>,
    _lock: Option<HeldLock>,
}

impl LogDir {
    /// Opens a directory, making it at the first start. `take_lock` ([`process_lock`]) keeps other
    /// processes out; `None` where there are none (the twin). Durable before it answers: a new `meta.properties`
    /// and the removal of the clean marker.
    pub async fn open(
        rt: &Rt,
        path: &Path,
        identity: Identity,
        take_lock: Option<TakeLock>,
    ) -> Result<LogDir, LogDirError> {
        rt.mkdir_all(path).await.map_err(io_error("make", path))?;
        let lock = lock(rt, path, take_lock).await?;
        let names = Names::read(rt, path).await?;
        // Before anything is written: the disk may be full.
        let reserve = Reserve::open(rt, path).await;
        let reserve = reserve.map_err(io_error("open the reserve of", path))?;
        let (meta, first_start) = identify(rt, path, &identity, &names).await?;
        let boot_id = read_boot_id(rt).await;
        let marker_path = path.join(CLEAN_MARKER);
        let marker = match read_small(rt, &marker_path).await? {
            // An unreadable marker proves nothing: the logs are checked.
            Some(bytes) => CleanMarker::decode(&marker_path.to_string_lossy(), &bytes)
                .inspect_err(|error| tracing::warn!(%error, "clean marker ignored"))
                .ok(),
            None => None,
        };
        let start = if first_start || marker.is_some() {
            StartKind::Clean
        } else if boot_id.is_some() && read_boot_marker(rt, path).await? == boot_id {
            StartKind::ProcessDeath
        } else {
            StartKind::Unclean
        };
        let mut dir = LogDir {
            rt: rt.clone(),
            path: path.to_owned(),
            meta,
            start,
            boot_id,
            previous_broker_epoch: marker.map_or(-1, |m| m.broker_epoch),
            partitions: names.partitions,
            deleted: names.deleted,
            damaged: Vec::new(),
            recovery_points: RefCell::default(),
            high_watermarks: RefCell::default(),
            log_starts: RefCell::default(),
            writing: FifoMutex::new(),
            raises: RefCell::default(),
            lowered: Cell::new(0),
            reserve,
            on_release: RefCell::default(),
            _lock: lock,
        };
        dir.ensure_directory_id().await?;
        dir.recovery_points = RefCell::new(dir.read_offsets(RECOVERY_POINTS).await?);
        dir.high_watermarks = RefCell::new(dir.read_offsets(HIGH_WATERMARKS).await?);
        dir.log_starts = RefCell::new(dir.read_offsets(LOG_STARTS).await?);
        if start == StartKind::Clean {
            dir.mark_recovered().await?;
        }
        match rt.unlink(&marker_path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("unlink", &marker_path)(e));
            }
            _ => {}
        }
        rt.sync_dir(path)
            .await
            .map_err(io_error("fsync directory", path))?;
        Ok(dir)
    }

    /// A directory of older Kafkas has no id yet.
    async fn ensure_directory_id(&mut self) -> Result<(), LogDirError> {
        if self.meta.directory_id.is_none_or(|id| id == [0; 16]) {
            self.meta.directory_id = Some(random_uuid(&self.rt));
            self.write(META_PROPERTIES, self.meta.encode()).await?;
        }
        Ok(())
    }

    /// Keeps this much space back for what must go on when the disk is full; 0 = none. Fails with
    /// the file system's refusal, keeping what could be had.
    pub async fn set_reserve(&self, bytes: u64) -> io::Result<()> {
        self.reserve.resize(bytes).await
    }

    /// Bytes kept back now.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.held()
    }

    /// Gives a part of the reserve to the file system, to be taken by whoever asks next. False when
    /// nothing is left.
    pub async fn release_reserve(&self) -> bool {
        let called = self.on_release.borrow().clone();
        if let Some(called) = called {
            called();
        }
        self.reserve.release().await
    }

    /// `f` is called before anything of the reserve is given back: others must leave it alone.
    pub fn on_release(&self, f: Rc<dyn Fn()>) {
        *self.on_release.borrow_mut() = Some(f);
    }

    /// Takes the whole reserve back, if the file system has that much and `spare` bytes more.
    pub async fn refill_reserve(&self, spare: u64) -> io::Result<()> {
        self.reserve.refill(spare).await
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.meta.cluster_id
    }

    /// Its own id.
    pub fn directory_id(&self) -> [u8; 16] {
        self.meta.directory_id.unwrap_or_default()
    }

    /// How the last run ended.
    pub fn start_kind(&self) -> StartKind {
        self.start
    }

    /// Broker epoch of the run that stopped cleanly, -1 when none did.
    pub fn previous_broker_epoch(&self) -> i64 {
        self.previous_broker_epoch
    }

    /// Partitions found at the start, sorted.
    pub fn partitions(&self) -> &[PartitionDir] {
        &self.partitions
    }

    /// Directories of deleted partitions found at the start, to be removed.
    pub fn deleted(&self) -> &[PathBuf] {
        &self.deleted
    }

    /// Checkpoints that could not be read at the start and were set aside (`.bad`): their offsets
    /// count as unknown.
    pub fn damaged(&self) -> &[FormatError] {
        &self.damaged
    }

    /// Recovery points as last read or written.
    pub fn recovery_points(&self) -> OffsetMap {
        self.recovery_points.borrow().clone()
    }

    /// High watermarks as last read or written.
    pub fn high_watermarks(&self) -> OffsetMap {
        self.high_watermarks.borrow().clone()
    }

    /// Log start offsets as last read or written.
    pub fn log_starts(&self) -> OffsetMap {
        self.log_starts.borrow().clone()
    }

    /// Grows with every [`LogDir::lower`], [`LogDir::forget`] and [`LogDir::take_over`]: offsets
    /// gathered before it grew must not be written after.
    pub fn lowered(&self) -> u64 {
        self.lowered.get()
    }

    /// Records that every log here is whole under the running kernel: a start that finds this boot
    /// id, and no clean marker, knows that only the process died. After [`StartKind::Unclean`] the
    /// caller does this once recovery is done and its consequences are known where they must be;
    /// until then another start is unclean again. Durable when it answers.
    pub async fn mark_recovered(&self) -> Result<(), LogDirError> {
        let Some(boot_id) = &self.boot_id else {
            return Ok(());
        };
        if read_boot_marker(&self.rt, &self.path).await?.as_ref() == Some(boot_id) {
            return Ok(());
        }
        self.write(BOOT_MARKER, format!("{boot_id}\n").into_bytes())
            .await
    }

    /// The last act of a clean stop, when every log is flushed and closed and the checkpoints are
    /// written; durable when it answers. `broker_epoch` is this incarnation's, -1 = none.
    pub async fn write_clean_marker(&self, broker_epoch: i64) -> Result<(), LogDirError> {
        let marker = CleanMarker {
            broker_epoch,
            boot_id: self.boot_id.clone(),
        };
        self.write(CLEAN_MARKER, marker.encode()).await
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), LogDirError> {
        let _turn = self.writing.lock().await;
        self.write_now(name, bytes).await
    }

    async fn write_now(&self, name: &str, bytes: Vec<u8>) -> Result<(), LogDirError> {
        let path = self.path.join(name);
        loop {
            match self.rt.write_atomic(&path, bytes.clone()).await {
                Err(error) if is_no_space(&error) && self.release_reserve().await => {}
                result => return result.map_err(io_error("write", &path)),
            }
        }
    }

    /// A checkpoint; one that is not there is empty, one that is damaged is set aside and empty:
    /// recovery then believes nothing and reads more.
    async fn read_offsets(&mut self, name: &str) -> Result<OffsetMap, LogDirError> {
        let path = self.path.join(name);
        let Some(bytes) = read_bounded(&self.rt, &path, CHECKPOINT_BYTES_MAX).await? else {
            return Ok(OffsetMap::new());
        };
        match files::decode_offsets(&path.to_string_lossy(), &bytes) {
            Ok(offsets) => Ok(offsets),
            Err(error) => {
                tracing::error!(%error, "checkpoint damaged: set aside, its offsets count as unknown");
                let aside = self.free_name(name).await?;
                self.rt
                    .rename(&path, &aside)
                    .await
                    .map_err(io_error("set aside", &path))?;
                self.damaged.push(error);
                Ok(OffsetMap::new())
            }
        }
    }

    /// A name for a bad file that no file has: nothing set aside earlier is lost.
    async fn free_name(&self, name: &str) -> Result<PathBuf, LogDirError> {
        let mut n = 0u32;
        loop {
            let number = if n == 0 { String::new() } else { n.to_string() };
            let free = self.path.join(format!("{name}{BAD_SUFFIX}{number}"));
            match self.rt.stat(&free).await {
                Ok(_) => n += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(free),
                Err(e) => return Err(io_error("look for", &free)(e)),
            }
        }
    }
}

/// What `meta.properties` of a directory says, before it is opened; `None` when there is none.
pub async fn read_meta_properties(
    rt: &Rt,
    path: &Path,
) -> Result<Option<MetaProperties>, LogDirError> {
    let file = path.join(META_PROPERTIES);
    let Some(bytes) = read_small(rt, &file).await? else {
        return Ok(None);
    };
    let meta = MetaProperties::decode(&file.to_string_lossy(), &bytes);
    meta.map(Some).map_err(LogDirError::Format)
}

/// Writes `partition.metadata` into a partition's directory; durable when it answers.
pub async fn write_partition_metadata(
    rt: &Rt,
    partition_dir: &Path,
    topic_id: &[u8; 16],
) -> Result<(), LogDirError> {
    let path = partition_dir.join(PARTITION_METADATA);
    let bytes = files::encode_partition_metadata(topic_id);
    rt.write_atomic(&path, bytes)
        .await
        .map_err(io_error("write", &path))
}

/// The topic id in a partition's directory; `None` when it has no `partition.metadata`.
pub async fn read_partition_metadata(
    rt: &Rt,
    partition_dir: &Path,
) -> Result<Option<[u8; 16]>, LogDirError> {
    let path = partition_dir.join(PARTITION_METADATA);
    match read_small(rt, &path).await? {
        Some(bytes) => files::decode_partition_metadata(&path.to_string_lossy(), &bytes)
            .map(Some)
            .map_err(LogDirError::Format),
        None => Ok(None),
    }
}

/// A random (version 4) UUID that does not print with a leading dash, which command lines take
/// for an option.
pub fn random_uuid(rt: &Rt) -> [u8; 16] {
    loop {
        let n = u128::from(rt.random_u64()) << 64 | u128::from(rt.random_u64());
        let n = n & !(0xF << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let id = n.to_be_bytes();
        if !files::encode_uuid(&id).starts_with('-') {
            return id;
        }
    }
}

/// Directories found below a log directory.
#[derive(Default)]
struct Names {
    partitions: Vec<PartitionDir>,
    deleted: Vec<PathBuf>,
}

impl Names {
    async fn read(rt: &Rt, path: &Path) -> Result<Names, LogDirError> {
        let mut names = Names::default();
        for entry in rt.read_dir(path).await.map_err(io_error("list", path))? {
            if !entry.is_dir {
                continue;
            }
            match files::parse_dir_name(&entry.name) {
                DirName::Partition { topic, partition } if topic != METADATA_TOPIC => {
                    names.partitions.push(PartitionDir {
                        topic,
                        partition,
                        path: path.join(&entry.name),
                    });
                }
                DirName::Deleted => names.deleted.push(path.join(&entry.name)),
                DirName::Partition { .. } | DirName::Other => {}
            }
        }
        names.partitions.sort();
        Ok(names)
    }
}

async fn lock(
    rt: &Rt,
    path: &Path,
    take_lock: Option<TakeLock>,
) -> Result<Option<HeldLock>, LogDirError> {
    let Some(take_lock) = take_lock else {
        return Ok(None);
    };
    let lock_path = path.join(LOCK_FILE);
    let target = lock_path.clone();
    match rt.blocking(move || take_lock(&target)).await {
        Ok(Some(held)) => Ok(Some(held)),
        Ok(None) => Err(LogDirError::Locked {
            path: path.to_owned(),
        }),
        Err(e) => Err(io_error("lock", &lock_path)(e)),
    }
}

/// Checks whose directory it is, or makes it this node's; true when it was made now.
async fn identify(
    rt: &Rt,
    path: &Path,
    identity: &Identity,
    names: &Names,
) -> Result<(MetaProperties, bool), LogDirError> {
    let file = path.join(META_PROPERTIES);
    if let Some(meta) = read_meta_properties(rt, path).await? {
        if meta.node_id != identity.node_id {
            let (found, expected) = (meta.node_id, identity.node_id);
            return Err(LogDirError::WrongNode {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        if let Some(expected) = identity
            .cluster_id
            .as_ref()
            .filter(|id| **id != meta.cluster_id)
        {
            let (found, expected) = (meta.cluster_id, expected.clone());
            return Err(LogDirError::WrongCluster {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        return Ok((meta, false));
    }
    if let Some(partition) = names.partitions.first() {
        let partition = files::partition_dir_name(&partition.topic, partition.partition);
        return Err(LogDirError::NoMetaProperties {
            path: path.to_owned(),
            partition,
        });
    }
    let cluster_id = identity
        .cluster_id
        .clone()
        .unwrap_or_else(|| files::encode_uuid(&random_uuid(rt)));
    if !files::legal_cluster_id(&cluster_id) {
        return Err(LogDirError::BadClusterId { id: cluster_id });
    }
    let meta = MetaProperties {
        cluster_id,
        node_id: identity.node_id,
        directory_id: Some(random_uuid(rt)),
    };
    rt.write_atomic(&file, meta.encode())
        .await
        .map_err(io_error("write", &file))?;
    // The directory itself, and those above that were made with it, must survive too.
    for above in path.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        match rt.sync_dir(above).await {
            // One that may not be opened was not made here.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                return Err(io_error("fsync directory", above)(e));
            }
            _ => {}
        }
    }
    Ok((meta, true))
}

async fn read_boot_id(rt: &Rt) -> Option<String> {
    let bytes = rt.read_whole(BOOT_ID_PATH, SMALL_FILE_BYTES_MAX).await;
    let id = bytes.ok().and_then(parse_boot_id);
    if id.is_none() {
        tracing::warn!(
            "{BOOT_ID_PATH} cannot be read: every stop that is not clean counts as a power loss"
        );
    }
    id
}

/// Boot id under which the directory was last whole; anything unreadable counts as none.
async fn read_boot_marker(rt: &Rt, path: &Path) -> Result<Option<String>, LogDirError> {
    Ok(read_small(rt, &path.join(BOOT_MARKER))
        .await?
        .and_then(parse_boot_id))
}

fn parse_boot_id(bytes: Vec<u8>) -> Option<String> {
    let id = String::from_utf8(bytes).ok()?.trim().to_owned();
    files::legal_boot_id(&id).then_some(id)
}

async fn read_small(rt: &Rt, path: &Path) -> Result<Option<Vec<u8>>, LogDirError> {
    read_bounded(rt, path, SMALL_FILE_BYTES_MAX).await
}

async fn read_bounded(
    rt: &Rt,
    path: &Path,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, LogDirError> {
    match rt.read_whole(path, bytes_max).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> LogDirError + use<'a> {
    let path = path.to_owned();
    move |source| LogDirError::Io {
        action,
        path,
        source,
    }
}
