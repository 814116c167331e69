//! Why a log directory is refused.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::LOCK_FILE;
use crate::checkpoint_files::{FormatError, META_PROPERTIES};

/// Why a directory was not opened, or one of its files not written.
#[derive(Debug)]
pub enum LogDirError {
    /// The file system refused.
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// `meta.properties` cannot be read.
    Format(FormatError),
    /// Another process uses the directory.
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is another node's.
    WrongNode {
        /// The directory.
        path: PathBuf,
        /// `node.id` in its `meta.properties`.
        found: i32,
        /// This node's.
        expected: i32,
    },
    /// The directory is another cluster's.
    WrongCluster {
        /// The directory.
        path: PathBuf,
        /// `cluster.id` in its `meta.properties`.
        found: String,
        /// This cluster's.
        expected: String,
    },
    /// The cluster id cannot stand in `meta.properties`.
    BadClusterId {
        /// The id.
        id: String,
    },
    /// Partitions are there, but nothing says whose they are.
    NoMetaProperties {
        /// The directory.
        path: PathBuf,
        /// One of the partition directories.
        partition: String,
    },
}

impl LogDirError {
    /// The error is of the directory's device or file system, not of what is in it: a broker with
    /// other directories serves on without this one.
    pub fn is_io(&self) -> bool {
        matches!(self, LogDirError::Io { .. })
    }

    /// An error that takes a directory offline that was online; a want of space or of descriptors
    /// does not.
    pub fn condemns(&self) -> bool {
        match self {
            LogDirError::Io { source, .. } => crate::guard::condemns(source),
            _ => false,
        }
    }
}

impl fmt::Display for LogDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogDirError::Io {
                action,
                path,
                source,
            } => write!(f, "{action} {}: {source}", path.display()),
            LogDirError::Format(e) => e.fmt(f),
            LogDirError::Locked { path } => write!(
                f,
                "log directory {} is in use by another process, which holds its {LOCK_FILE} file",
                path.display()
            ),
            LogDirError::WrongNode {
                path,
                found,
                expected,
            } => write!(
                f,
                "log directory {} belongs to node.id {found}, this is node.id {expected}: correct node.id or log.dirs",
                path.display()
            ),
            LogDirError::WrongCluster {
                path,
                found,
                expected,
            } => write!(
                f,
                "log directory {} belongs to cluster {found}, this is cluster {expected}: correct log.dirs",
                path.display()
            ),
            LogDirError::BadClusterId { id } => write!(
                f,
                "cluster id `{}` cannot be stored: 1 to 255 visible ASCII characters without \\ = : # !",
                id.escape_debug()
            ),
            LogDirError::NoMetaProperties { path, partition } => write!(
                f,
                "log directory {} holds {partition} but no {META_PROPERTIES}: restore that file, or name another directory in log.dirs",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LogDirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogDirError::Io { source, .. } => Some(source),
            LogDirError::Format(e) => Some(e),
            _ => None,
        }
    }
}

impl LogDirError {
    /// As an I/O error. The file system's own comes back as it was, with its number: callers tell a
    /// full disk, and what passes, from the rest.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }
}
