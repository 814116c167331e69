//! Sending a Fetch answer: header bytes from memory, record bytes looked up when the socket can
//! take them, at most [`CHUNK_BYTES`] at a time.
//!
//! In this order: slices of the buffers that were written; sendfile, for sealed files whose pages
//! are cached; direct reads on the ring. Files are held while a client is slow; buffers are not,
//! beyond the one chunk in flight. If a promised byte is gone the connection ends, because the
//! length of the answer is final.

use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use corelog_net::fetch::Part;
use corelog_runtime::File;
use corelog_runtime::driver::{Cached, FileHandle, SocketHandle};
use corelog_storage::cold::read_range;
use corelog_storage::log::ReadError;

use super::fetch::RangeRef;
use crate::shard::Shard;
use crate::shard::message::{Request, Response};
use crate::stats::FetchPath;

/// Most bytes looked up before the socket took the ones before.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Why an answer could not be sent whole.
#[derive(Debug)]
pub enum SendError {
    /// The socket failed.
    Io(io::Error),
    /// Bytes that the header promised are gone or cannot be read.
    Promised(ReadError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Promised(error) => write!(f, "promised bytes: {error}"),
        }
    }
}

/// Bytes that wait for the next send.
struct Pending<'a> {
    shard: &'a Shard,
    socket: &'a SocketHandle,
    bufs: Vec<Bytes>,
    bytes: usize,
}

impl Pending<'_> {
    fn push(&mut self, buf: Bytes) {
        self.bytes += buf.len();
        self.bufs.push(buf);
    }

    async fn send(&mut self, more: bool) -> Result<(), SendError> {
        if self.bufs.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let bufs = std::mem::take(&mut self.bufs);
        self.shard
            .rt
            .send(self.socket, bufs, more)
            .await
            .map_err(SendError::Io)
    }
}

/// Sends all parts of one answer.
pub async fn send(
    shard: &Rc<Shard>,
    socket: &SocketHandle,
    parts: Vec<Part<RangeRef>>,
) -> Result<(), SendError> {
    let mut pending = Pending {
        shard,
        socket,
        bufs: Vec::new(),
        bytes: 0,
    };
    for part in parts {
        match part {
            Part::Bytes(bytes) => pending.push(bytes),
            Part::Records(range, len) => send_range(shard, &mut pending, &range, len).await?,
        }
    }
    pending.send(false).await
}

async fn send_range(
    shard: &Rc<Shard>,
    pending: &mut Pending<'_>,
    range: &RangeRef,
    len: usize,
) -> Result<(), SendError> {
    let mut at = 0;
    // Once a sealed range has left the tail cache, the rest of it is not asked for again.
    let mut in_tail = true;
    while at < len {
        if pending.bytes >= CHUNK_BYTES {
            pending.send(true).await?;
        }
        let max = (len - at).min(CHUNK_BYTES);
        let slices = if in_tail {
            lookup_tail(shard, range, at as u64, max).await
        } else {
            None
        };
        if let Some(slices) = slices {
            let got: usize = slices.iter().map(Bytes::len).sum();
            shard.stats.count_fetch_bytes(FetchPath::Tail, got);
            slices.into_iter().for_each(|slice| pending.push(slice));
            at += got;
        } else if range.range.segment.sealed() {
            in_tail = false;
            pending.send(true).await?;
            send_sealed(shard, pending.socket, range, at, max).await?;
            at += max;
        } else {
            let bytes = read_range(&shard.rt, &shard.storage, &range.range, at as u64, max).await;
            let bytes = bytes.map_err(SendError::Promised)?;
            shard.stats.count_fetch_bytes(FetchPath::Ring, bytes.len());
            at += bytes.len();
            pending.push(bytes);
        }
    }
    Ok(())
}

/// Slices of the written buffers, from the shard that owns them; never empty.
async fn lookup_tail(
    shard: &Rc<Shard>,
    range: &RangeRef,
    at: u64,
    max: usize,
) -> Option<Vec<Bytes>> {
    let found = if range.owner == shard.id() {
        let partition = shard.partition(&range.key).ok()?;
        partition.log.lookup_tail(&range.range, at, max)
    } else {
        let request = Request::LookupTail {
            key: range.key,
            range: range.range.clone(),
            at,
            max,
        };
        match shard.call(range.owner, request).await {
            Some(Response::Tail(found)) => found,
            _ => None,
        }
    };
    found.filter(|slices| slices.iter().any(|slice| !slice.is_empty()))
}

/// sendfile of part of a sealed file: pages that are not cached are brought in on the ring first,
/// so that sendfile never waits for the disk.
async fn send_sealed(
    shard: &Rc<Shard>,
    socket: &SocketHandle,
    range: &RangeRef,
    at: usize,
    len: usize,
) -> Result<(), SendError> {
    let segment = &range.range.segment;
    let promised = |error: io::Error| SendError::Promised(ReadError::Io(error.to_string().into()));
    let file = segment.buffered(&shard.rt).await.map_err(promised)?;
    let mut position = range.range.position + at as u64;
    let end = position + len as u64;
    while position < end {
        if segment.generation() != range.range.generation {
            return Err(SendError::Promised(ReadError::Stale));
        }
        let left = (end - position) as usize;
        match shard
            .rt
            .is_cached(&file, position, left)
            .map_err(promised)?
        {
            Cached::All => {}
            Cached::MissingAt(missing) => {
                read_page(shard, &file, missing).await?;
                continue;
            }
        }
        match shard.rt.send_file(socket, &file, position, left) {
            Ok(0) => {
                return Err(SendError::Promised(ReadError::Corrupt(
                    "the file ends early".into(),
                )));
            }
            Ok(sent) => {
                shard.stats.count_fetch_bytes(FetchPath::Sendfile, sent);
                position += sent as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shard
                    .rt
                    .poll_writable(socket)
                    .await
                    .map_err(SendError::Io)?;
            }
            Err(error) => return Err(SendError::Io(error)),
        }
        shard.rt.yield_if_needed().await;
    }
    Ok(())
}

/// Brings the page at `position` into the page cache, with the kernel's read-ahead after it.
async fn read_page(shard: &Rc<Shard>, file: &FileHandle, position: u64) -> Result<(), SendError> {
    let buf = shard.rt.pool().get(1);
    let file = File::from_handle(&shard.rt, file.clone());
    let (result, _) = file.read_at(buf, position, 1).await;
    match result {
        Ok(1) => Ok(()),
        Ok(_) => Err(SendError::Promised(ReadError::Corrupt(
            "the file ends early".into(),
        ))),
        Err(error) => Err(SendError::Promised(ReadError::Io(error.to_string().into()))),
    }
}
