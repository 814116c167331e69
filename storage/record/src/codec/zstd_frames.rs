//! zstd frames, one after the other.
//!
//! The library holds a frame against the size its header announces in some ways of reading and not
//! in others (a frame that ends in an empty block), so what is taken would depend on how large the
//! reader's buffer is. Here every frame is held against it.

use super::{Codec, CodecError, ZSTD_WINDOW_LOG_MAX, corrupt};
use zstd::zstd_safe::{
    DCtx, DParameter, InBuffer, OutBuffer, get_error_name, get_frame_content_size,
};

/// Reads all frames; input and output are the caller's, one window is in memory at a time.
pub(super) struct ZstdReader<'a> {
    context: DCtx<'static>,
    rest: &'a [u8],
    in_frame: bool,
    /// What the current frame announces, if it does.
    content_bytes: Option<u64>,
    read_bytes: u64,
}

fn bad(reason: &str) -> CodecError {
    corrupt(Codec::Zstd, reason)
}

impl<'a> ZstdReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<ZstdReader<'a>, CodecError> {
        let mut context = DCtx::try_create().ok_or_else(|| bad("no memory for a decoder"))?;
        context
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
            .map_err(|code| bad(get_error_name(code)))?;
        Ok(ZstdReader {
            context,
            rest: bytes,
            in_frame: false,
            content_bytes: None,
            read_bytes: 0,
        })
    }

    /// `out` is not empty.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        loop {
            if !self.in_frame {
                if self.rest.is_empty() {
                    return Ok(0);
                }
                self.content_bytes = get_frame_content_size(self.rest)
                    .map_err(|_| bad("not a zstd frame, or its header is not whole"))?;
                self.read_bytes = 0;
                self.in_frame = true;
            }
            let mut input = InBuffer::around(self.rest);
            let mut output = OutBuffer::around(&mut *out);
            let more = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| bad(get_error_name(code)))?;
            let (taken, made) = (input.pos(), output.pos());
            self.rest = &self.rest[taken..];
            self.read_bytes += made as u64;
            if more == 0 {
                self.in_frame = false;
                if self.content_bytes.is_some_and(|n| n != self.read_bytes) {
                    return Err(bad("a frame holds other than the bytes it announces"));
                }
            }
            if made > 0 {
                return Ok(made);
            }
            if more != 0 && taken == 0 {
                return Err(bad("the last frame is not whole"));
            }
        }
    }
}
