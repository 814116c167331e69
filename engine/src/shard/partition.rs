//! One partition on the shard that owns it: its log, its marks for consumers, and who waits.
//!
//! With one replica the high watermark is the log's committable end: written, and flushed where
//! the policy made a flush due. It moves here, after every progress of the log, and nowhere else.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use corelog_record::Codec;
use corelog_record::validate::{Rules, TimestampType};
use corelog_runtime::sync::Notify;
use corelog_storage::config::LogConfig;
use corelog_storage::log::Log;

use super::message::PartitionKey;

/// A fetch that waits for data on this shard; it may stand at many partitions at once.
#[derive(Debug)]
pub struct Waiter {
    fired: Cell<bool>,
    notify: Notify,
}

impl Waiter {
    /// A waiter that stands nowhere yet.
    pub fn new() -> Rc<Waiter> {
        Rc::new(Waiter {
            fired: Cell::new(false),
            notify: Notify::new(),
        })
    }

    /// Ends the wait.
    pub fn fire(&self) {
        if !self.fired.replace(true) {
            self.notify.notify_all();
        }
    }

    /// Resolves once [`Waiter::fire`] was called.
    pub async fn fired(&self) {
        while !self.fired.get() {
            let notified = self.notify.notified();
            if !self.fired.get() {
                notified.await;
            }
        }
    }
}

/// What produce requests are held against, from the topic's configuration.
#[derive(Debug, Clone)]
pub struct AppendRules {
    /// `cleanup.policy` contains `compact`: keys are required.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `compression.type` and its level; `None` keeps what producers chose.
    pub stored_codec: Option<StoredCodec>,
}

/// The codec that a topic's batches are stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCodec {
    /// The codec.
    pub codec: Codec,
    /// Its level; `None` is the codec's default.
    pub level: Option<i32>,
}

impl AppendRules {
    /// The rules at one moment.
    pub fn at(&self, now_ms: i64, decompressed_bytes_max: usize) -> Rules {
        Rules {
            now_ms,
            compacted: self.compacted,
            timestamp_type: self.timestamp_type,
            before_max_ms: self.before_max_ms,
            after_max_ms: self.after_max_ms,
            decompressed_bytes_max,
            max_message_bytes: self.max_message_bytes,
        }
    }
}

/// One partition. Shard: its owner only.
pub struct Partition {
    /// Its name in this process.
    pub key: PartitionKey,
    /// Topic name.
    pub topic: String,
    /// Its log directory, by its place in the start's list.
    pub dir: usize,
    /// Epoch of the leadership that appends carry.
    pub leader_epoch: i32,
    /// The log.
    pub log: Log,
    rules: RefCell<Rc<AppendRules>>,
    waiters: RefCell<Vec<Weak<Waiter>>>,
}

impl Partition {
    /// Wraps an open log and takes over its high watermark.
    pub fn new(
        key: PartitionKey,
        topic: String,
        dir: usize,
        leader_epoch: i32,
        log: Log,
        rules: AppendRules,
    ) -> Rc<Partition> {
        let partition = Rc::new(Partition {
            key,
            topic,
            dir,
            leader_epoch,
            log,
            rules: RefCell::new(Rc::new(rules)),
            waiters: RefCell::default(),
        });
        let weak = Rc::downgrade(&partition);
        partition.log.on_progress(Box::new(move || {
            if let Some(partition) = weak.upgrade() {
                partition.advance_high_watermark();
            }
        }));
        partition.advance_high_watermark();
        partition
    }

    fn advance_high_watermark(&self) {
        let end = self.log.committable_end();
        if end > self.log.marks().high_watermark {
            self.log.set_high_watermark(end);
            self.fire_waiters();
        }
    }

    /// Ends every wait at this partition.
    pub fn fire_waiters(&self) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            if let Some(waiter) = waiter.upgrade() {
                waiter.fire();
            }
        }
    }

    /// Lets a waiter stand here until the high watermark moves. Waiters that are gone are swept
    /// when their number doubles, so that a partition without traffic does not collect them.
    pub fn add_waiter(&self, waiter: &Rc<Waiter>) {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() == waiters.capacity() {
            waiters.retain(|w| w.strong_count() > 0);
        }
        waiters.push(Rc::downgrade(waiter));
    }

    /// Rules for produce requests.
    pub fn rules(&self) -> Rc<AppendRules> {
        Rc::clone(&self.rules.borrow())
    }

    /// Takes a changed configuration; it binds appends from now on.
    pub fn set_config(&self, config: LogConfig, rules: AppendRules) {
        *self.rules.borrow_mut() = Rc::new(rules);
        self.log.set_config(config);
    }
}
