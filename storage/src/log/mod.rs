//! The log of one partition: appends, marks, flushes, segments, recovery.
//!
//! Start reading at [`Log`] and `State` here; then `writer` (the write buffer), `appender` (the
//! way of a batch), `pump` (writes, flushes and the marks they move), `roll`, `recovery`.
//!
//! Everything of one log runs on its shard. What must not stop half-way (a preparation step, a
//! roll, a cut) runs as a task of its own, so that a caller may drop its future at any await.

mod api;
mod appender;
mod checkpoint;
mod cut;
mod files;
mod idle;
mod open;
mod preparer;
mod producers;
mod pump;
mod read;
mod recovery;
mod retention;
mod roll;
pub(crate) mod scan;
mod sealed;
pub(crate) mod segment;
mod tail;
mod time;
mod unlink;
mod waiters;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use corelog_runtime::Rt;
use corelog_runtime::sync::{FifoMutex, Guard, Notify, Receiver, Ticket};

pub use api::{
    AppendError, Appended, DeleteRecordsError, FileRange, LogError, LogParams, ReadError, ReadPlan,
    RecoveryReport, ValidatedBatch, is_no_space,
};
pub use retention::Retained;
pub(crate) use segment::OpenSegment;
pub use segment::SegmentFile;
pub(crate) use tail::LogTail;
pub use unlink::delete_unopened;

use crate::config::LogConfig;
use crate::flush_policy::{FlushState, Requirement};
use crate::guard;
use crate::leader_epochs::LeaderEpochs;
use crate::marks::{LiveMarks, Marks};
use crate::producer_state::{ActiveProducer, ProducerState};
use crate::shard::ShardStorage;
use roll::NextFile;
use segment::SealedSegment;
use waiters::Waiters;

/// Cuts remembered for waits that began before them.
const CUTS_KEPT: usize = 64;

/// A place in the order of a log's appends, see [`Log::admit`]. Dropping it gives the place up.
pub struct Admission(pub(crate) Ticket);

impl Admission {
    /// Waits until all appends before this one are done or given up.
    pub async fn turn(self) -> Turn {
        Turn(self.0.wait().await)
    }
}

/// The turn of an append: until it is dropped, no other append of the log begins.
#[must_use = "dropping a turn gives it up"]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] Guard);

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// The log of one partition. Cheap to clone; the clones are one log.
///
/// Shard: the partition's owner; never sent.
#[derive(Clone)]
pub struct Log(pub(crate) Rc<LogInner>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Log({}-{}: {})",
            self.0.topic,
            self.0.partition,
            self.marks()
        )
    }
}

pub(crate) struct LogInner {
    pub rt: Rt,
    pub shard: Rc<ShardStorage>,
    pub dir: RefCell<PathBuf>,
    pub topic: String,
    pub partition: i32,
    /// Order of appends; held by whoever changes the log's end.
    pub gate: FifoMutex,
    /// Held by checkpoint, cut and close, one at a time.
    pub maintenance: FifoMutex,
    /// Held while index files, snapshots and epochs are written.
    pub small_files: FifoMutex,
    pub leader_epoch: Cell<i32>,
    pub config: RefCell<Rc<LogConfig>>,
    pub state: RefCell<State>,
    pub tail: Rc<LogTail>,
    pub written_waiters: Waiters,
    pub flushed_waiters: Waiters,
    pub high_watermark_waiters: Waiters,
    pub progress: RefCell<Option<Rc<dyn Fn()>>>,
    /// Ends when a roll, a seal, a flush or a prepared file is done, or the log failed.
    pub segments_changed: Notify,
    pub pump_scheduled: Cell<bool>,
    /// Writes that the device has no space for, and who wants to know of the first.
    pub space_waits: Cell<u32>,
    pub space_wanted: Notify,
    /// Ends when the settings change.
    pub config_changed: Notify,
}

