//! The shard's executor: its loop, and the handle its tasks hold.
//!
//! Loop: run ready tasks (bounded), look at inboxes, fire timers, then one turn of the driver that
//! submits what the tasks asked for and waits when there is nothing else to do.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::buf::BufferPool;
use crate::crash::{self, Running};
use crate::driver::{
    Cached, Completion, Doorbell, Driver, DriverCounters, FileHandle, Op, SocketHandle, Token,
};
use crate::ops::{OpFuture, OpTable};
use crate::task::{
    ActiveGuard, ActiveTasks, MainWaker, RunQueue, Runnable, Task, TaskMeta, YieldNow,
};
use crate::timer::{Instant, Sleep, Timers};
use crate::watch::{STALL_NS, Stall, Stalls};

mod steps;

/// A task yields after this much time in one poll, in nanoseconds.
const POLL_BUDGET_NS: u64 = 500_000;
/// Tasks polled at most between two turns of the driver.
const POLLS_PER_TURN: usize = 512;
/// Time after which ready tasks wait for the driver's turn, in nanoseconds.
const RUN_BUDGET_NS: u64 = 500_000;

/// Time between two rounds of cancelling of [`Rt::drain`].
const DRAIN_LOOK: Duration = Duration::from_millis(1);

/// Number of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// What a shard counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtCounters {
    /// Polls of tasks.
    pub tasks_polled: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Pieces of turns that took more than 5 ms: see [`Rt::stalls`].
    pub stalls: u64,
    /// The longest of them, in nanoseconds.
    pub stall_longest_ns: u64,
    /// Tasks that panicked.
    pub task_panics: u64,
    /// Tasks alive now.
    pub live_tasks: u64,
    /// Operations in flight now.
    pub ops_in_flight: u64,
    /// The driver's own counters.
    pub driver: DriverCounters,
}

/// Messages for a shard that its loop looks at every turn.
pub(crate) trait Inbox {
    /// Handles what has arrived (bounded).
    fn poll(&self);
    /// Passes on what waits for room at the receivers and rings their doorbells.
    fn flush(&self, rt: &Rt);
    /// Something could be done now. Read after the fence of the sleep protocol.
    fn has_work(&self) -> bool;
    /// The shard ends.
    fn close(&self);
}

pub(crate) struct Inner {
    shard: ShardId,
    driver: RefCell<Box<dyn Driver>>,
    pool: BufferPool,
    queue: Arc<RunQueue>,
    ops: RefCell<OpTable>,
    timers: RefCell<Timers>,
    inboxes: RefCell<Vec<Rc<dyn Inbox>>>,
    pub(crate) active: RefCell<ActiveTasks>,
    completions: Cell<Vec<Completion>>,
    now_ns: Cell<u64>,
    poll_started_ns: Cell<u64>,
    in_loop: Cell<bool>,
    /// Panics of vital tasks go through the loop instead of aborting the process.
    unwinds: Cell<bool>,
    tasks_polled: Cell<u64>,
    turns: Cell<u64>,
    stalls: RefCell<Stalls>,
    task_panics: Cell<u64>,
}

/// Handle on one shard: spawns tasks, gives time, chance, memory and I/O. Cheap to clone, stays on
/// its thread.
#[derive(Clone)]
pub struct Rt(Rc<Inner>);

fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Rt {
    /// Makes a shard's executor on the calling thread, which becomes its home.
    pub fn new(shard: ShardId, driver: Box<dyn Driver>, pool: BufferPool) -> Rt {
        let queue = RunQueue::new(driver.doorbell());
        let now_ns = driver.now_ns();
        Rt(Rc::new(Inner {
            shard,
            driver: RefCell::new(driver),
            pool,
            queue,
            ops: RefCell::default(),
            timers: RefCell::default(),
            inboxes: RefCell::default(),
            active: RefCell::default(),
            completions: Cell::default(),
            now_ns: Cell::new(now_ns),
            poll_started_ns: Cell::new(now_ns),
            in_loop: Cell::new(false),
            unwinds: Cell::new(false),
            tasks_polled: Cell::new(0),
            turns: Cell::new(0),
            stalls: RefCell::default(),
            task_panics: Cell::new(0),
        }))
    }

    /// Its number.
    pub fn shard(&self) -> ShardId {
        self.0.shard
    }

    /// Its memory.
    pub fn pool(&self) -> &BufferPool {
        &self.0.pool
    }

    /// Starts a task. A panic in it ends this task alone: it is counted, logged with `name`, and
    /// the handle gives `None`.
    pub fn spawn<T: 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        self.spawn_with(TaskMeta { name, vital: false }, future)
    }

    /// Starts a task whose panic aborts the process, because what it guards would be in doubt.
    pub fn spawn_vital<T: 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        self.spawn_with(TaskMeta { name, vital: true }, future)
    }

    fn spawn_with<T: 'static>(
        &self,
        meta: TaskMeta,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let slot = self.0.active.borrow_mut().reserve();
        let guard = ActiveGuard::new(Rc::downgrade(&self.0), slot);
        let future = async move {
            let _guard = guard;
            future.await
        };
        let queue = self.0.queue.clone();
        let schedule = move |runnable: Runnable| queue.push(runnable);
        let builder = async_task::Builder::new().metadata(meta);
        // SAFETY: the future and its output are 'static but perhaps not Send: the runnable is run
        // and dropped on this thread alone (RunQueue sees to it) and the Task handle is !Send.
        // `schedule` is 'static, Send and Sync.
        let (runnable, task) = unsafe { builder.spawn_unchecked(move |_| future, schedule) };
        self.0.active.borrow_mut().set(slot, runnable.waker());
        runnable.schedule();
        Task::new(task.fallible())
    }

    /// Runs the shard until `future` is ready. Not reentrant. A panic of `future` goes through.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let _in_loop = InLoop::enter(&self.0.in_loop);
        let mut future = pin!(future);
        let main = MainWaker::new(self.0.queue.clone());
        let waker = Waker::from(main.clone());
        let mut cx = Context::from_waker(&waker);
        self.refresh_now();
        loop {
            if main.woken.swap(false, Ordering::Acquire) {
                let started_ns = self.0.now_ns.get();
                self.0.poll_started_ns.set(started_ns);
                let running = Running::enter(self.0.shard, "main");
                if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                    return output;
                }
                drop(running);
                self.refresh_now();
                self.watch("main", started_ns);
            }
            self.turn(|| main.woken.load(Ordering::Acquire), None);
        }
    }

    /// Runs the shard until no task is ready, waiting for nothing. For tests and simulations.
    pub fn run_until_stalled(&self) {
        let _in_loop = InLoop::enter(&self.0.in_loop);
        loop {
            let polled = self.0.tasks_polled.get();
            self.turn(|| false, Some(Duration::ZERO));
            if self.0.tasks_polled.get() == polled && self.0.queue.len() == 0 {
                return;
            }
        }
    }

    /// The shard's clock, read at least once per task poll and turn.
    pub fn now(&self) -> Instant {
        Instant(self.0.now_ns.get())
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_clock_ms(&self) -> i64 {
        self.0.driver.borrow().wall_clock_ms()
    }

    /// Chance: from the kernel, or seeded in the twin.
    pub fn random_u64(&self) -> u64 {
        self.0.driver.borrow_mut().random_u64()
    }

    /// Ends after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Ends at `at`.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.clone(), at)
    }

    /// Awaits `future` for at most `duration`; `None` = it took longer and was dropped.
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(duration));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Goes to the back of the run queue.
    pub fn yield_now(&self) -> YieldNow {
        YieldNow::new()
    }

    /// Yields when the current poll has taken more than 500 µs.
    pub async fn yield_if_needed(&self) {
        let now_ns = self.0.driver.borrow().now_ns();
        if now_ns.saturating_sub(self.0.poll_started_ns.get()) > POLL_BUDGET_NS {
            self.yield_now().await;
        }
    }

    /// Hands an operation to the driver at once. Dropping the future cancels it.
    pub fn submit(&self, op: Op) -> OpFuture {
        let token = self.0.driver.borrow_mut().submit(op);
        let slot = self.0.ops.borrow_mut().insert(token);
        OpFuture::new(self.clone(), slot)
    }

    /// See [`Driver::send_file`].
    pub fn send_file(
        &self,
        socket: &SocketHandle,
        file: &FileHandle,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        self.0
            .driver
            .borrow_mut()
            .send_file(socket, file, offset, len)
    }

    /// See [`Driver::is_cached`].
    pub fn is_cached(&self, file: &FileHandle, offset: u64, len: usize) -> io::Result<Cached> {
        self.0.driver.borrow_mut().is_cached(file, offset, len)
    }

    /// Wakes this shard, from any thread.
    pub fn doorbell(&self) -> Arc<dyn Doorbell> {
        self.0.queue.doorbell.clone()
    }

    /// Runs `work` on a helper thread. A panic of `work` goes through to the caller.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let result = Arc::new(crossbeam::atomic::AtomicCell::new(None));
        let out = result.clone();
        let work = Box::new(move || out.store(Some(catch_unwind(AssertUnwindSafe(work)))));
        let (_op, _unit) = self.submit(Op::Blocking { work: Some(work) }).await;
        match result.take().expect("helpers run what they are given") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Counters for /metrics.
    pub fn counters(&self) -> RtCounters {
        let stalls = self.0.stalls.borrow().all();
        RtCounters {
            tasks_polled: self.0.tasks_polled.get(),
            turns: self.0.turns.get(),
            stalls: stalls.count,
            stall_longest_ns: stalls.longest_ns,
            task_panics: self.0.task_panics.get(),
            live_tasks: self.0.active.borrow().live() as u64,
            ops_in_flight: self.0.ops.borrow().in_flight() as u64,
            driver: self.0.driver.borrow().counters(),
        }
    }

    /// What held the shard for more than 5 ms since its start: names of tasks, `inbox` (messages of
    /// other shards), `ring` (handing operations to the kernel), `main`, or `turn` (many small
    /// things).
    pub fn stalls(&self) -> Vec<(&'static str, Stall)> {
        self.0.stalls.borrow().by_name()
    }

    /// Cancels every operation in flight and waits for their completions. Operations submitted
    /// meanwhile are cancelled too.
    pub async fn drain(&self) {
        loop {
            for token in self.ops().tokens() {
                self.cancel_op(token);
            }
            if self.ops().in_flight() == 0 {
                return;
            }
            // What was submitted meanwhile may wait for ever: look again before long.
            self.timeout(DRAIN_LOOK, self.ops_idle()).await;
        }
    }

    /// Ends when no operation is in flight.
    async fn ops_idle(&self) {
        std::future::poll_fn(|cx| {
            let mut ops = self.ops();
            if ops.in_flight() == 0 {
                return Poll::Ready(());
            }
            ops.on_idle(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn add_inbox(&self, inbox: Rc<dyn Inbox>) {
        self.0.inboxes.borrow_mut().push(inbox);
    }

    /// Vital tasks of a simulated process take the simulation down, which can say with which seed.
    pub(crate) fn set_unwinds(&self) {
        self.0.unwinds.set(true);
    }

    pub(crate) fn run_queue(&self) -> Arc<RunQueue> {
        self.0.queue.clone()
    }

    /// Rings another shard's doorbell at this turn's end.
    pub(crate) fn ring_peer(&self, peer: &Arc<dyn Doorbell>) {
        self.0.driver.borrow_mut().ring_peer(peer);
    }

    pub(crate) fn timers(&self) -> RefMut<'_, Timers> {
        self.0.timers.borrow_mut()
    }

    pub(crate) fn ops(&self) -> RefMut<'_, OpTable> {
        self.0.ops.borrow_mut()
    }

    pub(crate) fn cancel_op(&self, token: Token) {
        self.0.driver.borrow_mut().cancel(token);
    }

    fn refresh_now(&self) {
        self.0.now_ns.set(self.0.driver.borrow().now_ns());
    }

    /// One round of the loop. `max_wait` cuts the time spent asleep.
    fn turn(&self, main_woken: impl Fn() -> bool, max_wait: Option<Duration>) {
        let wait = self.work(main_woken, max_wait);
        let driven_ns = self.0.now_ns.get();
        self.drive(wait);
        // A call that also waits cannot be told from one that was held up.
        if wait == Some(Duration::ZERO) {
            self.watch("ring", driven_ns);
        }
        self.0.queue.sleep.awake();
    }

    /// What is to be done between two turns of the driver. Returns for how long the shard may
    /// sleep; unless that is no time at all, its doorbell will be rung from now on.
    fn work(&self, main_woken: impl Fn() -> bool, max_wait: Option<Duration>) -> Option<Duration> {
        bump(&self.0.turns);
        let started_ns = self.0.now_ns.get();
        let stalls = self.0.stalls.borrow().all().count;
        let messages = self.inboxes_have_work();
        self.each_inbox(|inbox| inbox.poll());
        if messages {
            self.refresh_now();
            self.watch("inbox", started_ns);
        }
        self.run_ready();
        self.fire_timers();
        self.each_inbox(|inbox| inbox.flush(self));
        let queue = &self.0.queue;
        let mut wait = if queue.len() > 0 || main_woken() {
            Some(Duration::ZERO)
        } else {
            self.time_to_next_timer(max_wait)
        };
        if wait != Some(Duration::ZERO) {
            let has_work = || queue.has_foreign() || main_woken() || self.inboxes_have_work();
            if !queue.sleep.prepare(has_work) {
                wait = Some(Duration::ZERO);
            }
        }
        if self.0.stalls.borrow().all().count == stalls {
            self.watch("turn", started_ns);
        }
        wait
    }

    /// Counts and logs what began at `started_ns` and has just ended, if it held the shard too long.
    fn watch(&self, name: &'static str, started_ns: u64) {
        let now_ns = self.0.now_ns.get();
        let took_ns = now_ns.saturating_sub(started_ns);
        if took_ns <= STALL_NS {
            return;
        }
        let due = self.0.stalls.borrow_mut().note(name, took_ns, now_ns);
        if let Some(unlogged) = due {
            let (shard, took_us) = (self.0.shard.0, took_ns / 1000);
            tracing::warn!(shard, task = name, took_us, unlogged, "held the shard");
        }
    }

    fn time_to_next_timer(&self, max_wait: Option<Duration>) -> Option<Duration> {
        let deadline_ns = self.timers().next_deadline_ns();
        let until = deadline_ns.map(|at| Instant(at).saturating_duration_since(self.now()));
        match (until, max_wait) {
            (Some(until), Some(max)) => Some(until.min(max)),
            (until, max) => until.or(max),
        }
    }

    /// Polls ready tasks until none is left or the budget is spent.
    fn run_ready(&self) {
        self.0.queue.collect_foreign();
        let started_ns = self.0.now_ns.get();
        for _ in 0..POLLS_PER_TURN {
            let Some(runnable) = self.0.queue.pop() else {
                return;
            };
            self.run_one(runnable);
            if self.0.now_ns.get().saturating_sub(started_ns) > RUN_BUDGET_NS {
                return;
            }
        }
    }

    fn run_one(&self, runnable: Runnable) {
        let meta = *runnable.metadata();
        let started_ns = self.0.now_ns.get();
        self.0.poll_started_ns.set(started_ns);
        bump(&self.0.tasks_polled);
        let running = Running::enter(self.0.shard, meta.name);
        let outcome = catch_unwind(AssertUnwindSafe(|| runnable.run()));
        if let Err(payload) = outcome {
            let panic = crash::take(payload.as_ref());
            let is_fatal = meta.vital || crash::take_in_doubt();
            if is_fatal && self.0.unwinds.get() {
                std::panic::resume_unwind(payload);
            }
            if is_fatal {
                crash::abort(&panic, "a vital task panicked");
            }
            bump(&self.0.task_panics);
            let (message, place) = (&panic.message, &panic.place);
            tracing::error!(task = meta.name, message, place, "task panicked");
        }
        drop(running);
        self.refresh_now();
        self.watch(meta.name, started_ns);
    }

    fn fire_timers(&self) {
        let now_ns = self.0.now_ns.get();
        loop {
            let due = self.timers().pop_due(now_ns);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// Handlers may add inboxes while they run, so that the list is not borrowed meanwhile.
    fn each_inbox(&self, visit: impl Fn(&dyn Inbox)) {
        let mut index = 0;
        loop {
            let inbox = self.0.inboxes.borrow().get(index).cloned();
            match inbox {
                Some(inbox) => visit(&*inbox),
                None => return,
            }
            index += 1;
        }
    }

    fn inboxes_have_work(&self) -> bool {
        self.0.inboxes.borrow().iter().any(|inbox| inbox.has_work())
    }

    /// One turn of the driver; hands out what completed.
    fn drive(&self, wait: Option<Duration>) {
        let mut completions = self.0.completions.take();
        let _rang = self.0.driver.borrow_mut().turn(wait, &mut completions);
        self.refresh_now();
        for completion in completions.drain(..) {
            let (waker, garbage) = self.ops().complete(completion);
            if let Some(waker) = waker {
                waker.wake();
            }
            drop(garbage);
        }
        self.0.completions.set(completions);
        for waker in self.ops().idle_wakers() {
            waker.wake();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.collect_foreign();
        while let Some(runnable) = self.queue.pop() {
            drop(runnable);
        }
        for inbox in self.inboxes.get_mut().drain(..) {
            inbox.close();
        }
    }
}

/// Marks that the loop runs, so that it is not entered twice.
struct InLoop<'a>(&'a Cell<bool>);

impl<'a> InLoop<'a> {
    fn enter(flag: &'a Cell<bool>) -> Self {
        assert!(!flag.replace(true), "a shard's loop is not reentrant");
        Self(flag)
    }
}

impl Drop for InLoop<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
