//! Who leads a history: starts processes, lets clients in, ends processes as planned, heals, and looks
//! whether everything came back. A task among the clients'; the broker's processes are started for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::sim::{CrashKind, ProcessId};

use crate::broker::{self, Process};
use crate::chance::Chance;
use crate::clients::{admin, verifier};
use crate::history::{SLOW_NS, disk_faults, net_faults};
use crate::invariants::durability::Fall;
use crate::invariants::healing::{HEAL_MAX, still_ill};
use crate::invariants::memory;
use crate::plan::{Beside, DiskTrouble, Ending, Incarnation};
use crate::stage::Stage;

/// Longest life of one process whose steps do not get done, of virtual time.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// How long a crash at a later change of the disk is waited for.
const CRASH_WAIT: Duration = Duration::from_secs(1);
/// Longest start and longest clean stop.
const START_MAX: Duration = Duration::from_secs(120);
/// How often the director looks at what nobody tells.
const LOOK: Duration = Duration::from_millis(1);
/// Quiet time before memory is looked at: above session time-outs, idle sweeps and checkpoints.
const QUIET: Duration = Duration::from_secs(20);
/// Bytes of a file system that is not full.
const LARGE: u64 = 1 << 40;
/// Starts that the disk may make fail before it is mended.
const FAILED_STARTS_MAX: u32 = 3;

/// The broker's process as the director and the one who runs the simulation share it.
#[derive(Default)]
pub struct Theatre {
    /// A process is wanted.
    pub wants_start: Cell<bool>,
    /// The history is over.
    pub is_over: Cell<bool>,
    /// Boots of the machine so far.
    pub boots: Cell<u64>,
    process: RefCell<Option<Process>>,
    alive: Cell<bool>,
    /// The process that died last ended itself.
    halted: Cell<bool>,
}

impl Theatre {
    /// A process was started.
    pub fn up(&self, process: Process) {
        *self.process.borrow_mut() = Some(process);
        self.alive.set(true);
        self.halted.set(false);
    }

    /// A process that serves says that it must end: its last log directory failed. The daemon exits.
    pub fn ends_itself(&self, stage: &Stage) -> bool {
        if self.alive.get() && stage.is_open() && !self.halted.get() {
            let process = self.process.borrow();
            if let Some(Err(why)) = process.as_ref().and_then(Process::ready) {
                stage.say(format!("the broker ends itself: {why}"));
                stage.hit("the broker ended itself");
                self.halted.set(true);
                return true;
            }
        }
        false
    }

    /// A log of the living process failed, and with it its directory.
    fn some_log_failed(&self) -> bool {
        let process = self.process.borrow();
        process.as_ref().is_some_and(Process::some_log_failed)
    }

    /// It said so, and is not dead yet.
    pub fn halts(&self) -> bool {
        self.halted.get() && self.alive.get()
    }

    /// It is dead, or has ended.
    pub fn down(&self, stage: &Stage) {
        self.alive.set(false);
        if let Some(process) = self.process.borrow_mut().take() {
            stage.tally(|tally| process.count_into(tally));
            panics(stage, &process);
            let left = process.bury();
            if left > 0 {
                let broken = format!("memory: {left} shards outlive their process");
                stage.oracle.borrow_mut().note(Err(broken));
            }
        }
        if stage.world.paths().iter().any(|p| p.ends_with(".deleted")) {
            stage.hit("crash: deleted segments were not unlinked yet");
        }
        let now_ns = stage.now_ns();
        stage.oracle.borrow_mut().broker_died(now_ns);
        stage.set_open(false);
        stage.say("the broker is down");
    }
}

fn panics(stage: &Stage, process: &Process) {
    let panics = process.task_panics();
    if panics > 0 {
        let broken = format!("healing: {panics} tasks of the broker panicked");
        stage.oracle.borrow_mut().note(Err(broken));
    }
}

struct Director {
    stage: Rc<Stage>,
    theatre: Rc<Theatre>,
    chance: Chance,
    /// What happened since the logs were last looked through.
    fall: Fall,
    /// Failed reads, writes and flushes when the process was started.
    eio_at_start: u64,
}

