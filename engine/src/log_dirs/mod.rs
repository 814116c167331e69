//! The log directories of the broker, as shard 0 looks after them: which are open, which failed and
//! why, which are full. A failure or a full disk is found by any shard and told here; from here all
//! shards and the metadata hear of it.

pub mod guard;
pub mod open;
mod space;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelog_core::Uuid;
use corelog_core::metadata::{Image, directories_offline};
use corelog_runtime::ShardId;
use corelog_storage::log_dir::{LogDir, LogDirError, StartKind};

use crate::daemon::start_state::{PartitionName, StartDir, StartState};
use crate::shard::Shard;
use crate::shard::dirs::DirNews;
use crate::shard::message::{CheckpointMarks, Request};

/// Between two tries to tell the controller of a failed directory.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Called when the broker cannot go on, with the reason.
pub type Halt = Box<dyn Fn(&str)>;

/// One directory.
pub struct Dir {
    /// As it is configured.
    pub path: PathBuf,
    /// `directory.id`; `None` when it never opened.
    pub id: Option<Uuid>,
    open: Option<Rc<LogDir>>,
    failure: RefCell<Option<Arc<str>>>,
    full: Cell<bool>,
}

impl Dir {
    /// The open directory, while it works.
    pub fn online(&self) -> Option<&Rc<LogDir>> {
        self.open
            .as_ref()
            .filter(|_| self.failure.borrow().is_none())
    }

    /// Why it is offline.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.failure.borrow().clone()
    }

    /// Its file system has no room for appends.
    pub fn is_full(&self) -> bool {
        self.full.get()
    }
}

/// All directories. Shard: 0.
pub struct LogDirs {
    dirs: Vec<Dir>,
    /// Of these so many are in `log.dirs`.
    log_dirs: usize,
    /// The one with the metadata log.
    metadata: usize,
    halt: Halt,
    /// The metadata of the start, until shard 0 answers from some.
    of_start: RefCell<Option<Arc<Image>>>,
    /// Partitions of deleted topics that checkpoints could not be made to forget.
    unforgotten: RefCell<BTreeSet<PartitionName>>,
}

impl LogDirs {
    /// All of them, in the order of [`StartState::dirs`].
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    /// The directory of the metadata log.
    pub fn metadata(&self) -> &Rc<LogDir> {
        let dir = self.dirs[self.metadata].open.as_ref();
        dir.expect("the broker does not start without the directory of its metadata")
    }

    /// Those of `log.dirs`.
    fn of_logs(&self) -> impl Iterator<Item = (usize, &Dir)> {
        self.dirs.iter().take(self.log_dirs).enumerate()
    }

    /// Ids of the directories that take partitions, in the order of `log.dirs`.
    pub fn online_ids(&self) -> Vec<Uuid> {
        let online = self.of_logs().filter(|(_, dir)| dir.online().is_some());
        online.filter_map(|(_, dir)| dir.id).collect()
    }

    /// Takes the metadata that the first logs are opened by.
    pub fn set_image_of_start(&self, image: Arc<Image>) {
        *self.of_start.borrow_mut() = Some(image);
    }

    /// The directory of `log.dirs` with this id, while it works or since it failed.
    fn place_of(&self, id: Uuid) -> Option<usize> {
        let mut found = self.of_logs();
        found.find(|(_, dir)| dir.id == Some(id)).map(|(at, _)| at)
    }

    /// The directory that the metadata places a partition in.
    fn place_of_partition(&self, shard: &Shard, name: &PartitionName) -> Option<usize> {
        let of_start = self.of_start.borrow().clone();
        let images = [Some(shard.image()), Some(shard.newest_image()), of_start];
        let known = images.into_iter().flatten().find_map(|image| {
            let partition = image.topic(&name.0)?.partition(name.1)?;
            partition.directory(shard.start_config.node_id)
        });
        self.place_of(known?)
    }

    /// A directory of `log.dirs` does not work.
    pub fn is_any_offline(&self) -> bool {
        self.of_logs().any(|(_, dir)| dir.online().is_none())
    }

