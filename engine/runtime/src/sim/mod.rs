//! The seeded twin of the machine: a disk, a network, a clock, chance and faults from one seed.
//!
//! [`SimWorld`] is the world, which survives crashes; [`SimDriver`] is a process's shard on it;
//! [`Sim`] runs several shards of several processes in one thread; [`run_until_crash`] runs one
//! process of one shard until it is done or dead. The contracts, line by line with their tests, are
//! `docs/SIMULATED_DISK.md` and `docs/SIMULATED_NETWORK.md`.
//!
//! Reading order: `config` and `net_config` (what can be asked for), `page` and `file` (what
//! survives), `tree` (names), `exec` (operations on files), `net` (sockets), `crash`, `process`,
//! `state` and `flights` (time and order), `sched` (turns), `world` and `driver` (the outside).

mod completed;
mod config;
mod crash;
mod driver;
mod exec;
mod file;
mod flights;
mod net;
mod net_config;
mod op_kinds;
mod page;
mod process;
mod rng;
mod sched;
mod state;
mod tree;
mod world;

pub use config::{
    CrashKind, CrashMoment, Device, Fault, FaultCounters, FaultPlan, Latencies, OpKind,
    ScriptedFault, SimConfig,
};
pub use driver::SimDriver;
pub use net_config::{Loss, NetConfig, NetCounters, NetFaultPlan, ScheduleConfig};
pub use process::ProcessId;
pub use rng::TraceSink;
pub use sched::{Sim, Stop};
pub use world::{SimWorld, run_until_crash};
