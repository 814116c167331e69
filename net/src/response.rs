//! How a response begins: `size: i32, correlation_id: i32`, and from header v1 a section of tagged fields.

use bytes::{Buf, Bytes, BytesMut};

use crate::api::ApiKey;
use crate::frame::SIZE_BYTES;
use crate::wire::{Reader, WireError, WireErrorKind, Writer};

/// Starts a response: size field (zero until [`close_frame`]) and header. The body follows.
pub fn begin_response(buf: &mut BytesMut, api: ApiKey, version: i16, correlation_id: i32) {
    let mut w = Writer::new(buf, false);
    w.i32(0);
    w.i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        w.i8(0);
    }
}

/// Fills in the size field at the front of `buf`; `extra_bytes` is what will be sent after it for the same frame.
pub fn close_frame(buf: &mut BytesMut, extra_bytes: usize) -> Result<(), WireError> {
    let length = (buf.len() - SIZE_BYTES).saturating_add(extra_bytes);
    let too_long = WireErrorKind::TooLong {
        length,
        max: i32::MAX as usize,
    };
    let size = i32::try_from(length).map_err(|_| WireError::new("frame", 0, too_long))?;
    buf[..SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
    Ok(())
}

/// A whole response frame whose body is written by `body`.
pub fn response_frame(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    body: impl FnOnce(&mut BytesMut),
) -> Result<BytesMut, WireError> {
    let mut buf = BytesMut::with_capacity(256);
    begin_response(&mut buf, api, version, correlation_id);
    body(&mut buf);
    close_frame(&mut buf, 0)?;
    Ok(buf)
}

/// Splits a received response (without its size field) into correlation id and body. The version is that
/// of the request it answers.
pub fn split_response(api: ApiKey, version: i16, frame: &Bytes) -> Result<(i32, Bytes), WireError> {
    let correlation_id = Reader::new(frame, false).i32("correlation_id")?;
    let mut rest = frame.clone();
    rest.advance(4);
    if api.response_header_version(version) >= 1 {
        let mut r = Reader::new(&rest, true);
        r.skip_tags("response header")?;
        let at = r.position();
        rest.advance(at);
    }
    Ok((correlation_id, rest))
}
