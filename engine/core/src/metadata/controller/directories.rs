//! Log directories of a broker: what a start found in them, and what follows when one fails.
//!
//! The image remembers which directory a replica was made in. So a partition whose directory is
//! not there is known to be offline, and is never taken for a new one.

use std::collections::BTreeMap;

use crate::Uuid;
use crate::metadata::image::{Image, Partition};
use crate::metadata::record::Record;
use crate::placement::DirectoryPlacement;

/// What a broker's start found in its log directories. Empty: it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundDirectories {
    /// Ids of the directories that work, in the order of `log.dirs`.
    pub online: Vec<Uuid>,
    /// A directory of `log.dirs` does not work: what is found nowhere may be in that one.
    pub is_any_offline: bool,
    /// The directory of each partition that was found, by topic name and index.
    pub partitions: BTreeMap<(String, i32), Uuid>,
}

impl FoundDirectories {
    pub(super) fn reconcile(&self, image: &Image, node_id: i32) -> Reconcile<'_> {
        Reconcile {
            found: self,
            placement: DirectoryPlacement::new(image, node_id, &self.online),
        }
    }
}

/// Decides, one partition after the other, where each is.
pub(super) struct Reconcile<'a> {
    found: &'a FoundDirectories,
    placement: DirectoryPlacement,
}

impl Reconcile<'_> {
    /// Whether a partition's directory works, and the directory to be noted when it is not the
    /// `known` one. Where files are found is where the partition is.
    pub fn of(&mut self, name: (&str, i32), known: Option<Uuid>) -> (bool, Option<Uuid>) {
        let FoundDirectories {
            online,
            is_any_offline,
            partitions,
        } = self.found;
        if online.is_empty() && !is_any_offline {
            return (true, None);
        }
        let found = partitions.get(&(name.0.to_owned(), name.1)).copied();
        let place = match found.or(known) {
            Some(place) => Some(place),
            None if *is_any_offline => None,
            None => self.placement.place(),
        };
        let is_online = place.is_some_and(|place| online.contains(&place));
        (is_online, place.filter(|_| place != known))
    }
}

/// Log directories of a broker fail: they leave its list, and its partitions in them lose it as a
/// leader and, where there are others, as an in-sync replica.
pub fn directories_offline(image: &Image, node_id: i32, failed: &[Uuid]) -> Vec<Record> {
    let Some(broker) = image.broker(node_id) else {
        return Vec::new();
    };
    let mut directories = broker.directories.clone();
    directories.retain(|id| !failed.contains(id));
    if directories == broker.directories {
        return Vec::new();
    }
    let mut records = vec![Record::BrokerDirectories {
        node_id,
        directories,
    }];
    for topic in image.topics() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            let is_hit = partition
                .directory(node_id)
                .is_some_and(|id| failed.contains(&id));
            if !is_hit {
                continue;
            }
            let mut next = without(partition, node_id);
            if next != *partition {
                next.partition_epoch += 1;
                records.push(next.to_record(topic.id, index));
            }
        }
    }
    records
}

/// A partition's state while one of its replicas has no directory. The last in-sync replica stays
/// one: it alone has everything, and leads again when its directory is back.
pub(super) fn without(partition: &Partition, node_id: i32) -> Partition {
    let mut next = partition.clone();
    let mut others = partition.isr.clone();
    others.retain(|id| *id != node_id);
    if !others.is_empty() {
        next.isr = others;
    }
    if next.leader == node_id {
        let candidates = partition.replicas.iter();
        let heir = candidates
            .filter(|id| **id != node_id)
            .find(|id| next.isr.contains(id));
        next.leader = heir.copied().unwrap_or(-1);
        next.leader_epoch += 1;
    } else if next.isr != partition.isr {
        next.leader_epoch += 1;
    }
    next
}
