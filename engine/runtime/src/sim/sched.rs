//! Several shards of several processes in one thread: who turns next is the seed's choice.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use super::driver::SimDriver;
use super::process::ProcessId;
use super::state::State;
use super::world::SimWorld;
use crate::buf::BufferPool;
use crate::rt::{Rt, ShardId};
use crate::task::MainWaker;

/// Why [`Sim`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The process was killed or lost its power: all its tasks are gone.
    Died(ProcessId),
    /// The main future of the process's last shard has ended; all its tasks are gone.
    Ended(ProcessId),
    /// What [`Sim::run_until`] waits for holds.
    Condition,
    /// The time of [`Sim::run_for`] is over.
    Deadline,
    /// Nothing will ever happen: every shard sleeps for ever, or there is none.
    Idle,
}

/// How far a shard is.
enum Stage {
    Runs(Pin<Box<dyn Future<Output = ()>>>),
    /// Its main future has ended; what is in flight is awaited.
    Closes,
    Closed,
}

struct Shard {
    process: ProcessId,
    incarnation: u64,
    port: u32,
    bell: Arc<AtomicBool>,
    rt: Rt,
    stage: Stage,
    main: Arc<MainWaker>,
    waker: Waker,
    /// It sleeps until then, if nothing wakes it; `u64::MAX` = for ever.
    until_ns: u64,
    /// It is not run before, whatever wakes it.
    held_until_ns: u64,
}

/// Runs all shards of all processes of a world on the calling thread. Dropped, it kills those that
/// run.
pub struct Sim {
    world: SimWorld,
    shards: Vec<Shard>,
    steps: u64,
    runnable: Vec<usize>,
}

impl Sim {
    /// No shard runs yet.
    pub fn new(world: &SimWorld) -> Sim {
        world.lock().is_scheduled = true;
        Sim {
            world: world.clone(),
            shards: Vec::new(),
            steps: 0,
            runnable: Vec::new(),
        }
    }

    /// The world.
    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    /// Turns of shards so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Brings a process that died or ended to life again; its listeners and shards come after.
    pub fn start(&mut self, process: ProcessId) {
        self.reap(process);
        self.world.lock().processes.start(process.0);
    }

    /// Kills a process; its tasks are gone on return.
    pub fn kill(&mut self, process: ProcessId) {
        self.world.kill(process);
        self.reap(process);
    }

