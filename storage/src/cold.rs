//! Reading planned ranges from disk, on any shard: direct reads under the shard's budget, and the
//! gate before a sendfile.

use std::io::{self, ErrorKind};
use std::rc::Rc;

use bytes::Bytes;
use corelog_runtime::driver::Cached;
use corelog_runtime::{BLOCK_BYTES, File, FileHandle, Rt};

use crate::fill::{self, fill, fill_ahead, segment_error};
use crate::log::{FileRange, ReadError};
use crate::shard::ShardStorage;

/// Largest direct read.
const WINDOW_BYTES: usize = fill::WINDOW_BYTES as usize;
/// Pages and windows waited for at most before a caller is given what is there.
const WARM_READS_MAX: usize = 64;

fn check(range: &FileRange) -> Result<(), ReadError> {
    if range.generation == range.segment.generation() {
        Ok(())
    } else {
        Err(ReadError::Stale)
    }
}

/// Bytes left of the range at file position `at`, at most `max`; 0 outside of it.
fn bytes_left(range: &FileRange, at: u64, max: usize) -> usize {
    let end = range.position + range.len as u64;
    if at < range.position {
        0
    } else {
        (end.saturating_sub(at)).min(max as u64) as usize
    }
}

/// Reads bytes of a range from file position `at` on: at most `max`, and at most one window, but
/// at least one byte inside the range. Direct, into pool memory; waits for the shard's cold-read
/// budget. `Stale` when the range was cut off meanwhile.
pub async fn read_range(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    range: &FileRange,
    at: u64,
    max: usize,
) -> Result<Bytes, ReadError> {
    check(range)?;
    let skip = (at % BLOCK_BYTES as u64) as usize;
    let len = bytes_left(range, at, max).min(WINDOW_BYTES - skip);
    if len == 0 {
        return Ok(Bytes::new());
    }
    let aligned = (skip + len).next_multiple_of(BLOCK_BYTES);
    let _permit = shard
        .cold_reads
        .acquire(aligned.min(shard.limits().cold_read_bytes))
        .await;
    let base = range.segment.base_offset();
    let opened = range.segment.reader(rt).await;
    check(range)?;
    let opened = opened.map_err(|error| match error.kind() {
        // Nobody held it open when its name went.
        ErrorKind::NotFound => ReadError::Stale,
        _ => segment_error(shard, &range.segment, &error),
    })?;
    let file = File::from_handle(rt, opened);
    let (result, buf) = file
        .read_at(rt.pool().get(aligned), at - skip as u64, aligned)
        .await;
    let read = result.map_err(|error| segment_error(shard, &range.segment, &error))?;
    check(range)?;
    if read < skip + len {
        return Err(ReadError::Corrupt(
            format!("segment {base} ends before byte {}", at + len as u64).into(),
        ));
    }
    shard.count(|c| c.cold_read_bytes += len as u64);
    Ok(buf.freeze().slice(skip..skip + len))
}

/// The error of a sendfile that failed for the file's sake: told to the directory's guard.
pub fn sendfile_failed(shard: &ShardStorage, range: &FileRange, error: &io::Error) -> ReadError {
    segment_error(shard, &range.segment, error)
}

/// Prepares a sendfile of a sealed range from `at` on: gives the buffered descriptor and how many
/// bytes (at most `max`) are in the page cache, after bringing missing windows in through the ring,
/// under the cold-read budget. Readers of the same window share its read; a reader in the second
/// half of a window has the next one brought in. `None` when the segment is still active, or was
/// deleted and its name is gone, or where the file system cannot say what is cached
/// ([`ShardStorage::can_sendfile`] is false from then on): read it with [`read_range`].
pub async fn warm_range(
    rt: &Rt,
    shard: &Rc<ShardStorage>,
    range: &FileRange,
    at: u64,
    max: usize,
) -> Result<Option<(FileHandle, usize)>, ReadError> {
    check(range)?;
    if !range.segment.is_sendable() {
        return Ok(None);
    }
    let io = |error| segment_error(shard, &range.segment, &error);
    let handle = match range.segment.buffered(rt).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        handle => handle.map_err(io)?,
    };
    let len = bytes_left(range, at, max);
    let window = at / WINDOW_BYTES as u64;
    if at % WINDOW_BYTES as u64 >= WINDOW_BYTES as u64 / 2 {
        fill_ahead(rt, shard, &range.segment, &handle, window + 1);
    }
    let mut ready = 0;
    let mut filled = None;
    for _ in 0..WARM_READS_MAX {
        let cached = match rt.is_cached(&handle, at, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                shard.refuse_sendfile();
                return Ok(None);
            }
            cached => cached.map_err(io)?,
        };
        match cached {
            Cached::All => {
                ready = len;
                break;
            }
            Cached::MissingAt(missing) => {
                ready = missing.saturating_sub(at) as usize;
                let window = missing / WINDOW_BYTES as u64;
                if filled.replace(window) != Some(window) {
                    fill(rt, shard, &range.segment, &handle, window).await?;
                    continue;
                }
                // A page that is still on its way, or was taken again.
                let _permit = shard
                    .cold_reads
                    .acquire(BLOCK_BYTES.min(shard.limits().cold_read_bytes))
                    .await;
                let file = File::from_handle(rt, handle.clone());
                let (result, _) = file.read_at(rt.pool().get(1), missing, 1).await;
                result.map_err(io)?;
            }
        }
    }
    check(range)?;
    Ok(Some((handle, ready.min(len))))
}