/// Leads the history of the stage's plan.
pub async fn direct(stage: Rc<Stage>, theatre: Rc<Theatre>) {
    let mut director = Director {
        chance: Chance::new(stage.plan.seed, 2),
        fall: Fall {
            clean: true,
            ..Fall::default()
        },
        eio_at_start: 0,
        stage,
        theatre,
    };
    let admin = admin::run(Rc::clone(&director.stage));
    director.stage.rt.spawn("admin", admin).detach();
    director.boot_machine();
    let incarnations = director.stage.plan.incarnations.clone();
    for incarnation in &incarnations {
        director.start(incarnation.crash_in_start).await;
        if director.stage.oracle.borrow().broken().is_some() {
            return; // whoever runs the history sees it too
        }
        director.trouble();
        director.work(incarnation.steps).await;
        director.end(incarnation).await;
    }
    director.heal().await;
    director.quiet().await;
    director.stop().await;
    director.start(None).await;
    director.theatre.is_over.set(true);
}

impl Director {
    fn broken(&self, why: String) {
        self.stage.oracle.borrow_mut().note(Err(why));
    }

    fn boot_machine(&self) {
        self.theatre.boots.set(self.theatre.boots.get() + 1);
    }

    fn eio(&self) -> u64 {
        let faults = self.stage.world.faults();
        faults.eio_reads + faults.eio_writes + faults.eio_flushes + faults.eio_others
    }

    /// Starts processes until one is ready and looked through.
    async fn start(&mut self, mut crash: Option<(CrashKind, u64)>) {
        let mut failed = 0;
        loop {
            if failed >= FAILED_STARTS_MAX {
                self.mend();
            }
            if let Some((kind, after)) = crash {
                self.plan_crash(kind, after);
            }
            self.eio_at_start = self.eio();
            self.stage.hit("starts of the broker");
            self.stage.say("the broker is started");
            self.theatre.wants_start.set(true);
            match self.ready().await {
                Ok(true) => {
                    self.stage.set_open(true);
                    let fall = self.fall;
                    if verifier::settle(&self.stage, &fall, || self.ails()).await {
                        self.stage.world.set_crash_at(None);
                        self.stage.tally(|tally| {
                            tally.add("starts after a clean stop", u64::from(fall.clean));
                        });
                        self.fall = Fall::default();
                        return;
                    }
                }
                Ok(false) => {}
                Err(why) => {
                    self.stage.say(format!("the start failed: {why}"));
                    let may_be =
                        self.eio() > self.eio_at_start || self.stage.plan.disk == DiskTrouble::Full;
                    if !may_be {
                        self.broken(format!("healing: a start failed: {why}"));
                    }
                    self.stage.hit("start failed");
                    self.stage.world.kill(ProcessId::MAIN);
                    failed += 1;
                }
            }
            if self.stage.oracle.borrow().broken().is_some() {
                return;
            }
            if self.theatre.alive.get() {
                // Its partitions do not open, or answer with errors.
                self.stage.world.kill(ProcessId::MAIN);
                failed += 1;
            }
            self.until_down().await;
            if let Some((kind, _)) = crash.take() {
                self.stage.hit("crash while starting");
                self.fell(kind);
            } else {
                self.fell(CrashKind::KillProcess);
            }
        }
    }

    /// Waits for the start's outcome; `Ok(false)` = it died on the way.
    async fn ready(&self) -> Result<bool, String> {
        let began_ns = self.stage.now_ns();
        loop {
            self.stage.rt.sleep(LOOK).await;
            if self.theatre.wants_start.get() {
                continue;
            }
            let outcome = self.theatre.process.borrow().as_ref().map(Process::ready);
            match outcome {
                None => return Ok(false),
                Some(Some(Ok(_))) => return Ok(true),
                Some(Some(Err(why))) => return Err(why),
                Some(None) => {}
            }
            if self.stage.now_ns() - began_ns > START_MAX.as_nanos() as u64 {
                self.broken(format!("healing: a start takes longer than {START_MAX:?}"));
                return Ok(false);
            }
        }
    }

