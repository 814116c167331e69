//! The handle on a simulated machine, and how a test runs a process on it.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::config::{FaultCounters, FaultPlan, OpKind, ScriptedFault, SimConfig};
use super::driver::SimDriver;
use super::page::PAGE_BYTES;
use super::state::State;
use crate::buf::BufferPool;
use crate::driver::Closer;
use crate::rt::{Rt, ShardId};

/// A simulated machine: disk, clock, chance and faults from one seed. Cheap to clone; outlives
/// the processes ([`SimDriver`]s) that run and die on it. Use it from one thread at a time, else
/// the order of events is no longer the seed's.
#[derive(Clone)]
pub struct SimWorld(Arc<Shared>);

struct Shared {
    seed: u64,
    state: Mutex<State>,
    closed: Arc<SimCloser>,
}

/// Handles dropped since the world looked last. Apart from the state, so that a handle can go at
/// any moment.
struct SimCloser(Mutex<Vec<i64>>);

impl Closer for SimCloser {
    fn close(&self, raw: i64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(raw);
    }
}

impl SimWorld {
    /// A machine with an empty file system, whose fate is `seed`.
    pub fn new(seed: u64, config: SimConfig) -> SimWorld {
        let align = config.dio_align_bytes;
        assert!(
            align == 0 || (align.is_power_of_two() && (512..=4096).contains(&align)),
            "no such device"
        );
        let closed = Arc::new(SimCloser(Mutex::new(Vec::new())));
        let state = Mutex::new(State::new(seed, config, closed.clone()));
        SimWorld(Arc::new(Shared {
            seed,
            state,
            closed,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = std::mem::take(
            &mut *self
                .0
                .closed
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for raw in closed {
            if let Some(open) = state.handles.remove(&raw) {
                if let Ok(inode) = state.tree.inode(open.ino) {
                    inode.handles -= 1;
                }
                state.tree.release(open.ino);
            }
        }
        state
    }

    /// The seed it was made with.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// `kill -9` of the process. Completed writes stay. A direct write in flight may reach the file
    /// late, at any time until the recovery barrier (`fallocate(KEEP_SIZE, 0, 4096)` on that file),
    /// whole, in part or never; other operations in flight happened or not. All handles are void.
    pub fn kill_process(&self) {
        self.lock().kill_process();
        self.wake_crash_watchers();
    }

    /// The machine loses power: of what no flush covered, each 512-byte sector, each file's size
    /// and each change of a name survives or not, by seed. All handles are void.
    pub fn power_loss(&self) {
        self.lock().power_loss();
        self.wake_crash_watchers();
    }

    pub(super) fn wake_crash_watchers(&self) {
        let watchers = std::mem::take(&mut self.lock().crash_wakers);
        watchers.into_iter().for_each(std::task::Waker::wake);
    }

    /// A crash struck, and no new process ([`SimDriver`]) has been started since.
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Operations started so far that change the disk: writes, flushes (directories' too),
    /// fallocate, ftruncate, rename, unlink, mkdir, rmdir, and opens that may create or empty a
    /// file. [`SimConfig::crash_at`] counts the same way, from 1.
    pub fn write_count(&self) -> u64 {
        self.lock().write_count
    }

    /// Operations of a kind started so far, those that failed included.
    pub fn op_count(&self, kind: OpKind) -> u64 {
        self.lock().started.get(&kind).copied().unwrap_or(0)
    }

    /// Plans (or calls off) a crash at a later change of the disk.
    pub fn set_crash_at(&self, write_count: Option<u64>) {
        self.lock().config.crash_at = write_count;
    }

    /// How often each kind of trouble was met.
    pub fn faults(&self) -> FaultCounters {
        self.lock().counters
    }

    /// Faults by chance from now on.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.lock().config.faults = plan;
    }

    /// A scripted fault. Of several that match an operation the first added counts.
    pub fn add_fault(&self, fault: ScriptedFault) {
        self.lock().script.push(fault);
    }

    /// Ends all faults, by chance and scripted.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        state.script.clear();
        state.config.faults = FaultPlan::default();
    }

    /// Changes the size of the file system, bytes. Smaller than what is in use = full.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().config.capacity_bytes = bytes;
    }

    /// Bytes allocated in the file system.
    pub fn used_bytes(&self) -> u64 {
        self.lock().tree.used_pages * PAGE_BYTES
    }

    /// Hash of all operations, data, completions, times and draws so far: the same seed and the
    /// same program give the same hash.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace.value()
    }

    /// Nanoseconds of the monotonic clock, which moves only with operations and turns.
    pub fn now_ns(&self) -> u64 {
        self.lock().now_ns
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_clock_ms(&self) -> i64 {
        let state = self.lock();
        state
            .config
            .wall_clock_start_ms
            .saturating_add((state.now_ns / 1_000_000) as i64)
            + state.wall_step_ms
    }

    /// Sets the wall clock forward or back; the monotonic clock does not notice.
    pub fn step_wall_clock(&self, by_ms: i64) {
        self.lock().wall_step_ms += by_ms;
    }

    /// All paths, sorted; directories end with a slash.
    pub fn paths(&self) -> Vec<String> {
        self.lock().tree.paths()
    }

    /// A file's content as a reader would see it now (late writes that have not landed excluded).
    pub fn file_bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let ino = state.tree.resolve(path.as_ref()).ok()?;
        let file = state.tree.file(ino).ok()?;
        let mut out = vec![0; file.size() as usize];
        file.read(0, &mut out);
        Some(out)
    }

    /// Damages a file: `bytes` replace what is at `offset`, durably; what lies past the end is ignored.
    pub fn damage(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let ino = state
            .tree
            .resolve(path.as_ref())
            .map_err(io::Error::from_raw_os_error)?;
        state
            .tree
            .file(ino)
            .map_err(io::Error::from_raw_os_error)?
            .poke(offset, bytes);
        Ok(())
    }
}

/// Ends with the future or with the crash.
struct UntilCrash<'a, F> {
    world: &'a SimWorld,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for UntilCrash<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let world = self.world;
        if !world.crashed()
            && let Some(future) = &mut self.future
            && let Poll::Ready(output) = future.as_mut().poll(cx)
        {
            // What it says after the crash nobody has heard.
            return Poll::Ready((!world.crashed()).then_some(output));
        }
        if world.crashed() {
            self.future = None;
            return Poll::Ready(None);
        }
        let mut state = world.lock();
        if !state
            .crash_wakers
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            state.crash_wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Starts a process of one shard on `world`, runs the future that `main` makes, and ends it:
/// `Some` when the future was done first, `None` when a crash came first. Either way all tasks of
/// the process are gone on return, and the world is ready for the next one.
pub fn run_until_crash<F: Future>(
    world: &SimWorld,
    main: impl FnOnce(Rt) -> F,
) -> Option<F::Output> {
    let driver = SimDriver::new(world, 0);
    let rt = Rt::new(ShardId(0), Box::new(driver), BufferPool::new(1 << 20));
    let future = Box::pin(main(rt.clone()));
    let output = rt.block_on(UntilCrash {
        world,
        future: Some(future),
    });
    rt.close();
    world.lock().crash_wakers.clear();
    output
}
