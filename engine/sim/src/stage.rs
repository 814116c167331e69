//! What the actors of a history share: the machine, the oracle, and the gate that keeps clients out
//! while the broker is down or being looked through.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use corelog_net::client::{Client, ClientConfig, ClientError};
use corelog_runtime::Rt;
use corelog_runtime::sim::SimWorld;
use corelog_runtime::sync::Notify;

use crate::chance::Chance;
use crate::invariants::answers::{self, ANSWER_MAX};
use crate::oracle::log::TopicId;
use crate::oracle::{Oracle, UNDER_WAY_NS};
use crate::plan::{Beside, DiskTrouble, Plan};
use crate::tally::Tally;

/// Where the broker listens.
pub const BROKER: &str = "10.0.0.1:9092";
/// How long clients still listen to a broker that is down: what it said last may be on its way.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// The stage as one process of clients sees it. All are in one thread.
pub struct Stage {
    common: Rc<Common>,
    /// The process's own executor.
    pub rt: Rt,
    /// How many processes were it before.
    pub life: u64,
    /// Requests without an answer, for good once the process is dead.
    pub asked: Cell<u64>,
}

impl Deref for Stage {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

/// Shared by all tasks of a history.
pub struct Common {
    /// The machine.
    pub world: SimWorld,
    /// What is planned.
    pub plan: Plan,
    /// The judge.
    pub oracle: RefCell<Oracle>,
    /// Client operations so far.
    pub steps: Cell<u64>,
    /// No new work is begun; what is under way is finished.
    pub finishing: Cell<bool>,
    /// Moments at which the network did something to connections, the last one, ns.
    pub disturbed_ns: Cell<u64>,
    /// What the director wants the administrator to begin with at once.
    pub wish: Cell<Option<Beside>>,
    /// Processes of the broker that served.
    pub starts: Cell<u64>,
    open: Cell<bool>,
    admitting: Cell<bool>,
    inside: Cell<usize>,
    working: Cell<usize>,
    /// Told at every change of the above.
    pub changed: Notify,
}

/// A client on the stage between two closings of the gate. Dropping it leaves.
pub struct Inside(Rc<Common>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        self.0.changed.notify_all();
    }
}

/// A client that is not done yet.
pub struct Working(Rc<Common>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.set(self.0.working.get() - 1);
        self.0.changed.notify_all();
    }
}

/// The gate closed, or the connection went.
#[derive(Debug)]
pub enum Lost {
    /// The broker is down.
    Closed,
    /// The connection ended.
    Client(ClientError),
}

impl Stage {
    /// A stage with its gate closed.
    pub fn new(world: SimWorld, rt: Rt, plan: Plan) -> Rc<Stage> {
        let under_way_ns = match plan.disk {
            DiskTrouble::None => UNDER_WAY_NS.0,
            DiskTrouble::Slow | DiskTrouble::Eio | DiskTrouble::Full => UNDER_WAY_NS.1,
        };
        let mut oracle = Oracle::default();
        oracle.epoch_ms = world.wall_clock_ms() - (world.now_ns() / 1_000_000) as i64;
        oracle.under_way_ns = under_way_ns;
        let common = Rc::new(Common {
            world,
            plan,
            oracle: RefCell::new(oracle),
            steps: Cell::new(0),
            finishing: Cell::new(false),
            disturbed_ns: Cell::new(0),
            wish: Cell::new(None),
            starts: Cell::new(0),
            open: Cell::new(false),
            admitting: Cell::new(false),
            inside: Cell::new(0),
            working: Cell::new(0),
            changed: Notify::new(),
        });
        Rc::new(Stage {
            common,
            rt,
            life: 0,
            asked: Cell::new(0),
        })
    }

    /// The same stage for another process.
    pub fn of_process(&self, rt: Rt, life: u64) -> Rc<Stage> {
        Rc::new(Stage {
            common: Rc::clone(&self.common),
            rt,
            life,
            asked: Cell::new(0),
        })
    }

