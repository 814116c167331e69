//! Blocking calls for threads that are no shards: the control plane, tools, start and end of the
//! process. The only place where other rooms get threads, files, sockets and clocks of their own.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Starts a named thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
}

/// Monotonic time.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the system"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the system"
)]
pub fn wall_clock_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Gives the calling thread, and those it starts, the lowest priority for CPU (nice 19) and disk (the
/// idle class, where the device has a scheduler that knows it).
pub fn lower_priority() -> io::Result<()> {
    // SAFETY: no memory is passed; 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } != 0 {
        return Err(io::Error::last_os_error());
    }
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: no memory is passed; 0 names the calling thread.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Blocks the calling thread. Never on a shard.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Reads a whole file.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Reads a whole file as UTF-8.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// Replaces the contents of a file. Neither atomic nor durable: see [`crate::Rt::write_atomic`].
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn write_file(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    std::fs::write(path, bytes)
}

/// Lists a directory.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<std::fs::ReadDir> {
    std::fs::read_dir(path)
}

/// Makes a directory and its missing ancestors.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Renames.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Removes a file.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// Removes a directory with all that is in it.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    std::fs::remove_dir_all(path)
}

/// Opens a file for reading.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn open_file(path: impl AsRef<Path>) -> io::Result<std::fs::File> {
    std::fs::File::open(path)
}

/// Opens a file as told.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn open_file_with(
    path: impl AsRef<Path>,
    options: &std::fs::OpenOptions,
) -> io::Result<std::fs::File> {
    options.open(path)
}

/// Opens a file for reading past the page cache: block-aligned reads only. Where the file system
/// refuses that, through it, and what is read is not kept for its own sake.
pub fn open_past_cache(path: impl AsRef<Path>) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    match open_file_with(&path, &options) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let file = open_file(path)?;
            // SAFETY: the descriptor is open; no memory is passed. A hint: a refusal changes nothing.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_NOREUSE) };
            Ok(file)
        }
        opened => opened,
    }
}

/// fsync(2) of a directory: makes creations, renames and removals in it durable.
pub fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    open_file(path)?.sync_all()
}

/// Binds a listening TCP socket.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn tcp_listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
}

/// Connects a TCP socket.
#[expect(clippy::disallowed_methods, reason = "for threads that are no shards")]
pub fn tcp_connect(addr: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(addr)
}

/// A lock on a file, held until drop or the end of the process.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

/// Takes the exclusive lock (flock) of a file, which is created when missing. `None` = another
/// process, or another part of this one, holds it. Does not wait.
pub fn lock_file(path: impl AsRef<Path>) -> io::Result<Option<FileLock>> {
    let mut options = std::fs::OpenOptions::new();
    let file = open_file_with(path, options.write(true).create(true).truncate(false))?;
    // SAFETY: the descriptor is open; no memory is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Some(FileLock(file)));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        error => Err(error),
    }
}
