//! Opening and making the logs of partitions.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::Uuid;
use corelog_core::metadata::image::{Partition as KnownPartition, Topic};
use corelog_runtime::{Rt, ShardId};
use corelog_storage::checkpoint_files::OffsetMap;
use corelog_storage::log::{Log, LogError, LogParams};
use corelog_storage::log_dir::{StartKind, read_partition_metadata};

use super::Shard;
use super::apply::key_of;
use super::message::{Operation, Request, Response};
use super::partition::Partition;
use crate::daemon::start_state::{PartitionName, StartDir, StartState};
use crate::topic_settings::{TopicSettings, resolve};

/// Why a partition is not open.
pub(super) enum NotOpen {
    /// Its log directory is offline or not there.
    Dir(Arc<str>),
    /// In this directory, for this reason: it is tried again.
    Log(usize, String),
}

/// The log directory that the metadata places a partition in.
fn place(shard: &Shard, start: &StartState, known: &KnownPartition) -> Result<usize, NotOpen> {
    let offline = |why: &str| Err(NotOpen::Dir(why.into()));
    let Some(id) = known.directory(shard.start_config.node_id) else {
        return offline("it was found in none, and not all log directories are there");
    };
    let Some(at) = start.dir_of(id) else {
        let failed = start.dirs.iter().find_map(|dir| dir.failure.as_deref());
        return offline(&match failed {
            Some(why) => format!("directory.id {id} is not there; one could not be opened: {why}"),
            None => format!("no directory of log.dirs has directory.id {id}"),
        });
    };
    match shard.dirs.failure(at) {
        Some(why) => Err(NotOpen::Dir(why)),
        None => Ok(at),
    }
}

/// Opens or makes a partition's log, in the directory that it was placed in and in no other: what
/// is missing there is never made anew elsewhere.
pub(super) async fn open(
    shard: &Rc<Shard>,
    topic: &Arc<Topic>,
    index: i32,
    settings: &TopicSettings,
) -> Result<(), NotOpen> {
    let start = shard
        .start
        .borrow()
        .clone()
        .expect("the start's findings come before the first image");
    let Some(known) = topic.partition(index) else {
        return Ok(());
    };
    let began = (shard.newest_image(), shard.config());
    let at = place(shard, &start, known)?;
    let params = prepare(shard, &start.dirs[at], topic, index, known, settings);
    let (params, exists) = params.await.map_err(|error| NotOpen::Log(at, error))?;
    // What recovery found and did is logged by the log itself.
    let mut log = if exists {
        let opened = Log::open(&shard.rt, &shard.storage, params.clone()).await;
        opened.map(|(log, _)| log)
    } else {
        Log::create(&shard.rt, &shard.storage, params.clone()).await
    };
    // The broker's own topics are made and opened on a full disk too.
    while settings.log.uses_reserve
        && matches!(log, Err(LogError::NoSpace))
        && release(shard, at).await
    {
        let opened = Log::open(&shard.rt, &shard.storage, params.clone()).await;
        log = opened.map(|(log, _)| log);
    }
    let log = log.map_err(|error| NotOpen::Log(at, error.to_string()))?;
    if let Some(why) = shard.dirs.failure(at) {
        log.condemn(&why);
        return Err(NotOpen::Dir(why));
    }
    let (key, name) = (key_of(topic, index), topic.name.to_string());
    let rules = settings.rules.clone();
    let partition = Partition::new(key, name, at, known.leader_epoch, log, rules);
    let now = (shard.newest_image(), shard.config());
    if !Arc::ptr_eq(&began.0, &now.0) || !Arc::ptr_eq(&began.1, &now.1) {
        // Changed while it was opened.
        let settings = resolve(&now.0, &now.1, &topic.name);
        partition.set_config(settings.log, settings.rules);
    }
    shard.insert_partition(Rc::clone(&partition));
    crate::groups::opened(shard, &partition);
    Ok(())
}

