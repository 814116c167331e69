//! A shard's turn for a scheduler that drives several shards in one thread, and a shard's end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{InLoop, Rt};
use crate::task::MainWaker;

impl Rt {
    /// Ends the shard: drops all tasks, closes its inboxes, cancels and awaits all operations.
    /// Called after [`Rt::block_on`], not from a task. Waits for work under way on helper threads,
    /// which cannot be cancelled.
    pub fn close(&self) {
        self.begin_close();
        while !self.try_close() {
            let _in_loop = InLoop::enter(&self.0.in_loop);
            self.drive(Some(Duration::from_millis(10)));
        }
    }

    /// The first part of [`Rt::close`]: tasks and inboxes go.
    pub(crate) fn begin_close(&self) {
        let _in_loop = InLoop::enter(&self.0.in_loop);
        loop {
            let wakers = self.0.active.borrow_mut().take_wakers();
            for waker in &wakers {
                waker.wake_by_ref();
            }
            self.0.queue.collect_foreign();
            let mut dropped = false;
            while let Some(runnable) = self.0.queue.pop() {
                drop(runnable);
                dropped = true;
            }
            if wakers.is_empty() && !dropped {
                break;
            }
        }
        self.0.queue.close();
        let inboxes = std::mem::take(&mut *self.0.inboxes.borrow_mut());
        for inbox in &inboxes {
            inbox.flush(self);
            inbox.close();
        }
        drop(inboxes);
        // Sends the doorbells rung last.
        self.drive(Some(Duration::ZERO));
    }

    /// The second part, until it is true: cancels what is in flight.
    pub(crate) fn try_close(&self) -> bool {
        if self.ops().in_flight() > 0 {
            for token in self.ops().tokens() {
                self.cancel_op(token);
            }
            return false;
        }
        self.0.queue.open();
        true
    }

    /// One turn for a scheduler of several shards in one thread: hands out what has completed,
    /// polls `main` if it was woken (false = it has ended), works. Returns for how long the shard
    /// may sleep.
    pub(crate) fn step(
        &self,
        main: &MainWaker,
        poll_main: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let _in_loop = InLoop::enter(&self.0.in_loop);
        self.0.queue.sleep.awake();
        self.drive(Some(Duration::ZERO));
        if main.woken.swap(false, Ordering::Acquire) {
            self.0.poll_started_ns.set(self.0.now_ns.get());
            if !poll_main() {
                return Some(Duration::ZERO);
            }
            self.refresh_now();
        }
        self.work(|| main.woken.load(Ordering::Acquire), None)
    }

    /// A task waits for its turn.
    pub(crate) fn has_ready(&self) -> bool {
        self.0.queue.len() > 0 || self.0.queue.has_foreign()
    }

    /// Polls of tasks so far.
    pub(crate) fn polls(&self) -> u64 {
        self.0.tasks_polled.get()
    }

    /// Collects completions without waiting.
    pub(crate) fn collect(&self) {
        let _in_loop = InLoop::enter(&self.0.in_loop);
        self.drive(Some(Duration::ZERO));
    }
}
