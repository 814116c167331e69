//! Tasks of a shard and its run queue.

use std::cell::{Cell, UnsafeCell};
use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use async_task::FallibleTask;
use crossbeam::queue::SegQueue;

use crate::driver::Doorbell;
use crate::rt::Inner;
use crate::sleep::SleepFlag;

pub(crate) type Runnable = async_task::Runnable<TaskMeta>;

/// What the executor knows of a task.
#[derive(Debug, Clone, Copy)]
pub struct TaskMeta {
    /// Name for logs.
    pub(crate) name: &'static str,
    /// A panic in it aborts the process.
    pub(crate) vital: bool,
}

/// Number of the current thread, never reused.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Tasks that are ready to run. A waker may (against the rules of the house, but safely) be used
/// on a foreign thread; its task then takes the long way through a concurrent queue.
pub(crate) struct RunQueue {
    owner: u64,
    local: UnsafeCell<VecDeque<Runnable>>,
    foreign: SegQueue<Runnable>,
    closed: AtomicBool,
    pub(crate) sleep: SleepFlag,
    pub(crate) doorbell: Arc<dyn Doorbell>,
}

// SAFETY: `local` is touched on the owner thread only (checked by thread number in `push`, and by
// Rt being !Send for the rest); all else is Sync. Runnables of futures that are not Send are run
// and dropped on the owner thread alone: a foreign thread only moves them to `foreign`.
unsafe impl Sync for RunQueue {}
// SAFETY: as above; the queues are emptied by the owner before the last Rt goes.
unsafe impl Send for RunQueue {}

impl RunQueue {
    pub(crate) fn new(doorbell: Arc<dyn Doorbell>) -> Arc<Self> {
        Arc::new(Self {
            owner: thread_number(),
            local: UnsafeCell::new(VecDeque::new()),
            foreign: SegQueue::new(),
            closed: AtomicBool::new(false),
            sleep: SleepFlag::new(),
            doorbell,
        })
    }

    /// Takes a task that was woken.
    pub(crate) fn push(&self, runnable: Runnable) {
        if thread_number() == self.owner {
            if self.closed.load(Ordering::Relaxed) {
                // The shard is gone: dropping the runnable drops its future, here at home.
                drop(runnable);
                return;
            }
            // SAFETY: the owner thread, and no other borrow lives: `local` is never lent out.
            unsafe { (*self.local.get()).push_back(runnable) };
            return;
        }
        if self.closed.load(Ordering::Acquire) {
            // Nobody will run it, and its future must not be dropped away from home.
            std::mem::forget(runnable);
            return;
        }
        self.foreign.push(runnable);
        if self.sleep.must_ring() {
            self.doorbell.ring();
        }
    }

    /// Moves tasks woken elsewhere to the local queue. Owner thread only.
    pub(crate) fn collect_foreign(&self) {
        while let Some(runnable) = self.foreign.pop() {
            // SAFETY: called on the owner thread (through Rt, which is !Send).
            unsafe { (*self.local.get()).push_back(runnable) };
        }
    }

    /// Owner thread only.
    pub(crate) fn pop(&self) -> Option<Runnable> {
        debug_assert_eq!(thread_number(), self.owner);
        // SAFETY: called on the owner thread (through Rt, which is !Send).
        unsafe { (*self.local.get()).pop_front() }
    }

    /// Owner thread only.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: called on the owner thread (through Rt, which is !Send).
        unsafe { (*self.local.get()).len() }
    }

    pub(crate) fn has_foreign(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// From now on woken tasks are dropped. Owner thread only.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }
}

/// Wakes the future given to `block_on`.
pub(crate) struct MainWaker {
    pub(crate) woken: AtomicBool,
    queue: Arc<RunQueue>,
}

impl MainWaker {
    pub(crate) fn new(queue: Arc<RunQueue>) -> Arc<Self> {
        Arc::new(Self {
            woken: AtomicBool::new(true),
            queue,
        })
    }
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if thread_number() != self.queue.owner && self.queue.sleep.must_ring() {
            self.queue.doorbell.ring();
        }
    }
}

/// Live tasks by slot, so that a shutdown finds and drops them.
#[derive(Default)]
pub(crate) struct ActiveTasks {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
    live: usize,
}

impl ActiveTasks {
    pub(crate) fn reserve(&mut self) -> usize {
        self.live += 1;
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    pub(crate) fn set(&mut self, slot: usize, waker: Waker) {
        self.slots[slot] = Some(waker);
    }

    fn release(&mut self, slot: usize) -> Option<Waker> {
        self.live -= 1;
        self.free.push(slot);
        self.slots[slot].take()
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        self.slots.iter_mut().filter_map(Option::take).collect()
    }
}

/// Frees a task's slot when its future is dropped.
pub(crate) struct ActiveGuard {
    inner: Weak<Inner>,
    slot: usize,
}

impl ActiveGuard {
    pub(crate) fn new(inner: Weak<Inner>, slot: usize) -> Self {
        Self { inner, slot }
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            let waker = inner.active.borrow_mut().release(self.slot);
            drop(waker);
        }
    }
}

/// A spawned task. Awaiting it gives its output, or `None` when it panicked or was cancelled.
/// Dropping it lets the task run on.
#[must_use = "dropping a Task detaches it: say so with `.detach()`"]
pub struct Task<T> {
    task: Option<FallibleTask<T, TaskMeta>>,
    /// Outputs need not be Send, so the handle stays on the shard.
    at_home: PhantomData<Rc<()>>,
}

impl<T> Task<T> {
    pub(crate) fn new(task: FallibleTask<T, TaskMeta>) -> Self {
        Self {
            task: Some(task),
            at_home: PhantomData,
        }
    }

    /// Lets the task run on without a handle; same as dropping the handle.
    pub fn detach(self) {}

    /// Stops the task: its future is dropped before it would be polled again.
    pub fn cancel(mut self) {
        drop(self.task.take());
    }

    /// Stops the task and waits until its future is dropped; gives the output if it had ended.
    pub async fn cancel_and_wait(mut self) -> Option<T> {
        match self.task.take() {
            Some(task) => task.cancel().await,
            None => None,
        }
    }

    /// The task has ended, by itself or not.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(|task| task.is_finished())
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.task.as_mut() {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

/// Ready at its second poll. See [`crate::Rt::yield_now`].
#[must_use = "futures do nothing unless awaited"]
pub struct YieldNow {
    yielded: bool,
}

impl YieldNow {
    pub(crate) fn new() -> Self {
        Self { yielded: false }
    }
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
