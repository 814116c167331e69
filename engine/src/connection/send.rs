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
use corelog_runtime::driver::SocketHandle;
use corelog_storage::cold::{read_range, warm_range};
use corelog_storage::log::{FileRange, ReadError};

use super::Connection;
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
    connection: &'a Connection,
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
        let socket = &self.connection.socket;
        let sent = self.shard.rt.send(socket, bufs, more).await;
        self.connection.last_used.set(self.shard.rt.now());
        sent.map_err(SendError::Io)
    }
}

/// Sends all parts of one answer.
pub async fn send(
    shard: &Rc<Shard>,
    connection: &Connection,
    parts: Vec<Part<RangeRef>>,
) -> Result<(), SendError> {
    let mut pending = Pending {
        shard,
        connection,
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
    let mut at = range.range.position;
    let end = at + len as u64;
    // Once a sealed range has left the tail cache, the rest of it is not asked for again.
    let mut in_tail = true;
    while at < end {
        if pending.bytes >= CHUNK_BYTES {
            pending.send(true).await?;
        }
        let max = ((end - at) as usize).min(CHUNK_BYTES);
        let slices = if in_tail {
            lookup_tail(shard, range, at, max).await
        } else {
            None
        };
        if let Some(slices) = slices {
            let got: usize = slices.iter().map(Bytes::len).sum();
            shard.stats.count_fetch_bytes(FetchPath::Tail, got);
            slices.into_iter().for_each(|slice| pending.push(slice));
            at += got as u64;
        } else if range.range.segment.sealed() {
            in_tail = false;
            pending.send(true).await?;
            send_sealed(shard, &pending.connection.socket, &range.range, at, max).await?;
            at += max as u64;
        } else {
            let bytes = read_range(&shard.rt, &shard.storage, &range.range, at, max).await;
            let bytes = bytes.map_err(SendError::Promised)?;
            if bytes.is_empty() {
                return Err(SendError::Promised(ReadError::Corrupt(
                    "an empty read inside a range".into(),
                )));
            }
            shard.stats.count_fetch_bytes(FetchPath::Ring, bytes.len());
            at += bytes.len() as u64;
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

/// sendfile of part of a sealed file, from file position `at` on: pages that are not cached are
/// brought in on the ring first, so that sendfile never waits for the disk.
async fn send_sealed(
    shard: &Rc<Shard>,
    socket: &SocketHandle,
    range: &FileRange,
    at: u64,
    len: usize,
) -> Result<(), SendError> {
    let end = at + len as u64;
    let mut at = at;
    while at < end {
        let left = (end - at) as usize;
        let warm = warm_range(&shard.rt, &shard.storage, range, at, left).await;
        let Some((file, ready)) = warm.map_err(SendError::Promised)? else {
            return Err(SendError::Promised(ReadError::Stale)); // a sealed file does not become active again
        };
        if ready == 0 {
            continue;
        }
        match shard.rt.send_file(socket, &file, at, ready) {
            Ok(0) => {
                return Err(SendError::Promised(ReadError::Corrupt(
                    "the file ends early".into(),
                )));
            }
            Ok(sent) => {
                shard.stats.count_fetch_bytes(FetchPath::Sendfile, sent);
                at += sent as u64;
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
