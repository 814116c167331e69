//! A history: processes that follow each other on one simulated machine, each ended by a clean
//! stop, a kill, a power loss or an I/O error.

use std::cell::RefCell;
use std::rc::Rc;

use corelog_runtime::sim::{
    CrashKind, CrashMoment, Device, FaultCounters, FaultPlan, Latencies, SimConfig, SimWorld,
    run_until_crash,
};
use corelog_storage::config::LogConfig;
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::shard::StorageCounters;

use super::oracle::{Chance, Crash, Oracle};
use super::session::{self, End, Shared};

/// Longest slow completion, ns.
const SLOW_NS: (u64, u64) = (1_000_000, 20_000_000);

/// What may happen in a history.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub has_faults: bool,
    pub buffered: bool,
    pub fills_disk: bool,
    /// Somebody looks after the directory: full disks and failures are told of.
    pub has_guard: bool,
    /// Weight of "crash now" against 100 for all else.
    pub crash_weight: u64,
    pub planted: Option<String>,
    pub sequenced_in_flight: u64,
    /// Appends without offsets yet.
    pub appends_in_flight: u64,
    /// A retention or deletion of records goes on beside other operations.
    pub raises_in_flight: u64,
}

impl Plan {
    /// Something is under way that moves the log's end or start.
    pub fn is_busy(&self) -> bool {
        self.appends_in_flight > 0 || self.raises_in_flight > 0
    }
}

/// How often things were met, over all histories.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub opens: u64,
    pub clean_opens: u64,
    pub appends: u64,
    pub acks: u64,
    pub duplicates: u64,
    pub no_space: u64,
    /// Parts of the reserve given back.
    pub released: u64,
    /// Failures told to the directory's guard.
    pub told: u64,
    pub kills: u64,
    pub power_losses: u64,
    pub crash_before: u64,
    pub crash_in: u64,
    pub crash_after: u64,
    pub failed: u64,
    pub deletions: u64,
    pub deletions_refused: u64,
    pub reads_below_start: u64,
    pub starts_found: u64,
    pub fua_histories: u64,
    pub flush_only_histories: u64,
    pub buffered_histories: u64,
    pub acked_lost_unset: u64,
    pub acked_lost_messages: u64,
    pub acked_lost_ms: u64,
    pub storage: StorageCounters,
    pub faults: FaultCounters,
}

/// What a history is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    pub seed: u64,
    pub ops: u64,
    /// Crash at this change of the disk, once, and never else.
    pub crash_at: Option<(u64, Crash)>,
    /// No crash by chance.
    pub quiet: bool,
    pub planted: Option<String>,
    /// The policy of the whole history, instead of one by chance.
    pub policy: Option<FlushPolicy>,
    /// Through the page cache instead of direct I/O.
    pub buffered: bool,
}

impl Spec {
    pub fn random(seed: u64, ops: u64) -> Spec {
        Spec {
            seed,
            ops,
            crash_at: None,
            quiet: false,
            planted: None,
            policy: None,
            buffered: seed % 4 == 3,
        }
    }
}

fn sim_config(spec: &Spec, chance: &mut Chance) -> SimConfig {
    let is_power = match spec.crash_at {
        Some((_, kind)) => kind == Crash::PowerLoss,
        None => chance.one_in(2),
    };
    let moment = match chance.below(3) {
        0 => CrashMoment::Before,
        1 => CrashMoment::In,
        _ => CrashMoment::After,
    };
    let has_faults = !spec.quiet && spec.seed.is_multiple_of(5);
    SimConfig {
        device: if spec.seed.is_multiple_of(2) {
            Device::Fua
        } else {
            Device::FlushOnly
        },
        write_zeroes: chance.one_in(2),
        ordered_names: chance.one_in(2),
        latencies: Latencies {
            slow_ns: SLOW_NS,
            ..Latencies::default()
        },
        faults: if has_faults {
            FaultPlan {
                eio_read_ppm: 300,
                eio_write_ppm: 4_000,
                eio_flush_ppm: 1_500,
                no_space_ppm: 1_500,
                short_read_ppm: 3_000,
                short_write_ppm: 3_000,
                slow_ppm: 5_000,
            }
        } else {
            FaultPlan {
                short_read_ppm: 2_000,
                short_write_ppm: 2_000,
                slow_ppm: 3_000,
                ..FaultPlan::default()
            }
        },
        crash_moment: Some(moment),
        crash_kind: if is_power {
            CrashKind::PowerLoss
        } else {
            CrashKind::KillProcess
        },
        ..SimConfig::default()
    }
}

