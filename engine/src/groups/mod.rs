//! Consumer groups: a coordinator for every partition of `__consumer_offsets`, on the shard that
//! owns the partition, and the way of a request to it.
//!
//! The coordinators themselves are `corelog_core::group`'s pure machines; here they get their
//! records, their clock and their answers' way back. What they write goes the way of acks=all:
//! an answer that reports something durable leaves after the flush of its records.

mod find;
mod host;
mod large;
mod load;
mod offsets;
pub mod requests;
mod several;
pub mod stats;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use corelog_core::Uuid;
use corelog_core::group::{Event, GroupSettings, error_response};
use corelog_core::metadata::Image;
use corelog_core::metadata::names::CONSUMER_OFFSETS_TOPIC;
use corelog_runtime::sync::{Notify, Semaphore};
use corelog_runtime::{Instant, Reply, Rt};
use kacrab_protocol::generated::ErrorCode;

use self::host::Hosted;
use crate::shard::Shard;
use crate::shard::message::{GroupCall, PartitionKey, Response};
use crate::shard::partition::Partition;

pub use self::requests::answer;

/// Coordinators of one shard that read their logs at the same time; each holds one buffer.
const LOADS_AT_ONCE: usize = 2;
/// Questions to coordinators that one request has under way: groups are named by the thousand.
const ASKED_AT_ONCE: usize = 128;

/// The coordinators of one shard. Shard: the owner of their partitions.
pub struct Groups {
    hosted: RefCell<BTreeMap<i32, Rc<Hosted>>>,
    clock: Clock,
    loads: Semaphore,
    image_taken: Notify,
    counters: stats::Counters,
}

impl Groups {
    /// None yet.
    pub fn new(rt: &Rt) -> Groups {
        Groups {
            hosted: RefCell::default(),
            clock: Clock::new(rt),
            loads: Semaphore::new(LOADS_AT_ONCE),
            image_taken: Notify::new(),
            counters: stats::Counters::default(),
        }
    }

    fn get(&self, partition: i32) -> Option<Rc<Hosted>> {
        self.hosted.borrow().get(&partition).map(Rc::clone)
    }

    fn all(&self) -> Vec<Rc<Hosted>> {
        self.hosted.borrow().values().map(Rc::clone).collect()
    }
}

/// Time as coordinators know it: the wall clock when the shard was made, and what has passed
/// since on the clock that nobody sets. A step of the wall clock ends no session.
struct Clock {
    wall_ms: i64,
    at: Instant,
    last_ms: Cell<i64>,
}

impl Clock {
    fn new(rt: &Rt) -> Clock {
        Clock {
            wall_ms: rt.wall_clock_ms(),
            at: rt.now(),
            last_ms: Cell::new(i64::MIN),
        }
    }

    fn now_ms(&self, rt: &Rt) -> i64 {
        let passed = rt.now().saturating_duration_since(self.at).as_millis();
        let now = self.wall_ms + i64::try_from(passed).unwrap_or(i64::MAX / 2);
        self.last_ms.set(now.max(self.last_ms.get()));
        self.last_ms.get()
    }
}

/// A partition of this shard was opened: if it is one of the offsets topic, its coordinator begins
/// to load.
pub fn opened(shard: &Rc<Shard>, partition: &Rc<Partition>) {
    if partition.topic != CONSUMER_OFFSETS_TOPIC {
        return;
    }
    let settings = GroupSettings::from_config(&shard.config());
    let hosted = Hosted::new(Rc::clone(partition), settings);
    let index = partition.key.partition;
    let before = shard
        .groups
        .hosted
        .borrow_mut()
        .insert(index, Rc::clone(&hosted));
    if let Some(before) = before {
        before.end(shard);
    }
    load::start(shard, hosted);
}

/// Another coordinator in the place of one that could not be loaded, to be loaded anew; `None` when
/// that one has left its place.
fn replace_failed(shard: &Rc<Shard>, failed: &Rc<Hosted>) -> Option<Rc<Hosted>> {
    let partition = failed.partition();
    let mut all = shard.groups.hosted.borrow_mut();
    let place = all.get_mut(&partition.key.partition)?;
    if !Rc::ptr_eq(place, failed) || failed.is_ended() {
        return None;
    }
    let settings = GroupSettings::from_config(&shard.config());
    *place = Hosted::new(Rc::clone(partition), settings);
    Some(Rc::clone(place))
}

/// A partition of this shard goes: so does its coordinator. Whoever waits for an answer is told to
/// look for another one.
pub fn closed(shard: &Rc<Shard>, key: &PartitionKey) {
    let found = shard.groups.get(key.partition);
    if let Some(found) = found.filter(|found| found.partition().key == *key) {
        shard.groups.hosted.borrow_mut().remove(&key.partition);
        found.end(shard);
    }
}

/// The shard stops: no coordinator writes any more.
pub fn stop(shard: &Rc<Shard>) {
    let all = std::mem::take(&mut *shard.groups.hosted.borrow_mut());
    all.values().for_each(|hosted| hosted.end(shard));
}

/// The image changed: offsets of topics that are gone are dropped, and changed settings bind.
pub fn changed(shard: &Rc<Shard>, old: &Image, new: &Image) {
    shard.groups.image_taken.notify_all();
    let all = shard.groups.all();
    if all.is_empty() {
        return;
    }
    let gone: Vec<(String, Uuid)> = old
        .topics()
        .filter(|topic| new.topic_by_id(&topic.id).is_none())
        .map(|topic| (topic.name.to_string(), topic.id))
        .collect();
    let settings = GroupSettings::from_config(&shard.config());
    for hosted in all {
        if !gone.is_empty() {
            hosted.handle(shard, Event::TopicsDeleted(gone.clone()));
        }
        hosted.set_settings(shard, &settings);
    }
}

/// Drops what a coordinator has just loaded of topics that are gone: the broker may have stopped
/// between a topic's end and that of its offsets.
async fn forget_unknown_topics(shard: &Rc<Shard>, hosted: &Rc<Hosted>) {
    // The image that opened this partition is the first to say which topics there are.
    loop {
        let taken = shard.groups.image_taken.notified();
        let own = hosted.partition().key.topic_id;
        if hosted.is_ended() {
            return;
        }
        if shard.image().topic_by_id(&own).is_some() {
            break;
        }
        taken.await;
    }
    let image = shard.image();
    let unknown: BTreeSet<String> = hosted.look(|core| {
        let topics = core.committed().map(|(_, topic, _, _)| topic);
        let unknown = topics.filter(|topic| image.topic(topic).is_none());
        unknown.map(str::to_owned).collect()
    });
    if !unknown.is_empty() {
        let gone = unknown.into_iter().map(|name| (name, Uuid::ZERO)).collect();
        hosted.handle(shard, Event::TopicsDeleted(gone));
    }
}

/// Gives a request to its coordinator; the reply goes out when there is an answer.
pub fn call(shard: &Rc<Shard>, call: GroupCall, reply: Reply<Response>) {
    match shard.groups.get(call.partition) {
        Some(hosted) => hosted.request(shard, call, reply),
        None => {
            let refused = error_response(&call.request, ErrorCode::NotCoordinator);
            reply.send(Response::Group(Box::new(refused)));
        }
    }
}

/// The asker of a request is gone.
pub fn cancel(shard: &Rc<Shard>, partition: i32, id: u64) {
    if let Some(hosted) = shard.groups.get(partition) {
        hosted.cancel(shard, id);
    }
}
