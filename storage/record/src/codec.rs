//! The five codecs of a batch payload: none, gzip, snappy, lz4, zstd.
//!
//! What each stream looks like on the wire, as Kafka's clients write and read it:
//! - gzip: one or more members, one after the other.
//! - snappy: xerial framing (a 16-byte header that begins with `0x82 SNAPPY 0`, then blocks of `u32
//!   length, raw snappy`), or one raw snappy block without framing.
//! - lz4: one LZ4 frame with independent blocks. Dependent blocks are refused, as Kafka refuses
//!   them.
//! - zstd: one or more frames, window up to 2^27 bytes.
//!
//! Decompression always has a limit on the bytes it makes; input that would exceed it costs no more
//! than the limit. What it holds meanwhile is bounded by a multiple of the input, and told beforehand
//! by [`memory_bytes`].

mod compressor;
mod lz4;
mod memory;
mod zstd_frames;

pub use compressor::Compressor;
use lz4::Lz4Reader;
pub use memory::memory_bytes;
use std::fmt;
use std::io::{self, Read, Write};
use zstd_frames::ZstdReader;

/// Largest zstd window that is accepted, as a power of two; what Kafka's library accepts by
/// default.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// First bytes of the xerial snappy framing.
pub const SNAPPY_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Bytes of the xerial header: magic, version (u32), lowest compatible version (u32).
const SNAPPY_HEADER_BYTES: usize = 16;
/// Block size that xerial framing is written with.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// A snappy copy element of three bytes yields at most 64; no block expands by more.
const SNAPPY_EXPANSION_MAX: usize = 22;

/// A compression codec, by Kafka's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// Uncompressed.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// snappy.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Codec {
    /// All codecs, by id.
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    /// The codec with this id in the attributes of a batch.
    #[inline]
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(id)).copied()
    }

    /// The id in the attributes of a batch.
    #[inline]
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec with this name; `uncompressed` is Kafka's other word for `none`.
    pub fn from_name(name: &str) -> Option<Codec> {
        if name == "uncompressed" {
            return Some(Codec::None);
        }
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a payload did not decompress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodecError {
    /// The output would be larger than allowed.
    LimitExceeded {
        /// The limit.
        limit_bytes: usize,
    },
    /// The bytes are not a whole, valid stream of the codec.
    Corrupt {
        /// The codec.
        codec: Codec,
        /// What the decoder said.
        reason: String,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::LimitExceeded { limit_bytes } => {
                write!(f, "the records decompress to more than {limit_bytes} bytes")
            }
            CodecError::Corrupt { codec, reason } => {
                write!(f, "the records do not decompress as {codec}: {reason}")
            }
        }
    }
}

impl std::error::Error for CodecError {}

/// Compresses `bytes`. `level` is gzip's 1 to 9 or zstd's -131072 to 22, clamped; `None` is the
/// codec's default (6 and 3). Snappy (xerial framing) and lz4 (64 KiB independent blocks) have one
/// level.
pub fn compress(codec: Codec, level: Option<i32>, bytes: &[u8]) -> Vec<u8> {
    const IN_MEMORY: &str = "writing to memory does not fail";
    let mut compressor = Compressor::new(codec, level, Vec::new());
    compressor.write_all(bytes).expect(IN_MEMORY);
    compressor.finish().expect(IN_MEMORY)
}

