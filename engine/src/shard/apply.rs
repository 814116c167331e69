//! Taking a newer image of the metadata: partitions of this shard are made, changed and dropped
//! until the shard is as the image says.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::Uuid;
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::image::{Image, Partition as KnownPartition, Topic};
use corelog_runtime::{Rt, ShardId};
use corelog_storage::checkpoint_files::OffsetMap;
use corelog_storage::log::{Log, LogError, LogParams};
use corelog_storage::log_dir::{StartKind, read_partition_metadata};

use super::message::{Operation, PartitionKey, Request, Response};
use super::partition::Partition;
use super::{Shard, offline};
use crate::daemon::start_state::StartState;
use crate::topic_settings::{TopicSettings, resolve};

/// Logs opened at a time: recovery reads much, and other shards want the disk too.
const OPEN_AT_ONCE: usize = 16;

/// Makes this shard what `image` says; answers requests from it when done.
///
/// A partition whose log cannot be opened stays out of the shard, and is tried again: its clients get
/// NOT_LEADER_OR_FOLLOWER, the log says why.
pub async fn apply_image(shard: &Rc<Shard>, image: Arc<Image>) {
    let _turn = shard.offline.opening.lock().await;
    if image.version() < shard.image().version() || shard.stopping.get() {
        return;
    }
    refresh_broker_config(shard, &image);
    drop_removed(shard, &image).await;
    let missing = change_kept(shard, &image);
    let asked: BTreeSet<_> = missing
        .iter()
        .map(|(t, index, _)| key_of(t, *index))
        .collect();
    shard.offline.retain(&asked);
    open_all(shard, &missing).await;
    let before = shard.image();
    shard.set_image(Arc::clone(&image));
    crate::groups::changed(shard, &before, &image);
    offline::retry(shard);
}

/// Takes what the configuration file says now, where it may change while the broker runs. Dynamic
/// configs of the metadata still come before it.
pub async fn reload(shard: &Rc<Shard>, config: Arc<BrokerConfig>) {
    let _turn = shard.offline.opening.lock().await;
    shard.set_static_config(config);
    let image = shard.image();
    refresh_broker_config(shard, &image);
    // Partitions that are offline take their settings when they are opened.
    change_kept(shard, &image);
    crate::groups::changed(shard, &image, &image);
}

/// Another try for the partitions that are offline.
pub(super) async fn open_again(shard: &Rc<Shard>) {
    let offline = shard.offline.keys();
    let mut missing = change_kept(shard, &shard.image());
    missing.retain(|(topic, index, _)| offline.contains(&key_of(topic, *index)));
    open_all(shard, &missing).await;
}

type Missing = (Arc<Topic>, i32, Rc<TopicSettings>);

async fn open_all(shard: &Rc<Shard>, missing: &[Missing]) {
    for group in missing.chunks(OPEN_AT_ONCE) {
        let mut opening = Vec::with_capacity(group.len());
        for (topic, index, settings) in group {
            let (shard, topic, settings) = (Rc::clone(shard), Arc::clone(topic), settings.clone());
            let index = *index;
            opening.push(shard.rt.clone().spawn_vital("open_log", async move {
                let opened = open(&shard, &topic, index, &settings).await;
                note_opened(&shard, &topic, index, opened);
            }));
        }
        for task in opening {
            task.await;
        }
    }
}

/// Why a partition is not open.
enum NotOpen {
    /// Its log directory is offline or not there.
    Dir(Arc<str>),
    /// In this directory, for this reason: it is tried again.
    Log(usize, String),
}

fn note_opened(shard: &Shard, topic: &Topic, index: i32, opened: Result<(), NotOpen>) {
    let key = key_of(topic, index);
    match opened {
        Ok(()) if shard.offline.remove(&key) => {
            tracing::info!(topic = %topic.name, partition = index, "the log is open; the partition is online");
        }
        Ok(()) => {}
        Err(NotOpen::Dir(why)) => {
            if shard.offline.add_dir(key) {
                tracing::error!(topic = %topic.name, partition = index, reason = %why,
                    "the partition is offline: its log directory is");
            }
        }
        Err(NotOpen::Log(dir, error)) => {
            // The first image of a process is what was there before it.
            let since_start = shard.image().version() == 0;
            if shard.offline.add(key, dir, &error, since_start) {
                tracing::error!(topic = %topic.name, partition = index, error,
                    "the log could not be opened; the partition is offline and will be tried again");
            }
        }
    }
}

/// Broker-wide keys that were changed while running bind from here on.
fn refresh_broker_config(shard: &Shard, image: &Image) {
    let by_default = image.broker_config("").map(AsRef::as_ref);
    let of_node = image
        .broker_config(&shard.start_config.node_id.to_string())
        .map(AsRef::as_ref);
    match shard.static_config().with_dynamic(by_default, of_node) {
        Ok(config) => shard.set_config(Arc::new(config)),
        Err(error) => tracing::warn!(%error, "a stored broker config is not valid; it is left out"),
    }
}

