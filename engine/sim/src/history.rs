//! A history: the broker's processes one after the other on one machine, with clients beside them, each
//! ended as planned; then all faults stop, everything heals, and what was promised is looked for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use corelog_core::config::BrokerConfig;
use corelog_runtime::sim::{
    FaultPlan, Latencies, NetConfig, NetFaultPlan, ProcessId, Sim, SimConfig, SimWorld, Stop,
};
use corelog_runtime::{BufferPool, ShardId};

use crate::broker::{self, Process};
use crate::director::{Theatre, direct};
use crate::plan::{DiskTrouble, NetTrouble, Plan};
use crate::stage::Stage;
use crate::tally::Tally;
use crate::troupe::Troupe;

/// Slow completions, ns.
pub const SLOW_NS: (u64, u64) = (1_000_000, 20_000_000);
/// Virtual time after which a history is taken as never ending, ns.
const TIME_MAX_NS: u64 = 3_600_000_000_000;

/// Where the lines of a readable trace go.
pub type TraceSink = Box<dyn FnMut(&str) + Send>;

/// How a history went.
#[derive(Debug)]
pub struct Outcome {
    /// The rule that was broken, if any.
    pub broken: Option<String>,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Turns of shards.
    pub turns: u64,
    /// Virtual time, ns.
    pub virtual_ns: u64,
    /// What was met.
    pub tally: Tally,
}

fn sim_config(plan: &Plan) -> SimConfig {
    SimConfig {
        device: plan.device,
        write_zeroes: plan.write_zeroes,
        ordered_names: plan.ordered_names,
        crash_moment: Some(plan.crash_moment),
        latencies: Latencies {
            slow_ns: SLOW_NS,
            ..Latencies::default()
        },
        net: net_config(NetFaultPlan::default()),
        ..SimConfig::default()
    }
}

fn net_config(faults: NetFaultPlan) -> NetConfig {
    NetConfig {
        slow_ns: (1_000_000, 200_000_000),
        silence_ns: (50_000_000, 5_000_000_000),
        cut_ns: (1_000_000, 500_000_000),
        connect_timeout_ns: 2_000_000_000,
        give_up_ns: 5_000_000_000,
        faults,
        ..NetConfig::default()
    }
}

/// What the disk does while clients work.
pub fn disk_faults(plan: &Plan) -> FaultPlan {
    let always = FaultPlan {
        short_read_ppm: 2_000,
        short_write_ppm: 2_000,
        ..FaultPlan::default()
    };
    match plan.disk {
        DiskTrouble::None | DiskTrouble::Full => always,
        DiskTrouble::Slow => FaultPlan {
            slow_ppm: 30_000,
            ..always
        },
        DiskTrouble::Eio => FaultPlan {
            eio_read_ppm: 400,
            eio_write_ppm: 1_500,
            eio_flush_ppm: 1_000,
            slow_ppm: 3_000,
            ..always
        },
    }
}

/// What the network does while clients work.
pub fn net_faults(plan: &Plan) -> NetFaultPlan {
    match plan.net {
        NetTrouble::None => NetFaultPlan {
            split_ppm: 20_000,
            ..NetFaultPlan::default()
        },
        NetTrouble::Lossy => NetFaultPlan {
            split_ppm: 50_000,
            slow_ppm: 5_000,
            reset_ppm: 4_000,
            silence_ppm: 1_000,
            refuse_ppm: 20_000,
            abort_ppm: 20_000,
            slow_peer_ppm: 50_000,
            cut_ppm: 1_000,
        },
    }
}

/// Runs a plan. `trace` gets a line per event.
pub fn run(plan: &Plan, trace: Option<TraceSink>) -> Outcome {
    let world = SimWorld::new(plan.seed, sim_config(plan));
    world.set_trace(trace);
    let mut sim = Sim::new(&world);
    let (broken, mut tally) = match broker::config(plan) {
        Ok(config) => play(&mut sim, plan, &config),
        Err(why) => (Some(why), Tally::default()),
    };
    count_world(&world, &mut tally);
    tally.hit("histories");
    Outcome {
        broken,
        trace_hash: world.trace_hash(),
        turns: sim.steps(),
        virtual_ns: world.now_ns(),
        tally,
    }
}

