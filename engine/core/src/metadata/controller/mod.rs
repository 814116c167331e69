//! The controller's decisions: a request and an image go in, records to propose and the answer
//! come out. The answer may be sent once the records are applied; nothing changes before.

mod configs;
mod directories;
mod partitions;
mod replace_configs;
mod topics;

pub use configs::incremental_alter_configs;
pub use directories::{FoundDirectories, directories_offline};
pub use partitions::create_partitions;
pub use replace_configs::alter_configs;
pub use topics::{
    auto_create_request, consumer_offsets_replication_factor, create_topics, delete_topics,
};

use std::ops::Range;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;

use super::image::{Image, Partition};
use super::record::{BrokerEndpoint, Record};
use crate::Uuid;
use crate::config::BrokerConfig;
use crate::placement::{DirectoryPlacement, Placement};

/// Most partitions that one request may make, as in Kafka.
pub const MAX_NEW_PARTITIONS_PER_REQUEST: usize = 10_000;

/// Producer ids are given out in blocks of this many.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// What decisions need besides image and request.
#[derive(Debug, Clone, Copy)]
pub struct ControllerContext<'a> {
    /// Configuration of the node that decides, dynamic settings in force.
    pub broker: &'a BrokerConfig,
    /// Shards of that node, at least 1.
    pub shards: u16,
}

/// An error for a client: code and sentence.
pub(super) type Refusal = (ErrorCode, String);

/// A broker that begins a new incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRegistration {
    /// Node id.
    pub node_id: i32,
    /// Chosen at random at the start of the process.
    pub incarnation: Uuid,
    /// What clients are told, with the ports that were bound.
    pub endpoints: Vec<BrokerEndpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Number of its shards, at least 1.
    pub shards: u16,
    /// What it found in its log directories.
    pub found: FoundDirectories,
}

/// Registers an incarnation: the broker loses every leadership and its seat in every ISR that has
/// another member; where it is the only member it leads again, unless the log directory that it
/// holds the partition in does not work: then nobody leads. Either way the partition's leader
/// epoch grows by one. Partitions on shards the broker no longer has are placed anew. One batch;
/// the same incarnation again gives no records.
pub fn register_broker(image: &Image, registration: &BrokerRegistration) -> Vec<Record> {
    let node_id = registration.node_id;
    if image
        .broker(node_id)
        .is_some_and(|b| b.incarnation == registration.incarnation)
    {
        return Vec::new();
    }
    let last_epoch = image
        .brokers()
        .map(|broker| broker.broker_epoch)
        .max()
        .unwrap_or(0);
    let mut records = vec![Record::RegisterBroker {
        node_id,
        incarnation: registration.incarnation,
        broker_epoch: last_epoch + 1,
        endpoints: registration.endpoints.clone(),
        rack: registration.rack.clone(),
    }];
    let found = &registration.found;
    let mut directories = found.reconcile(image, node_id);
    if !found.online.is_empty() {
        records.push(Record::BrokerDirectories {
            node_id,
            directories: found.online.clone(),
        });
    }
    let shards = registration.shards.max(1);
    let mut placement = Placement::new(image, node_id, shards);
    for topic in image.topics() {
        let mut of_topic = placement.of_topic(image, &topic.id, node_id);
        for (index, partition) in (0..).zip(&topic.partitions) {
            if !partition.replicas.contains(&node_id) {
                continue;
            }
            let name = (&*topic.name, index);
            let (is_online, moved_to) = directories.of(name, partition.directory(node_id));
            let mut next = after_restart(partition, node_id, is_online);
            if next.shard >= shards {
                next.shard = of_topic.place();
            }
            if next != *partition {
                next.partition_epoch += 1;
                records.push(next.to_record(topic.id, index));
            }
            records.extend(moved_to.map(|directory| Record::ReplicaDirectory {
                topic_id: topic.id,
                index,
                node_id,
                directory,
            }));
        }
    }
    records
}