/// Decompresses all of `bytes` into memory; fails when that is more than `limit_bytes`, or the
/// stream is not whole. `Codec::None` copies.
pub fn decompress(codec: Codec, bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, CodecError> {
    let mut decompressor = Decompressor::new(codec, bytes, limit_bytes)?;
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(3).min(limit_bytes).min(1 << 20));
    let mut chunk = [0; 16 * 1024];
    loop {
        match decompressor.read_chunk(&mut chunk)? {
            0 => return Ok(out),
            n => out.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Decompresses a payload piece by piece, so that the whole output is never in memory (a raw snappy
/// block is the exception: it has no smaller unit). Also an [`io::Read`], whose errors carry the
/// [`CodecError`].
pub struct Decompressor<'a> {
    codec: Codec,
    source: Source<'a>,
    limit_bytes: usize,
    produced_bytes: usize,
    ended: bool,
}

enum Source<'a> {
    None(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(SnappyReader<'a>),
    Lz4(Box<Lz4Reader<'a>>),
    Zstd(Box<ZstdReader<'a>>),
}

impl<'a> Decompressor<'a> {
    /// Starts on `bytes`. At most `limit_bytes` will come out; more is an error.
    pub fn new(
        codec: Codec,
        bytes: &'a [u8],
        limit_bytes: usize,
    ) -> Result<Decompressor<'a>, CodecError> {
        let source = match codec {
            Codec::None => Source::None(bytes),
            Codec::Gzip => Source::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            Codec::Snappy => Source::Snappy(SnappyReader::new(bytes, limit_bytes)?),
            Codec::Lz4 => Source::Lz4(Box::new(Lz4Reader::new(bytes)?)),
            Codec::Zstd => Source::Zstd(Box::new(ZstdReader::new(bytes)?)),
        };
        Ok(Decompressor {
            codec,
            source,
            limit_bytes,
            produced_bytes: 0,
            ended: false,
        })
    }

    /// Fills the front of `out` and tells how much; 0 is the end of the stream (or an empty `out`).
    /// After an error the stream is over.
    pub fn read_chunk(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        if self.ended || out.is_empty() {
            return Ok(0);
        }
        let left = self.limit_bytes - self.produced_bytes;
        let result = if left == 0 {
            // One byte more tells the end of the stream from the end of the limit.
            match self.read_source(&mut [0]) {
                Ok(0) => Ok(0),
                Ok(_) => Err(CodecError::LimitExceeded {
                    limit_bytes: self.limit_bytes,
                }),
                Err(e) => Err(e),
            }
        } else {
            let room = left.min(out.len());
            self.read_source(&mut out[..room])
        };
        match result {
            Ok(0) | Err(_) => self.ended = true,
            Ok(n) => self.produced_bytes += n,
        }
        result
    }

    /// Bytes given out so far.
    pub fn produced_bytes(&self) -> usize {
        self.produced_bytes
    }

    fn read_source(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        let codec = self.codec;
        match &mut self.source {
            Source::None(bytes) => bytes.read(out).map_err(|e| corrupt(codec, e)),
            Source::Gzip(decoder) => decoder.read(out).map_err(|e| corrupt(codec, e)),
            Source::Snappy(reader) => reader.read(out),
            Source::Lz4(reader) => reader.read(out),
            Source::Zstd(reader) => reader.read(out),
        }
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read_chunk(out)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn corrupt(codec: Codec, reason: impl ToString) -> CodecError {
    CodecError::Corrupt {
        codec,
        reason: reason.to_string(),
    }
}

/// Reads xerial framing or one raw block, one block in memory at a time.
struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    decoder: snap::raw::Decoder,
    block: Vec<u8>,
    block_position: usize,
    /// What the limit leaves for blocks to come.
    left_bytes: usize,
    limit_bytes: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(bytes: &'a [u8], limit_bytes: usize) -> Result<SnappyReader<'a>, CodecError> {
        let framed = bytes.starts_with(&SNAPPY_MAGIC);
        if framed && bytes.len() < SNAPPY_HEADER_BYTES {
            return Err(corrupt(Codec::Snappy, "the framing header is not whole"));
        }
        Ok(SnappyReader {
            rest: if framed {
                &bytes[SNAPPY_HEADER_BYTES..]
            } else {
                bytes
            },
            framed,
            decoder: snap::raw::Decoder::new(),
            block: Vec::new(),
            block_position: 0,
            left_bytes: limit_bytes,
            limit_bytes,
        })
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        while self.block_position == self.block.len() {
            let Some(compressed) = self.next_block()? else {
                return Ok(0);
            };
            self.decompress_block(compressed)?;
        }
        let ready = &self.block[self.block_position..];
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.block_position += n;
        Ok(n)
    }

    fn next_block(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        if !self.framed {
            let block = std::mem::take(&mut self.rest);
            return Ok((!block.is_empty()).then_some(block));
        }
        // Streams may be concatenated; each begins with the framing header.
        while self.rest.starts_with(&SNAPPY_MAGIC) {
            self.rest = self
                .rest
                .get(SNAPPY_HEADER_BYTES..)
                .ok_or_else(|| corrupt(Codec::Snappy, "the framing header is not whole"))?;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (len, rest) = self
            .rest
            .split_first_chunk::<4>()
            .ok_or_else(|| corrupt(Codec::Snappy, "a block length is not whole"))?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, rest) = rest
            .split_at_checked(len)
            .ok_or_else(|| corrupt(Codec::Snappy, "a block is not whole"))?;
        self.rest = rest;
        Ok(Some(block))
    }

    fn decompress_block(&mut self, compressed: &[u8]) -> Result<(), CodecError> {
        let len = snap::raw::decompress_len(compressed).map_err(|e| corrupt(Codec::Snappy, e))?;
        // Both checks come before the allocation.
        if len > self.left_bytes {
            return Err(CodecError::LimitExceeded {
                limit_bytes: self.limit_bytes,
            });
        }
        if len > compressed.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
            return Err(corrupt(
                Codec::Snappy,
                "a block declares more bytes than it can hold",
            ));
        }
        self.left_bytes -= len;
        self.block.resize(len, 0);
        self.block_position = 0;
        self.decoder
            .decompress(compressed, &mut self.block)
            .map_err(|e| corrupt(Codec::Snappy, e))?;
        Ok(())
    }
}
