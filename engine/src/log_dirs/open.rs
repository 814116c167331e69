//! The start: which directories there are, whose they are, and which partitions are in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::Uuid;
use corelog_core::metadata::{FoundDirectories, Image};
use corelog_runtime::Rt;
use corelog_storage::log_dir::{
    Identity, LogDir, TakeLock, read_meta_properties, read_partition_metadata,
};

use super::{Dir, Halt, LogDirs, same};
use crate::daemon::start_state::PartitionName;
use crate::metadata_log::local::DIRECTORY;
use crate::shard::Shard;
use crate::shard::opening::rename_to_stray;

/// What the directories are opened by.
pub struct Wanted<'a> {
    /// `log.dirs`.
    pub log_dirs: &'a [String],
    /// `metadata.log.dir`.
    pub metadata_log_dir: Option<&'a str>,
    /// Why directories, by their place in [`paths`], are known not to work.
    pub unusable: &'a BTreeMap<usize, String>,
    /// `node.id`.
    pub node_id: i32,
    /// Keeps other processes out.
    pub take_lock: Option<TakeLock>,
}

/// The directories to open, those of `log.dirs` first, and the place of the metadata log's.
pub fn paths(log_dirs: &[String], metadata_log_dir: Option<&str>) -> (Vec<PathBuf>, usize) {
    let mut paths: Vec<PathBuf> = log_dirs.iter().map(PathBuf::from).collect();
    let Some(metadata) = metadata_log_dir.map(PathBuf::from) else {
        return (paths, 0);
    };
    let at = paths.iter().position(|path| same(path, &metadata));
    let at = at.unwrap_or_else(|| {
        paths.push(metadata);
        paths.len() - 1
    });
    (paths, at)
}