/// What changes. Never borrowed across an await, nor while foreign code runs.
pub(crate) struct State {
    pub marks: LiveMarks,
    pub flush: FlushState,
    /// Ends that a flush is wanted for and that are not flushed yet, ascending.
    pub flush_ends: VecDeque<i64>,
    /// A flush or durable write that covers everything below is on its way.
    pub flush_submitted: i64,
    pub flushes_in_flight: u32,
    /// The timer of `flush.ms` wants all below flushed.
    pub flush_urgent_end: i64,
    /// Timer tasks of an older generation end themselves.
    pub timer_generation: u64,
    pub timer_armed: bool,
    pub sealed: BTreeMap<i64, Rc<SealedSegment>>,
    /// Segments not sealed yet, oldest first; the last one takes the appends.
    pub open: VecDeque<Rc<OpenSegment>>,
    pub next_file: NextFile,
    pub rolling: bool,
    /// A cut is under way: no mark moves but by it.
    pub cutting: bool,
    pub epochs: LeaderEpochs,
    pub epochs_changed: bool,
    pub producers: ProducerState,
    /// `(generation, offset)` of the last cuts.
    pub cuts: VecDeque<(u64, i64)>,
    pub cut_generation: u64,
    /// Log end at the last checkpoint: nothing new since = idle.
    pub idle_end: i64,
    pub failed: Option<Arc<str>>,
    pub closed: bool,
}

impl State {
    pub fn active(&self) -> Rc<OpenSegment> {
        self.open
            .back()
            .expect("a log has an active segment")
            .clone()
    }
}

impl LogInner {
    /// Why the log does nothing any more.
    pub fn check(&self) -> Result<(), LogError> {
        let state = self.state.borrow();
        match &state.failed {
            Some(why) => Err(LogError::Io(why.clone())),
            None if state.closed => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    pub fn check_append(&self) -> Result<(), AppendError> {
        self.check().map_err(|error| match error {
            LogError::Io(why) => AppendError::DirOffline(why),
            _ => AppendError::Closed,
        })
    }

    /// The first failure stops the log: no later append is accepted, nobody waits in vain. An
    /// error that is the directory's is told to its guard.
    pub fn fail(&self, what: impl fmt::Display, error: &io::Error) -> LogError {
        let why: Arc<str> = format!("{}-{}: {what}: {error}", self.topic, self.partition).into();
        if self.stop_with(&why) {
            tracing::error!(
                topic = self.topic,
                partition = self.partition,
                "the log failed: {why}"
            );
            self.shard.count(|c| c.failures += 1);
            if guard::condemns(error) {
                self.shard.tell_failed(&self.log_dir(), &why);
            }
        }
        LogError::Io(why)
    }

    /// Stops the log for this reason; true when it went on until now.
    fn stop_with(&self, why: &Arc<str>) -> bool {
        let mut state = self.state.borrow_mut();
        let is_first = state.failed.is_none();
        state.failed.get_or_insert_with(|| why.clone());
        let open: Vec<_> = state.open.iter().cloned().collect();
        drop(state);
        self.end_waits(i64::MIN);
        for segment in open {
            segment.progress.notify_all();
        }
        self.segments_changed.notify_all();
        self.call_progress();
        is_first
    }

    /// An error of a read, told to the directory's guard when it is the device's.
    pub fn read_error(&self, what: impl fmt::Display, error: &io::Error) -> ReadError {
        let what = format!("{}-{}: {what}", self.topic, self.partition);
        self.shard.read_error(&self.log_dir(), what, error)
    }

    /// The log directory that this log is in.
    pub fn log_dir(&self) -> PathBuf {
        guard::log_dir_of(&self.dir.borrow())
    }

    /// The directory has no room, and this log has no right to its reserve.
    pub fn is_out_of_space(&self) -> bool {
        !self.config.borrow().uses_reserve && self.is_dir_full()
    }

    /// The directory has no room.
    pub fn is_dir_full(&self) -> bool {
        let guard = self.shard.guard();
        guard.is_some_and(|guard| guard.is_full(&self.log_dir()))
    }

    /// After a refusal for want of space: tells the guard, and is true when the same is to be
    /// tried again, because something of the reserve was given back for it.
    pub async fn make_space(&self, may_use_reserve: bool) -> bool {
        let Some(guard) = self.shard.guard() else {
            return false;
        };
        let log_dir = self.log_dir();
        guard.no_space(&log_dir);
        may_use_reserve && guard.release(&log_dir).await
    }

    /// Awaits `work`, but not while a write of this log waits for space, which may be for ever:
    /// `NoSpace` then, and `work` is dropped.
    pub async fn unless_out_of_space<T>(
        &self,
        work: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        let mut work = pin!(work);
        let mut begins = pin!(self.space_wanted.notified());
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending if self.space_waits.get() > 0 => Poll::Ready(Err(LogError::NoSpace)),
            Poll::Pending => begins.as_mut().poll(cx).map(|()| Err(LogError::NoSpace)),
        })
        .await
    }