fn log_config(spec: &Spec, chance: &mut Chance) -> LogConfig {
    let first = [
        FlushPolicy::default(),
        FlushPolicy {
            messages: Some(1),
            ms: None,
        },
        FlushPolicy {
            messages: Some(2 + chance.below(10)),
            ms: None,
        },
        FlushPolicy {
            messages: None,
            ms: Some(1 + chance.below(60)),
        },
    ];
    LogConfig {
        segment_bytes: [16 << 10, 64 << 10, 400 << 10][chance.below(3) as usize],
        index_interval_bytes: [512, 4096][chance.below(2) as usize],
        producer_id_expiration_ms: i64::MAX,
        retention_ms: None,
        file_delete_delay_ms: [0, 15][chance.below(2) as usize],
        flush: spec.policy.unwrap_or(first[chance.below(4) as usize]),
        uses_reserve: spec.seed % 8 >= 6,
        ..LogConfig::default()
    }
}

fn add_counters(tally: &mut Tally, c: &StorageCounters) {
    let t = &mut tally.storage;
    t.rolls += c.rolls;
    t.rolls_with_queued_write += c.rolls_with_queued_write;
    t.tail_block_merges += c.tail_block_merges;
    t.queued_writes += c.queued_writes;
    t.device_writes += c.device_writes;
    t.durable_writes += c.durable_writes;
    t.flushes += c.flushes;
    t.prepare_steps += c.prepare_steps;
    t.zeroed_bytes += c.zeroed_bytes;
    t.no_space += c.no_space;
    t.tail_hits += c.tail_hits;
    t.tail_misses += c.tail_misses;
    t.cuts += c.cuts;
    t.cuts_inside_batch += c.cuts_inside_batch;
    t.recoveries += c.recoveries;
    t.torn_tails += c.torn_tails;
    t.damages += c.damages;
    t.indexes_rebuilt += c.indexes_rebuilt;
    t.failures += c.failures;
    t.reopens += c.reopens;
    t.idle_trims += c.idle_trims;
    t.segments_removed += c.segments_removed;
    t.log_start_raises += c.log_start_raises;
    t.retention_rolls += c.retention_rolls;
    t.files_unlinked += c.files_unlinked;
}

fn add_faults(tally: &mut Tally, c: &FaultCounters) {
    let t = &mut tally.faults;
    t.eio_reads += c.eio_reads;
    t.eio_writes += c.eio_writes;
    t.eio_flushes += c.eio_flushes;
    t.no_space += c.no_space;
    t.short_writes += c.short_writes;
    t.short_reads += c.short_reads;
    t.slow += c.slow;
    t.late_applied += c.late_applied;
    t.late_dropped += c.late_dropped;
    t.barriers_with_late_writes += c.barriers_with_late_writes;
    t.sectors_kept += c.sectors_kept;
    t.sectors_lost += c.sectors_lost;
    t.sizes_lost += c.sizes_lost;
    t.names_lost += c.names_lost;
    t.cut_writes += c.cut_writes;
    t.misaligned += c.misaligned;
}

