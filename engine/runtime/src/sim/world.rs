//! The handle on a simulated machine, and how a test runs a process on it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::config::{CrashKind, FaultCounters, FaultPlan, OpKind, ScriptedFault, SimConfig};
use super::driver::SimDriver;
use super::net::{Net, SOCKET_MARK};
use super::net_config::{Loss, NetConfig, NetCounters, NetFaultPlan};
use super::page::PAGE_BYTES;
use super::process::{MAIN, ProcessId};
use super::rng::TraceSink;
use super::state::{Event, State};
use crate::buf::BufferPool;
use crate::driver::{Closer, SocketHandle};
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
#[derive(Default)]
struct SimCloser {
    any: AtomicBool,
    raw: Mutex<Vec<i64>>,
}

impl Closer for SimCloser {
    fn close(&self, raw: i64) {
        self.raw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(raw);
        self.any.store(true, Ordering::Release);
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
        let closed = Arc::new(SimCloser::default());
        let net = Net::new(seed, closed.clone());
        let state = Mutex::new(State::new(seed, config, closed.clone(), net));
        SimWorld(Arc::new(Shared {
            seed,
            state,
            closed,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = &self.0.closed;
        if closed.any.swap(false, Ordering::Acquire) {
            let mut list = closed.raw.lock().unwrap_or_else(PoisonError::into_inner);
            let list = std::mem::take(&mut *list);
            for raw in list {
                if raw & SOCKET_MARK == 0 {
                    state.close_handle(raw);
                } else {
                    state.close_socket(raw);
                }
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
        self.kill(ProcessId::MAIN);
    }

    /// `kill -9` of any process, as [`SimWorld::kill_process`]: its kernel closes its sockets, with
    /// a reset where bytes were unread.
    pub fn kill(&self, process: ProcessId) {
        let mut state = self.lock();
        if process == ProcessId::MAIN || state.processes.is_alive(process.0) {
            state.kill(process.0);
        }
        drop(state);
        self.wake_crash_watchers();
    }

    /// Another process, on a machine of its own without a disk (file operations answer ENOSYS).
    pub fn add_process(&self, name: &str) -> ProcessId {
        ProcessId(self.lock().processes.add(name))
    }

    /// It runs: it was not killed, nor has it ended, since it was started last.
    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.lock().processes.is_alive(process.0)
    }

    /// A listening socket of a living process, and its address (which matters for port 0).
    pub fn listen(
        &self,
        process: ProcessId,
        addr: SocketAddr,
        backlog: u32,
    ) -> io::Result<(SocketHandle, SocketAddr)> {
        self.lock().listen(process.0, addr, backlog)
    }

    /// Plans the death of a process at a moment of virtual time. (Power loss is for
    /// [`ProcessId::MAIN`]; others are killed.)
    pub fn crash_at_ns(&self, process: ProcessId, at_ns: u64, kind: CrashKind) {
        let event = Event::Crash {
            process: process.0,
            is_power_loss: kind == CrashKind::PowerLoss,
        };
        self.lock().schedule_at(at_ns, 0, event);
    }

    /// The same at a moment between two that the seed chooses. Returns it.
    pub fn crash_within(
        &self,
        process: ProcessId,
        from_ns: u64,
        to_ns: u64,
        kind: CrashKind,
    ) -> u64 {
        let at_ns = self.lock().crash_rng.between(from_ns, to_ns);
        self.crash_at_ns(process, at_ns, kind);
        at_ns
    }

    /// Changes the network: delays and faults from now on, buffers of new connections.
    pub fn set_net(&self, net: NetConfig) {
        self.lock().config.net = net;
    }

    /// Faults of the network by chance from now on.
    pub fn set_net_faults(&self, plan: NetFaultPlan) {
        self.lock().config.net.faults = plan;
    }

    /// What the network did, and how often each kind of trouble was met.
    pub fn net_counters(&self) -> NetCounters {
        self.lock().net.counters
    }

    /// Lets nothing pass between two processes, either way, for a while.
    pub fn cut_link(&self, one: ProcessId, other: ProcessId, time: Duration) {
        self.cut_one_way(one, other, time);
        self.cut_one_way(other, one, time);
    }

    /// Lets nothing pass from one process to the other for a while.
    pub fn cut_one_way(&self, from: ProcessId, to: ProcessId, time: Duration) {
        let mut state = self.lock();
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = state.now_ns.saturating_add(ns);
        state.net.counters.cuts += 1;
        state.cut_link(from.0, to.0, until_ns);
    }

    /// Ends all cuts. What waits behind one arrives when it was to end.
    pub fn heal_links(&self) {
        self.lock().net.heal();
    }

    /// Loses all connections of a process.
    pub fn break_connections(&self, process: ProcessId, loss: Loss) {
        self.lock().break_connections(process.0, loss);
    }

    /// Adds a line of the caller's own to the hash and the readable trace.
    pub fn note(&self, line: &str) {
        let mut state = self.lock();
        let now_ns = state.now_ns;
        state.trace.add_bytes(line.as_bytes());
        state.trace.tell(now_ns, || line.to_owned());
    }

    /// Has events told, a line each, beginning with the time in seconds; `None` ends it. The sink
    /// must not use the world.
    pub fn set_trace(&self, sink: Option<TraceSink>) {
        self.lock().trace.set_sink(sink);
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
        self.lock().processes.has_crashed(MAIN)
    }

    /// Operations started so far that change the disk: writes, flushes (directories' too),
    /// fallocate, ftruncate, rename, unlink, mkdir, rmdir, and opens that may create or empty a
    /// file. [`SimConfig::crash_at`] counts the same way, from 1.
    pub fn write_count(&self) -> u64 {
        self.lock().write_count
    }

    /// Operations of a kind started so far, those that failed included.
    pub fn op_count(&self, kind: OpKind) -> u64 {
        self.lock().started[kind as usize]
    }

    /// Plans (or calls off) a crash at a later change of the disk.
    pub fn set_crash_at(&self, write_count: Option<u64>) {
        self.lock().config.crash_at = write_count;
    }

    /// What the crash of [`SimWorld::set_crash_at`] is from now on.
    pub fn set_crash_kind(&self, kind: CrashKind) {
        self.lock().config.crash_kind = kind;
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

    /// Bytes of the file system.
    pub fn capacity_bytes(&self) -> u64 {
        self.lock().config.capacity_bytes
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

    /// Events so far: effects and completions of operations, deliveries and other turns of the
    /// network. (Turns of shards are counted by [`super::Sim::steps`].)
    pub fn event_count(&self) -> u64 {
        self.lock().event_count
    }

    /// Nanoseconds of the monotonic clock, which moves only with operations and turns.
    pub fn now_ns(&self) -> u64 {
        self.lock().now_ns
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_clock_ms(&self) -> i64 {
        self.lock().wall_clock_ms()
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
