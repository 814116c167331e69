//! One shard per core: ring, tasks, timers, mailboxes, pinning; and its seeded twin.
//!
//! All time, disk, network and chance of the broker come from here, so that everything above runs
//! unchanged over a real kernel ([`uring`]) or over a simulation ([`sim`]).
//!
//! Start reading at [`driver`] (the seam to the machine), then [`rt`] (the loop), then [`mesh`]
//! (messages between shards).
//!
//! It must never know what travels through it: no record, no partition, no Kafka protocol.

#![deny(unsafe_op_in_unsafe_fn)]

/// Atomics of the sleep protocol; a model checker supplies its own.
mod atomics {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}

pub mod blocking;
pub mod buf;
mod calls;
pub mod cpus;
pub mod crash;
pub mod doctor;
pub mod driver;
pub mod env;
pub mod files;
pub mod gateway;
pub mod mesh;
mod ops;
pub mod rt;
pub mod shards;
pub mod sim;
mod sleep;
pub mod sockets;
pub mod sync;
mod task;
pub mod timer;
pub mod uring;
mod watch;
mod wheel;

pub use buf::{AlignedBuf, BLOCK_BYTES, BufferPool, ChunkWriter};
pub use crash::vital;
pub use driver::{
    Advice, DirEntry, FallocateMode, FileHandle, Op, OpenOptions, Output, SocketHandle, Stat,
};
pub use env::{EnvError, EnvReport, check_direct_io, check_environment, file_system_of};
pub use files::File;
pub use gateway::{Gateway, ReplyHandle};
pub use mesh::{Mesh, MeshSeed, Reply, mesh};
pub use ops::OpFuture;
pub use rt::{Rt, RtCounters, ShardId};
pub use shards::{ShardSpec, start_shards};
pub use sockets::listen;
pub use task::{Task, YieldNow};
pub use timer::{Instant, Sleep};
pub use watch::Stall;
