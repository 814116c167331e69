//! The broker of a history: one process after the other, each started as `corelogd` starts itself,
//! with the twin's listeners and shards instead of the machine's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use corelog_core::config::BrokerConfig;
use corelog_engine::daemon::boot::{Bound, watched_shard_main};
use corelog_engine::daemon::{Means, Ready, Shared};
use corelog_engine::shard::Shard;
use corelog_engine::shard::message::{Operation, Request, Response};
use corelog_runtime::sim::{ProcessId, Sim};
use corelog_runtime::{BufferPool, Gateway, Rt, ShardId, mesh};
use corelog_storage::shard::{ShardStorage, StorageCounters};
use crossbeam::channel::Receiver;

use crate::invariants::memory::Held;
use crate::plan::Plan;
use crate::stage::BROKER;
use crate::tally::Tally;

/// Messages a shard's inbox holds.
const INBOX_MESSAGES: usize = 256;
/// Files the process may have open.
const OPEN_FILES: u64 = 1024;
/// Where Linux tells the id of its boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Free buffers a shard keeps.
const POOL_BYTES: usize = 4 << 20;

/// The log directories of a plan; the first has the metadata too.
pub fn log_dirs(plan: &Plan) -> Vec<String> {
    let dir = |number: usize| match number {
        0 => "/data".to_owned(),
        number => format!("/data-{number}"),
    };
    (0..plan.log_dirs).map(dir).collect()
}

/// The configuration of every broker of a plan.
pub fn config(plan: &Plan) -> Result<Arc<BrokerConfig>, String> {
    let text = format!(
        "node.id=1
process.roles=broker,controller
listeners=PLAINTEXT://10.0.0.1:9092
advertised.listeners=PLAINTEXT://10.0.0.1:9092
log.dirs={4}
corelog.shards={0}
corelog.memory.bytes={2}
offsets.topic.num.partitions=2
offsets.topic.replication.factor=1
offsets.topic.segment.bytes=1048576
group.initial.rebalance.delay.ms=20
group.min.session.timeout.ms=100
auto.create.topics.enable=false
replica.high.watermark.checkpoint.interval.ms=200
log.flush.offset.checkpoint.interval.ms=500
log.initial.task.delay.ms={1}
log.retention.check.interval.ms={1}
max.incremental.fetch.session.cache.slots={3}
",
        plan.shards,
        plan.retention_check_ms,
        plan.memory_bytes,
        plan.session_slots,
        log_dirs(plan).join(",")
    );
    let parsed = BrokerConfig::parse("simulation", &text, &[]);
    parsed
        .map(|(config, _)| Arc::new(config))
        .map_err(|error| error.to_string())
}

type Messages = Gateway<Request, Response>;

/// A shard, and its counters, which outlive it.
type Made = (Weak<Shard>, Rc<ShardStorage>);

/// A process of the broker, and what is left of it after its death.
pub struct Process {
    gateway: Messages,
    ready: Receiver<Result<Ready, String>>,
    shards: RefCell<Vec<Watched>>,
    made: Rc<RefCell<Vec<Made>>>,
}

struct Watched {
    rt: Rt,
}

impl Process {
    /// Starts one on the machine that has the disk.
    pub fn start(
        sim: &mut Sim,
        plan: &Plan,
        config: &Arc<BrokerConfig>,
        boots: u64,
    ) -> Result<Process, String> {
        sim.start(ProcessId::MAIN);
        let address: SocketAddr = BROKER.parse().expect("a literal address");
        let world = sim.world().clone();
        let (socket, _) = world
            .listen(ProcessId::MAIN, address, 128)
            .map_err(|error| format!("cannot listen: {error}"))?;
        let bound = Bound {
            name: Arc::from("PLAINTEXT"),
            socket,
        };
        let means = Means {
            shards: plan.shards,
            memory_bytes: plan.memory_bytes,
            open_files_max: OPEN_FILES,
            planted: plan.planted.clone(),
            take_lock: None,
            unusable_dirs: std::collections::BTreeMap::new(),
        };
        let ports = BTreeMap::from([("PLAINTEXT".to_owned(), address.port())]);
        let (shared, ready) = Shared::new(Arc::clone(config), vec![bound], &ports, means);
        let seeds = mesh::<Request, Response>(plan.shards, INBOX_MESSAGES);
        let gateway = seeds[0].gateway();
        let made = Rc::new(RefCell::new(Vec::new()));
        let mut shards = Vec::new();
        for (number, seed) in seeds.into_iter().enumerate() {
            let (shared, made) = (Arc::clone(&shared), Rc::clone(&made));
            let rt = sim.spawn_shard(
                ProcessId::MAIN,
                ShardId(number as u16),
                BufferPool::new(POOL_BYTES),
                move |rt| async move {
                    if rt.shard() == ShardId(0) {
                        boot_machine(&rt, boots).await;
                    }
                    let made = move |shard: &Rc<Shard>| {
                        let storage = Rc::clone(&shard.storage);
                        made.borrow_mut().push((Rc::downgrade(shard), storage));
                    };
                    watched_shard_main(rt, seed, shared, made).await;
                },
            );
            shards.push(Watched { rt });
        }
        Ok(Process {
            gateway,
            ready,
            shards: RefCell::new(shards),
            made,
        })
    }

