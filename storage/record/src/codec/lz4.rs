//! The LZ4 frame format around `lz4_flex`'s blocks.
//!
//! Layout, little-endian: magic, flags, block size, content size (u64, if flagged), one byte of
//! the header's xxHash32; then blocks: `u32 length` (top bit: stored as it is), bytes, checksum if
//! flagged; then the end mark (length 0) and a checksum of the content if flagged. What follows is
//! ignored, as Kafka's reader does; flags that Kafka's reader refuses are refused.
//!
//! A frame header of seven bytes may announce blocks of 4 MiB. Memory is taken for what the bytes
//! of a block can become, not for what the header announces.

use super::{Codec, CodecError, corrupt};
use twox_hash::XxHash32;

/// First bytes of an LZ4 frame.
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// The one format version, in the top bits of the flags.
const VERSION: u8 = 0x40;
const VERSION_MASK: u8 = 0xc0;
const FLAG_INDEPENDENT_BLOCKS: u8 = 0x20;
const FLAG_BLOCK_CHECKSUMS: u8 = 0x10;
const FLAG_CONTENT_SIZE: u8 = 0x08;
const FLAG_CONTENT_CHECKSUM: u8 = 0x04;
const RESERVED_FLAGS: u8 = 0x03;
/// Top bit of a block's length: the block is stored as it is.
const STORED: u32 = 0x8000_0000;
/// No byte of a compressed block becomes more than this many.
pub(super) const EXPANSION_MAX: usize = 255;
/// Largest block of any frame.
pub(super) const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Reads one frame, one block in memory at a time.
pub(super) struct Lz4Reader<'a> {
    rest: &'a [u8],
    block_bytes_max: usize,
    block_checksums: bool,
    content_bytes: Option<u64>,
    content_hash: Option<XxHash32>,
    read_bytes: u64,
    /// The current block is `block[position..end]`; bytes past `end` are of earlier blocks.
    block: Vec<u8>,
    position: usize,
    end: usize,
    ended: bool,
}

fn bad(reason: &str) -> CodecError {
    corrupt(Codec::Lz4, reason)
}

/// Splits `N` bytes off the front.
fn take<'a, const N: usize>(rest: &mut &'a [u8], what: &str) -> Result<&'a [u8; N], CodecError> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(|| bad(what))?;
    *rest = tail;
    Ok(head)
}

impl<'a> Lz4Reader<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Result<Lz4Reader<'a>, CodecError> {
        const SHORT: &str = "the frame header is not whole";
        let mut rest = frame;
        if *take::<4>(&mut rest, SHORT)? != MAGIC {
            return Err(bad("not an LZ4 frame"));
        }
        let descriptor = rest;
        let [flags, sizes] = *take::<2>(&mut rest, SHORT)?;
        if flags & FLAG_INDEPENDENT_BLOCKS == 0 {
            return Err(bad("dependent blocks are not supported"));
        }
        if flags & VERSION_MASK != VERSION || flags & RESERVED_FLAGS != 0 || sizes & 0x8f != 0 {
            return Err(bad("flags that no frame has"));
        }
        let block_bytes_max = match sizes >> 4 {
            size @ 4..=7 => 1 << (8 + 2 * size),
            _ => return Err(bad("a block size that no frame has")),
        };
        let content_bytes = match flags & FLAG_CONTENT_SIZE {
            0 => None,
            _ => Some(u64::from_le_bytes(*take::<8>(&mut rest, SHORT)?)),
        };
        let covered = &descriptor[..descriptor.len() - rest.len()];
        let [stored] = *take::<1>(&mut rest, SHORT)?;
        if stored != (XxHash32::oneshot(0, covered) >> 8) as u8 {
            return Err(bad("the checksum of the frame header is wrong"));
        }
        Ok(Lz4Reader {
            rest,
            block_bytes_max,
            block_checksums: flags & FLAG_BLOCK_CHECKSUMS != 0,
            content_bytes,
            content_hash: (flags & FLAG_CONTENT_CHECKSUM != 0).then(|| XxHash32::with_seed(0)),
            read_bytes: 0,
            block: Vec::new(),
            position: 0,
            end: 0,
            ended: false,
        })
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        while self.position == self.end {
            if self.ended || !self.next_block()? {
                return Ok(0);
            }
        }
        let ready = &self.block[self.position..self.end];
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.position += n;
        Ok(n)
    }

    /// Reads the next block into memory; false at the end mark.
    fn next_block(&mut self) -> Result<bool, CodecError> {
        let length = take::<4>(&mut self.rest, "the frame has no end mark")?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            self.finish()?;
            return Ok(false);
        }
        let len = (length & !STORED) as usize;
        if len > self.block_bytes_max {
            return Err(bad("a block is larger than the frame allows"));
        }
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(bad("a block is not whole"));
        };
        self.rest = rest;
        if self.block_checksums {
            let stored = take::<4>(&mut self.rest, "a block is not whole")?;
            if u32::from_le_bytes(*stored) != XxHash32::oneshot(0, bytes) {
                return Err(bad("the checksum of a block is wrong"));
            }
        }
        self.position = 0;
        self.end = 0;
        let room = match length & STORED {
            0 => len.saturating_mul(EXPANSION_MAX).min(self.block_bytes_max),
            _ => len,
        };
        if self.block.len() < room {
            // Nothing of the old block is needed: not copied while it grows.
            self.block = Vec::new();
            self.block = vec![0; room];
        }
        self.end = match length & STORED {
            0 => lz4_flex::block::decompress_into(bytes, &mut self.block[..room])
                .map_err(|e| corrupt(Codec::Lz4, e))?,
            _ => {
                self.block[..len].copy_from_slice(bytes);
                len
            }
        };
        let content = &self.block[..self.end];
        self.read_bytes += content.len() as u64;
        if let Some(hash) = &mut self.content_hash {
            std::hash::Hasher::write(hash, content);
        }
        Ok(true)
    }

    /// Holds the frame against what it says of its content.
    fn finish(&mut self) -> Result<(), CodecError> {
        self.ended = true;
        if self.content_bytes.is_some_and(|n| n != self.read_bytes) {
            return Err(bad("the frame holds other than the bytes it announces"));
        }
        if let Some(hash) = &self.content_hash {
            let stored = take::<4>(&mut self.rest, "the checksum of the content is not whole")?;
            if u32::from_le_bytes(*stored) != hash.finish_32() {
                return Err(bad("the checksum of the content is wrong"));
            }
        }
        Ok(())
    }
}