/// Finds out what a log is to be opened by; true: its directory is there.
async fn prepare(
    shard: &Rc<Shard>,
    start: &StartDir,
    topic: &Topic,
    index: i32,
    known: &KnownPartition,
    settings: &TopicSettings,
) -> Result<(LogParams, bool), String> {
    let name: PartitionName = (topic.name.to_string(), index);
    let dir = start.path.join(format!("{}-{}", topic.name, index));
    let exists = set_stranger_aside(shard, &dir, topic.id).await;
    let exists = exists.map_err(|error| format!("{}: {error}", dir.display()))?;
    let key = key_of(topic, index);
    let since_start = shard.image().version() == 0 || shard.offline.since_start(&key);
    let had_records = start.high_watermarks.get(&name).is_some_and(|&end| end > 0);
    if !exists && had_records && since_start {
        // An empty log now would hide the records for good.
        return Err(format!("{}: the directory is gone", dir.display()));
    }
    // What the start found is of the log that was there then, not of one of the same name that was
    // made since, nor of one whose making failed half-way.
    let is_known = exists && since_start;
    if !is_known {
        // After the next start it would be taken for this one's.
        forget_former(shard, name.clone()).await?;
    }
    let checkpointed = |offsets: &OffsetMap| {
        let offset = offsets.get(&name).copied();
        offset.filter(|_| is_known).unwrap_or(0)
    };
    let params = LogParams {
        dir,
        topic: topic.name.to_string(),
        partition: index,
        topic_id: topic.id.to_bytes(),
        leader_epoch: known.leader_epoch,
        recovery_point: checkpointed(&start.recovery_points),
        high_watermark: checkpointed(&start.high_watermarks),
        log_start: checkpointed(&start.log_starts),
        start: match start.kind {
            Some(kind) if is_known => kind,
            _ if exists => StartKind::Unclean,
            _ => StartKind::Clean,
        },
        config: settings.log.clone(),
    };
    Ok((params, exists))
}

/// Has the checkpoints forget, durably, a log of this name that is gone.
async fn forget_former(shard: &Shard, name: PartitionName) -> Result<(), String> {
    let forget = Request::Operate(Operation::ForgetFormer(name));
    match shard.call(ShardId(0), forget).await {
        Some(Response::Lowered(Ok(()))) => Ok(()),
        Some(Response::Lowered(Err(why))) => Err(format!(
            "the checkpoints of a former log of this name could not be removed: {why}"
        )),
        _ => Err("the shard that writes checkpoints is gone".to_owned()),
    }
}

/// Has a part of a directory's reserve given back; false when nothing is left of it.
async fn release(shard: &Shard, at: usize) -> bool {
    let release = Request::Operate(Operation::ReleaseReserve(at));
    let released = shard.call(ShardId(0), release).await;
    matches!(released, Some(Response::Released(true)))
}

/// True when `dir` holds this topic's log. One of another topic id is left from a deletion that a
/// crash cut short: it is renamed, never opened under this name.
async fn set_stranger_aside(shard: &Shard, dir: &Path, id: Uuid) -> Result<bool, String> {
    if !shard.rt.stat(dir).await.is_ok_and(|stat| stat.is_dir) {
        return Ok(false);
    }
    let stored = read_partition_metadata(&shard.rt, dir)
        .await
        .map_err(|e| e.to_string())?;
    match stored {
        Some(stored) if stored != id.to_bytes() => {
            rename_to_stray(&shard.rt, dir)
                .await
                .map_err(|e| e.to_string())?;
            Ok(false)
        }
        Some(_) | None => Ok(true),
    }
}

/// Renames a partition's directory that no topic claims to `<name>.<32 hex>-stray`, as Kafka does:
/// nothing reads it any more, and nothing deletes it.
pub async fn rename_to_stray(rt: &Rt, dir: &Path) -> std::io::Result<()> {
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let stray = format!(
        "{name}.{:016x}{:016x}-stray",
        rt.random_u64(),
        rt.random_u64()
    );
    let parent = dir.parent().unwrap_or(Path::new("."));
    rt.rename(dir, parent.join(&stray)).await?;
    rt.sync_dir(parent).await?;
    tracing::warn!(dir = %dir.display(), renamed_to = stray, "no topic claims this directory");
    Ok(())
}