    fn plan_crash(&self, kind: CrashKind, after: u64) {
        let world = &self.stage.world;
        world.set_crash_kind(kind);
        world.set_crash_at(Some(world.write_count() + after));
    }

    /// Notes how the process ended.
    fn fell(&mut self, kind: CrashKind) {
        if kind == CrashKind::PowerLoss {
            self.fall.power_lost = true;
            self.boot_machine();
        }
        self.fall.clean = false;
        self.fall.io_errors |= self.eio() > self.eio_at_start;
        if self.fall.at_ns == 0 {
            self.fall.at_ns = self.stage.now_ns();
        }
        // A flush that waits for a seal: writes, ftruncate, fdatasync, fsync of the directory, each slow.
        self.fall.flush_ns_max = 4 * (SLOW_NS.1 + 3_000_000);
    }

    async fn until_down(&self) {
        while self.theatre.alive.get() {
            self.stage.rt.sleep(LOOK).await;
        }
        self.stage.world.set_crash_at(None);
        self.stage.empty().await;
    }

    /// Lets the machine and the network do what is planned.
    fn trouble(&self) {
        let world = &self.stage.world;
        world.set_faults(disk_faults(&self.stage.plan));
        world.set_net_faults(net_faults(&self.stage.plan));
    }

    /// Ends all trouble.
    fn mend(&self) {
        let world = &self.stage.world;
        world.clear_faults();
        world.set_net_faults(Default::default());
        world.heal_links();
        world.set_capacity(LARGE);
    }

    /// Lets clients work for so many steps.
    async fn work(&mut self, steps: u64) {
        let stage = Rc::clone(&self.stage);
        let until = stage.steps.get() + steps;
        stage.admit();
        let filling = stage.plan.disk == DiskTrouble::Full;
        let working = async {
            stage
                .wait(|| stage.steps.get() >= until || !stage.is_open())
                .await;
        };
        if !filling {
            let _slow = stage.rt.timeout(LIFE_MAX, working).await;
            return;
        }
        let began_ns = stage.now_ns();
        let world = &stage.world;
        while stage.steps.get() < until && stage.is_open() {
            let full = self.chance.one_in(2);
            let room = self.chance.below(300_000);
            world.set_capacity(if full {
                world.used_bytes() + room
            } else {
                LARGE
            });
            let pause = Duration::from_micros(self.chance.between(500, 120_000));
            stage.rt.sleep(pause).await;
            if stage.now_ns() - began_ns > LIFE_MAX.as_nanos() as u64 {
                break;
            }
        }
        if self.chance.one_in(2) {
            world.set_capacity(LARGE);
        }
    }

    /// Counts what several log directories came to.
    fn count_dirs(&self) {
        let dirs = broker::log_dirs(&self.stage.plan);
        if dirs.len() < 2 {
            return;
        }
        let paths = self.stage.world.paths();
        let has_topics = |dir: &&String| {
            let prefix = format!("{dir}/t");
            paths.iter().any(|path| path.starts_with(&prefix))
        };
        if dirs.iter().filter(has_topics).count() > 1 {
            self.stage.hit("log.dirs: partitions in several");
        }
        if self.theatre.alive.get() && self.theatre.some_log_failed() {
            self.stage.hit("log.dirs: one failed, the others serve");
        }
    }

    /// Ends a process as planned.
    async fn end(&mut self, incarnation: &Incarnation) {
        self.count_dirs();
        if self.theatre.halted.get() {
            self.halted().await;
            self.stage.world.set_capacity(LARGE);
            return;
        }
        match incarnation.ending {
            Ending::Clean => {
                self.stop().await;
                return;
            }
            Ending::Crash(kind, after) => {
                if incarnation.beside != Beside::Anything {
                    self.wish(incarnation.beside).await;
                }
                if after > 0 && self.theatre.alive.get() {
                    self.plan_crash(kind, after);
                    let stage = &self.stage;
                    let crash = stage.wait(|| !stage.is_open());
                    let _waited = stage.rt.timeout(CRASH_WAIT, crash).await;
                }
                if self.theatre.alive.get() {
                    match kind {
                        CrashKind::KillProcess => self.stage.world.kill(ProcessId::MAIN),
                        CrashKind::PowerLoss => self.stage.world.power_loss(),
                    }
                }
                self.stage.hit(match kind {
                    CrashKind::KillProcess => "crash: kill -9",
                    CrashKind::PowerLoss => "crash: power loss",
                });
                self.fell(kind);
                self.until_down().await;
            }
        }
        self.stage.world.set_capacity(LARGE);
    }