    /// Fails every waiter beyond `offset`.
    pub fn end_waits(&self, offset: i64) {
        self.written_waiters.fail_past(offset);
        self.flushed_waiters.fail_past(offset);
        self.high_watermark_waiters.fail_past(offset);
    }

    pub fn call_progress(&self) {
        let callback = self.progress.borrow().clone();
        if let Some(callback) = callback {
            callback();
        }
    }

    /// Starts a task that goes on by itself. A panic in it ends the process: the log's state would
    /// no longer be known.
    pub fn background(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.rt.spawn_vital(name, task).detach();
    }

    pub fn now_ms(&self) -> u64 {
        self.rt.now().0 / 1_000_000
    }

    async fn outcome(&self, waiter: Receiver<()>) -> Result<(), LogError> {
        if waiter.await.is_some() {
            return Ok(());
        }
        self.check()?;
        Err(LogError::Truncated)
    }

    async fn wait_written(&self, offset: i64) -> Result<(), LogError> {
        if self.state.borrow().marks.written_end >= offset {
            return Ok(());
        }
        self.check()?;
        self.outcome(self.written_waiters.add(offset)).await
    }

    /// Flushes up to `end`, which was appended.
    async fn wait_flushed_or_want(self: &Rc<Self>, end: i64) -> Result<(), LogError> {
        self.want_flush(end);
        self.wait_flushed(end).await
    }

    async fn wait_flushed(&self, offset: i64) -> Result<(), LogError> {
        if self.state.borrow().marks.flushed_end >= offset {
            return Ok(());
        }
        self.check()?;
        self.outcome(self.flushed_waiters.add(offset)).await
    }
}

impl Log {
    /// Takes the next place in the order of appends, now. [`Log::append`] waits for its turn.
    pub fn admit(&self) -> Admission {
        Admission(self.0.gate.ticket())
    }

    /// Waits until what the append requires holds: written (survives `kill -9`) or flushed
    /// (survives power loss). Fails when the log failed, or was cut below the append.
    pub async fn wait(&self, appended: &Appended) -> Result<(), LogError> {
        let shard = &self.0.shard;
        if shard.is_planted("ack-on-append") || shard.is_planted("ack-before-write") {
            return Ok(());
        }
        {
            let state = self.0.state.borrow();
            let oldest = state
                .cuts
                .front()
                .map_or(0, |&(generation, _)| generation - 1);
            let was_cut = appended.cut_generation < oldest
                || state.cuts.iter().any(|&(g, offset)| {
                    g > appended.cut_generation && offset <= appended.last_offset
                });
            if was_cut {
                return Err(LogError::Truncated);
            }
        }
        match appended.requirement {
            Requirement::Written => self.0.wait_written(appended.last_offset + 1).await,
            Requirement::Flushed => self.0.wait_flushed(appended.last_offset + 1).await,
        }
    }

    /// Waits until the high watermark is at or above `offset`.
    pub async fn wait_high_watermark(&self, offset: i64) -> Result<(), LogError> {
        if self.0.state.borrow().marks.high_watermark >= offset {
            return Ok(());
        }
        self.0.check()?;
        self.0
            .outcome(self.0.high_watermark_waiters.add(offset))
            .await
    }

    /// The marks now.
    pub fn marks(&self) -> Marks {
        self.0.state.borrow().marks.get()
    }

    /// How far this replica's part of the high watermark may go: `written_end`, less while an
    /// append that made the flush policy due is not flushed.
    pub fn committable_end(&self) -> i64 {
        let state = self.0.state.borrow();
        state
            .flush
            .committable_end(state.marks.written_end, state.marks.flushed_end)
    }

    /// Raises the high watermark, at most to `written_end`; lower values change nothing.
    pub fn set_high_watermark(&self, offset: i64) {
        let moved = {
            let mut state = self.0.state.borrow_mut();
            let offset = offset.min(state.marks.written_end);
            let moved = state.marks.set_high_watermark(offset);
            // Until there are transactions nothing is unstable.
            state.marks.set_last_stable(offset);
            moved.then_some(offset)
        };
        if let Some(offset) = moved {
            self.0.high_watermark_waiters.wake(offset);
        }
    }

