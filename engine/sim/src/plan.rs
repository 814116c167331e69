//! What a seed is: the broker, its topics, its clients, and how each of its processes ends.

use corelog_record::codec::Codec;
use corelog_runtime::sim::{CrashKind, CrashMoment, Device};
use corelog_storage::flush_policy::FlushPolicy;

use crate::chance::Chance;

/// Client operations of a history, by default.
pub const STEPS: u64 = 300;

/// What is to be under way when a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Whatever is.
    Anything,
    /// DeleteRecords, just sent.
    Deletion,
    /// Retention, whose rules were just made narrower.
    Retention,
}

/// How one process of the broker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// kill -9 or power loss, after so many further changes of the disk (0 = at once).
    Crash(CrashKind, u64),
    /// As by SIGTERM.
    Clean,
}

/// One process of the broker.
#[derive(Debug, Clone, Copy)]
pub struct Incarnation {
    /// Client operations before its end is due.
    pub steps: u64,
    /// How it ends then.
    pub ending: Ending,
    /// Amid what.
    pub beside: Beside,
    /// A crash at this change of the disk of its start, on top.
    pub crash_in_start: Option<(CrashKind, u64)>,
}

/// What the disk does to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskTrouble {
    /// Short reads and writes only.
    None,
    /// Completions that take long.
    Slow,
    /// EIO of reads, writes and flushes.
    Eio,
    /// The file system fills up now and then.
    Full,
}

/// What the network does to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetTrouble {
    /// Delays alone.
    None,
    /// Connections are lost, frames are cut in half, peers are slow.
    Lossy,
}

/// A topic.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Partitions at first.
    pub partitions: i32,
    /// Flush policy at first.
    pub policy: FlushPolicy,
    /// `internal.segment.bytes`.
    pub segment_bytes: u64,
    /// It may be deleted and made again.
    pub mortal: bool,
    /// Its records may be deleted and grow too old or too many; else all of them stay.
    pub shrinks: bool,
    /// What of it may go at first.
    pub retention: Retention,
    /// `compression.type` at first: `None` = the producer's codec.
    pub codec: Option<Codec>,
    /// That may be changed.
    pub recompresses: bool,
}

/// All codecs.
pub const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

/// A `compression.type` by chance.
pub fn compression(chance: &mut Chance) -> Option<Codec> {
    let codec = chance.pick(&CODECS);
    (!chance.one_in(4)).then_some(codec)
}

/// `retention.bytes` and `retention.ms`, each where there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Bytes that stay at least.
    pub bytes: Option<u64>,
    /// Age up to which records stay.
    pub ms: Option<u64>,
}

/// A producer.
#[derive(Debug, Clone, Copy)]
pub struct ProducerPlan {
    /// It has a producer id and sequences.
    pub idempotent: bool,
    /// 0, 1 or -1.
    pub acks: i16,
    /// Requests in flight at most.
    pub window: u64,
    /// It sends again what had no answer.
    pub retries: bool,
    /// Longest pause between two rounds, µs.
    pub pause_us_max: u64,
    /// All its batches have this many bytes, whole blocks or parts of them, with one record each: where
    /// one was cut off the log, another one fits, and what lies behind it begins where that ends.
    pub uniform_bytes: Option<u64>,
    /// Its records are up to so much older or younger than its clock, ms.
    pub clock_skew_ms: u64,
}

