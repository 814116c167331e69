//! Compression by stream.

use super::{Codec, SNAPPY_BLOCK_BYTES, SNAPPY_MAGIC};
use std::io::{self, Write};

/// Compresses what is written to it into `W`. The stream is whole after [`Compressor::finish`].
pub struct Compressor<W: Write>(Sink<W>);

enum Sink<W: Write> {
    None(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Snappy(Box<SnappyWriter<W>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    /// Starts a stream. `level` as for [`super::compress`].
    pub fn new(codec: Codec, level: Option<i32>, out: W) -> Compressor<W> {
        Compressor(match codec {
            Codec::None => Sink::None(out),
            Codec::Gzip => {
                let level = flate2::Compression::new(level.unwrap_or(6).clamp(1, 9) as u32);
                Sink::Gzip(Box::new(flate2::write::GzEncoder::new(out, level)))
            }
            Codec::Snappy => Sink::Snappy(Box::new(SnappyWriter::new(out))),
            Codec::Lz4 => {
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                Sink::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(
                    frame, out,
                )))
            }
            Codec::Zstd => {
                let level = level
                    .unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)
                    .clamp(-131_072, 22);
                let encoder = zstd::stream::write::Encoder::new(out, level);
                Sink::Zstd(Box::new(
                    encoder.expect("levels within the bounds are taken"),
                ))
            }
        })
    }

    /// For zstd: how many bytes will be written in all. The stream's window is then no larger than
    /// its content, which is what readers pay for. Another number of bytes is an error at the end.
    pub fn pledge(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.0 {
            Sink::Zstd(encoder) => encoder.set_pledged_src_size(Some(bytes)),
            _ => Ok(()),
        }
    }

    /// Ends the stream, and gives back what it was written to.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Sink::None(out) => Ok(out),
            Sink::Gzip(encoder) => encoder.finish(),
            Sink::Snappy(writer) => writer.finish(),
            Sink::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Sink::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Sink::None(out) => out.write(bytes),
            Sink::Gzip(encoder) => encoder.write(bytes),
            Sink::Snappy(writer) => writer.write(bytes),
            Sink::Lz4(encoder) => encoder.write(bytes),
            Sink::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Xerial framing: blocks of 32 KiB behind a header.
struct SnappyWriter<W> {
    out: W,
    encoder: snap::raw::Encoder,
    /// What is not a whole block yet.
    pending: Vec<u8>,
    block: Vec<u8>,
    begun: bool,
}

impl<W: Write> SnappyWriter<W> {
    fn new(out: W) -> SnappyWriter<W> {
        SnappyWriter {
            out,
            encoder: snap::raw::Encoder::new(),
            pending: Vec::new(),
            block: Vec::new(),
            begun: false,
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.out.write_all(&SNAPPY_MAGIC)?;
            self.out.write_all(&1u32.to_be_bytes())?;
            self.out.write_all(&1u32.to_be_bytes())?;
        }
        Ok(())
    }

    fn emit(&mut self) -> io::Result<()> {
        let room = snap::raw::max_compress_len(self.pending.len());
        self.block.resize(room.max(self.block.len()), 0);
        let len = self
            .encoder
            .compress(&self.pending, &mut self.block)
            .expect("the block has room for the worst case");
        self.pending.clear();
        self.out.write_all(&(len as u32).to_be_bytes())?;
        self.out.write_all(&self.block[..len])
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begin()?;
        let n = bytes.len().min(SNAPPY_BLOCK_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..n]);
        if self.pending.len() == SNAPPY_BLOCK_BYTES {
            self.emit()?;
        }
        Ok(n)
    }

    fn finish(mut self) -> io::Result<W> {
        self.begin()?;
        if !self.pending.is_empty() {
            self.emit()?;
        }
        Ok(self.out)
    }
}
