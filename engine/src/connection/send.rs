//! Sending a Fetch answer: header bytes from memory, record bytes looked up when the socket can
//! take them, at most [`CHUNK_BYTES`] at a time.
//!
//! In this order: slices of the buffers that were written; sendfile, for sealed files whose pages
//! are cached; direct reads on the ring. Files are held while a client is slow; buffers are not: they
//! are offered to the socket, and what it does not take is let go until it takes more. If a promised
//! byte is gone the connection ends, because the length of the answer is final.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_net::fetch::Part;
use corelog_runtime::sockets::SEND_BUFS_MAX;
use corelog_storage::cold::{read_range, sendfile_failed, warm_range};
use corelog_storage::guard::is_device_error;
use corelog_storage::log::{FileRange, ReadError};

use super::Connection;
use super::fetch::RangeRef;
use crate::shard::Shard;
use crate::shard::message::{Request, Response};
use crate::stats::FetchPath;

/// Most bytes looked up before the socket took the ones before.
pub const CHUNK_BYTES: usize = 256 << 10;
/// How long bytes read from disk wait for a socket that is full.
const READ_KEPT_MAX: Duration = Duration::from_secs(1);

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

/// Sends all parts of one answer.
pub async fn send(
    shard: &Rc<Shard>,
    connection: &Connection,
    parts: Vec<Part<RangeRef>>,
) -> Result<(), SendError> {
    let mut sender = Sender {
        shard,
        connection,
        parts,
        at: Place::default(),
        in_tail: true,
    };
    loop {
        match sender.gather().await? {
            Step::Send(batch) => sender.send_batch(batch).await?,
            Step::Sendfile(len) => sender.send_sealed(len).await?,
            Step::Done => return Ok(()),
        }
        shard.rt.yield_if_needed().await;
    }
}

/// A byte of the answer: a part, and how many of its bytes lie before.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    part: usize,
    byte: usize,
}

/// Bytes looked up for one send.
#[derive(Default)]
struct Batch {
    bufs: Vec<Bytes>,
    bytes: usize,
    /// Where the record bytes among them come from; never two ways in one batch.
    path: Option<FetchPath>,
    /// The answer goes on after them.
    more: bool,
}

impl Batch {
    fn push(&mut self, buf: Bytes) {
        if !buf.is_empty() {
            self.bytes += buf.len();
            self.bufs.push(buf);
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= CHUNK_BYTES || self.bufs.len() >= SEND_BUFS_MAX
    }
}

/// What comes next.
enum Step {
    Send(Batch),
    /// So many bytes of a sealed file, from the place reached on.
    Sendfile(usize),
    Done,
}

/// An answer on its way, and the place that the socket has reached in it.
struct Sender<'a> {
    shard: &'a Rc<Shard>,
    connection: &'a Connection,
    parts: Vec<Part<RangeRef>>,
    at: Place,
    /// Once a sealed range has left the tail cache, the rest of it is not asked for again.
    in_tail: bool,
}