    /// What the shards open their partitions by.
    pub fn start_state(&self) -> StartState {
        let of_dir = |dir: &Dir| {
            let found = dir.online();
            let offsets = |read: fn(&LogDir) -> corelog_storage::checkpoint_files::OffsetMap| {
                found.map(|open| read(open)).unwrap_or_default()
            };
            StartDir {
                path: dir.path.clone(),
                id: dir.id,
                kind: found.map(|open| open.start_kind()),
                recovery_points: offsets(LogDir::recovery_points),
                high_watermarks: offsets(LogDir::high_watermarks),
                log_starts: offsets(LogDir::log_starts),
                failure: dir.failure(),
            }
        };
        StartState {
            cluster_id: Arc::from(self.metadata().cluster_id()),
            dirs: self.dirs.iter().map(of_dir).collect(),
            log_dirs: self.log_dirs,
        }
    }

    /// Takes a directory offline for this reason, unless it is already: all its partitions, then
    /// their leaderships. Without a directory for logs, or for the metadata, the broker ends.
    pub fn fail(&self, shard: &Rc<Shard>, at: usize, why: &Arc<str>) {
        let Some(dir) = self.dirs.get(at) else {
            return;
        };
        if dir.failure.borrow().is_some() {
            return;
        }
        *dir.failure.borrow_mut() = Some(Arc::clone(why));
        tracing::error!(dir = %dir.path.display(), reason = %why, "the log directory is offline");
        if at == self.metadata {
            let path = dir.path.display();
            (self.halt)(&format!(
                "the log directory with the metadata log failed: {path}: {why}"
            ));
            return;
        }
        if self.online_ids().is_empty() {
            let path = dir.path.display();
            (self.halt)(&format!("the last log directory failed: {path}: {why}"));
            return;
        }
        self.announce(shard, &DirNews::Offline(at, Arc::clone(why)));
        let shard = Rc::clone(shard);
        shard.clone().spawn("log_dir_offline", async move {
            tell_controller(&shard).await;
        });
    }

    /// Tells all shards.
    fn announce(&self, shard: &Rc<Shard>, news: &DirNews) {
        for to in 0..shard.shards() {
            shard.cast(ShardId(to as u16), Request::DirNews(news.clone()));
        }
    }

    /// Takes the outcome of a write of one of a directory's own files.
    fn note(&self, shard: &Rc<Shard>, at: usize, written: Result<(), LogDirError>) -> bool {
        match written {
            Ok(()) => true,
            Err(error) => {
                self.refused(shard, at, error);
                false
            }
        }
    }

    /// The same for a refusal, which is given back to whoever asked for the write.
    fn refused(&self, shard: &Rc<Shard>, at: usize, error: LogDirError) -> io::Error {
        tracing::error!(%error, "a file of a log directory could not be written");
        if error.condemns() {
            self.fail(shard, at, &error.to_string().into());
        }
        error.into_io()
    }

    /// Lowers a partition's checkpoints to an offset, durably, in the directory that it is in. While
    /// the metadata does not say which that is, wherever they are.
    pub async fn lower(
        &self,
        shard: &Rc<Shard>,
        name: PartitionName,
        offset: i64,
    ) -> io::Result<()> {
        // Another directory may name a former partition of this name, and may be offline.
        let place = self.place_of_partition(shard, &name);
        for (at, dir) in self.dirs.iter().enumerate() {
            let Some(open) = dir.open.as_ref().filter(|_| place.is_none_or(|p| p == at)) else {
                continue;
            };
            if let (true, Some(why)) = (open.is_checkpointed(&name), dir.failure()) {
                let why = format!("the log directory is offline: {why}");
                return Err(io::Error::other(why));
            }
            let lowered = open.lower(&name.0, name.1, offset).await;
            lowered.map_err(|error| self.refused(shard, at, error))?;
        }
        Ok(())
    }

    /// Drops partitions from the checkpoints of every directory, durably. What fails is tried again
    /// with the next checkpoints.
    pub async fn forget(&self, shard: &Rc<Shard>, partitions: &[PartitionName]) -> io::Result<()> {
        let mut outcome = Ok(());
        for (at, dir) in self.dirs.iter().enumerate() {
            if let Some(open) = dir.online()
                && let Err(error) = open.forget(partitions).await
            {
                outcome = Err(self.refused(shard, at, error));
            }
        }
        let mut unforgotten = self.unforgotten.borrow_mut();
        match outcome {
            Ok(()) => unforgotten.retain(|name| !partitions.contains(name)),
            Err(_) => unforgotten.extend(partitions.iter().cloned()),
        }
        outcome
    }