async fn drop_removed(shard: &Rc<Shard>, image: &Image) {
    let own = shard.id().0;
    let kept: BTreeSet<PartitionKey> = image
        .topics()
        .flat_map(|topic| keys_on(topic, own).map(|(_, key)| key))
        .collect();
    let mut removed = shard.partitions();
    removed.retain(|partition| !kept.contains(&partition.key));
    if removed.is_empty() {
        return;
    }
    for group in removed.chunks(OPEN_AT_ONCE) {
        let mut deleting = Vec::with_capacity(group.len());
        for partition in group {
            shard.remove_partition(&partition.key);
            crate::groups::closed(shard, &partition.key);
            partition.fire_waiters();
            let (shard, partition) = (Rc::clone(shard), Rc::clone(partition));
            deleting.push(shard.rt.clone().spawn_vital("delete_log", async move {
                delete(&shard, &partition).await;
            }));
        }
        for task in deleting {
            task.await;
        }
    }
    // Topics made again under these names start from nothing.
    let names = removed
        .iter()
        .map(|p| (p.topic.clone(), p.key.partition))
        .collect();
    shard
        .call(
            ShardId(0),
            Request::Operate(Operation::ForgetCheckpoints(names)),
        )
        .await;
}

async fn delete(shard: &Shard, partition: &Partition) {
    if let Err(error) = partition.log.clone().delete().await {
        // A later log of this name sees by the topic id that these files are not its own.
        shard.undeleted.borrow_mut().insert(partition.dir);
        tracing::error!(topic = %partition.topic, partition = partition.key.partition, %error,
            "the log of a deleted topic could not be removed");
    }
}

/// Gives open partitions their changed settings; returns those that are not open yet.
fn change_kept(shard: &Rc<Shard>, image: &Image) -> Vec<Missing> {
    let own = shard.id().0;
    let config = shard.config();
    let mut missing = Vec::new();
    for topic in image.topics() {
        let mut settings: Option<Rc<TopicSettings>> = None;
        for (index, key) in keys_on(topic, own) {
            let settings =
                settings.get_or_insert_with(|| Rc::new(resolve(image, &config, &topic.name)));
            match shard.partition(&key) {
                Ok(partition) => partition.set_config(settings.log.clone(), settings.rules.clone()),
                Err(_) => missing.push((Arc::clone(topic), index, Rc::clone(settings))),
            }
        }
    }
    missing
}

fn keys_on(topic: &Topic, shard: u16) -> impl Iterator<Item = (i32, PartitionKey)> {
    (0i32..)
        .zip(&topic.partitions)
        .filter(move |(_, partition)| partition.shard == shard)
        .map(|(index, _)| (index, key_of(topic, index)))
}

fn key_of(topic: &Topic, partition: i32) -> PartitionKey {
    PartitionKey {
        topic_id: topic.id,
        partition,
    }
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
async fn open(
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
    let at = place(shard, &start, known)?;
    let not_open = |error: String| NotOpen::Log(at, error);
    let start = &start.dirs[at];
    let name = (topic.name.to_string(), index);
    let dir = start.path.join(format!("{}-{}", topic.name, index));
    let exists = set_stranger_aside(shard, &dir, topic.id)
        .await
        .map_err(|error| not_open(format!("{}: {error}", dir.display())))?;
    let key = key_of(topic, index);
    let had_records = start.high_watermarks.get(&name).is_some_and(|&end| end > 0);
    let since_start = shard.image().version() == 0 || shard.offline.since_start(&key);
    if !exists && had_records && since_start {
        // An empty log now would hide the records for good.
        return Err(not_open(format!(
            "{}: the directory is gone",
            dir.display()
        )));
    }
    let checkpointed = |offsets: &OffsetMap| {
        if exists {
            offsets.get(&name).copied().unwrap_or(0)
        } else {
            0
        }
    };
    if !exists && start.is_checkpointed(&name) {
        // Of a log of this name that is gone: after the next start they would be taken for this one's.
        let forget = Request::Operate(Operation::ForgetCheckpoints(vec![name.clone()]));
        shard.call(ShardId(0), forget).await;
    }
    let params = LogParams {
        dir: dir.clone(),
        topic: topic.name.to_string(),
        partition: index,
        topic_id: topic.id.to_bytes(),
        leader_epoch: known.leader_epoch,
        recovery_point: checkpointed(&start.recovery_points),
        high_watermark: checkpointed(&start.high_watermarks),
        log_start: checkpointed(&start.log_starts),
        start: match start.kind {
            Some(kind) if exists => kind,
            None if exists => StartKind::Unclean,
            _ => StartKind::Clean,
        },
        config: settings.log.clone(),
    };
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
    let log = log.map_err(|error| not_open(error.to_string()))?;
    if let Some(why) = shard.dirs.failure(at) {
        log.condemn(&why);
        return Err(NotOpen::Dir(why));
    }
    let name = topic.name.to_string();
    let rules = settings.rules.clone();
    let partition = Partition::new(key, name, at, known.leader_epoch, log, rules);
    shard.insert_partition(Rc::clone(&partition));
    crate::groups::opened(shard, &partition);
    Ok(())
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