    /// How the start went, once it is known.
    pub fn ready(&self) -> Option<Result<Ready, String>> {
        self.ready.try_recv().ok()
    }

    /// Asks it to stop as SIGTERM does.
    pub fn stop(&self) -> Stopping {
        Stopping {
            gateway: self.gateway.clone(),
            answers: Arc::new(AtomicU32::new(0)),
            asked: 0,
        }
    }

    /// What the live shards hold, with their partitions.
    pub fn held(&self) -> Vec<(Held, u64)> {
        let shards = self.shards.borrow();
        let made = self.made.borrow();
        let alive = made.iter().filter_map(|(shard, _)| shard.upgrade());
        let of = |shard: Rc<Shard>| {
            let counters = shards[usize::from(shard.id().0)].rt.counters();
            let stats = &shard.stats;
            let held = Held {
                connections: stats.connections.get(),
                waits: shard.fetch_waits() as u64,
                request_bytes: shard.request_memory.used_bytes() as u64,
                tasks: counters.live_tasks,
                tail_bytes: shard.storage.tail_bytes() as u64,
                tail_bytes_max: shard.storage.limits().tail_cache_bytes as u64,
                task_panics: counters.task_panics,
            };
            (held, shard.partitions().len() as u64)
        };
        alive.map(of).collect()
    }

    /// A log failed, and with it its directory.
    pub fn some_log_failed(&self) -> bool {
        let made = self.made.borrow();
        let mut storages = made.iter().map(|(_, storage)| storage);
        storages.any(|storage| storage.counters().failures > 0)
    }

    /// Tasks that panicked.
    pub fn task_panics(&self) -> u64 {
        let shards = self.shards.borrow();
        shards
            .iter()
            .map(|shard| shard.rt.counters().task_panics)
            .sum()
    }

    /// Lets go of a dead process: what in a real one goes with its memory. Gives the shards that are
    /// still held by something, of which none may be left: over many histories they would add up.
    pub fn bury(self) -> usize {
        let made = self.made.take();
        for shard in made.iter().filter_map(|(shard, _)| shard.upgrade()) {
            // A shard has its controller, which has its shard.
            shard.controller.take();
        }
        let left = made.iter().filter(|(shard, _)| shard.strong_count() > 0);
        left.count()
    }

    /// What its logs counted, after its death too.
    pub fn count_into(&self, tally: &mut Tally) {
        for (_, storage) in self.made.borrow().iter() {
            count(&storage.counters(), tally);
        }
    }
}

/// Leaves what a kernel tells of itself where the broker looks: the id of this boot, which is another
/// one after a power loss. When the disk refuses, there is none, as on a machine that does not tell.
async fn boot_machine(rt: &Rt, boots: u64) {
    let path = std::path::Path::new(BOOT_ID);
    let id = format!("00000000-0000-0000-0000-{boots:012}\n");
    let known = rt.read_whole(path, 1 << 10).await;
    if known.is_ok_and(|known| known == id.as_bytes()) {
        return;
    }
    if let Some(dir) = path.parent()
        && rt.mkdir_all(dir).await.is_ok()
    {
        let _refused = rt.write_atomic(path, id.into_bytes()).await;
    }
}

/// A clean stop under way: shard 0 stops all, then each shard ends.
pub struct Stopping {
    gateway: Messages,
    answers: Arc<AtomicU32>,
    asked: u32,
}

impl Stopping {
    /// Asks for the next part of the stop when the one before is done. To be called again and again.
    pub fn go_on(&mut self) {
        if self.answers.load(Ordering::Relaxed) < self.asked {
            return;
        }
        let (to, operation) = match self.asked {
            0 => (0, Operation::Shutdown),
            ended => (ended as u16 - 1, Operation::Exit),
        };
        if usize::from(to) >= self.gateway.shards() {
            return;
        }
        let answers = Arc::clone(&self.answers);
        let request = Request::Operate(operation);
        let sent = self.gateway.send_with(ShardId(to), request, move |_| {
            answers.fetch_add(1, Ordering::Relaxed);
        });
        self.asked += u32::from(sent.is_ok());
    }
}

fn count(c: &StorageCounters, tally: &mut Tally) {
    for (name, count) in [
        ("produce: duplicate recognised", c.duplicates),
        ("log: roll", c.rolls),
        ("log: roll with a queued write", c.rolls_with_queued_write),
        ("log: tail-block merge", c.tail_block_merges),
        ("log: queued write", c.queued_writes),
        ("log: durable write", c.durable_writes),
        ("log: flush", c.flushes),
        ("log: append", c.appends),
        ("log: recovery", c.recoveries),
        ("log: torn tail cut", c.torn_tails),
        ("log: damage", c.damages),
        ("log: index rebuilt", c.indexes_rebuilt),
        ("log: failed", c.failures),
        ("log: refused for space", c.no_space),
        ("log: start raised", c.log_start_raises),
        ("log: segments removed", c.segments_removed),
        ("log: rolled by retention", c.retention_rolls),
        ("log: deleted files unlinked", c.files_unlinked),
        ("log: read from the tail", c.tail_hits),
        ("log: read from disk", c.tail_misses),
    ] {
        tally.add(name, count);
    }
}
