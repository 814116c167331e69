//! Reads a segment file batch by batch, through one window of aligned memory. Nothing that it
//! reads is trusted: lengths are bounded by the file, CRCs are computed piece by piece.

use std::io;

use corelog_record::batch::{ATTRIBUTES_OFFSET, BatchHeader, Crc32c, HEADER_BYTES, MAGIC_OFFSET};
use corelog_runtime::{BLOCK_BYTES, File, Rt};

use crate::log::writer::align_down;

/// Window of a scan of whole files.
pub(crate) const SCAN_BYTES: usize = 256 << 10;
/// Window of a look-up.
pub(crate) const LOOKUP_BYTES: usize = 16 << 10;
/// CRCs computed at most in search of a batch behind a bad one.
const CANDIDATES_MAX: u32 = 10_000;

/// What stands at a position.
#[derive(Debug)]
pub(crate) enum Found {
    /// A header whose batch lies inside the file; its CRC is not checked.
    Batch(BatchHeader),
    /// The end of the file.
    End,
    /// No batch, and why not.
    Bad(String),
}

/// What follows a bad batch.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// End of the last byte that is not zero; 0 when there is none.
    pub data_end: u64,
    /// A whole batch with a right CRC begins in it.
    pub has_batch: bool,
}

/// Reads one file of a known length.
pub(crate) struct Scanner {
    rt: Rt,
    file: File,
    len: u64,
    window: Vec<u8>,
    window_start: u64,
    window_bytes: usize,
    pub bytes_read: u64,
}

impl Scanner {
    pub fn new(rt: &Rt, file: File, len: u64, window_bytes: usize) -> Scanner {
        let (rt, window) = (rt.clone(), Vec::new());
        Scanner {
            rt,
            file,
            len,
            window,
            window_start: 0,
            window_bytes,
            bytes_read: 0,
        }
    }

    /// At least `min` bytes from `position` on (at most half a window), fewer only at the end.
    async fn bytes(&mut self, position: u64, min: usize) -> io::Result<&[u8]> {
        let end = (position + min as u64).min(self.len);
        let has =
            position >= self.window_start && end <= self.window_start + self.window.len() as u64;
        if !has {
            let start = align_down(position);
            let len = (self.len.saturating_sub(start)).min(self.window_bytes as u64);
            let aligned = len.next_multiple_of(BLOCK_BYTES as u64) as usize;
            let buf = self.rt.pool().get(aligned);
            let (result, buf) = self.file.read_at(buf, start, aligned).await;
            let read = result?.min(len as usize);
            self.bytes_read += read as u64;
            self.window.clear();
            self.window.extend_from_slice(&buf[..read]);
            self.window_start = start;
        }
        let at = (position.saturating_sub(self.window_start) as usize).min(self.window.len());
        let to = ((self.len - self.window_start) as usize).min(self.window.len());
        Ok(&self.window[at..to.max(at)])
    }

    /// The header at `position`.
    pub async fn header(&mut self, position: u64) -> io::Result<Found> {
        if position >= self.len {
            return Ok(Found::End);
        }
        let left = self.len - position;
        let bytes = self.bytes(position, HEADER_BYTES).await?;
        Ok(match BatchHeader::parse(bytes) {
            Err(error) => Found::Bad(error.to_string()),
            Ok(header) if header.size_bytes() as u64 > left => Found::Bad(format!(
                "the batch has {} bytes, the file {left} more",
                header.size_bytes()
            )),
            Ok(header) => match implausible(&header) {
                Some(why) => Found::Bad(why),
                None => Found::Batch(header),
            },
        })
    }

    /// The header at `position`, if the whole batch is there with a right CRC.
    pub async fn batch(&mut self, position: u64) -> io::Result<Found> {
        let found = self.header(position).await?;
        let Found::Batch(header) = found else {
            return Ok(found);
        };
        let mut crc = Crc32c::new();
        let end = position + header.size_bytes() as u64;
        let mut at = position + ATTRIBUTES_OFFSET as u64;
        while at < end {
            let bytes = self.bytes(at, 1).await?;
            let n = (bytes.len() as u64).min(end - at) as usize;
            if n == 0 {
                return Ok(Found::Bad("the file ends inside the batch".into()));
            }
            crc.update(&bytes[..n]);
            at += n as u64;
            self.rt.yield_if_needed().await;
        }
        let computed = crc.value();
        if computed != header.crc {
            return Ok(Found::Bad(format!(
                "stored CRC {:08x}, computed {computed:08x}",
                header.crc
            )));
        }
        Ok(Found::Batch(header))
    }

    /// The whole batch at `position`.
    pub async fn read(&mut self, position: u64, header: &BatchHeader) -> io::Result<Vec<u8>> {
        let end = position + header.size_bytes() as u64;
        let mut whole = Vec::with_capacity(header.size_bytes());
        while position + (whole.len() as u64) < end {
            let at = position + whole.len() as u64;
            let bytes = self.bytes(at, 1).await?;
            let n = (bytes.len() as u64).min(end - at) as usize;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            whole.extend_from_slice(&bytes[..n]);
        }
        Ok(whole)
    }

    /// Looks through everything behind a bad batch at `position`: is there a later batch, with a
    /// base offset of at least `offset_min`?
    pub async fn rest(&mut self, position: u64, offset_min: i64) -> io::Result<Rest> {
        let mut rest = Rest::default();
        let mut candidates = 0;
        let mut at = position;
        while at < self.len {
            let bytes = self.bytes(at, 1).await?;
            let n = bytes.len();
            if n == 0 {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|&b| b != 0) {
                rest.data_end = at + last as u64 + 1;
            }
            // A batch's magic tells where it may begin.
            let found: Vec<u64> = match rest.has_batch {
                true => Vec::new(),
                false => bytes
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| **b == 2)
                    .map(|(i, _)| at + i as u64)
                    .collect(),
            };
            for magic_at in found {
                let Some(start) = magic_at
                    .checked_sub(MAGIC_OFFSET as u64)
                    .filter(|&s| s > position)
                else {
                    continue;
                };
                let Found::Batch(header) = self.header(start).await? else {
                    continue;
                };
                if header.base_offset < offset_min || candidates == CANDIDATES_MAX {
                    continue;
                }
                candidates += 1;
                if matches!(self.batch(start).await?, Found::Batch(_)) {
                    rest.has_batch = true;
                    break;
                }
            }
            at += n as u64;
            self.rt.yield_if_needed().await;
        }
        Ok(rest)
    }

    /// Copies `[from, to)` into a new file, durably but for its name.
    pub async fn copy_to(&mut self, from: u64, to: u64, out: &File) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let bytes = self.bytes(at, 1).await?;
            let n = (bytes.len() as u64).min(to - at) as usize;
            if n == 0 {
                break;
            }
            let piece = bytes::Bytes::copy_from_slice(&bytes[..n]);
            out.write_at(vec![piece], at - from, false).await?;
            at += n as u64;
        }
        out.fdatasync().await
    }
}

/// A header that no broker writes.
pub(crate) fn implausible(header: &BatchHeader) -> Option<String> {
    if header.base_offset < 0 {
        return Some(format!("base offset {}", header.base_offset));
    }
    if header.last_offset_delta < 0
        || header
            .base_offset
            .checked_add(i64::from(header.last_offset_delta) + 1)
            .is_none()
    {
        return Some(format!("last offset delta {}", header.last_offset_delta));
    }
    if header.records_count < 0 {
        return Some(format!("{} records", header.records_count));
    }
    None
}
