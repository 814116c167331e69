//! The clients, each a process of its own: it may be killed at any moment, with all its connections
//! and whatever it was about to say, and another one of its kind comes later.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use corelog_runtime::sim::{CrashKind, ProcessId, Sim};
use corelog_runtime::{BufferPool, ShardId};

use crate::chance::Chance;
use crate::clients::{member, producer, reader, session};
use crate::plan::{Plan, ProducerPlan};
use crate::stage::Stage;

/// Free buffers a client keeps.
const POOL_BYTES: usize = 1 << 20;
/// How long until another one comes, at most, ns.
const AWAY_NS_MAX: u64 = 400_000_000;

#[derive(Clone, Copy)]
enum Part {
    Producer(u64, ProducerPlan),
    Reader(u64),
    Session(u64),
    /// Of a group, with a number.
    Member(u64, u64),
}

impl Part {
    fn name(&self) -> String {
        match self {
            Part::Producer(number, _) => format!("producer-{number}"),
            Part::Reader(number) => format!("reader-{number}"),
            Part::Session(number) => format!("session-{number}"),
            Part::Member(group, number) => format!("member-{group}-{number}"),
        }
    }

    fn play(self, stage: Rc<Stage>) -> Pin<Box<dyn Future<Output = ()>>> {
        match self {
            Part::Producer(number, plan) => Box::pin(producer::run(stage, number, plan)),
            Part::Reader(number) => Box::pin(reader::run(stage, number)),
            Part::Session(number) => Box::pin(session::run(stage, number)),
            Part::Member(group, number) => Box::pin(member::run(stage, group, number)),
        }
    }

    fn died(&self) -> &'static str {
        match self {
            Part::Producer(..) => "client died: producer",
            Part::Reader(_) | Part::Session(_) => "client died: reader",
            Part::Member(..) => "client died: group member",
        }
    }
}

struct Player {
    part: Part,
    process: ProcessId,
    lives: u64,
    /// While it lives.
    stage: Option<Rc<Stage>>,
}

/// All clients but the administrator.
pub struct Troupe {
    players: RefCell<Vec<Player>>,
    /// Who enters, and when, ns.
    due: RefCell<Vec<(u64, usize)>>,
    next_due_ns: Cell<u64>,
    chance: RefCell<Chance>,
}

impl Troupe {
    /// The clients of a plan; all are due.
    pub fn new(sim: &Sim, plan: &Plan) -> Troupe {
        let mut parts = Vec::new();
        let producers = (0..).zip(&plan.producers);
        parts.extend(producers.map(|(number, plan)| Part::Producer(number, *plan)));
        parts.extend((0..plan.readers).map(Part::Reader));
        parts.extend((0..plan.sessions).map(Part::Session));
        for (group, members) in (0..).zip(&plan.groups) {
            parts.extend((0..*members).map(|number| Part::Member(group, number)));
        }
        let player = |part: Part| Player {
            part,
            process: sim.world().add_process(&part.name()),
            lives: 0,
            stage: None,
        };
        let players: Vec<Player> = parts.into_iter().map(player).collect();
        Troupe {
            due: RefCell::new((0..players.len()).map(|index| (0, index)).collect()),
            next_due_ns: Cell::new(0),
            players: RefCell::new(players),
            chance: RefCell::new(Chance::new(plan.seed, 3)),
        }
    }

    /// Somebody is to enter.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.next_due_ns.get() <= now_ns
    }

    fn note_due(&self) {
        let next = self.due.borrow().iter().map(|(at_ns, _)| *at_ns).min();
        self.next_due_ns.set(next.unwrap_or(u64::MAX));
    }

    /// Starts those who are due; nobody comes any more when the history comes to its end.
    pub fn enter(&self, sim: &mut Sim, stage: &Rc<Stage>) {
        let now_ns = stage.now_ns();
        let is_due = |(at_ns, _): &mut (u64, usize)| *at_ns <= now_ns;
        let due: Vec<(u64, usize)> = self.due.borrow_mut().extract_if(.., is_due).collect();
        self.note_due();
        for (_, index) in due {
            if !stage.finishing.get() {
                self.start(sim, stage, index);
            }
        }
    }

    fn start(&self, sim: &mut Sim, stage: &Rc<Stage>, index: usize) {
        let mut players = self.players.borrow_mut();
        let Some(player) = players.get_mut(index) else {
            return;
        };
        let (part, life) = (player.part, player.lives);
        player.lives += 1;
        if life > 0 {
            sim.start(player.process);
            stage.hit("client died, and another one came");
        }
        let (pool, mut own) = (BufferPool::new(POOL_BYTES), None);
        sim.spawn_shard(player.process, ShardId(0), pool, |rt| {
            let its = stage.of_process(rt, life);
            own = Some(Rc::clone(&its));
            part.play(its)
        });
        player.stage = own;
        let mut chance = self.chance.borrow_mut();
        let one_in = stage.plan.one_dies_in;
        if one_in > 0 && chance.one_in(one_in) {
            let span_ns = chance.pick(&[5_000_000, 100_000_000, 1_000_000_000, 5_000_000_000]);
            let at_ns = stage.now_ns() + 1 + chance.below(span_ns);
            stage
                .world
                .crash_at_ns(player.process, at_ns, CrashKind::KillProcess);
        }
    }

    /// A client's process died, or (`died` false) ended because all is done.
    pub fn gone(&self, process: ProcessId, died: bool, stage: &Stage) {
        let mut players = self.players.borrow_mut();
        let mut all = players.iter_mut().enumerate();
        let Some((index, player)) = all.find(|(_, player)| player.process == process) else {
            return;
        };
        let own = player.stage.take();
        if !died {
            return;
        }
        stage.say(format!("{} dies", player.part.name()));
        stage.hit(player.part.died());
        if own.is_some_and(|own| own.asked.get() > 0) {
            stage.hit("client died in mid-request");
        }
        if !stage.finishing.get() {
            let away_ns = self.chance.borrow_mut().below(AWAY_NS_MAX);
            self.due
                .borrow_mut()
                .push((stage.now_ns() + away_ns, index));
            self.note_due();
        }
    }
}
