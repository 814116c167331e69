//! The seeded twin of the machine: a disk, a clock, chance and faults from one seed.
//!
//! [`SimWorld`] is the machine, which survives crashes; [`SimDriver`] is a process's shard on it;
//! [`run_until_crash`] runs one process until it is done or dead. The disk's contract, line by
//! line with its tests, is `docs/SIMULATED_DISK.md`. Sockets answer ENOSYS: the simulated network
//! is not there yet.
//!
//! Reading order: `config` (what can be asked for), `page` and `file` (what survives), `tree`
//! (names), `exec` (operations), `crash`, `state` (time and order), `world` and `driver` (the outside).

mod config;
mod crash;
mod driver;
mod exec;
mod file;
mod op_kinds;
mod page;
mod rng;
mod state;
mod tree;
mod world;

pub use config::{
    CrashKind, CrashMoment, Device, Fault, FaultCounters, FaultPlan, Latencies, OpKind,
    ScriptedFault, SimConfig,
};
pub use driver::SimDriver;
pub use world::{SimWorld, run_until_crash};