    /// Has the administrator begin with something.
    async fn wish(&self, wish: Beside) {
        let stage = &self.stage;
        stage.wish.set(Some(wish));
        stage.changed.notify_all();
        let begun = stage.wait(|| stage.wish.get().is_none() || !stage.is_open());
        let _begun = stage.rt.timeout(CRASH_WAIT, begun).await;
        stage.wish.set(None);
    }

    /// The process ended itself.
    async fn halted(&mut self) {
        self.fell(CrashKind::KillProcess);
        self.until_down().await;
    }

    /// A clean stop, with clients that still work.
    async fn stop(&mut self) {
        self.stage.say("the broker is told to stop");
        self.stage.world.set_capacity(LARGE);
        let stopping = self.theatre.process.borrow().as_ref().map(Process::stop);
        let Some(mut stopping) = stopping else { return };
        let began_ns = self.stage.now_ns();
        while self.theatre.alive.get() {
            stopping.go_on();
            self.stage.rt.sleep(LOOK).await;
            if self.stage.now_ns() - began_ns > START_MAX.as_nanos() as u64 {
                self.broken(format!(
                    "healing: a clean stop takes longer than {START_MAX:?}"
                ));
                return;
            }
        }
        if self.theatre.halted.get() {
            return self.halted().await;
        }
        self.stage.hit("clean stop");
        self.fell(CrashKind::KillProcess);
        self.fall.clean = true;
        self.until_down().await;
    }

    /// The faults stop: everything serves again, and every client comes to its end.
    async fn heal(&mut self) {
        let troubled = self.chance.one_in(2);
        self.start(None).await;
        if troubled {
            self.trouble();
        } else {
            self.mend();
        }
        self.work(self.stage.plan.steps / 6).await;
        self.mend();
        self.stage.say("the faults stop");
        if self.ails() {
            self.restart().await;
        } else {
            self.stage.hit("healed without a restart");
        }
        self.stage.finishing.set(true);
        self.stage.changed.notify_all();
        let until_ns = self.stage.now_ns() + HEAL_MAX.as_nanos() as u64;
        for number in 0.. {
            let Err(why) = verifier::serves(&self.stage, number).await else {
                break;
            };
            self.stage.say(format!("not healed: {why}"));
            if self.ails() {
                // What was under way when the faults stopped failed after that.
                self.restart().await;
                continue;
            }
            if self.stage.now_ns() > until_ns || !self.theatre.alive.get() {
                self.broken(still_ill(&why));
                return;
            }
            self.stage.rt.sleep(Duration::from_millis(200)).await;
        }
        let stage = &self.stage;
        let done = stage.wait(|| stage.is_done());
        if stage.rt.timeout(HEAL_MAX, done).await.is_none() {
            self.broken(still_ill("clients are not done"));
        }
    }

    /// What an I/O error stopped stays so until a restart.
    fn ails(&self) -> bool {
        self.theatre.halted.get() || self.eio() > self.eio_at_start
    }

    async fn restart(&mut self) {
        self.stage.hit("healed by a restart");
        if self.theatre.alive.get() {
            self.stage.world.kill(ProcessId::MAIN);
        }
        self.fell(CrashKind::KillProcess);
        self.until_down().await;
        self.start(None).await;
        self.stage.admit();
    }

    /// Nobody asks for anything: what clients took is given back.
    async fn quiet(&mut self) {
        self.stage.rt.sleep(QUIET).await;
        let process = self.theatre.process.borrow();
        let Some(process) = process.as_ref() else {
            return self.broken("healing: the broker ended by itself".to_owned());
        };
        panics(&self.stage, process);
        for (shard, (held, partitions)) in process.held().iter().enumerate() {
            let result = memory::check(shard, held, *partitions);
            self.stage.oracle.borrow_mut().note(result);
        }
    }
}
