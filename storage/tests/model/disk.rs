//! The little of a log directory that one partition needs: recovery point file and clean marker.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use corelog_runtime::Rt;
use corelog_runtime::sync::FifoMutex;
use corelog_storage::checkpoint_files::{OffsetMap, decode_offsets, encode_offsets};
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
