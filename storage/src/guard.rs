//! What a log and its log directory owe each other: errors that are the directory's are told to
//! whoever looks after it, and room is not asked for where there is none.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use crate::log::is_no_space;

/// Looks after the log directories that a shard's logs are in. Directories are named as the parents
/// of the logs' own. Shard: one per shard.
pub trait DirGuard {
    /// The file system has no room: no log but those that may use the reserve asks for any.
    fn is_full(&self, log_dir: &Path) -> bool;

    /// Room was refused.
    fn no_space(&self, log_dir: &Path);

    /// Gives a part of the reserve back to the file system, for what must go on without space.
    /// False: nothing is left of it.
    fn release<'a>(&'a self, log_dir: &'a Path) -> Pin<Box<dyn Future<Output = bool> + 'a>>;

    /// A file of the directory met an I/O error; the directory is to go offline as a whole.
    fn failed(&self, log_dir: &Path, why: &Arc<str>);
}

// Linux's numbers: EINTR, EAGAIN, ENOMEM, ENFILE, EMFILE, ECANCELED.
const PASSING: [i32; 6] = [4, 11, 12, 23, 24, 125];
// EIO, ENXIO, ENODEV, EROFS, EBADMSG, ESTALE, EUCLEAN, EREMOTEIO.
const OF_THE_DEVICE: [i32; 8] = [5, 6, 19, 30, 74, 116, 117, 121];

/// The system lacked something for a moment, files that may be open or memory: the same may work
/// later, and nothing was harmed.
pub fn is_passing(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| PASSING.contains(&code))
}

/// The device or the file system itself reports that it is broken, whatever was asked of it.
pub fn is_device_error(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| OF_THE_DEVICE.contains(&code))
}

/// An error, met by an operation that has no reason to fail, that takes its directory offline:
/// anything the kernel refuses, save for want of space and for what passes.
pub fn condemns(error: &io::Error) -> bool {
    error.raw_os_error().is_some() && !is_passing(error) && !is_no_space(error)
}

/// The log directory of a partition's directory.
pub(crate) fn log_dir_of(partition_dir: &Path) -> PathBuf {
    partition_dir
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The log directory of a segment file.
pub(crate) fn log_dir_of_file(file: &Path) -> PathBuf {
    file.parent().map_or_else(PathBuf::new, log_dir_of)
}