impl Sender<'_> {
    /// Looks up what the socket is offered next.
    async fn gather(&mut self) -> Result<Step, SendError> {
        let mut batch = Batch::default();
        let mut ahead = self.at;
        while let Some(part) = self.parts.get(ahead.part) {
            if batch.is_full() {
                return Ok(self.offer(batch, ahead));
            }
            let (range, len) = match part {
                Part::Bytes(bytes) => {
                    batch.push(bytes.slice(ahead.byte..));
                    (None, bytes.len())
                }
                Part::Records(range, len) => (Some(range), *len),
            };
            let Some(range) = range.filter(|_| ahead.byte < len) else {
                ahead = Place {
                    part: ahead.part + 1,
                    byte: 0,
                };
                continue;
            };
            let at = range.range.position + ahead.byte as u64;
            let left = (len - ahead.byte).min(CHUNK_BYTES);
            let max = left.min(CHUNK_BYTES.saturating_sub(batch.bytes).max(1));
            let slices = if self.in_tail || ahead.part != self.at.part {
                lookup_tail(self.shard, range, at, max).await
            } else {
                None
            };
            let path = match slices {
                Some(_) => FetchPath::Tail,
                None if range.range.segment.is_sendable() && self.shard.storage.can_sendfile() => {
                    FetchPath::Sendfile
                }
                None => FetchPath::Ring,
            };
            if !batch.bufs.is_empty()
                && (path == FetchPath::Sendfile || batch.path.is_some_and(|p| p != path))
            {
                return Ok(self.offer(batch, ahead));
            }
            batch.path = Some(path);
            let before = batch.bytes;
            match (slices, path) {
                (Some(slices), _) => {
                    let room = SEND_BUFS_MAX - batch.bufs.len();
                    slices.into_iter().take(room).for_each(|s| batch.push(s));
                }
                (None, FetchPath::Sendfile) => {
                    self.in_tail = false;
                    return Ok(Step::Sendfile(left));
                }
                (None, _) => batch.push(self.read(&range.range, at, max).await?),
            }
            ahead.byte += batch.bytes - before;
        }
        Ok(if batch.bufs.is_empty() {
            Step::Done
        } else {
            Step::Send(batch)
        })
    }

    /// A batch that ends at `end`.
    fn offer(&self, mut batch: Batch, end: Place) -> Step {
        let byte_left =
            |(at, part): (usize, &Part<RangeRef>)| part.len() > if at == 0 { end.byte } else { 0 };
        let rest = self.parts.iter().skip(end.part).enumerate();
        batch.more = rest.into_iter().any(byte_left);
        Step::Send(batch)
    }

    async fn read(&self, range: &FileRange, at: u64, max: usize) -> Result<Bytes, SendError> {
        let shard = self.shard;
        let read = read_range(&shard.rt, &shard.storage, range, at, max).await;
        let bytes = read.map_err(SendError::Promised)?;
        if bytes.is_empty() {
            let empty = ReadError::Corrupt("an empty read inside a range".into());
            return Err(SendError::Promised(empty));
        }
        Ok(bytes)
    }

    /// Offers bytes to the socket. When it does not take all of them, they are let go, and are
    /// looked up again once it takes more: a client that does not read holds no buffer of the
    /// tail. What was read from disk is kept for a moment, since reading it again is dear.
    async fn send_batch(&mut self, batch: Batch) -> Result<(), SendError> {
        let (rt, socket) = (&self.shard.rt, &self.connection.socket);
        let mut left = batch.bytes;
        let mut bufs = batch.bufs;
        loop {
            let sent = rt.send_now(socket, bufs, batch.more).await;
            bufs = sent.map_err(SendError::Io)?;
            let rest = bufs.iter().map(Bytes::len).sum();
            self.advance(left - rest, batch.path);
            left = rest;
            if rest == 0 {
                return Ok(());
            }
            if batch.path == Some(FetchPath::Ring) {
                let writable = rt.timeout(READ_KEPT_MAX, rt.poll_writable(socket)).await;
                if let Some(writable) = writable {
                    writable.map_err(SendError::Io)?;
                    continue;
                }
            }
            drop(bufs);
            return rt.poll_writable(socket).await.map_err(SendError::Io);
        }
    }

    /// The socket took so many bytes.
    fn advance(&mut self, mut bytes: usize, path: Option<FetchPath>) {
        if bytes > 0 {
            self.connection.last_used.set(self.shard.rt.now());
        }
        let mut records = 0;
        while let Some(part) = self.parts.get(self.at.part) {
            let taken = bytes.min(part.len() - self.at.byte);
            self.at.byte += taken;
            bytes -= taken;
            if matches!(part, Part::Records(..)) {
                records += taken;
            }
            if self.at.byte < part.len() {
                break;
            }
            self.at = Place {
                part: self.at.part + 1,
                byte: 0,
            };
            self.in_tail = true;
        }
        if let Some(path) = path {
            self.shard.stats.count_fetch_bytes(path, records);
        }
    }

    /// sendfile of part of a sealed file: pages that are not cached are brought in on the ring
    /// first, so that sendfile never waits for the disk.
    async fn send_sealed(&mut self, len: usize) -> Result<(), SendError> {
        let Some(Part::Records(range, _)) = self.parts.get(self.at.part) else {
            return Ok(());
        };
        let range = range.range.clone();
        let (rt, storage) = (&self.shard.rt, &self.shard.storage);
        let socket = &self.connection.socket;
        let mut left = len;
        let mut at = range.position + self.at.byte as u64;
        while left > 0 {
            let warm = warm_range(rt, storage, &range, at, left).await;
            let Some((file, ready)) = warm.map_err(SendError::Promised)? else {
                return Ok(()); // deleted, or refused just now: the rest is read on the ring
            };
            if ready == 0 {
                // Pages that the kernel takes back at once: as long as the client is there.
                if self.connection.closing.get() {
                    return Err(SendError::Io(io::ErrorKind::NotConnected.into()));
                }
                rt.yield_if_needed().await;
                continue;
            }
            match rt.send_file(socket, &file, at, ready) {
                Ok(0) => {
                    let early = ReadError::Corrupt("the file ends early".into());
                    return Err(SendError::Promised(early));
                }
                Ok(sent) => {
                    self.advance(sent, Some(FetchPath::Sendfile));
                    at += sent as u64;
                    left -= sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    rt.poll_writable(socket).await.map_err(SendError::Io)?;
                }
                // No socket says so: the page went between the look and the send, and cannot be read.
                Err(error) if is_device_error(&error) => {
                    let promised = sendfile_failed(storage, &range, &error);
                    return Err(SendError::Promised(promised));
                }
                Err(error) => return Err(SendError::Io(error)),
            }
            rt.yield_if_needed().await;
        }
        Ok(())
    }
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