    /// Drops a partition whose name is about to be used again, where a checkpoint still names it.
    pub async fn forget_former(&self, shard: &Rc<Shard>, name: PartitionName) -> io::Result<()> {
        let mut online = self.dirs.iter().filter_map(Dir::online);
        if online.any(|open| open.is_checkpointed(&name)) {
            return self.forget(shard, &[name]).await;
        }
        self.unforgotten.borrow_mut().remove(&name);
        Ok(())
    }

    /// Tries again to drop those that could not be dropped. None of them is a name in use:
    /// [`LogDirs::forget_former`] came first, and turns are taken in order.
    async fn forget_again(&self, shard: &Rc<Shard>) {
        let names: Vec<PartitionName> = self.unforgotten.borrow().iter().cloned().collect();
        if !names.is_empty() {
            let _noted = self.forget(shard, &names).await;
        }
    }

    /// Raises a partition's recovery point and log start, durably, in the directory `at` which it is.
    /// (The owner of a log knows where it is before this shard's image names the partition, which may
    /// be long after when there is much to recover; the image knows it of one that is being deleted.)
    pub async fn raise_log_start(
        &self,
        shard: &Rc<Shard>,
        at: Option<usize>,
        name: PartitionName,
        log_start: i64,
        recovery_point: i64,
    ) -> io::Result<()> {
        let place = at.or_else(|| self.place_of_partition(shard, &name));
        let place = place.and_then(|at| Some((at, Rc::clone(self.dirs.get(at)?.online()?))));
        let Some((at, open)) = place else {
            return Err(io::Error::other("the partition's log directory is offline"));
        };
        let raised = open.raise_log_start(&name.0, name.1, log_start, recovery_point);
        raised.await.map_err(|error| self.refused(shard, at, error))
    }

    /// Of each directory what grows with every lowered or forgotten checkpoint, see
    /// [`LogDir::lowered`].
    pub fn lowered(&self) -> Vec<u64> {
        let lowered = |dir: &Dir| dir.open.as_ref().map_or(0, |open| open.lowered());
        self.dirs.iter().map(lowered).collect()
    }

    /// Writes the checkpoint files of every directory that works; `recovery` also the recovery
    /// points and log starts. False when one of them refused, or something in it was lowered since
    /// `as_of`.
    pub async fn write_checkpoints(
        &self,
        shard: &Rc<Shard>,
        marks: &[CheckpointMarks],
        recovery: bool,
        as_of: &[u64],
    ) -> bool {
        let mut all = true;
        for ((at, dir), as_of) in self.of_logs().zip(as_of) {
            if let Some(open) = dir.online().map(Rc::clone) {
                match write(&open, at, marks, recovery, *as_of).await {
                    Ok(written) => all &= written,
                    Err(error) => all &= self.note(shard, at, Err(error)),
                }
            }
        }
        // Last: it makes void what was gathered.
        self.forget_again(shard).await;
        all
    }

    /// The end of a clean stop: checkpoints and a clean marker, in every directory but those named.
    pub async fn close(
        &self,
        marks: &[CheckpointMarks],
        broker_epoch: i64,
        is_unclean: impl Fn(usize) -> bool,
    ) -> bool {
        let mut all = true;
        for (at, dir) in self.dirs.iter().enumerate() {
            let Some(open) = dir.online().map(Rc::clone) else {
                all = false;
                continue;
            };
            if is_unclean(at) {
                all = false;
                continue;
            }
            let left = async {
                match write(&open, at, marks, true, open.lowered()).await? {
                    true => open.write_clean_marker(broker_epoch).await.map(|()| true),
                    false => Ok(false),
                }
            };
            match left.await {
                Ok(is_clean) => all &= is_clean,
                Err(error) => {
                    tracing::error!(%error, "the log directory was not left clean");
                    all = false;
                }
            }
        }
        all
    }
}

