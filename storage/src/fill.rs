//! Bringing windows of sealed files into the page cache, once for all who wait for the same one.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::sync::Notify;
use corelog_runtime::{Advice, File, FileHandle, Rt};

use crate::guard::log_dir_of_file;
use crate::log::{ReadError, SegmentFile};
use crate::shard::ShardStorage;

/// Bytes of a window; windows begin at multiples of it.
pub(crate) const WINDOW_BYTES: u64 = 512 << 10;

/// One window on its way.
pub(crate) struct Fill {
    segment: Arc<SegmentFile>,
    window: u64,
    is_over: Cell<bool>,
    error: RefCell<Option<ReadError>>,
    over: Notify,
}

impl Fill {
    /// Waits for its end. An error is everyone's who waits.
    async fn wait(&self) -> Result<(), ReadError> {
        while !self.is_over.get() {
            let over = self.over.notified();
            if !self.is_over.get() {
                over.await;
            }
        }
        self.error.borrow().clone().map_or(Ok(()), Err)
    }
}

/// Brings a window in, or waits for a fill of it that is under way on this shard. (Of other shards
/// the kernel knows: pages that are being read are not read again.)
pub(crate) async fn fill(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    segment: &Arc<SegmentFile>,
    handle: &FileHandle,
    window: u64,
) -> Result<(), ReadError> {
    let fill = match find(shard, segment, window) {
        Some(fill) => {
            shard.count(|c| c.cold_fills_shared += 1);
            fill
        }
        None => start(rt, shard, segment, handle, window),
    };
    fill.wait().await
}

/// Begins to bring a window in, unless one of its pages is there or it lies past the end.
pub(crate) fn fill_ahead(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    segment: &Arc<SegmentFile>,
    handle: &FileHandle,
    window: u64,
) {
    let is_missing = || {
        let first = rt.is_cached(handle, window * WINDOW_BYTES, 1);
        matches!(first, Ok(corelog_runtime::driver::Cached::MissingAt(_)))
    };
    if find(shard, segment, window).is_none() && is_missing() {
        start(rt, shard, segment, handle, window);
    }
}

fn find(shard: &ShardStorage, segment: &Arc<SegmentFile>, window: u64) -> Option<Rc<Fill>> {
    let fills = shard.fills.borrow();
    let same = |fill: &&Rc<Fill>| fill.window == window && Arc::ptr_eq(&fill.segment, segment);
    fills.iter().find(same).cloned()
}

fn start(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    segment: &Arc<SegmentFile>,
    handle: &FileHandle,
    window: u64,
) -> Rc<Fill> {
    let fill = Rc::new(Fill {
        segment: segment.clone(),
        window,
        is_over: Cell::new(false),
        error: RefCell::new(None),
        over: Notify::new(),
    });
    shard.fills.borrow_mut().push(fill.clone());
    shard.count(|c| c.cold_fills += 1);
    let file = File::from_handle(rt, handle.clone());
    let (rt_in, shard, ours) = (rt.clone(), shard.clone(), fill.clone());
    // A task of its own: the reader that asked first may go away.
    rt.spawn("cold fill", async move {
        // A task that ends early, whatever the reason, leaves nobody waiting.
        let end = End { shard, fill: ours };
        if let Err(error) = read_in(&rt_in, &end.shard, &file, window).await {
            let error = segment_error(&end.shard, &end.fill.segment, &error);
            *end.fill.error.borrow_mut() = Some(error);
        }
    })
    .detach();
    fill
}

/// An error of reading a segment file, on any shard.
pub(crate) fn segment_error(
    shard: &ShardStorage,
    segment: &SegmentFile,
    error: &io::Error,
) -> ReadError {
    let path = &segment.path;
    let what = format!("cannot read {}", path.display());
    shard.read_error(&log_dir_of_file(path), what, error)
}

struct End {
    shard: Rc<ShardStorage>,
    fill: Rc<Fill>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut fills = self.shard.fills.borrow_mut();
        fills.retain(|fill| !Rc::ptr_eq(fill, &self.fill));
        drop(fills);
        self.fill.is_over.set(true);
        self.fill.over.notify_all();
    }
}

/// Asks for the whole window at once, then waits for its last page and its first. Pages between
/// that come later are waited for by who needs them.
async fn read_in(rt: &Rt, shard: &ShardStorage, file: &File, window: u64) -> io::Result<()> {
    let bytes = (WINDOW_BYTES as usize).min(shard.limits().cold_read_bytes);
    let _permit = shard.cold_reads.acquire(bytes).await;
    let at = window * WINDOW_BYTES;
    // Where the file system takes no advice the reads bring their pages one by one.
    let _hint = file.fadvise(Advice::WillNeed, at, WINDOW_BYTES).await;
    for at in [at + WINDOW_BYTES - 1, at] {
        // Nothing past the end of the file: not an error.
        file.read_at(rt.pool().get(1), at, 1).await.0?;
    }
    Ok(())
}