/// Sets the stage and turns the simulation until the director is done.
fn play(sim: &mut Sim, plan: &Plan, config: &Arc<BrokerConfig>) -> (Option<String>, Tally) {
    let world = sim.world().clone();
    let clients = world.add_process("clients");
    let theatre = Rc::new(Theatre::default());
    let slot: Rc<RefCell<Option<Rc<Stage>>>> = Rc::default();
    let (of_main, set, planned) = (Rc::clone(&theatre), Rc::clone(&slot), plan.clone());
    sim.spawn_shard(clients, ShardId(0), BufferPool::new(4 << 20), move |rt| {
        let stage = Stage::new(world, rt, planned);
        *set.borrow_mut() = Some(Rc::clone(&stage));
        direct(stage, of_main)
    });
    let stage = slot.borrow_mut().take();
    let stage = stage.expect("spawn_shard calls its main at once");
    let troupe = Troupe::new(sim, plan);
    let broken = loop {
        troupe.enter(sim, &stage);
        if is_long(&stage) {
            break Some("healing: the history never ends".to_owned());
        }
        let stop = sim.run_until(|| {
            theatre.wants_start.get()
                || theatre.is_over.get()
                || is_long(&stage)
                || troupe.is_due(stage.now_ns())
                || theatre.ends_itself(&stage)
                || stage.oracle.borrow().broken().is_some()
        });
        if theatre.is_over.get() {
            break None;
        }
        if theatre.halts() {
            sim.world().kill(ProcessId::MAIN);
        }
        match stop {
            Stop::Died(ProcessId::MAIN) | Stop::Ended(ProcessId::MAIN) => theatre.down(&stage),
            Stop::Died(client) => troupe.gone(client, true, &stage),
            Stop::Ended(client) => troupe.gone(client, false, &stage),
            Stop::Idle => break Some("answers: everybody waits for ever".to_owned()),
            _ => {}
        }
        if let Some(broken) = stage.oracle.borrow().broken() {
            break Some(broken.clone());
        }
        if theatre.wants_start.replace(false) {
            match Process::start(sim, plan, config, theatre.boots.get()) {
                Ok(process) => theatre.up(process),
                Err(why) => break Some(format!("twin: {why}")),
            }
        }
    };
    // The last one goes as the others did.
    sim.kill(ProcessId::MAIN);
    theatre.down(&stage);
    let broken = broken.or_else(|| stage.oracle.borrow().broken().cloned());
    let tally = stage.oracle.borrow().tally.clone();
    (broken, tally)
}

fn is_long(stage: &Stage) -> bool {
    stage.now_ns() > TIME_MAX_NS
}

fn count_world(world: &SimWorld, tally: &mut Tally) {
    let (disk, net) = (world.faults(), world.net_counters());
    for (name, count) in [
        ("disk: write cut in the middle", disk.cut_writes),
        ("disk: unflushed sectors lost", disk.sectors_lost),
        ("disk: unflushed sectors kept", disk.sectors_kept),
        ("disk: sizes lost", disk.sizes_lost),
        ("disk: names lost", disk.names_lost),
        ("disk: late write after kill", disk.late_applied),
        ("disk: late write that never came", disk.late_dropped),
        (
            "disk: recovery barriers that waited",
            disk.barriers_with_late_writes,
        ),
        ("disk: EIO of a write", disk.eio_writes),
        ("disk: EIO of a flush", disk.eio_flushes),
        ("disk: EIO of a read", disk.eio_reads),
        ("disk: ENOSPC", disk.no_space),
        ("disk: short write", disk.short_writes),
        ("disk: short read", disk.short_reads),
        ("disk: slow completion", disk.slow),
        ("net: send in several pieces", net.splits),
        ("net: slow send", net.slow),
        ("net: connection reset", net.resets),
        ("net: connection lost in silence", net.silences),
        ("net: half-sent", net.half_sent),
        ("net: refused", net.refused),
        ("net: reset before it was accepted", net.aborted),
        ("net: slow peer", net.slow_peers),
        ("net: link cut", net.cuts),
        ("net: timed out", net.timed_out),
        ("net: send without room", net.pushed_back),
        ("net: connection of a dead process", net.killed_ends),
        ("net: sendfile", net.sendfiles),
    ] {
        tally.add(name, count);
    }
}