/// A partition's state once `node_id`'s former incarnation is gone; `is_online`: the new one has
/// the directory of its replica.
fn after_restart(partition: &Partition, node_id: i32, is_online: bool) -> Partition {
    if !is_online {
        return directories::without(partition, node_id);
    }
    let mut next = partition.clone();
    let others: Vec<i32> = partition
        .isr
        .iter()
        .copied()
        .filter(|id| *id != node_id)
        .collect();
    if others.is_empty() {
        // The last known in-sync replica: it leads again, in a new epoch.
        if partition.isr == [node_id] {
            next.leader = node_id;
            next.leader_epoch += 1;
        }
        return next;
    }
    if partition.isr.contains(&node_id) {
        next.isr = others;
        next.leader_epoch += 1;
        if partition.leader == node_id {
            let heir = partition.replicas.iter().find(|id| next.isr.contains(id));
            next.leader = heir.copied().unwrap_or(-1);
        }
    }
    next
}

/// Takes a block of producer ids; they may be used once the record is applied.
pub fn allocate_producer_ids(image: &Image) -> (Vec<Record>, Range<i64>) {
    let first = image.next_producer_id();
    let next = first.saturating_add(PRODUCER_ID_BLOCK);
    (vec![Record::ProducerIds { next }], first..next)
}

/// The records that end a partition's creation.
fn new_partition(replicas: Vec<i32>, shard: u16) -> Partition {
    Partition {
        leader: replicas.first().copied().unwrap_or(-1),
        isr: replicas.clone(),
        replicas,
        leader_epoch: 0,
        partition_epoch: 0,
        shard,
        directories: Vec::new(),
    }
}

/// Places partitions in the directories of a broker that work.
fn online_directories(image: &Image, node_id: i32) -> DirectoryPlacement {
    let online = image.broker(node_id).map(|broker| &broker.directories[..]);
    DirectoryPlacement::new(image, node_id, online.unwrap_or_default())
}

/// Places a new partition, of this topic and index, if it has a replica on `node_id`.
fn place_in(
    directories: &mut DirectoryPlacement,
    partition: &Partition,
    (topic_id, index): (Uuid, i32),
    node_id: i32,
) -> Option<Record> {
    let is_here = partition.replicas.contains(&node_id);
    let directory = is_here.then(|| directories.place()).flatten()?;
    Some(Record::ReplicaDirectory {
        topic_id,
        index,
        node_id,
        directory,
    })
}

/// Spreads replicas over the brokers: partition `index`'s leader is the next broker each time.
fn spread(brokers: &[i32], factor: usize, index: usize) -> Vec<i32> {
    (0..factor)
        .map(|replica| brokers[(index + replica) % brokers.len()])
        .collect()
}

/// The registered brokers, by id, if there are enough of them.
fn brokers_for(image: &Image, factor: usize) -> Result<Vec<i32>, Refusal> {
    let brokers: Vec<i32> = image.brokers().map(|broker| broker.node_id).collect();
    if factor > brokers.len() {
        return Err((
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached because only {} broker(s) are registered.",
                brokers.len()
            ),
        ));
    }
    Ok(brokers)
}

/// Checks one partition of a manual assignment.
fn check_assignment(image: &Image, replicas: &[i32], factor: Option<usize>) -> Result<(), Refusal> {
    let refuse = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".into());
    }
    for (at, id) in replicas.iter().enumerate() {
        if image.broker(*id).is_none() {
            return refuse(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if replicas[..at].contains(id) {
            return refuse(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

/// Names that stand in a request more than once.
fn duplicates<'a>(names: impl Iterator<Item = &'a KafkaString>) -> Vec<&'a str> {
    let mut sorted: Vec<&str> = names.map(KafkaString::as_str).collect();
    sorted.sort_unstable();
    let mut twice: Vec<&str> = sorted
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    twice.dedup();
    twice
}

fn text(text: impl Into<String>) -> KafkaString {
    KafkaString::from(text.into())
}