/// A history.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its seed.
    pub seed: u64,
    /// Client operations in all.
    pub steps: u64,
    /// Shards of the broker.
    pub shards: usize,
    /// Its log directories.
    pub log_dirs: usize,
    /// Topics; the first lives as long as the history.
    pub topics: Vec<TopicPlan>,
    /// Producers.
    pub producers: Vec<ProducerPlan>,
    /// Consumers without a group.
    pub readers: u64,
    /// Consumers with a fetch session.
    pub sessions: u64,
    /// `max.incremental.fetch.session.cache.slots`.
    pub session_slots: u64,
    /// Members of each group.
    pub groups: Vec<u64>,
    /// Of the processes of clients, each time one is started, one in so many will be killed; 0 = none.
    pub one_dies_in: u64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_ms: u64,
    /// Processes, one after the other; after the last everything heals.
    pub incarnations: Vec<Incarnation>,
    /// Disk.
    pub disk: DiskTrouble,
    /// Network.
    pub net: NetTrouble,
    /// Device.
    pub device: Device,
    /// See `SimConfig`.
    pub write_zeroes: bool,
    /// See `SimConfig`.
    pub ordered_names: bool,
    /// See `SimConfig`.
    pub crash_moment: CrashMoment,
    /// `corelog.memory.bytes`.
    pub memory_bytes: u64,
    /// A bug to plant.
    pub planted: Option<String>,
}

/// A policy by chance, each row of the flush table.
pub fn policy(chance: &mut Chance) -> FlushPolicy {
    let (messages, ms) = match chance.below(5) {
        0 => (None, None),
        1 => (Some(1), None),
        2 => (Some(chance.between(2, 12)), None),
        3 => (None, Some(chance.between(1, 60))),
        _ => (Some(chance.between(1, 8)), Some(chance.between(1, 60))),
    };
    FlushPolicy { messages, ms }
}

/// Limits by chance, that take little, much or all.
pub fn retention(chance: &mut Chance) -> Retention {
    let bytes = chance.pick(&[0, 2_000, 20_000, 100_000]) + chance.below(2_000);
    let ms = chance.pick(&[1, 100, 1_000, 5_000]) + chance.below(100);
    match chance.below(4) {
        0 => Retention::default(),
        1 => Retention {
            bytes: Some(bytes),
            ms: None,
        },
        2 => Retention {
            bytes: None,
            ms: Some(ms),
        },
        _ => Retention {
            bytes: Some(bytes),
            ms: Some(ms),
        },
    }
}

fn topics(chance: &mut Chance) -> Vec<TopicPlan> {
    let count = chance.between(1, 3);
    let topic = |number: u64, chance: &mut Chance| {
        let (shrinks, recompresses) = (chance.one_in(2), chance.one_in(4));
        TopicPlan {
            name: format!("t{number}"),
            partitions: chance.between(1, 3) as i32,
            policy: policy(chance),
            segment_bytes: chance.pick(&[4 << 10, 16 << 10, 64 << 10]),
            mortal: number > 0,
            shrinks,
            retention: match shrinks {
                true => retention(chance),
                false => Retention::default(),
            },
            codec: match recompresses {
                true => compression(chance),
                false => None,
            },
            recompresses,
        }
    };
    (0..count).map(|number| topic(number, chance)).collect()
}

fn producer(uniform_bytes: Option<u64>, chance: &mut Chance) -> ProducerPlan {
    let idempotent = chance.one_in(2);
    let acks = if idempotent || !chance.one_in(4) {
        chance.pick(&[1, -1])
    } else {
        0
    };
    ProducerPlan {
        idempotent,
        acks,
        window: chance.between(1, 5),
        retries: idempotent || (acks != 0 && chance.one_in(2)),
        pause_us_max: chance.pick(&[100, 2_000, 30_000]),
        uniform_bytes,
        clock_skew_ms: chance.pick(&[0, 0, 2_000]),
    }
}

fn incarnations(steps: u64, chance: &mut Chance) -> Vec<Incarnation> {
    let count = chance.between(2, 4);
    let ending = |chance: &mut Chance| {
        let writes = if chance.one_in(3) {
            0
        } else {
            chance.between(1, 40)
        };
        match chance.below(7) {
            0..3 => Ending::Crash(CrashKind::KillProcess, writes),
            3..6 => Ending::Crash(CrashKind::PowerLoss, writes),
            _ => Ending::Clean,
        }
    };
    let one = |number: u64, chance: &mut Chance| Incarnation {
        steps: match chance.below(3) {
            0 => chance.between(1, 20),
            _ => steps / count / 2 + chance.below(steps / count),
        },
        ending: ending(chance),
        beside: chance.pick(&[
            Beside::Anything,
            Beside::Anything,
            Beside::Deletion,
            Beside::Retention,
        ]),
        crash_in_start: (number > 0 && chance.one_in(5)).then(|| {
            let kind = chance.pick(&[CrashKind::KillProcess, CrashKind::PowerLoss]);
            (kind, chance.between(1, 60))
        }),
    };
    (0..count).map(|number| one(number, chance)).collect()
}

