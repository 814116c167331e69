//! Taking a newer image of the metadata: partitions of this shard are made, changed and dropped
//! until the shard is as the image says.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::config::BrokerConfig;
use corelog_core::metadata::image::{Image, Topic};
use corelog_runtime::ShardId;
use corelog_storage::log::delete_unopened;
use corelog_storage::log_dir::read_partition_metadata;

use super::Shard;
use super::message::{Operation, PartitionKey, Request};
use super::offline::{self, Unopened};
use super::opening::{NotOpen, open};
use super::partition::Partition;
use crate::topic_settings::{TopicSettings, resolve};

/// Logs opened at a time: recovery reads much, and other shards want the disk too.
const OPEN_AT_ONCE: usize = 16;

/// Makes this shard what `image` says; answers requests from it when done.
///
/// A partition whose log cannot be opened stays out of the shard, and is tried again beside whatever
/// images come: its clients get NOT_LEADER_OR_FOLLOWER, the log says why.
pub async fn apply_image(shard: &Rc<Shard>, image: Arc<Image>) {
    let _turn = shard.offline.changing.lock().await;
    if image.version() < shard.image().version() || shard.stopping.get() {
        return;
    }
    shard.offline.set_coming(Some(Arc::clone(&image)));
    refresh_broker_config(shard, &image);
    drop_removed(shard, &image).await;
    let mut missing = change_kept(shard, &image);
    missing.retain(|(topic, index, _)| !shard.offline.contains(&key_of(topic, *index)));
    open_all(shard, &missing).await;
    let before = shard.image();
    shard.set_image(Arc::clone(&image));
    shard.offline.set_coming(None);
    crate::groups::changed(shard, &before, &image);
    offline::retry(shard);
}

/// Takes what the configuration file says now, where it may change while the broker runs. Dynamic
/// configs of the metadata still come before it.
pub async fn reload(shard: &Rc<Shard>, config: Arc<BrokerConfig>) {
    let _turn = shard.offline.changing.lock().await;
    shard.set_static_config(config);
    let image = shard.image();
    refresh_broker_config(shard, &image);
    // Partitions that are offline take their settings when they are opened.
    change_kept(shard, &image);
    crate::groups::changed(shard, &image, &image);
}

/// Another try for the partitions that are offline. Images may come meanwhile: only one that deletes
/// a topic whose log is just being opened waits for that log.
pub(super) async fn open_again(shard: &Rc<Shard>) {
    let (image, config) = (shard.newest_image(), shard.config());
    let mut missing: Vec<Missing> = Vec::new();
    for key in shard.offline.keys() {
        let Some(topic) = image.topic_by_id(&key.topic_id) else {
            continue;
        };
        let settings = match missing.last() {
            Some((last, _, settings)) if last.id == topic.id => Rc::clone(settings),
            _ => Rc::new(resolve(&image, &config, &topic.name)),
        };
        missing.push((Arc::clone(topic), key.partition, settings));
    }
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
                let key = key_of(&topic, index);
                let _opening = shard.offline.begin_opening(key);
                // Its topic may be gone since it was listed.
                if shard.newest_image().topic_by_id(&key.topic_id).is_some() {
                    let opened = open(&shard, &topic, index, &settings).await;
                    note_opened(&shard, &topic, index, opened);
                }
            }));
        }
        for task in opening {
            task.await;
        }
    }
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

/// Drops the partitions whose topics are gone, with their files, opened or not.
async fn drop_removed(shard: &Rc<Shard>, image: &Image) {
    let own = shard.id().0;
    let kept: BTreeSet<PartitionKey> = image
        .topics()
        .flat_map(|topic| keys_on(topic, own).map(|(_, key)| key))
        .collect();
    let is_gone = |key: &PartitionKey| !kept.contains(key);
    // Files that are being opened are not renamed, and a topic made again wants their names.
    shard.offline.wait_opened(is_gone).await;
    let mut removed = shard.partitions();
    removed.retain(|partition| is_gone(&partition.key));
    let unopened = shard.offline.take(is_gone);
    if removed.is_empty() && unopened.is_empty() {
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
    let named = removed.iter().map(|p| (p.topic.clone(), p.key.partition));
    let mut names: Vec<_> = named.collect();
    let before = shard.image();
    for partition in unopened {
        if let Some(topic) = before.topic_by_id(&partition.key.topic_id) {
            delete_files(shard, &before, topic, &partition).await;
            names.push((topic.name.to_string(), partition.key.partition));
        }
    }
    // Topics made again under these names start from nothing. What cannot be forgotten now shard 0
    // tries again, and who makes such a log anew asks for it.
    shard
        .call(
            ShardId(0),
            Request::Operate(Operation::ForgetCheckpoints(names)),
        )
        .await;
}

/// Deletes the files of a partition whose log is not open, where they are known to be its own. In a
/// directory that does not work nothing can be done.
async fn delete_files(shard: &Shard, image: &Image, topic: &Topic, partition: &Unopened) {
    let Some(at) = partition.dir else { return };
    let start = shard.start.borrow().clone();
    let Some(path) = start.map(|start| start.dirs[at].path.clone()) else {
        return;
    };
    let index = partition.key.partition;
    let dir = path.join(format!("{}-{index}", topic.name));
    match read_partition_metadata(&shard.rt, &dir).await {
        Ok(Some(id)) if id == topic.id.to_bytes() => {}
        // Made by this process, which came no further.
        Ok(None) if !partition.since_start => {}
        _ => return,
    }
    let settings = resolve(image, &shard.config(), &topic.name);
    let delay = std::time::Duration::from_millis(settings.log.file_delete_delay_ms);
    let deleted = delete_unopened(&shard.rt, &shard.storage, &dir, (&topic.name, index), delay);
    match deleted.await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            shard.undeleted.borrow_mut().insert(at);
            tracing::error!(topic = %topic.name, partition = index, %error,
                "the files of a deleted topic could not be removed");
        }
        _ => {}
    }
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

pub(super) fn key_of(topic: &Topic, partition: i32) -> PartitionKey {
    PartitionKey {
        topic_id: topic.id,
        partition,
    }
}
