//! One session: its partitions in the order they are served, and its place among the others.

use std::collections::BTreeMap;

use super::{Found, Planned, Seen, TopicRef, Wanted};

/// Memory of one partition in a session, without its topic's name: an entry of each of two trees.
pub(super) const PARTITION_BYTES: usize = 224;
/// Memory of a session without partitions: itself and its places in the cache's trees.
pub(super) const SESSION_BYTES: usize = 512;

/// One client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) privileged: bool,
    pub(super) by_id: bool,
    pub(super) created_ms: i64,
    pub(super) last_used_ms: i64,
    /// The number that must come next.
    pub(super) epoch: i32,
    order: BTreeMap<u64, Planned>,
    places: BTreeMap<(TopicRef, i32), u64>,
    next_place: u64,
    name_bytes: usize,
}

impl Session {
    pub(super) fn new(privileged: bool, by_id: bool, now_ms: i64, epoch: i32) -> Session {
        Session {
            privileged,
            by_id,
            created_ms: now_ms,
            last_used_ms: now_ms,
            epoch,
            order: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
            name_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn bytes(&self) -> usize {
        SESSION_BYTES + self.order.len() * PARTITION_BYTES + self.name_bytes
    }

    /// Adds a partition at the end, or changes what is asked of one that is there.
    pub(super) fn want(&mut self, wanted: Wanted, seen: Option<Seen>) {
        let key = (wanted.topic.clone(), wanted.index);
        if let Some(place) = self.places.get(&key) {
            if let Some(planned) = self.order.get_mut(place) {
                planned.wanted.terms = wanted.terms;
                planned.seen = seen.unwrap_or(planned.seen);
            }
            return;
        }
        self.name_bytes += wanted.topic.name_bytes();
        self.places.insert(key, self.next_place);
        let planned = Planned {
            wanted,
            seen: seen.unwrap_or(Seen::NOTHING),
        };
        self.order.insert(self.next_place, planned);
        self.next_place += 1;
    }

    /// Lets a partition go.
    pub(super) fn forget(&mut self, partition: &(TopicRef, i32)) {
        if let Some(place) = self.places.remove(partition) {
            self.order.remove(&place);
            self.name_bytes -= partition.0.name_bytes();
        }
    }

    /// All partitions in the order they are served.
    pub(super) fn planned(&self) -> Vec<Planned> {
        self.order.values().cloned().collect()
    }

    /// Remembers what the client is told of a partition. One that gave data goes to the end, so
    /// that the others come first when the next answer is full.
    pub(super) fn tell(&mut self, wanted: &Wanted, found: &Found) {
        let key = (wanted.topic.clone(), wanted.index);
        let Some(place) = self.places.get_mut(&key) else {
            return;
        };
        if !found.has_records {
            if let Some(planned) = self.order.get_mut(place) {
                planned.seen = found.told();
            }
            return;
        }
        if let Some(mut planned) = self.order.remove(place) {
            planned.seen = found.told();
            *place = self.next_place;
            self.order.insert(self.next_place, planned);
            self.next_place += 1;
        }
    }
}
