//! Partitions whose logs could not be opened: why, and when they are tried again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::sync::FifoMutex;

use super::Shard;
use super::apply::open_again;
use super::message::PartitionKey;

/// First and longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

struct Reason {
    text: String,
    /// It was there before this process was: files of its name are its own.
    since_start: bool,
}

/// Partitions of one shard that are offline. Shard: their owner.
#[derive(Default)]
pub struct Offline {
    partitions: RefCell<BTreeMap<PartitionKey, Reason>>,
    /// Held while logs are opened and dropped.
    pub(super) opening: FifoMutex,
    retrying: Cell<bool>,
}

impl Offline {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.partitions.borrow().len()
    }

    /// Every partition of the shard is open.
    pub fn is_empty(&self) -> bool {
        self.partitions.borrow().is_empty()
    }

    /// Which they are.
    pub(super) fn keys(&self) -> BTreeSet<PartitionKey> {
        self.partitions.borrow().keys().copied().collect()
    }

    /// Notes why a log could not be opened; true when that is news.
    pub(super) fn add(&self, key: PartitionKey, text: &str, since_start: bool) -> bool {
        let mut partitions = self.partitions.borrow_mut();
        if let Some(known) = partitions.get_mut(&key) {
            let is_news = known.text != text;
            known.text = text.to_owned();
            return is_news;
        }
        let text = text.to_owned();
        partitions.insert(key, Reason { text, since_start });
        true
    }

    /// It is offline since the start of the process.
    pub(super) fn since_start(&self, key: &PartitionKey) -> bool {
        let partitions = self.partitions.borrow();
        partitions.get(key).is_some_and(|reason| reason.since_start)
    }

    /// The log is open, or its topic is gone; true when it was offline.
    pub(super) fn remove(&self, key: &PartitionKey) -> bool {
        self.partitions.borrow_mut().remove(key).is_some()
    }
}

/// Tries again to open what is offline, until nothing is, unless that is being done already.
pub(super) fn retry(shard: &Rc<Shard>) {
    if shard.offline.is_empty() || shard.offline.retrying.replace(true) {
        return;
    }
    let shard = Rc::clone(shard);
    shard.clone().spawn("open_again", async move {
        let mut pause = PAUSE_MIN;
        while !shard.offline.is_empty() {
            shard.rt.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            let _turn = shard.offline.opening.lock().await;
            if shard.stopping.get() {
                break;
            }
            open_again(&shard).await;
        }
        shard.offline.retrying.set(false);
    });
}