impl LogDirs {
    /// Opens all directories. One that its device refuses is offline from the start; what is wrong
    /// with the contents of one, or with the metadata log's, is an error.
    pub async fn open(rt: &Rt, wanted: &Wanted<'_>, halt: Halt) -> Result<LogDirs, String> {
        let (paths, metadata) = paths(wanted.log_dirs, wanted.metadata_log_dir);
        let mut failures = wanted.unusable.clone();
        let cluster_id = cluster_of(rt, &paths, metadata, &mut failures).await?;
        let mut opened = BTreeMap::new();
        let mut identity = Identity {
            cluster_id,
            node_id: wanted.node_id,
        };
        // The metadata log's first: a new cluster gets its id there.
        let order = std::iter::once(metadata).chain((0..paths.len()).filter(|at| *at != metadata));
        for at in order {
            if failures.contains_key(&at) {
                continue;
            }
            match LogDir::open(rt, &paths[at], identity.clone(), wanted.take_lock).await {
                Ok(dir) => {
                    identity.cluster_id = Some(dir.cluster_id().to_owned());
                    opened.insert(at, Rc::new(dir));
                }
                Err(error) if error.is_io() && at != metadata => {
                    failures.insert(at, error.to_string());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        if let Some(why) = failures.get(&metadata) {
            return Err(why.clone());
        }
        let dirs = paths.into_iter().enumerate().map(|(at, path)| {
            let open = opened.remove(&at);
            Dir {
                id: open.as_ref().map(|dir| id_of(dir)),
                open,
                failure: failures.get(&at).map(|why| Arc::from(why.as_str())).into(),
                full: Default::default(),
                path,
            }
        });
        let dirs = LogDirs {
            dirs: dirs.collect(),
            log_dirs: wanted.log_dirs.len(),
            metadata,
            halt,
            of_start: RefCell::default(),
            unforgotten: RefCell::default(),
        };
        dirs.check(rt).await?;
        Ok(dirs)
    }

    async fn check(&self, rt: &Rt) -> Result<(), String> {
        for dir in &self.dirs {
            if let Some(why) = dir.failure() {
                tracing::error!(dir = %dir.path.display(), reason = %why,
                    "the log directory is offline from the start");
            }
        }
        if self.online_ids().is_empty() {
            let why = self.dirs.iter().find_map(Dir::failure).unwrap_or_default();
            return Err(format!("no log directory can be used: {why}"));
        }
        let online = || self.dirs.iter().filter(|dir| dir.id.is_some());
        for (n, dir) in online().enumerate() {
            if let Some(twin) = online().take(n).find(|other| other.id == dir.id) {
                return Err(format!(
                    "log directories {} and {} have the same directory.id: one is a copy of the other; leave one in log.dirs",
                    twin.path.display(),
                    dir.path.display()
                ));
            }
        }
        self.check_metadata_log(rt).await
    }

    /// An empty metadata log beside directories that are not empty is no new cluster.
    async fn check_metadata_log(&self, rt: &Rt) -> Result<(), String> {
        let here = &self.dirs[self.metadata].path;
        if rt.stat(here.join(DIRECTORY)).await.is_ok() {
            return Ok(());
        }
        for (at, dir) in self.dirs.iter().enumerate() {
            let Some(open) = dir.online().filter(|_| at != self.metadata) else {
                continue;
            };
            let there = dir.path.display();
            if rt.stat(dir.path.join(DIRECTORY)).await.is_ok() {
                return Err(format!(
                    "the metadata log is in {there}, not in {}: set metadata.log.dir={there}",
                    here.display()
                ));
            }
            if let Some(partition) = open.partitions().first() {
                return Err(format!(
                    "{} holds no metadata log, but {} is there: restore {DIRECTORY}, or set metadata.log.dir to the directory that has it",
                    here.display(),
                    partition.path.display()
                ));
            }
        }
        Ok(())
    }

    /// Finishes deletions that the last process began.
    pub async fn remove_deleted(&self, rt: &Rt) {
        for (_, dir) in self.of_logs() {
            let Some(open) = dir.online() else { continue };
            for path in open.deleted() {
                if let Err(error) = remove_dir(rt, path).await {
                    tracing::warn!(path = %path.display(), %error,
                        "a deleted partition's directory could not be removed");
                }
            }
        }
    }

    /// Where the partitions of the image are.
    ///
    /// Errors: the files of one are in two directories.
    pub async fn found(
        &self,
        rt: &Rt,
        image: &Image,
        node_id: i32,
    ) -> Result<FoundDirectories, String> {
        let mut places: BTreeMap<PartitionName, Vec<(usize, &Path)>> = BTreeMap::new();
        for (at, dir) in self.of_logs() {
            for found in dir.online().map_or(&[][..], |open| open.partitions()) {
                let name = (found.topic.clone(), found.partition);
                places.entry(name).or_default().push((at, &found.path));
            }
        }
        let mut partitions = BTreeMap::new();
        for (name, places) in places {
            let Some(topic) = image.topic(&name.0) else {
                continue;
            };
            let known = topic.partition(name.1).map(|p| p.directory(node_id));
            let mut own = Vec::with_capacity(1);
            for (at, path) in &places {
                let id = self.dirs[*at].id;
                // Read only where it decides: a start with many partitions is to be quick.
                let is_clear = places.len() == 1 && known.is_none_or(|k| k.is_none() || k == id);
                if is_clear || is_of_topic(rt, path, topic.id).await? {
                    own.push((id, path));
                }
            }
            match own[..] {
                [] => {}
                [(id, _)] => {
                    partitions.extend(id.map(|id| (name, id)));
                }
                [(_, one), (_, other), ..] => {
                    return Err(format!(
                        "partition {}-{} is in two log directories, {} and {}: move one of them away",
                        name.0,
                        name.1,
                        one.display(),
                        other.display()
                    ));
                }
            }
        }
        Ok(FoundDirectories {
            online: self.online_ids(),
            is_any_offline: self.is_any_offline(),
            partitions,
        })
    }

    /// Has the directories that partitions were moved into by hand know what those that they came
    /// from know of them: where the image says that they were, until it is told where they are.
    /// Durable when it answers true; false: a directory went offline meanwhile, look again.
    ///
    /// Errors: the checkpoints of a directory that works cannot be written.
    pub async fn carry_moved(
        &self,
        shard: &Rc<Shard>,
        image: &Image,
        found: &FoundDirectories,
    ) -> Result<bool, String> {
        let node_id = shard.start_config.node_id;
        let mut moves: BTreeMap<(usize, usize), Vec<PartitionName>> = BTreeMap::new();
        for (name, &to) in &found.partitions {
            let known = image.topic(&name.0).and_then(|t| t.partition(name.1));
            let Some(from) = known.and_then(|p| p.directory(node_id)) else {
                continue;
            };
            if from == to {
                continue;
            }
            let works = |at: &usize| self.dirs[*at].online().is_some();
            match (self.place_of(from).filter(works), self.place_of(to)) {
                (Some(from), Some(to)) => {
                    moves.entry((from, to)).or_default().push(name.clone());
                }
                _ => tracing::warn!(topic = name.0, partition = name.1, from = %from,
                    "the partition was moved from a directory that is not there: its log start and its recovery point are not known"),
            }
        }
        for ((from, to), names) in moves {
            let (from, into) = (&self.dirs[from], &self.dirs[to]);
            // One that failed meanwhile has no partitions any more, or gives none away.
            let (Some(from), Some(into)) = (from.online(), into.online()) else {
                return Ok(false);
            };
            tracing::info!(from = %from.path().display(), to = %into.path().display(),
                partitions = names.len(), "partitions were moved to another log directory");
            if let Err(error) = into.take_over(from, &names).await {
                let (text, condemns) = (error.to_string(), error.condemns());
                self.note(shard, to, Err(error));
                return if condemns { Ok(false) } else { Err(text) };
            }
        }
        Ok(true)
    }

    /// Renames partition directories that no topic claims: a crash came between a topic's removal
    /// and its files', or the metadata was lost. Nothing is deleted. Checkpoints forget those that
    /// are not here, lest a topic made again inherits them.
    pub async fn set_strays_aside(&self, rt: &Rt, image: &Image, node_id: i32) {
        let directory_of = |topic: &str, partition: i32| {
            let topic = image.topic(topic)?;
            topic.partition(partition)?.directory(node_id)
        };
        for (_, dir) in self.of_logs() {
            let Some(open) = dir.online() else { continue };
            for found in open.partitions() {
                let is_here = directory_of(&found.topic, found.partition) == dir.id;
                if !is_here && let Err(error) = rename_to_stray(rt, &found.path).await {
                    tracing::error!(path = %found.path.display(), %error,
                        "an unknown partition's directory stays");
                }
            }
            let offsets = [
                open.recovery_points(),
                open.high_watermarks(),
                open.log_starts(),
            ];
            let names = offsets.into_iter().flat_map(BTreeMap::into_keys);
            let gone: Vec<PartitionName> = names
                .filter(|(topic, partition)| directory_of(topic, *partition) != dir.id)
                .collect();
            if !gone.is_empty()
                && let Err(error) = open.forget(&gone).await
            {
                tracing::warn!(%error, "checkpoints of partitions that are gone stay");
            }
        }
    }

    /// All logs of all directories were opened, or are known not to be.
    pub async fn mark_recovered(&self, shard: &Rc<Shard>) {
        for (at, dir) in self.dirs.iter().enumerate() {
            if let Some(open) = dir.online().map(Rc::clone) {
                let marked = open.mark_recovered().await;
                self.note(shard, at, marked);
            }
        }
    }
}

async fn remove_dir(rt: &Rt, path: &Path) -> std::io::Result<()> {
    for entry in rt.read_dir(path).await? {
        rt.unlink(path.join(&entry.name)).await?;
    }
    rt.rmdir(path).await
}

/// The cluster that the directories belong to; `None` when all are new.
async fn cluster_of(
    rt: &Rt,
    paths: &[PathBuf],
    metadata: usize,
    failures: &mut BTreeMap<usize, String>,
) -> Result<Option<String>, String> {
    let mut cluster_id = None;
    for (at, path) in paths.iter().enumerate() {
        if failures.contains_key(&at) {
            continue;
        }
        match read_meta_properties(rt, path).await {
            Ok(meta) => {
                cluster_id = cluster_id.or(meta.map(|meta| meta.cluster_id));
            }
            Err(error) if error.is_io() && at != metadata => {
                failures.insert(at, error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(cluster_id)
}

fn id_of(dir: &LogDir) -> Uuid {
    uuid(dir.directory_id())
}

fn uuid(bytes: [u8; 16]) -> Uuid {
    let bits = u128::from_be_bytes(bytes);
    Uuid::from_parts((bits >> 64) as u64, bits as u64)
}

/// A directory without `partition.metadata` may be the topic's.
async fn is_of_topic(rt: &Rt, path: &Path, topic_id: Uuid) -> Result<bool, String> {
    let stored = read_partition_metadata(rt, path).await;
    let stored = stored.map_err(|error| error.to_string())?;
    Ok(stored.is_none_or(|stored| stored == topic_id.to_bytes()))
}
