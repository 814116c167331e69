//! Errors and warnings of configuration, worded for the person who wrote the value.

use std::fmt;

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File name, or `command line`.
    pub file: String,
    /// Line, from 1; 0 where there are no lines.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A value that cannot be used. Shows key, value and the bound it broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands, if in a file or on the command line.
    pub place: Option<Place>,
    /// Key; empty where a line could not be read at all.
    pub key: String,
    /// Value as written; `[hidden]` for sensitive keys.
    pub value: String,
    /// The bound, or what is wrong.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(key: &str, value: &str, reason: impl Into<String>) -> Self {
        Self {
            place: None,
            key: key.to_owned(),
            value: value.to_owned(),
            reason: reason.into(),
        }
    }

    /// A value that is legal by itself, refused for what stands beside it.
    pub(crate) fn refused(key: &str, value: &str, reason: &str) -> Self {
        Self::new(key, value, reason)
    }

    pub(crate) fn at(mut self, place: Option<&Place>) -> Self {
        self.place = self.place.or_else(|| place.cloned());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if self.key.is_empty() {
            return write!(f, "{}", self.reason);
        }
        write!(
            f,
            "Invalid value {} for configuration {}: {}",
            self.value, self.key, self.reason
        )
    }
}

impl std::error::Error for ConfigError {}

/// Something the operator should know; the broker starts all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// No such key.
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands first.
        place: Place,
    },
    /// A key that is kept and shown, but changes nothing.
    UnusedKey {
        /// The key.
        key: &'static str,
        /// Where it stands.
        place: Place,
    },
    /// The key stands twice; the last one counts, as in Kafka.
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands again.
        place: Place,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::UnknownKey { key, place } => {
                write!(f, "{place}: unknown configuration key {key}: it is ignored")
            }
            Warning::UnusedKey { key, place } => {
                write!(
                    f,
                    "{place}: {key} is known, but this version does not use it"
                )
            }
            Warning::DuplicateKey { key, place } => {
                write!(f, "{place}: {key} is set again; this last value counts")
            }
        }
    }
}
