//! What a simulated machine is like: its device, its speed, its faults, the moment it dies.

use std::time::Duration;

use super::net_config::{NetConfig, ScheduleConfig};

/// How the device treats a write with RWF_DSYNC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// Forced unit access: such a write makes its own bytes durable and nothing else.
    #[default]
    Fua,
    /// No FUA: such a write is followed by a flush of the whole device cache, which makes durable
    /// every write (of any file) completed before the write with RWF_DSYNC was submitted. Sizes
    /// and names of other files are no part of it.
    FlushOnly,
}

/// What a planned crash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrashKind {
    /// See [`super::SimWorld::power_loss`].
    #[default]
    PowerLoss,
    /// See [`super::SimWorld::kill_process`].
    KillProcess,
}

/// Where in its operation a planned crash strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMoment {
    /// Nothing of the operation happened.
    Before,
    /// A write reached the disk in part (a prefix or any subset of its sectors), a flush covered a
    /// part, anything else happened or not.
    In,
    /// The operation is done, but nobody was told.
    After,
}

/// Operations as fault scripts and counters see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// Open.
    Open,
    /// ReadAt.
    Read,
    /// WriteAt.
    Write,
    /// Fdatasync.
    Flush,
    /// SyncDir.
    SyncDir,
    /// Fallocate.
    Fallocate,
    /// Ftruncate.
    Truncate,
    /// StatPath and StatFile.
    Stat,
    /// StatFs.
    StatFs,
    /// Rename.
    Rename,
    /// Unlink.
    Unlink,
    /// Mkdir.
    Mkdir,
    /// Rmdir.
    Rmdir,
    /// ReadDir.
    ReadDir,
    /// Everything about sockets.
    Socket,
    /// Blocking.
    Blocking,
    /// Fadvise.
    Advise,
}

impl OpKind {
    /// How many there are.
    pub(super) const COUNT: usize = OpKind::Advise as usize + 1;
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A write may have reached the disk in part; a failed flush leaves what it should have
    /// covered uncovered by later flushes of this process.
    Eio,
    /// ENOSPC, without any effect.
    NoSpace,
    /// A read or write moves at most this many bytes (cut to whole sectors when direct, at least one).
    Short(usize),
    /// It takes this much longer.
    Slow(Duration),
}

/// A fault that strikes chosen operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedFault {
    /// Which operations.
    pub kind: OpKind,
    /// Only where the path (for open files: the one it was opened under) contains this; empty = all.
    pub path_contains: String,
    /// Matching operations that pass first.
    pub skip: u64,
    /// Matching operations that are struck then.
    pub times: u64,
    /// How.
    pub fault: Fault,
}

/// Faults by chance, in parts per million of the operations of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultPlan {
    /// EIO of a read.
    pub eio_read_ppm: u32,
    /// EIO of a write.
    pub eio_write_ppm: u32,
    /// EIO of fdatasync or of a directory's fsync.
    pub eio_flush_ppm: u32,
    /// ENOSPC of a write or fallocate, whatever the capacity.
    pub no_space_ppm: u32,
    /// Reads that return less than they could.
    pub short_read_ppm: u32,
    /// Writes that take less than they were given.
    pub short_write_ppm: u32,
    /// Completions that take up to [`Latencies::slow_ns`].
    pub slow_ppm: u32,
}

/// Time of operations: each draws from its range, so that completions come in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    /// Reads, from and to, ns.
    pub read_ns: (u64, u64),
    /// Writes.
    pub write_ns: (u64, u64),
    /// fdatasync, fsync of directories; added to writes with RWF_DSYNC.
    pub flush_ns: (u64, u64),
    /// All else.
    pub other_ns: (u64, u64),
    /// What a slow completion takes more.
    pub slow_ns: (u64, u64),
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            read_ns: (10_000, 150_000),
            write_ns: (10_000, 200_000),
            flush_ns: (50_000, 2_000_000),
            other_ns: (2_000, 300_000),
            slow_ns: (5_000_000, 2_000_000_000),
        }
    }
}

/// A simulated machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimConfig {
    /// The device under the file system.
    pub device: Device,
    /// Bytes of the file system; see also [`super::SimWorld::set_capacity`].
    pub capacity_bytes: u64,
    /// Alignment that direct I/O asks of offsets, lengths and memory: 512 to 4096, a power of
    /// two. 0: O_DIRECT is refused.
    pub dio_align_bytes: u32,
    /// The device offers FALLOC_FL_WRITE_ZEROES (else EOPNOTSUPP).
    pub write_zeroes: bool,
    /// Power loss keeps a prefix of the changes of names, as one journal would. If not (the
    /// default), changes that share no name survive independently of each other.
    pub ordered_names: bool,
    /// Speed.
    pub latencies: Latencies,
    /// Faults by chance.
    pub faults: FaultPlan,
    /// Crash at this change of the disk, counted from 1 as by [`super::SimWorld::write_count`].
    pub crash_at: Option<u64>,
    /// Where in that change; `None` = by seed.
    pub crash_moment: Option<CrashMoment>,
    /// How.
    pub crash_kind: CrashKind,
    /// Wall clock at the beginning, ms since the Unix epoch.
    pub wall_clock_start_ms: i64,
    /// The network.
    pub net: NetConfig,
    /// Turns of several shards.
    pub schedule: ScheduleConfig,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            device: Device::Fua,
            capacity_bytes: 1 << 40,
            dio_align_bytes: 4096,
            write_zeroes: true,
            ordered_names: false,
            latencies: Latencies::default(),
            faults: FaultPlan::default(),
            crash_at: None,
            crash_moment: None,
            crash_kind: CrashKind::PowerLoss,
            wall_clock_start_ms: 1_700_000_000_000,
            net: NetConfig::default(),
            schedule: ScheduleConfig::default(),
        }
    }
}

/// How often each kind of trouble was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Reads that failed with EIO.
    pub eio_reads: u64,
    /// Writes that failed with EIO.
    pub eio_writes: u64,
    /// Flushes (directories' too) that failed with EIO.
    pub eio_flushes: u64,
    /// Operations of other kinds that failed with EIO.
    pub eio_others: u64,
    /// ENOSPC, by fault or by capacity.
    pub no_space: u64,
    /// Reads cut short before the end of the file.
    pub short_reads: u64,
    /// Writes cut short.
    pub short_writes: u64,
    /// Completions made slow.
    pub slow: u64,
    /// Operations ended by cancel.
    pub cancelled: u64,
    /// Operations refused for direct I/O's alignment.
    pub misaligned: u64,
    /// Processes killed.
    pub kills: u64,
    /// Power losses.
    pub power_losses: u64,
    /// In-flight writes of a killed process that reached the file after its death.
    pub late_applied: u64,
    /// In-flight writes of a killed process that never reached it.
    pub late_dropped: u64,
    /// Recovery barriers that waited for at least one late write.
    pub barriers_with_late_writes: u64,
    /// Unflushed sectors that survived a power loss in their newest state.
    pub sectors_kept: u64,
    /// Unflushed sectors that fell back to an older state.
    pub sectors_lost: u64,
    /// Files whose unflushed size fell back.
    pub sizes_lost: u64,
    /// Creations, renames and unlinks undone by power loss.
    pub names_lost: u64,
    /// Writes cut in the middle by a planned crash.
    pub cut_writes: u64,
    /// Turns before which a shard was held back ([`super::Sim`]).
    pub held_turns: u64,
    /// Tasks that found that they took long ([`super::Sim`]).
    pub busy_polls: u64,
}
