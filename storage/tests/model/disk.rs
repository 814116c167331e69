//! The little of a log directory that one partition needs: recovery point file and clean marker.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corelog_runtime::Rt;
use corelog_runtime::sim::SimWorld;
use corelog_runtime::sync::FifoMutex;
use corelog_storage::checkpoint_files::{OffsetMap, decode_offsets, encode_offsets};
use corelog_storage::guard::DirGuard;
use corelog_storage::shard::CheckpointSink;

pub const ROOT: &str = "/data";
pub const TOPIC: &str = "t";
const POINTS: &str = "/data/recovery-point-offset-checkpoint";
const STARTS: &str = "/data/log-start-offset-checkpoint";
const MARKER: &str = "/data/.kafka_cleanshutdown";

/// Writes recovery points one after the other.
pub struct Disk {
    rt: Rt,
    turn: FifoMutex,
    pub point: Cell<i64>,
    pub start: Cell<i64>,
}

impl Disk {
    /// Reads the recovery point and takes the clean marker away. True when it was there.
    pub async fn open(rt: &Rt) -> io::Result<(Rc<Disk>, bool)> {
        rt.mkdir_all(ROOT).await?;
        rt.sync_dir("/").await?;
        let point = read_offset(rt, POINTS).await?;
        let start = read_offset(rt, STARTS).await?;
        let clean = match rt.stat(MARKER).await {
            Ok(_) => {
                rt.unlink(MARKER).await?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        // Also when it was not there: a process killed right here may have removed it, not durably.
        rt.sync_dir(ROOT).await?;
        Ok((
            Rc::new(Disk {
                rt: rt.clone(),
                turn: FifoMutex::new(),
                point: Cell::new(point),
                start: Cell::new(start),
            }),
            clean,
        ))
    }

    /// Writes the recovery point that `now` gives when the write's turn has come.
    pub async fn write_point(&self, now: impl FnOnce() -> i64) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let point = now();
        self.write_offset(POINTS, point).await?;
        self.point.set(point);
        Ok(())
    }

    async fn write_start(&self, start: i64) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let start = start.max(self.start.get());
        self.write_offset(STARTS, start).await?;
        self.start.set(start);
        Ok(())
    }

    async fn write_offset(&self, path: &str, offset: i64) -> io::Result<()> {
        let map = OffsetMap::from([((TOPIC.to_owned(), 0), offset)]);
        self.rt.write_atomic(path, encode_offsets(&map)).await
    }

    pub async fn write_marker(&self) -> io::Result<()> {
        self.rt.write_atomic(MARKER, b"{}".to_vec()).await
    }
}

async fn read_offset(rt: &Rt, path: &str) -> io::Result<i64> {
    match rt.read_whole(path, 1 << 20).await {
        Ok(bytes) => {
            let map = decode_offsets(path, &bytes).map_err(|e| io::Error::other(e.to_string()))?;
            Ok(map.get(&(TOPIC.to_owned(), 0)).copied().unwrap_or(0))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

impl CheckpointSink for Disk {
    fn lower<'a>(
        &'a self,
        _topic: &'a str,
        _partition: i32,
        recovery_point: i64,
        _high_watermark: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            let lower = self.point.get().min(recovery_point);
            self.write_point(|| lower).await
        })
    }

    fn raise_log_start<'a>(
        &'a self,
        _topic: &'a str,
        _partition: i32,
        log_start: i64,
        recovery_point: i64,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>> {
        Box::pin(async move {
            let raised = self.point.get().max(recovery_point);
            self.write_point(|| raised).await?;
            self.write_start(log_start).await
        })
    }
}

/// Bytes that the reserve gives back at once, and how often it has something left.
const PIECE_BYTES: u64 = 128 << 10;
const PIECES: u32 = 3;

/// Looks after the directory, as a broker does: ordinary appends are refused while it is full, a
/// probe finds space again, and failures are told.
pub struct Guard {
    rt: Rt,
    world: SimWorld,
    full: Cell<bool>,
    pieces: Cell<u32>,
    pub told: Cell<u64>,
    /// Parts of the reserve given back.
    released: Rc<Cell<u64>>,
}

impl Guard {
    pub fn new(rt: &Rt, world: &SimWorld, released: Rc<Cell<u64>>) -> Rc<Guard> {
        Rc::new(Guard {
            rt: rt.clone(),
            world: world.clone(),
            full: Cell::new(false),
            pieces: Cell::new(PIECES),
            told: Cell::new(0),
            released,
        })
    }

    pub fn is_known_full(&self) -> bool {
        self.full.get()
    }
}

/// The guard as a shard's storage holds it.
pub struct Held(pub Rc<Guard>);

impl DirGuard for Held {
    fn is_full(&self, log_dir: &Path) -> bool {
        assert_eq!(log_dir, Path::new(ROOT));
        self.0.full.get()
    }

    fn no_space(&self, _log_dir: &Path) {
        let guard = Rc::clone(&self.0);
        if guard.full.replace(true) {
            return;
        }
        let rt = guard.rt.clone();
        let probe = async move {
            loop {
                guard.rt.sleep(Duration::from_millis(3)).await;
                if guard.world.capacity_bytes() > guard.world.used_bytes() + (1 << 20) {
                    guard.full.set(false);
                    guard.pieces.set(PIECES);
                    return;
                }
            }
        };
        rt.spawn("probe", probe).detach();
    }

    fn release<'a>(&'a self, _log_dir: &'a Path) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async move {
            let left = self.0.pieces.get();
            if left == 0 {
                return false;
            }
            self.0.pieces.set(left - 1);
            self.0.released.set(self.0.released.get() + 1);
            let world = &self.0.world;
            world.set_capacity(world.capacity_bytes().max(world.used_bytes()) + PIECE_BYTES);
            true
        })
    }

    fn failed(&self, log_dir: &Path, _why: &Arc<str>) {
        assert_eq!(log_dir, Path::new(ROOT));
        self.0.told.set(self.0.told.get() + 1);
    }
}
