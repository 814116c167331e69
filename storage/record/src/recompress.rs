//! A batch with another codec (`compression.type` of a topic): the same records, byte for byte, in a
//! new payload.
//!
//! Streams from one codec into the other: what is held is the two codecs' state and the new batch,
//! which is given up as soon as it is larger than allowed. So a batch that decompresses to much more
//! than may be stored costs no more than what may be stored.

use crate::batch::{
    ATTRIBUTE_CODEC_MASK, ATTRIBUTES_OFFSET, BatchError, BatchHeader, BatchView, CRC_OFFSET,
    HEADER_BYTES, LENGTH_OFFSET, LOG_OVERHEAD, PARTITION_LEADER_EPOCH_OFFSET, crc32c,
};
use crate::codec::{Codec, CodecError, Compressor, Decompressor};
use std::fmt;
use std::io::{self, Write};

/// Bytes decompressed at a time.
const CHUNK_BYTES: usize = 32 * 1024;

/// What to make of a batch, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompress {
    /// The codec to store it with.
    pub codec: Codec,
    /// Its level; `None` is the codec's default. See [`crate::codec::compress`].
    pub level: Option<i32>,
    /// Most bytes of the new batch, header included (`max.message.bytes`).
    pub batch_bytes_max: usize,
}

/// Why there is no new batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecompressError {
    /// The batch is damaged, or its records are more than was said.
    Batch(BatchError),
    /// With the new codec it is larger than allowed.
    TooLarge {
        /// The bound.
        batch_bytes_max: usize,
    },
}

impl fmt::Display for RecompressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecompressError::Batch(e) => e.fmt(f),
            RecompressError::TooLarge { batch_bytes_max } => write!(
                f,
                "the batch has more than {batch_bytes_max} bytes with the codec of the topic"
            ),
        }
    }
}

impl std::error::Error for RecompressError {}

impl From<BatchError> for RecompressError {
    fn from(e: BatchError) -> RecompressError {
        RecompressError::Batch(e)
    }
}

impl From<CodecError> for RecompressError {
    fn from(e: CodecError) -> RecompressError {
        RecompressError::Batch(e.into())
    }
}

impl Recompress {
    /// The batch, which must have passed validation, with the new codec, its length and CRC made
    /// right. All other fields of the header are kept. Takes as long as the codecs take: not for a
    /// shard's thread.
    ///
    /// `records_bytes` is what its records decompress to: validation has told it.
    pub fn batch(&self, batch: &[u8], records_bytes: usize) -> Result<Vec<u8>, RecompressError> {
        let view = BatchView::parse(batch)?;
        let mut decompressor =
            Decompressor::new(view.header.codec()?, view.payload(), records_bytes)?;
        let mut out = Vec::with_capacity(batch.len().min(self.batch_bytes_max).max(HEADER_BYTES));
        out.extend_from_slice(&batch[..HEADER_BYTES]);
        let bounded = Bounded {
            out,
            bytes_max: self.batch_bytes_max,
        };
        let mut compressor = Compressor::new(self.codec, self.level, bounded);
        self.fits(compressor.pledge(records_bytes as u64))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = decompressor.read_chunk(&mut chunk)?;
            if n == 0 {
                break;
            }
            self.fits(compressor.write_all(&chunk[..n]))?;
        }
        if decompressor.produced_bytes() != records_bytes {
            let reason = "the records are fewer bytes than was said".to_string();
            let codec = view.header.codec()?;
            return Err(CodecError::Corrupt { codec, reason }.into());
        }
        let mut out = self.fits(compressor.finish())?.out;
        self.seal(&view.header, &mut out);
        Ok(out)
    }

    /// The only thing that makes a codec's write fail is the bound.
    fn fits<T>(&self, result: io::Result<T>) -> Result<T, RecompressError> {
        result.map_err(|_| RecompressError::TooLarge {
            batch_bytes_max: self.batch_bytes_max,
        })
    }

    fn seal(&self, header: &BatchHeader, out: &mut [u8]) {
        let length = i32::try_from(out.len() - LOG_OVERHEAD)
            .expect("the bound of a batch is that of an i32 at most");
        out[LENGTH_OFFSET..PARTITION_LEADER_EPOCH_OFFSET].copy_from_slice(&length.to_be_bytes());
        let attributes = header.attributes & !ATTRIBUTE_CODEC_MASK | i16::from(self.codec.id());
        out[ATTRIBUTES_OFFSET..ATTRIBUTES_OFFSET + 2].copy_from_slice(&attributes.to_be_bytes());
        let crc = crc32c(&out[ATTRIBUTES_OFFSET..]);
        out[CRC_OFFSET..ATTRIBUTES_OFFSET].copy_from_slice(&crc.to_be_bytes());
    }
}

/// A vector that does not grow past its bound.
struct Bounded {
    out: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let max = self.bytes_max.min(i32::MAX as usize);
        if bytes.len() > max.saturating_sub(self.out.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
