//! The write buffer of one segment file: what is appended, what is handed to the kernel, what is
//! written. No I/O here: it says which writes may start, and is told which ended.
//!
//! Bytes handed to the kernel are frozen until their completion. An append that arrives meanwhile
//! begins a new *region*: it starts with a copy of the frozen partial block, at the next block
//! boundary of the same chunk. No two writes in flight share a block, and a rewrite of a block
//! repeats its written bytes exactly, so that a torn rewrite, each sector old or new, cannot harm
//! what was flushed.

use std::collections::VecDeque;

use bytes::Bytes;
use corelog_runtime::buf::{BLOCK_BYTES, BufferPool, ChunkWriter};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Smallest and largest chunk.
const CHUNK_BYTES_MIN: usize = 16 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// From this much pending data on, the partial last block is written by itself, so that later
/// appends wait for it alone and whole buffers go in parallel.
const SPLIT_BYTES: u64 = 256 << 10;

pub(crate) fn align_down(position: u64) -> u64 {
    position - position % BLOCK
}

pub(crate) fn align_up(position: u64) -> u64 {
    position.next_multiple_of(BLOCK)
}

/// A write in flight, in file order.
#[derive(Debug)]
struct Flight {
    id: u64,
    /// Bytes below were pending before it.
    data_start: u64,
    data_end: u64,
    /// Offset reached when this and all before it are done; only on the last of a set.
    end_offset: Option<i64>,
    dsync: bool,
    done: bool,
}

/// A write to be started now.
#[derive(Debug)]
pub(crate) struct WriteOut {
    pub id: u64,
    /// Block-aligned file position.
    pub position: u64,
    /// Whole blocks.
    pub bufs: Vec<Bytes>,
    /// Bytes of `bufs`.
    pub bytes: u64,
}

/// Writes that may start together, and what they add to the file.
#[derive(Debug)]
pub(crate) struct WriteSet {
    pub writes: Vec<WriteOut>,
    /// File position of the first new byte: the begin of a batch.
    pub data_start: u64,
    /// The new bytes, in order, without padding; for readers.
    pub data: Vec<Bytes>,
    /// Its first block was written before and begins with the same bytes.
    pub merges_tail_block: bool,
    pub dsync: bool,
}

/// Write buffer of one segment file.
///
/// Positions: `flushed <= written <= dispatched <= append`. `append` runs ahead of the disk,
/// `dispatched` is what writes in flight will reach, `written` their contiguous completed prefix.
#[derive(Debug)]
pub(crate) struct TailWriter {
    chunk: Option<ChunkWriter>,
    /// Chunk offset and file position at which the current region begins; both block aligned.
    region_chunk: usize,
    region_file: u64,
    /// Full buffers before the current region that no write has taken, contiguous.
    pieces: VecDeque<(u64, Bytes)>,
    /// Bytes of the partial last block while there is no chunk.
    partial: Vec<u8>,
    append_pos: u64,
    dispatched_pos: u64,
    written_pos: u64,
    written_offset: i64,
    /// Where the batch ends that ends at `written_offset`.
    written_offset_pos: u64,
    flushed_pos: u64,
    flushed_offset: i64,
    /// Bytes below are flushed or under a RWF_DSYNC write.
    durable_frontier: u64,
    in_flight: VecDeque<Flight>,
    next_id: u64,
    chunk_bytes: usize,
    /// The partial block as last handed to the kernel, to check its rewrite.
    last_block: Option<Bytes>,
}

impl TailWriter {
    /// A file that holds `end` bytes up to `end_offset`, all of them flushed; `partial` are the
    /// bytes of its unfinished last block.
    pub fn new(end: u64, end_offset: i64, partial: Vec<u8>) -> Self {
        assert_eq!(
            end % BLOCK,
            partial.len() as u64,
            "the partial block is what lies past the last whole one"
        );
        Self {
            chunk: None,
            region_chunk: 0,
            region_file: align_down(end),
            pieces: VecDeque::new(),
            partial,
            append_pos: end,
            dispatched_pos: end,
            written_pos: end,
            written_offset: end_offset,
            written_offset_pos: end,
            flushed_pos: end,
            flushed_offset: end_offset,
            durable_frontier: end,
            in_flight: VecDeque::new(),
            next_id: 0,
            chunk_bytes: CHUNK_BYTES_MIN,
            last_block: None,
        }
    }

    pub fn append_pos(&self) -> u64 {
        self.append_pos
    }