    /// `f` is called after `written_end`, `flushed_end` or the committable end moved, and when the
    /// log failed. One at a time; the last one set counts.
    pub fn on_progress(&self, f: Box<dyn Fn()>) {
        *self.0.progress.borrow_mut() = Some(Rc::from(f));
    }

    /// Stops the log because its directory failed, for the directory's reason: nothing more is
    /// accepted, and whoever waits is told. A log that failed before keeps its own reason.
    pub fn condemn(&self, why: &Arc<str>) {
        self.0.stop_with(why);
    }

    /// Why the log failed, if it did.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.0.state.borrow().failed.clone()
    }

    /// Written bytes of the range's segment from file position `at` on, at most `max`, as slices
    /// of the buffers that were written; `None` when the first byte is not in the tail cache.
    pub fn lookup_tail(&self, range: &FileRange, at: u64, max: usize) -> Option<Vec<Bytes>> {
        if range.generation != range.segment.generation() {
            return None;
        }
        let end = range.position + range.len as u64;
        let max = end
            .checked_sub(at)
            .filter(|_| at >= range.position)?
            .min(max as u64);
        self.0.tail.slices(range.segment.base_offset(), at, max)
    }

    /// Where a replica in `epoch` must stop agreeing with this log: the largest epoch not above,
    /// and where it ends; (-1, -1) when unknown.
    pub fn epoch_end_offset(&self, epoch: i32) -> (i32, i64) {
        let state = self.0.state.borrow();
        state.epochs.end_offset_for(epoch, state.marks.log_end)
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        self.0.state.borrow().epochs.epoch_for_offset(offset)
    }

    /// Newest leader epoch in the log.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.0.state.borrow().epochs.latest().map(|e| e.epoch)
    }

    /// Leader epoch given to batches appended from now on.
    pub fn set_leader_epoch(&self, epoch: i32) {
        self.0.leader_epoch.set(epoch);
    }

    /// Settings now.
    pub fn config(&self) -> Rc<LogConfig> {
        self.0.config.borrow().clone()
    }

    /// New settings, binding the appends from now on. A flush due under the old ones stays due; what
    /// `flush.ms` would have flushed sooner than the new settings do is flushed now.
    pub fn set_config(&self, config: LogConfig) {
        let (old_ms, new_ms) = (self.0.config.borrow().flush.ms, config.flush.ms);
        let is_later = old_ms.is_some_and(|old| new_ms.is_none_or(|new| new > old));
        let owed = {
            let mut state = self.0.state.borrow_mut();
            state.flush.set_policy(config.flush);
            state.timer_generation += 1;
            state.timer_armed = false;
            let end = state.marks.log_end;
            let is_owed = is_later && state.marks.flushed_end < end;
            if is_owed {
                state.flush_urgent_end = state.flush_urgent_end.max(end);
            }
            is_owed.then_some(end)
        };
        *self.0.config.borrow_mut() = Rc::new(config);
        self.0.config_changed.notify_all();
        if let Some(end) = owed {
            self.0.want_flush(end);
        }
        self.0.arm_timer();
    }

    /// Flushes everything appended before this call.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.0.flush_all().await
    }

    /// Bytes of all segments, preallocation not counted.
    pub fn size_bytes(&self) -> u64 {
        let state = self.0.state.borrow();
        let open: u64 = state.open.iter().map(|s| s.size()).sum();
        open + state.sealed.values().map(|s| s.size).sum::<u64>()
    }

    /// Idempotent producers that the log remembers and that are not expired, by id.
    pub fn active_producers(&self) -> Vec<ActiveProducer> {
        let expiration_ms = self.0.config.borrow().producer_id_expiration_ms;
        let now_ms = self.0.rt.wall_clock_ms();
        self.0
            .state
            .borrow()
            .producers
            .active(now_ms, expiration_ms)
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        let state = self.0.state.borrow();
        state.open.len() + state.sealed.len()
    }

    /// Topic name.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Partition index.
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The partition's directory.
    pub fn dir(&self) -> PathBuf {
        self.0.dir.borrow().clone()
    }
}
