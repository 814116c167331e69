//! Partitions whose logs could not be opened: why, and when they are tried again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelog_core::metadata::Image;
use corelog_runtime::sync::{FifoMutex, Notify};

use super::Shard;
use super::apply::open_again;
use super::message::{CheckpointMarks, PartitionKey};

/// First and longest pause before another try.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

struct Reason {
    text: String,
    /// The directory it is in.
    dir: usize,
    /// It was there before this process was: files of its name are its own.
    since_start: bool,
}

/// A partition that was never opened and whose topic is gone.
pub(super) struct Unopened {
    pub(super) key: PartitionKey,
    /// The directory it is in; `None` when that does not work.
    pub(super) dir: Option<usize>,
    /// See [`Reason::since_start`].
    pub(super) since_start: bool,
}

/// A log is being opened, for as long as this lives.
pub(super) struct Opening<'a>(&'a Offline, PartitionKey);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.borrow_mut().remove(&self.1);
        self.0.opened.notify_all();
    }
}

/// Partitions of one shard that are offline. Shard: their owner.
#[derive(Default)]
pub struct Offline {
    partitions: RefCell<BTreeMap<PartitionKey, Reason>>,
    /// Those whose log directory is offline, or not there at all: they are not tried again.
    in_dirs: RefCell<BTreeSet<PartitionKey>>,
    /// Held while the shard is changed to an image or to other settings. A log that is tried again is
    /// opened beside it.
    pub(super) changing: FifoMutex,
    /// The image that the shard is being changed to.
    coming: RefCell<Option<Arc<Image>>>,
    /// Partitions whose logs are being opened.
    opening: RefCell<BTreeSet<PartitionKey>>,
    /// One of them is done.
    opened: Notify,
    retrying: Cell<bool>,
    /// What was in the way may be gone.
    hurry: Notify,
}

impl Offline {
    /// Those that are tried again are tried at once: there is space on a disk that was full.
    pub(super) fn hurry(&self) {
        self.hurry.notify_all();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.partitions.borrow().len() + self.in_dirs.borrow().len()
    }

    /// There is none that could be tried again.
    pub fn is_empty(&self) -> bool {
        self.partitions.borrow().is_empty()
    }

    /// Those that are tried again.
    pub(super) fn keys(&self) -> BTreeSet<PartitionKey> {
        self.partitions.borrow().keys().copied().collect()
    }

    /// Directories of those that are tried again.
    pub(super) fn dirs(&self) -> BTreeSet<usize> {
        let partitions = self.partitions.borrow();
        partitions.values().map(|reason| reason.dir).collect()
    }

    /// Its log directory is offline.
    pub fn is_in_dir(&self, key: &PartitionKey) -> bool {
        self.in_dirs.borrow().contains(key)
    }

    /// Notes that its log directory is offline; true when that is news.
    pub(super) fn add_dir(&self, key: PartitionKey) -> bool {
        self.partitions.borrow_mut().remove(&key);
        self.in_dirs.borrow_mut().insert(key)
    }

    /// It is offline, whatever for.
    pub(super) fn contains(&self, key: &PartitionKey) -> bool {
        self.partitions.borrow().contains_key(key) || self.is_in_dir(key)
    }

    /// Takes those out whose topics are gone.
    pub(super) fn take(&self, is_gone: impl Fn(&PartitionKey) -> bool) -> Vec<Unopened> {
        let mut gone = Vec::new();
        self.in_dirs.borrow_mut().retain(|&key| {
            let goes = is_gone(&key);
            if goes {
                let (dir, since_start) = (None, true);
                gone.push(Unopened {
                    key,
                    dir,
                    since_start,
                });
            }
            !goes
        });
        self.partitions.borrow_mut().retain(|&key, reason| {
            let goes = is_gone(&key);
            if goes {
                let (dir, since_start) = (Some(reason.dir), reason.since_start);
                gone.push(Unopened {
                    key,
                    dir,
                    since_start,
                });
            }
            !goes
        });
        gone
    }

    /// A log is being opened until the guard goes.
    pub(super) fn begin_opening(&self, key: PartitionKey) -> Opening<'_> {
        self.opening.borrow_mut().insert(key);
        Opening(self, key)
    }

    /// Waits until no log of those that are gone is being opened.
    pub(super) async fn wait_opened(&self, is_gone: impl Fn(&PartitionKey) -> bool) {
        loop {
            let opened = self.opened.notified();
            if !self.opening.borrow().iter().any(&is_gone) {
                return;
            }
            opened.await;
        }
    }

    /// The image that the shard is being changed to.
    pub(super) fn coming(&self) -> Option<Arc<Image>> {
        self.coming.borrow().clone()
    }

    pub(super) fn set_coming(&self, image: Option<Arc<Image>>) {
        *self.coming.borrow_mut() = image;
    }

    /// Notes why a log could not be opened; true when that is news.
    pub(super) fn add(&self, key: PartitionKey, dir: usize, text: &str, since_start: bool) -> bool {
        let mut partitions = self.partitions.borrow_mut();
        if let Some(known) = partitions.get_mut(&key) {
            let is_news = known.text != text;
            known.text = text.to_owned();
            return is_news;
        }
        let text = text.to_owned();
        let reason = Reason {
            text,
            dir,
            since_start,
        };
        partitions.insert(key, reason);
        true
    }

    /// It is offline since the start of the process.
    pub(super) fn since_start(&self, key: &PartitionKey) -> bool {
        let partitions = self.partitions.borrow();
        partitions.get(key).is_some_and(|reason| reason.since_start)
    }

    /// The log is open, or its topic is gone; true when it was offline.
    pub(super) fn remove(&self, key: &PartitionKey) -> bool {
        self.in_dirs.borrow_mut().remove(key);
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
            crate::race::race(shard.rt.sleep(pause), shard.offline.hurry.notified()).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if shard.stopping.get() {
                break;
            }
            open_again(&shard).await;
        }
        shard.offline.retrying.set(false);
    });
}

/// Checkpoint marks of those that are tried again, as the start found them: until their logs are
/// open nothing else is known, and nothing may be forgotten.
pub(super) fn marks(shard: &Shard) -> Vec<CheckpointMarks> {
    let start = shard.start.borrow();
    let Some(start) = start.as_ref() else {
        return Vec::new();
    };
    let image = shard.image();
    let of = |(key, reason): (&PartitionKey, &Reason)| {
        let topic = image.topic_by_id(&key.topic_id)?.name.to_string();
        let start = start.dirs.get(reason.dir)?;
        let name = (topic, key.partition);
        let found = |offsets: &BTreeMap<_, i64>| offsets.get(&name).copied().unwrap_or(0);
        Some(CheckpointMarks {
            partition: name.1,
            dir: reason.dir,
            recovery_point: found(&start.recovery_points),
            high_watermark: found(&start.high_watermarks),
            log_start: found(&start.log_starts),
            topic: name.0,
        })
    };
    let partitions = shard.offline.partitions.borrow();
    let known = partitions.iter().filter(|(_, reason)| reason.since_start);
    known.filter_map(of).collect()
}