    /// Adds a shard to a living process. `main` is called here; when the future it gives ends, the
    /// shard is closed, and with its last shard the process ends. Panics of that future and of
    /// vital tasks go through [`Sim::step`].
    pub fn spawn_shard<F: Future<Output = ()> + 'static>(
        &mut self,
        process: ProcessId,
        shard: ShardId,
        pool: BufferPool,
        main: impl FnOnce(Rt) -> F,
    ) -> Rt {
        assert!(
            self.world.is_alive(process),
            "a shard of a process that is not running: start it first"
        );
        let driver = SimDriver::of_process(&self.world, process, u64::from(shard.0));
        let (port, bell) = (driver.port(), driver.bell());
        let rt = Rt::new(shard, Box::new(driver), pool);
        rt.set_unwinds();
        let future = Box::pin(main(rt.clone()));
        let waker = MainWaker::new(rt.run_queue());
        self.shards.push(Shard {
            process,
            incarnation: self.world.lock().processes.incarnation(process.0),
            port,
            bell,
            rt: rt.clone(),
            stage: Stage::Runs(future),
            waker: Waker::from(waker.clone()),
            main: waker,
            until_ns: 0,
            held_until_ns: 0,
        });
        rt
    }

    /// Runs until a process dies or ends, or nothing can happen any more.
    pub fn run(&mut self) -> Stop {
        self.run_until(|| false)
    }

    /// As [`Sim::run`], also until `condition` holds, which is asked after each turn.
    pub fn run_until(&mut self, mut condition: impl FnMut() -> bool) -> Stop {
        loop {
            if let Some(stop) = self.step_before(u64::MAX) {
                return stop;
            }
            if condition() {
                return Stop::Condition;
            }
        }
    }

    /// As [`Sim::run`], at most for so long in virtual time.
    pub fn run_for(&mut self, time: Duration) -> Stop {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let limit_ns = self.world.now_ns().saturating_add(ns);
        loop {
            if let Some(stop) = self.step_before(limit_ns) {
                return stop;
            }
        }
    }

    /// One turn of one shard, after as many events and as much time as it takes. `None`: go on.
    pub fn step(&mut self) -> Option<Stop> {
        self.step_before(u64::MAX)
    }

    fn step_before(&mut self, limit_ns: u64) -> Option<Stop> {
        let world = self.world.clone();
        loop {
            let mut state = world.lock();
            state.happen_due(u32::MAX);
            if let Some(dead) = self.find_dead(&state) {
                drop(state);
                self.reap(dead);
                return Some(Stop::Died(dead));
            }
            let wake_ns = self.find_runnable(&mut state);
            if self.runnable.is_empty() {
                let next_ns = state.next_event_ns().unwrap_or(u64::MAX).min(wake_ns);
                if next_ns == u64::MAX && limit_ns == u64::MAX {
                    return Some(Stop::Idle);
                }
                if next_ns > limit_ns {
                    state.now_ns = state.now_ns.max(limit_ns);
                    return Some(Stop::Deadline);
                }
                state.now_ns = state.now_ns.max(next_ns);
                continue;
            }
            if state.now_ns >= limit_ns {
                return Some(Stop::Deadline);
            }
            let pick = match self.runnable.len() {
                1 => 0,
                many => state.turn_rng.below(many as u64) as usize,
            };
            let shard = self.runnable[pick];
            let port = self.shards[shard].port;
            let now_ns = state.now_ns;
            state.trace.add(u64::from(port) << 48 ^ now_ns);
            if state.trace.is_told() {
                let name = state.shard_name(port);
                state.trace.tell(now_ns, || format!("turn {name}"));
            }
            drop(state);
            self.steps += 1;
            return self.turn(shard);
        }
    }

    fn find_dead(&self, state: &State) -> Option<ProcessId> {
        let is_dead =
            |shard: &&Shard| state.processes.incarnation(shard.process.0) != shard.incarnation;
        self.shards.iter().find(is_dead).map(|shard| shard.process)
    }

    /// Lists who can go on now. Returns when the first of the others wants to by itself.
    fn find_runnable(&mut self, state: &mut State) -> u64 {
        let now_ns = state.now_ns;
        let schedule = state.config.schedule;
        let mut wake_ns = u64::MAX;
        self.runnable.clear();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if matches!(shard.stage, Stage::Closed) {
                continue;
            }
            if shard.held_until_ns > now_ns {
                wake_ns = wake_ns.min(shard.held_until_ns);
                continue;
            }
            let is_woken = shard.until_ns <= now_ns
                || shard.bell.load(Ordering::Relaxed)
                || state.has_ready(shard.port)
                || shard.rt.has_ready()
                || shard.main.woken.load(Ordering::Relaxed);
            if !is_woken {
                wake_ns = wake_ns.min(shard.until_ns);
                continue;
            }
            if shard.held_until_ns == 0 && state.turn_rng.ppm(schedule.held_ppm) {
                let (low, high) = schedule.held_ns;
                shard.held_until_ns = now_ns + 1 + state.turn_rng.between(low, high);
                state.counters.held_turns += 1;
                wake_ns = wake_ns.min(shard.held_until_ns);
                continue;
            }
            self.runnable.push(index);
        }
        wake_ns
    }

    fn turn(&mut self, index: usize) -> Option<Stop> {
        let shard = &mut self.shards[index];
        shard.held_until_ns = 0;
        match &mut shard.stage {
            Stage::Runs(future) => {
                let mut cx = Context::from_waker(&shard.waker);
                let mut has_ended = false;
                let wait = shard.rt.step(&shard.main, || {
                    has_ended = future.as_mut().poll(&mut cx).is_ready();
                    !has_ended
                });
                let mut state = self.world.lock();
                state.trace.add(shard.rt.polls());
                state.start_queued(shard.port);
                let saturated = |wait: Duration| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                shard.until_ns = wait.map_or(u64::MAX, |wait| {
                    state.now_ns.saturating_add(saturated(wait))
                });
                drop(state);
                if has_ended {
                    shard.stage = Stage::Closes;
                    shard.rt.begin_close();
                    return self.close_on(index);
                }
                None
            }
            Stage::Closes => {
                shard.rt.collect();
                self.close_on(index)
            }
            Stage::Closed => None,
        }
    }

    /// Goes on closing a shard whose main future has ended.
    fn close_on(&mut self, index: usize) -> Option<Stop> {
        let shard = &mut self.shards[index];
        let process = shard.process;
        if self.world.lock().processes.incarnation(process.0) != shard.incarnation {
            return None; // it died meanwhile, and is found dead
        }
        if !shard.rt.try_close() {
            self.world.lock().start_queued(shard.port);
            shard.until_ns = u64::MAX;
            return None;
        }
        shard.stage = Stage::Closed;
        let of_process = |shard: &&Shard| shard.process == process;
        let mut others = self.shards.iter().filter(of_process);
        if !others.all(|shard| matches!(shard.stage, Stage::Closed)) {
            return None;
        }
        self.shards.retain(|shard| shard.process != process);
        self.world.lock().exit(process.0);
        Some(Stop::Ended(process))
    }

    /// Drops all tasks of a dead process.
    fn reap(&mut self, process: ProcessId) {
        let is_its = |shard: &mut Shard| shard.process == process;
        let dead: Vec<Shard> = self.shards.extract_if(.., is_its).collect();
        for mut shard in dead {
            let was_closed = matches!(shard.stage, Stage::Closed);
            shard.stage = Stage::Closed;
            if !was_closed {
                shard.rt.close();
            }
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        while let Some(process) = self.shards.first().map(|shard| shard.process) {
            self.kill(process);
        }
    }
}
