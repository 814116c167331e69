//! How a request begins: `size: i32`, then the header, then the body.
//!
//! Whether a frame is welcome is decided from its size and its first eight bytes, before memory is
//! taken for the rest. Header v1 is `api_key: i16, api_version: i16, correlation_id: i32,
//! client_id: nullable string (i16 length)`; v2 adds tagged fields (the client id keeps its old form).

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::api::{ApiKey, COLD_FRAME_BYTES_MAX};
use crate::wire::{Reader, WireError, WireErrorKind, WireStr, Writer};

/// Bytes of the size field before every frame.
pub const SIZE_BYTES: usize = 4;

/// Bytes of a frame that decide whether it is read at all: API, version, correlation id.
pub const PREFIX_BYTES: usize = 8;

/// Largest frame before authentication has ended, in bytes.
pub const UNAUTHENTICATED_FRAME_BYTES_MAX: usize = 64 << 10;

/// How large frames may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// `socket.request.max.bytes`: Produce only.
    pub socket_request_max_bytes: usize,
    /// All other APIs.
    pub cold_bytes_max: usize,
}

impl Default for FrameLimits {
    /// Kafka's 100 MiB, and [`COLD_FRAME_BYTES_MAX`].
    fn default() -> FrameLimits {
        FrameLimits {
            socket_request_max_bytes: 100 << 20,
            cold_bytes_max: COLD_FRAME_BYTES_MAX,
        }
    }
}

impl FrameLimits {
    /// Limits while the peer has not proved who it is: the same, none above [`UNAUTHENTICATED_FRAME_BYTES_MAX`].
    pub fn unauthenticated(self) -> FrameLimits {
        FrameLimits {
            socket_request_max_bytes: self
                .socket_request_max_bytes
                .min(UNAUTHENTICATED_FRAME_BYTES_MAX),
            cold_bytes_max: self.cold_bytes_max.min(UNAUTHENTICATED_FRAME_BYTES_MAX),
        }
    }
}

/// Why a frame is refused. The connection is closed, as Kafka does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The size cannot be that of a request.
    BadSize {
        /// As received.
        size: i32,
    },
    /// Larger than this API may send.
    TooLarge {
        /// The API.
        api: ApiKey,
        /// Bytes announced.
        size: usize,
        /// Most bytes.
        max: usize,
    },
    /// No such API here.
    UnknownApi {
        /// As received.
        api_key: i16,
    },
    /// The API does not have this version (ApiVersions never gives this: it is answered with its range).
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// As received.
        version: i16,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::BadSize { size } => write!(f, "a request cannot be {size} bytes long"),
            FrameError::TooLarge { api, size, max } => {
                write!(
                    f,
                    "a {api} request of {size} bytes, at most {max} are allowed"
                )
            }
            FrameError::UnknownApi { api_key } => write!(f, "API {api_key} is not served"),
            FrameError::UnsupportedVersion { api, version } => {
                write!(
                    f,
                    "{api} version {version} is not served ({:?} are)",
                    api.versions()
                )
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// What the first bytes of an admitted frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePrefix {
    /// The API.
    pub api: ApiKey,
    /// Its version. Served, except for ApiVersions, where it may be anything.
    pub version: i16,
    /// Comes back with the response.
    pub correlation_id: i32,
    /// Bytes of the frame after its size field, these first ones included.
    pub size: usize,
}

impl FramePrefix {
    /// Judges a frame by its size field and its first [`PREFIX_BYTES`] bytes.
    pub fn decode(
        head: &[u8; SIZE_BYTES + PREFIX_BYTES],
        limits: &FrameLimits,
    ) -> Result<FramePrefix, FrameError> {
        let [s0, s1, s2, s3, k0, k1, v0, v1, c0, c1, c2, c3] = *head;
        let size = checked_size([s0, s1, s2, s3])?;
        let api_key = i16::from_be_bytes([k0, k1]);
        let version = i16::from_be_bytes([v0, v1]);
        let correlation_id = i32::from_be_bytes([c0, c1, c2, c3]);
        let api = ApiKey::from_i16(api_key)
            .filter(|api| api.is_served())
            .ok_or(FrameError::UnknownApi { api_key })?;
        if !api.serves(version) && api != ApiKey::ApiVersions {
            return Err(FrameError::UnsupportedVersion { api, version });
        }
        let max = api.frame_bytes_max(limits.socket_request_max_bytes, limits.cold_bytes_max);
        if size > max {
            return Err(FrameError::TooLarge { api, size, max });
        }
        Ok(FramePrefix {
            api,
            version,
            correlation_id,
            size,
        })
    }
}

/// The size field: at least a prefix must follow.
pub fn checked_size(size: [u8; SIZE_BYTES]) -> Result<usize, FrameError> {
    let size = i32::from_be_bytes(size);
    match usize::try_from(size) {
        Ok(bytes) if bytes >= PREFIX_BYTES => Ok(bytes),
        _ => Err(FrameError::BadSize { size }),
    }
}

/// A request: its header, and its body as a slice of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFrame {
    /// The API.
    pub api: ApiKey,
    /// Its version; see [`FramePrefix::version`].
    pub version: i16,
    /// Comes back with the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<WireStr>,
    /// What follows the header.
    pub body: Bytes,
}

impl RequestFrame {
    /// Splits a whole frame (without its size field) into header and body.
    ///
    /// A version of ApiVersions that is not served gives an empty body, whatever follows its first
    /// eight bytes: it is answered with the range, not read.
    pub fn decode(frame: &Bytes) -> Result<RequestFrame, WireError> {
        let mut r = Reader::new(frame, false);
        let api_key = r.i16("api_key")?;
        let version = r.i16("api_version")?;
        let correlation_id = r.i32("correlation_id")?;
        let unsupported = || {
            WireError::new(
                "api_key",
                0,
                WireErrorKind::UnsupportedVersion { api_key, version },
            )
        };
        let api = ApiKey::from_i16(api_key).ok_or_else(unsupported)?;
        if !api.serves(version) {
            if api != ApiKey::ApiVersions {
                return Err(unsupported());
            }
            return Ok(RequestFrame {
                api,
                version,
                correlation_id,
                client_id: None,
                body: Bytes::new(),
            });
        }
        let client_id = r.nullable_string("client_id")?;
        let mut at = r.position();
        if api.request_header_version(version) >= 2 {
            let rest = frame.slice(at..);
            let mut r = Reader::new(&rest, true);
            r.skip_tags("request header")?;
            at += r.position();
        }
        Ok(RequestFrame {
            api,
            version,
            correlation_id,
            client_id,
            body: frame.slice(at..),
        })
    }
}

/// Starts a request: size field (zero until [`crate::response::close_frame`]) and header. The body follows.
pub fn begin_request(
    buf: &mut BytesMut,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) {
    let mut w = Writer::new(buf, false);
    w.i32(0);
    w.i16(api.number());
    w.i16(version);
    w.i32(correlation_id);
    w.nullable_string(client_id);
    if api.request_header_version(version) >= 2 {
        w.i8(0);
    }
}