/// One producer, one partition, batches of one size, nothing flushed before it must be, and every
/// other process dead after its first appends: what a cut leaves behind is not written over at once.
fn narrow(plan: &mut Plan, chance: &mut Chance) {
    plan.topics.truncate(1);
    plan.topics[0].partitions = 1;
    plan.topics[0].policy = FlushPolicy::default();
    plan.topics[0].segment_bytes = 1 << 20;
    plan.topics[0].shrinks = false;
    plan.topics[0].retention = Retention::default();
    (plan.topics[0].codec, plan.topics[0].recompresses) = (None, false);
    plan.producers = vec![ProducerPlan {
        idempotent: false,
        acks: 1,
        window: chance.between(1, 2),
        retries: false,
        pause_us_max: 100,
        // A block: the first batch behind a cut takes the place of the one that was there.
        uniform_bytes: Some(4096),
        clock_skew_ms: 0,
    }];
    plan.disk = DiskTrouble::None;
    plan.readers = chance.below(2);
    plan.sessions = 0;
    plan.groups.clear();
    plan.one_dies_in = 0;
    plan.incarnations = (0..8)
        .map(|number| Incarnation {
            steps: if number % 2 == 0 {
                chance.between(20, 60)
            } else {
                chance.between(1, 4)
            },
            ending: Ending::Crash(
                if number % 2 == 0 || chance.one_in(2) {
                    CrashKind::PowerLoss
                } else {
                    CrashKind::KillProcess
                },
                0,
            ),
            beside: Beside::Anything,
            crash_in_start: None,
        })
        .collect();
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, steps: u64) -> Plan {
        let mut chance = Chance::new(seed, 1);
        let mut plan = Plan::wide(seed, steps, &mut chance);
        if chance.one_in(4) {
            narrow(&mut plan, &mut chance);
        }
        plan
    }

    fn wide(seed: u64, steps: u64, chance: &mut Chance) -> Plan {
        let uniform_bytes = chance.one_in(3).then(|| chance.pick(&[1024, 4096, 4096]));
        Plan {
            seed,
            steps,
            shards: chance.pick(&[1, 1, 2, 2, 3, 4]),
            log_dirs: chance.pick(&[1, 1, 2, 3]),
            topics: topics(chance),
            producers: (0..chance.between(2, 4))
                .map(|_| producer(uniform_bytes, chance))
                .collect(),
            readers: chance.between(1, 2),
            sessions: chance.below(3),
            session_slots: chance.pick(&[1_000, 1_000, 2, 0]),
            groups: (0..chance.below(3)).map(|_| chance.between(1, 3)).collect(),
            one_dies_in: chance.pick(&[0, 2, 4]),
            retention_check_ms: chance.pick(&[20, 100, 500]),
            incarnations: incarnations(steps, chance),
            disk: match chance.below(20) {
                0..9 => DiskTrouble::None,
                9..13 => DiskTrouble::Slow,
                13..16 => DiskTrouble::Eio,
                _ => DiskTrouble::Full,
            },
            net: chance.pick(&[NetTrouble::None, NetTrouble::Lossy]),
            device: chance.pick(&[Device::Fua, Device::FlushOnly]),
            write_zeroes: chance.one_in(2),
            ordered_names: chance.one_in(2),
            crash_moment: chance.pick(&[CrashMoment::Before, CrashMoment::In, CrashMoment::After]),
            memory_bytes: chance.pick(&[32 << 20, 64 << 20]),
            planted: None,
        }
    }
}
