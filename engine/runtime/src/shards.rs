//! Starting shards: one named, pinned thread each.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam::channel::{self, Receiver, Sender};

use crate::buf::BufferPool;
use crate::rt::{Rt, ShardId};
use crate::uring::UringDriver;
use crate::{blocking, cpus, crash};

/// Submission slots of a shard's ring.
pub const RING_ENTRIES_DEFAULT: u32 = 1024;

/// How one shard is started.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    /// Its number.
    pub shard: ShardId,
    /// The CPU it is pinned to; `None` = wherever the system likes.
    pub cpu: Option<usize>,
    /// Submission slots of its ring.
    pub ring_entries: u32,
    /// Where its buffers come from: a pool of its own, or one shared with other shards.
    pub pool: BufferPool,
}

/// Specs of `shards` shards (default: one per CPU), pinned round robin to `cpus`; each with a pool
/// that keeps `free_bytes_max` bytes.
pub fn specs(cpus: &[usize], shards: Option<u16>, free_bytes_max: usize) -> Vec<ShardSpec> {
    let per_cpu = u16::try_from(cpus.len()).unwrap_or(u16::MAX);
    let spec = |number: u16| ShardSpec {
        shard: ShardId(number),
        cpu: cpus.get(usize::from(number) % cpus.len().max(1)).copied(),
        ring_entries: RING_ENTRIES_DEFAULT,
        pool: BufferPool::new(free_bytes_max),
    };
    (0..shards.unwrap_or(per_cpu).max(1)).map(spec).collect()
}

/// Starts the shards. `make` is called here, once per shard; what it gives runs on the shard's
/// thread. Returns when every ring is made; an error means that no shard runs. A panic that
/// escapes a shard's main future aborts the process: what the shard owns is then in doubt.
pub fn start_shards<M, F>(
    specs: Vec<ShardSpec>,
    mut make: impl FnMut(ShardId) -> M,
) -> io::Result<Vec<JoinHandle<()>>>
where
    M: FnOnce(Rt) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    crash::install_hook();
    // Asked now, before any thread is pinned.
    let _allowed = cpus::allowed();
    let (report, reports) = channel::unbounded();
    let mut starts = Vec::new();
    let mut threads = Vec::new();
    for spec in specs {
        let (go, wait) = channel::bounded::<()>(1);
        let (main, report) = (make(spec.shard), report.clone());
        let name = format!("corelog-shard-{}", spec.shard.0);
        threads.push(blocking::spawn(&name, move || {
            shard_thread(spec, main, &report, &wait)
        })?);
        starts.push(go);
    }
    drop(report);
    for _ in &threads {
        // A thread that ended without a report has panicked.
        reports
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a shard's thread died")))?;
    }
    // An error above drops `starts`, and with that the shards end before they begin.
    for go in starts {
        let _gone = go.send(());
    }
    Ok(threads)
}

fn shard_thread<M, F>(spec: ShardSpec, main: M, report: &Sender<io::Result<()>>, go: &Receiver<()>)
where
    M: FnOnce(Rt) -> F,
    F: Future<Output = ()>,
{
    if let Some(cpu) = spec.cpu
        && !cpus::pin(cpu)
    {
        tracing::warn!(
            shard = spec.shard.0,
            cpu,
            "the system refuses to pin this shard"
        );
    }
    let driver = match UringDriver::new(spec.ring_entries) {
        Ok(driver) => driver,
        Err(error) => {
            let _gone = report.send(Err(error));
            return;
        }
    };
    let _gone = report.send(Ok(()));
    if go.recv().is_err() {
        return;
    }
    crash::enter_shard_thread(spec.shard);
    let rt = Rt::new(spec.shard, Box::new(driver), spec.pool);
    let run = || {
        rt.block_on(main(rt.clone()));
        rt.close();
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        let panic = crash::take(payload.as_ref());
        crash::abort(&panic, "a shard panicked");
    }
}
