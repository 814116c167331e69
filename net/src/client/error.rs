//! What a client's request may end with.

use std::fmt;
use std::io;

use crate::api::ApiKey;
use crate::error_code::ErrorCode;
use crate::wire::WireError;

/// Why there is no answer. After all but `NotServed`, `Refused`, `Wire` and `MissingAnswer` the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// The connection could not be made, or broke.
    Io {
        /// Its kind.
        kind: io::ErrorKind,
        /// For a person.
        message: String,
    },
    /// The broker closed the connection, or this client was closed.
    Closed,
    /// No answer within `request_timeout`.
    TimedOut {
        /// What was asked.
        api: Option<ApiKey>,
    },
    /// The answer has a correlation id that was not expected next.
    OutOfOrder {
        /// The id due next; None = no answer was due.
        expected: Option<i32>,
        /// As received.
        received: i32,
    },
    /// The answer is longer than `response_bytes_max`, or its size is none.
    BadSize {
        /// As received.
        size: i32,
        /// Most bytes.
        max: usize,
    },
    /// A message that is not what it should be, theirs or ours.
    Wire(WireError),
    /// The broker and this client have no version of the API in common.
    NotServed {
        /// The API.
        api: ApiKey,
    },
    /// The broker answered with an error for the request as a whole.
    Refused {
        /// The API.
        api: ApiKey,
        /// The error.
        error: ErrorCode,
    },
    /// The answer lacks what was asked for.
    MissingAnswer,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Io { message, .. } => f.write_str(message),
            ClientError::Closed => f.write_str("the connection is closed"),
            ClientError::TimedOut { api: Some(api) } => write!(f, "no answer to {api} in time"),
            ClientError::TimedOut { api: None } => f.write_str("no connection in time"),
            ClientError::OutOfOrder { expected, received } => {
                write!(f, "answer {received} where {expected:?} was due")
            }
            ClientError::BadSize { size, max } => {
                write!(f, "an answer of {size} bytes, at most {max} are allowed")
            }
            ClientError::Wire(error) => write!(f, "broken message: {error}"),
            ClientError::NotServed { api } => {
                write!(f, "no version of {api} is served by both ends")
            }
            ClientError::Refused { api, error } => write!(f, "{api} was refused: {error}"),
            ClientError::MissingAnswer => f.write_str("the answer lacks what was asked for"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> ClientError {
        ClientError::Wire(error)
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Io {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}
