//! How a shard falls asleep without losing a message.
//!
//! The sleeper: store `asleep`, fence, look at its inboxes once more, sleep. A sender: push, fence,
//! load `asleep`, ring the doorbell. With both fences sequentially consistent, either the sleeper
//! sees the message or the sender sees the sleeper. The atomics come from the parent module, so
//! that a model checker can supply its own.

use super::atomics::{AtomicBool, Ordering, fence};

/// Says whether a shard sleeps, or is about to.
#[derive(Debug, Default)]
pub struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// Makes the flag of a shard that is awake.
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces sleep, then looks for work. True: the shard may sleep, the doorbell will wake it.
    /// False: there is work, the shard stays awake.
    pub fn prepare(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if has_work() {
            self.0.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The shard is up again.
    pub fn awake(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Called by a sender after its push: true when this sender has to ring the doorbell. Of
    /// several senders that meet one sleep, one rings: it wakes the shard, which then looks at all
    /// its inboxes before it sleeps again.
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}
