//! Why bytes are not a message.

use std::fmt;

/// Why bytes are not the message they should be: the field, its place, and both numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// The field.
    pub what: &'static str,
    /// Offset of the field in bytes from the start of what was being read.
    pub at: usize,
    /// What is wrong with it.
    pub kind: WireErrorKind,
}

/// The kinds of [`WireError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireErrorKind {
    /// The bytes end before the field does.
    Truncated {
        /// Bytes the field takes.
        needed: usize,
        /// Bytes left.
        remaining: usize,
    },
    /// A length or count that cannot be.
    BadLength {
        /// As received.
        length: i64,
        /// Largest that is possible here.
        max: usize,
    },
    /// Null where null is not allowed.
    Null,
    /// A varint of more than five bytes (ten for 64 bits) or with bits beyond its type.
    BadVarint,
    /// Not UTF-8.
    BadUtf8,
    /// Tags are not strictly ascending.
    TagOrder {
        /// This tag.
        tag: u32,
        /// The one before it.
        previous: u32,
    },
    /// A message too long for a frame, or for what the reader allows.
    TooLong {
        /// Bytes.
        length: usize,
        /// Most bytes.
        max: usize,
    },
    /// A version that is not served.
    UnsupportedVersion {
        /// API number.
        api_key: i16,
        /// As received.
        version: i16,
    },
    /// What the generated codec said.
    Codec(String),
}

impl WireError {
    pub(crate) fn new(what: &'static str, at: usize, kind: WireErrorKind) -> WireError {
        WireError { what, at, kind }
    }

    /// A request or an answer of an API in a version that is not served.
    pub fn unsupported(what: &'static str, api_key: i16, version: i16) -> WireError {
        WireError::new(
            what,
            0,
            WireErrorKind::UnsupportedVersion { api_key, version },
        )
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: ", self.what, self.at)?;
        match &self.kind {
            WireErrorKind::Truncated { needed, remaining } => {
                write!(f, "needs {needed} bytes, {remaining} are left")
            }
            WireErrorKind::BadLength { length, max } => {
                write!(f, "length {length}, at most {max} is possible")
            }
            WireErrorKind::Null => f.write_str("null is not allowed"),
            WireErrorKind::BadVarint => f.write_str("varint too long"),
            WireErrorKind::BadUtf8 => f.write_str("not UTF-8"),
            WireErrorKind::TagOrder { tag, previous } => {
                write!(f, "tag {tag} after tag {previous}")
            }
            WireErrorKind::TooLong { length, max } => {
                write!(f, "{length} long, at most {max} is allowed")
            }
            WireErrorKind::UnsupportedVersion { api_key, version } => {
                write!(f, "version {version} of API {api_key} is not served")
            }
            WireErrorKind::Codec(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for WireError {}