/// Writes the checkpoint files of one directory.
async fn write(
    open: &LogDir,
    at: usize,
    marks: &[CheckpointMarks],
    recovery: bool,
    as_of: u64,
) -> Result<bool, LogDirError> {
    let offsets = |mark: fn(&CheckpointMarks) -> i64| {
        let here = marks.iter().filter(|marks| marks.dir == at);
        here.map(|marks| ((marks.topic.clone(), marks.partition), mark(marks)))
            .collect()
    };
    let watermarks = offsets(|m| m.high_watermark);
    let written = open.write_high_watermarks(&watermarks, as_of).await?;
    if !recovery || !written {
        return Ok(written);
    }
    let (starts, points) = (offsets(|m| m.log_start), offsets(|m| m.recovery_point));
    Ok(open.write_log_starts(&starts, as_of).await?
        && open.write_recovery_points(&points, as_of).await?)
}

/// Has the metadata say that partitions of failed directories have no leader here.
pub async fn tell_controller(shard: &Rc<Shard>) {
    loop {
        let (dirs, controller) = {
            let dirs = shard.log_dirs.borrow().clone();
            (dirs, shard.controller.borrow().clone())
        };
        // Before there is a controller the start registers what works.
        let (Some(dirs), Some(controller)) = (dirs, controller) else {
            return;
        };
        let failed: Vec<Uuid> = {
            let failed = dirs.dirs.iter().filter(|dir| dir.online().is_none());
            failed.filter_map(|dir| dir.id).collect()
        };
        let node_id = shard.start_config.node_id;
        let told = controller
            .change(false, move |image: &Image| {
                (directories_offline(image, node_id, &failed), ())
            })
            .await;
        if told.is_some() || shard.stopping.get() {
            return;
        }
        shard.rt.sleep(TELL_AGAIN).await;
    }
}

/// What the metadata log does when its device fails.
pub fn metadata_failed(shard: &Rc<Shard>) -> Box<dyn Fn(&str)> {
    let shard = Rc::downgrade(shard);
    Box::new(move |why| {
        if let Some(shard) = shard.upgrade() {
            let dirs = shard.log_dirs.borrow().clone();
            if let Some(dirs) = dirs {
                dirs.fail(&shard, dirs.metadata, &why.into());
            }
        }
    })
}

/// Takes what another shard, or this one, found out about a directory.
pub fn report(shard: &Rc<Shard>, at: usize, found: Found) {
    let dirs = shard.log_dirs.borrow().clone();
    let Some(dirs) = dirs else { return };
    match found {
        Found::Failed(why) => dirs.fail(shard, at, &why),
        Found::NoSpace => dirs.note_full(shard, at),
    }
}

/// What a shard finds out about a directory.
#[derive(Debug, Clone)]
pub enum Found {
    /// An I/O error.
    Failed(Arc<str>),
    /// Room was refused.
    NoSpace,
}

/// How the directories are, for /health; on shard 0, else empty.
pub fn health(shard: &Shard) -> Vec<DirHealth> {
    let dirs = shard.log_dirs.borrow();
    let dirs = dirs.as_ref().map_or(&[][..], |dirs| dirs.dirs());
    let of_dir = |dir: &Dir| DirHealth {
        path: dir.path.display().to_string(),
        failure: dir.failure(),
        is_full: dir.is_full(),
    };
    dirs.iter().map(of_dir).collect()
}

/// How one directory is.
#[derive(Debug, Clone)]
pub struct DirHealth {
    /// As it is configured.
    pub path: String,
    /// Why it is offline.
    pub failure: Option<Arc<str>>,
    /// Appends are refused for want of space.
    pub is_full: bool,
}

/// Says how the last process ended where it did not end well.
pub fn log_start_kinds(dirs: &LogDirs) {
    for dir in dirs.dirs() {
        if let Some(open) = dir.online()
            && open.start_kind() != StartKind::Clean
        {
            tracing::info!(dir = %dir.path.display(), kind = ?open.start_kind(),
                "the last stop was not clean; logs are checked from their recovery points");
        }
    }
}

/// Whether two configured paths are the same directory by their names.
fn same(a: &Path, b: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute(a) == absolute(b)
}
