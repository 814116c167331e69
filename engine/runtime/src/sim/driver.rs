//! The simulation's side of the seam: one [`Driver`] per shard over a shared world.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::exec::CACHE_WINDOW_BYTES;
use super::process::ProcessId;
use super::rng::Rng;
use super::world::SimWorld;
use crate::driver::{
    Cached, Completion, Doorbell, Driver, DriverCounters, FileHandle, Op, SocketHandle, Token,
};

/// Turns a dead driver, or one that waits for nothing, takes before it says so loudly.
const IDLE_TURNS_MAX: u64 = 100_000;

/// The machine below one shard of a simulated process.
///
/// Made on a crashed world, it is the first shard of the next process. After a crash it is dead:
/// nothing completes any more but what is cancelled (so that an executor can be closed).
pub struct SimDriver {
    world: SimWorld,
    process: u32,
    port: u32,
    incarnation: u64,
    rng: Rng,
    bell: Arc<AtomicBool>,
    counters: DriverCounters,
    idle_turns: u64,
}

struct SimDoorbell(Arc<AtomicBool>);

impl Doorbell for SimDoorbell {
    fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl SimDriver {
    /// A shard of the main process of `world`. Shards of one process differ in `shard_seed`.
    pub fn new(world: &SimWorld, shard_seed: u64) -> SimDriver {
        SimDriver::of_process(world, ProcessId::MAIN, shard_seed)
    }

    /// A shard of a process, which lives from now on if it did not.
    pub fn of_process(world: &SimWorld, process: ProcessId, shard_seed: u64) -> SimDriver {
        let bell = Arc::new(AtomicBool::new(false));
        let mut state = world.lock();
        state.processes.start(process.0);
        let port = state.add_port(process.0, shard_seed);
        let incarnation = state.processes.incarnation(process.0);
        drop(state);
        let stream = (shard_seed << 8) ^ (incarnation << 40) ^ (u64::from(process.0) << 24) ^ 3;
        SimDriver {
            world: world.clone(),
            process: process.0,
            port,
            incarnation,
            rng: Rng::new(world.seed(), stream),
            bell,
            counters: DriverCounters::default(),
            idle_turns: 0,
        }
    }

    pub(super) fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn bell(&self) -> Arc<AtomicBool> {
        self.bell.clone()
    }

    fn dead_turn(&mut self, completions: &mut Vec<Completion>) -> bool {
        self.idle_turns += 1;
        assert!(
            self.idle_turns < IDLE_TURNS_MAX,
            "the simulated process is dead, but its executor runs on: drive it with sim::run_until_crash"
        );
        let mut state = self.world.lock();
        if let Some(port) = state.port(self.port) {
            port.take_ready(completions);
        }
        drop(state);
        self.world.wake_crash_watchers();
        true
    }
}

impl Driver for SimDriver {
    fn submit(&mut self, op: Op) -> Token {
        self.counters.submitted += 1;
        let mut state = self.world.lock();
        let is_dead = state.processes.incarnation(self.process) != self.incarnation;
        state.submit(self.port, is_dead, op)
    }

    fn cancel(&mut self, token: Token) {
        self.world.lock().cancel(self.port, token);
    }

    fn turn(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> bool {
        self.counters.enters += 1;
        let first = completions.len();
        let mut state = self.world.lock();
        if state.processes.incarnation(self.process) != self.incarnation {
            drop(state);
            return self.dead_turn(completions);
        }
        let rang = self.bell.swap(false, Ordering::SeqCst);
        state.now_ns += 500;
        state.start_queued(self.port);
        let deadline_ns = if rang {
            Some(state.now_ns)
        } else {
            let saturated = |wait: Duration| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            wait.map(|wait| state.now_ns.saturating_add(saturated(wait)))
        };
        let is_alive = state.advance(self.port, deadline_ns);
        let is_alone = state.ports.iter().flatten().count() == 1;
        if state.processes.incarnation(self.process) != self.incarnation {
            drop(state);
            return self.dead_turn(completions);
        }
        state.hand_out(self.port, completions);
        drop(state);
        self.idle_turns = if is_alive { 0 } else { self.idle_turns + 1 };
        // Other shards may still ring.
        assert!(
            is_alive || (!is_alone && self.idle_turns < IDLE_TURNS_MAX),
            "deadlock in the simulation: the shard sleeps for ever, with no operation in flight and no timer"
        );
        for completion in &mut completions[first..] {
            if let Op::Blocking { work } = &mut completion.op
                && completion.result.is_ok()
                && let Some(work) = work.take()
            {
                work();
            }
        }
        rang
    }

    fn now_ns(&self) -> u64 {
        self.world.lock().look_at_clock()
    }

    fn wall_clock_ms(&self) -> i64 {
        self.world.wall_clock_ms()
    }

    fn random_u64(&mut self) -> u64 {
        let value = self.rng.next_u64();
        self.world.lock().trace.add(value);
        value
    }

    fn send_file(
        &mut self,
        socket: &SocketHandle,
        file: &FileHandle,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        self.counters.sendfile_calls += 1;
        let sent = self
            .world
            .lock()
            .send_file(socket, file.0.raw, offset, len)?;
        self.counters.sendfile_bytes += sent as u64;
        Ok(sent)
    }

    fn is_cached(&mut self, file: &FileHandle, offset: u64, len: usize) -> io::Result<Cached> {
        let mut state = self.world.lock();
        let errno = io::Error::from_raw_os_error;
        let ino = state
            .handle(file.0.raw)
            .map(|open| open.ino)
            .ok_or_else(|| errno(libc::EBADF))?;
        // Memory pressure may take a page at any time.
        let evicted = state.rng.of_256(16);
        let sim_file = state.tree.file(ino).map_err(errno)?;
        let end = offset.saturating_add(len as u64).min(sim_file.size());
        for window in offset / CACHE_WINDOW_BYTES..end.div_ceil(CACHE_WINDOW_BYTES) {
            if evicted {
                sim_file.cached.remove(&window);
            }
            if !sim_file.cached.contains(&window) {
                return Ok(Cached::MissingAt(offset.max(window * CACHE_WINDOW_BYTES)));
            }
        }
        Ok(Cached::All)
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::new(SimDoorbell(self.bell.clone()))
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        if state.processes.incarnation(self.process) == self.incarnation {
            state.abandon_port(self.port);
        }
        let port = state
            .ports
            .get_mut(self.port as usize)
            .and_then(Option::take);
        drop(state);
        mem::drop(port);
    }
}