    /// A client begins; it is awaited at the end.
    pub fn begin(self: &Rc<Self>) -> Working {
        self.working.set(self.working.get() + 1);
        Working(Rc::clone(&self.common))
    }

    /// Waits for the gate and goes in.
    pub async fn enter(self: &Rc<Self>) -> Inside {
        self.wait(|| self.admitting.get() && self.open.get()).await;
        self.inside.set(self.inside.get() + 1);
        Inside(Rc::clone(&self.common))
    }

    /// The future's output, or `None` a moment after the gate closed.
    pub async fn while_open<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let closed = async {
            self.wait(|| !self.open.get()).await;
            self.rt.sleep(LAST_WORDS).await;
        };
        let mut closed = pin!(closed);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => closed.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    /// Waits for an answer; a time-out without a reason breaks a rule.
    pub async fn answer<T>(
        &self,
        who: &str,
        what: &str,
        pending: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Lost> {
        let asked_ns = self.now_ns();
        self.asked.set(self.asked.get() + 1);
        let outcome = self.while_open(pending).await;
        self.asked.set(self.asked.get() - 1);
        let Some(outcome) = outcome else {
            return Err(Lost::Closed);
        };
        outcome.map_err(|error| {
            if matches!(error, ClientError::TimedOut { .. })
                && self.open.get()
                && self.disturbed_ns.get() < asked_ns
                && self.plan.net == crate::plan::NetTrouble::None
            {
                let broken = answers::timed_out(who, what);
                self.oracle.borrow_mut().note(Err(broken));
            }
            Lost::Client(error)
        })
    }

    /// Connects.
    pub async fn connect(&self, who: &str) -> Result<Client, Lost> {
        let address: SocketAddr = BROKER.parse().expect("a literal address");
        let config = ClientConfig {
            client_id: Some(who.to_owned()),
            request_timeout: ANSWER_MAX,
            ..ClientConfig::default()
        };
        let connecting = Client::connect(&self.rt, address, config);
        self.answer(who, "its connection", connecting).await
    }

    /// A pause by chance.
    pub async fn pause(&self, chance: &mut Chance, max_us: u64) {
        let pause = Duration::from_micros(1 + chance.below(max_us));
        let _closed = self.while_open(self.rt.sleep(pause)).await;
    }
}

impl Common {
    /// Virtual time, ns.
    pub fn now_ns(&self) -> u64 {
        self.world.now_ns()
    }

    /// Counts.
    pub fn hit(&self, name: &'static str) {
        self.oracle.borrow_mut().tally.hit(name);
    }

    /// Records of this topic may be deleted, or grow too old or too many.
    pub fn shrinks(&self, oracle: &Oracle, id: &TopicId) -> bool {
        let name = oracle.topics.get(id).map(|topic| &topic.name);
        let mut plans = self.plan.topics.iter();
        plans.any(|plan| plan.shrinks && Some(&plan.name) == name)
    }

    /// Counts in the tally of the history.
    pub fn tally<T>(&self, f: impl FnOnce(&mut Tally) -> T) -> T {
        f(&mut self.oracle.borrow_mut().tally)
    }

    /// A line of the readable trace, and a word of the trace's hash.
    pub fn say(&self, line: impl AsRef<str>) {
        self.world.note(line.as_ref());
    }

    /// One client operation more.
    pub fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        self.changed.notify_all();
    }

    /// The broker can be talked to, or not any more. Clients are not let in yet.
    pub fn set_open(&self, open: bool) {
        self.open.set(open);
        self.starts.set(self.starts.get() + u64::from(open));
        self.admitting.set(false);
        self.changed.notify_all();
    }

    /// Lets clients in.
    pub fn admit(&self) {
        self.admitting.set(true);
        self.changed.notify_all();
    }

    /// Whether the broker can be talked to.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Waits until `holds`, which changes only with what [`Stage::changed`] tells.
    pub async fn wait(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until nobody is inside.
    pub async fn empty(&self) {
        self.wait(|| self.inside.get() == 0).await;
    }

    /// Nobody works any more.
    pub fn is_done(&self) -> bool {
        self.working.get() == 0
    }
}