    /// Where the batch ends that ends at [`TailWriter::written_offset`].
    pub fn written_offset_pos(&self) -> u64 {
        self.written_offset_pos
    }

    pub fn written_offset(&self) -> i64 {
        self.written_offset
    }

    pub fn flushed_offset(&self) -> i64 {
        self.flushed_offset
    }

    pub fn has_pending(&self) -> bool {
        self.dispatched_pos < self.append_pos
    }

    /// Everything appended is written.
    pub fn is_settled(&self) -> bool {
        self.written_pos == self.append_pos
    }

    pub fn has_writes_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Appends bytes; they are one batch, or the pieces of one.
    pub fn append(&mut self, pool: &BufferPool, parts: &[&[u8]]) {
        let mut left: usize = parts.iter().map(|p| p.len()).sum();
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                self.make_room(pool, left);
                let chunk = self.chunk.as_mut().expect("make_room leaves a chunk");
                let n = part.len().min(chunk.remaining());
                chunk.append(&part[..n]);
                self.append_pos += n as u64;
                left -= n;
                part = &part[n..];
            }
        }
    }

    /// Leaves a chunk that takes at least one byte at `append_pos`.
    fn make_room(&mut self, pool: &BufferPool, want: usize) {
        let tail = (self.append_pos % BLOCK) as usize;
        let Some(chunk) = self.chunk.as_mut() else {
            let partial = std::mem::take(&mut self.partial);
            self.begin_chunk(pool, want, &partial);
            return;
        };
        if chunk.is_frozen() {
            // The write in flight took all there was: the new region holds its partial block and
            // what is to come.
            debug_assert_eq!(self.dispatched_pos, self.append_pos);
            let copy = chunk.slice(chunk.filled() - tail, chunk.filled());
            chunk.skip_to_block();
            if chunk.remaining() > tail {
                self.region_chunk = chunk.filled();
                self.region_file = align_down(self.append_pos);
                chunk.append(&copy);
            } else {
                self.begin_chunk(pool, want, &copy);
            }
        } else if chunk.remaining() == 0 {
            if self.dispatched_pos < self.append_pos {
                let start = align_down(self.dispatched_pos).max(self.region_file);
                let at = self.region_chunk + (start - self.region_file) as usize;
                self.pieces
                    .push_back((start, chunk.slice(at, chunk.filled())));
            }
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
            self.begin_chunk(pool, want, &[]);
        }
    }

    fn begin_chunk(&mut self, pool: &BufferPool, want: usize, partial: &[u8]) {
        let bytes = (want + partial.len()).clamp(self.chunk_bytes, CHUNK_BYTES_MAX);
        let mut chunk = ChunkWriter::new(pool, bytes);
        chunk.append(partial);
        self.region_chunk = 0;
        self.region_file = align_down(self.append_pos);
        self.chunk = Some(chunk);
    }

    /// What may be written now: everything pending, unless its first block is under a write.
    /// `end_offset` is the offset that `append_pos` stands for; `want_dsync` asks for writes that
    /// are durable by themselves, granted when all before them is durable or about to be, and the
    /// file's size up to `durable_len` is.
    pub fn take_writes(
        &mut self,
        end_offset: i64,
        want_dsync: bool,
        durable_len: u64,
    ) -> Option<WriteSet> {
        if !self.has_pending() {
            return None;
        }
        let start = align_down(self.dispatched_pos);
        let shares_block = start != self.dispatched_pos;
        if shares_block
            && self
                .in_flight
                .iter()
                .any(|f| !f.done && align_up(f.data_end) > start)
        {
            return None;
        }
        let data_start = self.dispatched_pos;
        let dsync = want_dsync
            && self.durable_frontier.max(self.flushed_pos) >= data_start
            && durable_len >= align_up(self.append_pos);
        let mut spans: Vec<(u64, u64, Bytes)> = Vec::new();
        while let Some((at, bytes)) = self.pieces.pop_front() {
            spans.push((at, at + bytes.len() as u64, bytes));
        }
        self.take_region(start, &mut spans);
        let data = self.data_of(data_start, &spans);
        self.check_rewrite(shares_block, &spans);
        let mut writes = Vec::with_capacity(spans.len());
        let count = spans.len();
        for (i, (at, end, bytes)) in spans.into_iter().enumerate() {
            let id = self.next_id;
            self.next_id += 1;
            let last = i + 1 == count;
            self.in_flight.push_back(Flight {
                id,
                data_start: at.max(data_start),
                data_end: end,
                end_offset: last.then_some(end_offset),
                dsync,
                done: false,
            });
            writes.push(WriteOut {
                id,
                position: at,
                bytes: bytes.len() as u64,
                bufs: vec![bytes],
            });
        }
        self.dispatched_pos = self.append_pos;
        if dsync {
            self.durable_frontier = self.append_pos;
        }
        Some(WriteSet {
            writes,
            data_start,
            data,
            merges_tail_block: shares_block,
            dsync,
        })
    }

    /// Adds the current region's pending part, as one span or as whole blocks and the last one.
    fn take_region(&mut self, start: u64, spans: &mut Vec<(u64, u64, Bytes)>) {
        let Some(chunk) = self.chunk.as_mut() else {
            return;
        };
        let from = start.max(self.region_file);
        if from >= self.append_pos {
            return;
        }
        let at = self.region_chunk + (from - self.region_file) as usize;
        let whole_end = align_down(self.append_pos);
        if self.append_pos - start >= SPLIT_BYTES && whole_end > from && whole_end < self.append_pos
        {
            let whole = (whole_end - from) as usize;
            spans.push((from, whole_end, chunk.slice(at, at + whole)));
            spans.push((whole_end, self.append_pos, chunk.write_slice(at + whole)));
        } else {
            spans.push((from, self.append_pos, chunk.write_slice(at)));
        }
    }

    /// Unpadded, unfrozen slices of the new bytes: a reader that holds them blocks no append.
    fn data_of(&self, data_start: u64, spans: &[(u64, u64, Bytes)]) -> Vec<Bytes> {
        let mut data: Vec<Bytes> = Vec::with_capacity(spans.len());
        for (at, end, bytes) in spans {
            let skip = data_start.saturating_sub(*at);
            if let Some(chunk) = self.chunk.as_ref().filter(|_| *at >= self.region_file) {
                let from = self.region_chunk + (at + skip - self.region_file) as usize;
                data.push(chunk.slice(from, from + (end - at - skip) as usize));
            } else {
                data.push(bytes.slice(skip as usize..(end - at) as usize));
            }
        }
        data
    }

    /// A block written before must begin with the very bytes it had.
    fn check_rewrite(&mut self, shares_block: bool, spans: &[(u64, u64, Bytes)]) {
        let last = self.last_block.take();
        if let (true, Some(last), Some((_, _, first))) = (shares_block, last, spans.first()) {
            assert!(
                first.starts_with(&last),
                "the rewrite of a block changes bytes already written"
            );
        }
        let tail = (self.append_pos % BLOCK) as usize;
        if let (true, Some(chunk)) = (tail > 0, self.chunk.as_ref()) {
            self.last_block = Some(chunk.slice(chunk.filled() - tail, chunk.filled()));
        }
    }

    /// A write ended well. Returns true when `written` moved.
    pub fn on_written(&mut self, id: u64) -> bool {
        if let Some(flight) = self.in_flight.iter_mut().find(|f| f.id == id) {
            flight.done = true;
        }
        let before = self.written_offset;
        while let Some(front) = self.in_flight.front().filter(|f| f.done) {
            self.written_pos = front.data_end;
            let is_durable = front.dsync && self.flushed_pos >= front.data_start;
            if is_durable {
                self.flushed_pos = front.data_end;
            }
            if let Some(offset) = front.end_offset {
                self.written_offset = offset;
                self.written_offset_pos = front.data_end;
                if is_durable {
                    self.flushed_offset = offset;
                }
            }
            self.in_flight.pop_front();
        }
        before != self.written_offset
    }

    /// What an fdatasync submitted now covers: hand it to [`TailWriter::on_flushed`] at its end.
    pub fn flush_target(&self) -> (u64, i64) {
        (self.written_pos, self.written_offset)
    }

    /// An fdatasync ended well.
    pub fn on_flushed(&mut self, (position, offset): (u64, i64)) {
        self.flushed_pos = self.flushed_pos.max(position);
        self.flushed_offset = self.flushed_offset.max(offset);
    }

    /// Gives the buffers back when nothing is pending or in flight; the partial block stays.
    pub fn release_memory(&mut self) {
        if self.has_pending() || self.has_writes_in_flight() {
            return;
        }
        let tail = (self.append_pos % BLOCK) as usize;
        if let Some(chunk) = self.chunk.take() {
            self.partial = chunk.slice(chunk.filled() - tail, chunk.filled()).to_vec();
        }
        self.last_block = None;
        self.chunk_bytes = CHUNK_BYTES_MIN;
    }
}
