//! Timers of a shard: they fire in order of deadline and then of registration.

use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::rt::Rt;
use crate::wheel::{TimerId, Wheel};

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

/// The timers of a shard: whom to wake at which nanosecond of its clock.
pub(crate) type Timers = Wheel<Waker>;

/// Ends at its deadline. See [`Rt::sleep`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    rt: Rt,
    deadline: Instant,
    id: Option<TimerId>,
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
        if self.rt.now() >= self.deadline {
            if let Some(id) = self.id.take() {
                let waker = self.rt.timers().cancel(id);
                drop(waker);
            }
            return Poll::Ready(());
        }
        let known = self.id;
        let renewed = known.is_some_and(|id| match self.rt.timers().get_mut(id) {
            Some(waker) => {
                waker.clone_from(cx.waker());
                true
            }
            None => false,
        });
        if !renewed {
            let (deadline_ns, waker) = (self.deadline.0, cx.waker().clone());
            let id = self.rt.timers().insert(deadline_ns, waker);
            self.id = Some(id);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.rt.timers().cancel(id);
            drop(waker);
        }
    }
}