/// Runs a history; gives the machine's changes of the disk and the hash of its trace.
pub fn run(spec: &Spec, tally: &mut Tally) -> Result<(u64, u64), String> {
    let mut chance = Chance::new(spec.seed);
    let config = sim_config(spec, &mut chance);
    match config.device {
        Device::Fua => tally.fua_histories += 1,
        Device::FlushOnly => tally.flush_only_histories += 1,
    }
    tally.buffered_histories += u64::from(spec.buffered);
    let (crash_kind, crash_moment) = (config.crash_kind, config.crash_moment);
    let world = SimWorld::new(spec.seed, config);
    let plan = Plan {
        has_faults: !spec.quiet && spec.seed.is_multiple_of(5),
        buffered: spec.buffered,
        fills_disk: !spec.quiet && spec.seed.is_multiple_of(3),
        has_guard: spec.seed % 4 >= 2,
        crash_weight: if spec.quiet { 0 } else { 6 },
        planted: spec.planted.clone(),
        ..Plan::default()
    };
    let log_config = log_config(spec, &mut chance);
    // A flush that waits for a seal: writes, ftruncate, fdatasync, fsync of the directory, each slow.
    let flush_ns_max = 3 * (SLOW_NS.1 + 2_000_000);
    let cell = Rc::new(RefCell::new(Shared {
        oracle: Oracle {
            flush_ns_max,
            ..Oracle::default()
        },
        chance,
        plan,
        ops_left: spec.ops,
        violation: None,
        tally: Tally::default(),
        shard: None,
        config: log_config,
        full: false,
        times_filled: 0,
        has_fixed_policy: spec.policy.is_some(),
        released: Rc::default(),
        crash_noted: false,
    }));
    world.set_crash_at(spec.crash_at.map(|(at, _)| at));
    let result = processes(spec, &world, &cell, crash_kind, crash_moment);
    let mut shared = cell.borrow_mut();
    let t = shared.tally;
    tally.opens += t.opens;
    tally.clean_opens += t.clean_opens;
    tally.appends += t.appends;
    tally.acks += t.acks;
    tally.duplicates += t.duplicates;
    tally.no_space += t.no_space;
    tally.released += shared.released.get();
    tally.told += t.told;
    tally.kills += t.kills;
    tally.power_losses += t.power_losses;
    tally.crash_before += t.crash_before;
    tally.crash_in += t.crash_in;
    tally.crash_after += t.crash_after;
    tally.failed += t.failed;
    tally.deletions += t.deletions;
    tally.deletions_refused += t.deletions_refused;
    tally.reads_below_start += t.reads_below_start;
    tally.starts_found += t.starts_found;
    add_counters(tally, &t.storage);
    add_faults(tally, &world.faults());
    tally.acked_lost_unset += shared.oracle.acked_lost_unset;
    tally.acked_lost_messages += shared.oracle.acked_lost_messages;
    tally.acked_lost_ms += shared.oracle.acked_lost_ms;
    if let Some(violation) = shared.violation.take() {
        return Err(violation);
    }
    if world.faults().misaligned > 0 {
        return Err("a direct operation was misaligned".into());
    }
    result.map(|()| (world.write_count(), world.trace_hash()))
}

fn processes(
    spec: &Spec,
    world: &SimWorld,
    cell: &session::Cell,
    crash_kind: CrashKind,
    crash_moment: Option<CrashMoment>,
) -> Result<(), String> {
    loop {
        let is_final = cell.borrow().ops_left == 0;
        {
            let mut shared = cell.borrow_mut();
            let is_planned =
                spec.crash_at.is_none() && !spec.quiet && !is_final && shared.chance.one_in(2);
            if is_planned {
                let at = world.write_count() + 1 + shared.chance.below(120);
                world.set_crash_at(Some(at));
            }
        }
        let result = run_until_crash(world, |rt| session::run(rt, world.clone(), cell.clone()));
        if spec.crash_at.is_none() || result.is_none() {
            world.set_crash_at(None);
        }
        let mut shared = cell.borrow_mut();
        if let Some(shard) = shared.shard.take() {
            add_counters(&mut shared.tally, &shard.counters());
        }
        shared.plan.sequenced_in_flight = 0;
        shared.plan.appends_in_flight = 0;
        shared.plan.raises_in_flight = 0;
        if let Some(violation) = shared.violation.take() {
            return Err(violation);
        }
        if world.faults().misaligned > 0 {
            return Err("direct I/O of what is not aligned".to_owned());
        }
        match result {
            Some(Err(violation)) => return Err(violation),
            Some(Ok(End::Done)) if is_final => return Ok(()),
            Some(Ok(End::Done)) => {}
            Some(Ok(End::Failed)) => {
                // The device is well again; what the process knew is gone.
                world.clear_faults();
                shared.plan.has_faults = false;
                shared.tally.failed += 1;
                shared.oracle.crash(Crash::Kill, world.now_ns());
                world.kill_process();
            }
            None => {
                if !shared.crash_noted {
                    let kind = if crash_kind == CrashKind::PowerLoss {
                        Crash::PowerLoss
                    } else {
                        Crash::Kill
                    };
                    shared.oracle.crash(kind, world.now_ns());
                    match crash_moment {
                        Some(CrashMoment::Before) => shared.tally.crash_before += 1,
                        Some(CrashMoment::In) => shared.tally.crash_in += 1,
                        _ => shared.tally.crash_after += 1,
                    }
                }
                shared.crash_noted = false;
                match shared.oracle.power_lost {
                    true => shared.tally.power_losses += 1,
                    false => shared.tally.kills += 1,
                }
                if spec.crash_at.is_some() {
                    shared.ops_left = shared.ops_left.min(3);
                }
            }
        }
        world.set_capacity(1 << 40);
        shared.full = false;
    }
}
