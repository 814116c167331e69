//! Timers of a shard, in order of deadline and then of registration.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::rt::Rt;

/// A point on the shard's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time passed since `earlier`, zero when `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of time.
    fn add(self, duration: Duration) -> Instant {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(ns))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Registered deadlines; keyed by deadline and registration number, hence deterministic.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<(u64, u64), Waker>,
    next_id: u64,
}

impl Timers {
    pub(crate) fn register(&mut self, deadline_ns: u64, waker: Waker) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert((deadline_ns, id), waker);
        id
    }

    /// Replaces the waker; false when the timer has fired.
    pub(crate) fn renew(&mut self, deadline_ns: u64, id: u64, waker: &Waker) -> bool {
        match self.waiting.get_mut(&(deadline_ns, id)) {
            Some(slot) => {
                slot.clone_from(waker);
                true
            }
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, deadline_ns: u64, id: u64) -> Option<Waker> {
        self.waiting.remove(&(deadline_ns, id))
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the waker of the earliest timer at or before `now_ns`.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= now_ns).then(|| entry.remove())
    }
}

/// Ends at its deadline. See [`Rt::sleep`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    rt: Rt,
    deadline: Instant,
    id: Option<u64>,
}

impl Sleep {
    pub(crate) fn new(rt: Rt, deadline: Instant) -> Self {
        Self {
            rt,
            deadline,
            id: None,
        }
    }

    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline_ns = self.deadline.0;
        if self.rt.now() >= self.deadline {
            if let Some(id) = self.id.take() {
                let _unused = self.rt.timers().remove(deadline_ns, id);
            }
            return Poll::Ready(());
        }
        let renewed = self
            .id
            .is_some_and(|id| self.rt.timers().renew(deadline_ns, id, cx.waker()));
        if !renewed {
            let id = self.rt.timers().register(deadline_ns, cx.waker().clone());
            self.id = Some(id);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.rt.timers().remove(self.deadline.0, id);
            drop(waker);
        }
    }
}
