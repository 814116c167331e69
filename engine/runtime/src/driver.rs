//! The seam between the shard's executor and the machine: operations go in, completions come out.
//!
//! Two implementations: `uring::UringDriver` (one io_uring per shard) and `sim::SimDriver` (disk,
//! clock and chance from one seed). Everything above this trait is the same code under both.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::buf::AlignedBuf;

/// Names one submitted operation until its completion has been handed back (slab index and
/// generation; never reused while anything of the operation is alive). The low 32 bits are the
/// index, which drivers keep dense (a freed index is reused before a new one is made); an index
/// may be reused once the driver has handed the completion back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// An open file. Cheap to clone, may be sent to another shard; the descriptor is closed (off the
/// shard) when the last clone is gone, and every operation in flight holds one.
#[derive(Clone)]
pub struct FileHandle(pub(crate) Arc<Descriptor>);

/// A socket: listening or connected. Same ownership rules as [`FileHandle`].
#[derive(Clone)]
pub struct SocketHandle(pub(crate) Arc<Descriptor>);

/// A descriptor (or the simulation's number for one) and who closes it.
pub struct Descriptor {
    pub(crate) raw: i64,
    pub(crate) closer: Arc<dyn Closer>,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.closer.close(self.raw);
    }
}

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHandle({})", self.0.raw)
    }
}

impl std::fmt::Debug for SocketHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocketHandle({})", self.0.raw)
    }
}

/// Closes descriptors without blocking the shard that dropped them last.
pub trait Closer: Send + Sync {
    /// Called once, when the last handle is gone.
    fn close(&self, raw: i64);

    /// Addresses of this end and of the peer (of a connected socket), where the kernel does not
    /// know them.
    fn addresses(&self) -> Option<(std::net::SocketAddr, Option<std::net::SocketAddr>)> {
        None
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Reading is allowed.
    pub read: bool,
    /// Writing is allowed.
    pub write: bool,
    /// Created when missing (mode 0644).
    pub create: bool,
    /// Created; an existing file is an error (EEXIST).
    pub create_new: bool,
    /// Emptied on open.
    pub truncate: bool,
    /// O_DIRECT: buffers, offsets and lengths are multiples of [`crate::buf::BLOCK_BYTES`].
    pub direct: bool,
}

/// `fallocate(2)` modes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallocateMode {
    /// Mode 0: blocks allocated and i_size extended; the range reads as zeros.
    Extend,
    /// FALLOC_FL_KEEP_SIZE.
    KeepSize,
    /// FALLOC_FL_WRITE_ZEROES: written zeros where the device offers it (else EOPNOTSUPP).
    WriteZeroes,
}

/// `posix_fadvise(2)` advice in use. A hint: it changes no byte that is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// POSIX_FADV_NORMAL: the kernel reads ahead of sequential readers of this descriptor.
    Normal,
    /// POSIX_FADV_RANDOM: no read-ahead for this descriptor.
    Random,
    /// POSIX_FADV_WILLNEED: begins to read the range into the page cache, without waiting.
    WillNeed,
    /// POSIX_FADV_DONTNEED: drops clean pages that lie wholly in the range from the page cache,
    /// whichever descriptor brought them there.
    DontNeed,
}

/// What the file system says of a path or file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Bytes (i_size).
    pub len: u64,
    /// It is a directory.
    pub is_dir: bool,
    /// Direct-I/O offset alignment in bytes, 0 when direct I/O is refused (statx DIOALIGN).
    pub dio_offset_align: u32,
    /// Direct-I/O memory alignment in bytes.
    pub dio_mem_align: u32,
    /// When its bytes changed last, in ms since the Unix epoch; 0 when it is not known.
    pub modified_ms: i64,
    /// Free bytes of the file system for this process (only for [`Op::StatFs`]).
    pub free_bytes: u64,
    /// Bytes of the file system (only for [`Op::StatFs`]).
    pub total_bytes: u64,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// File name without its path.
    pub name: String,
    /// It is a directory.
    pub is_dir: bool,
}

/// One operation. It owns everything the kernel touches until its last completion, and comes back
/// with it, so that buffers are never lost nor freed early.
pub enum Op {
    /// Opens a file. -> [`Output::File`]
    Open {
        /// Path.
        path: PathBuf,
        /// How.
        options: OpenOptions,
    },
    /// Reads up to `len` bytes at `offset` into the front of `buf`. -> [`Output::Len`]
    ReadAt {
        /// File.
        file: FileHandle,
        /// Filled from its start; `buf.capacity() >= len`.
        buf: AlignedBuf,
        /// Bytes from the file's start.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// Writes all buffers, in order, at `offset`; `dsync` = RWF_DSYNC. -> [`Output::Len`], which may be short.
    WriteAt {
        /// File.
        file: FileHandle,
        /// Immutable until the completion.
        bufs: Vec<Bytes>,
        /// Bytes from the file's start.
        offset: u64,
        /// Durable by itself at completion.
        dsync: bool,
    },
    /// fdatasync(2) of a file: covers the writes completed before it was submitted. -> [`Output::Unit`]
    Fdatasync {
        /// File.
        file: FileHandle,
    },
    /// fsync(2) of a directory. -> [`Output::Unit`]
    SyncDir {
        /// Directory.
        path: PathBuf,
    },
    /// fallocate(2). -> [`Output::Unit`]
    Fallocate {
        /// File.
        file: FileHandle,
        /// Mode.
        mode: FallocateMode,
        /// Bytes from the file's start.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// ftruncate(2). -> [`Output::Unit`]
    Ftruncate {
        /// File.
        file: FileHandle,
        /// New i_size.
        len: u64,
    },
    /// posix_fadvise(2). -> [`Output::Unit`]
    Fadvise {
        /// File.
        file: FileHandle,
        /// Advice. Those about read-ahead bind the descriptor as a whole.
        advice: Advice,
        /// Bytes from the file's start.
        offset: u64,
        /// Bytes; 0 = to the end of the file.
        len: u64,
    },
    /// statx(2) of a path, DIOALIGN included. -> [`Output::Stat`]
    StatPath {
        /// Path.
        path: PathBuf,
    },
    /// statx(2) of an open file. -> [`Output::Stat`]
    StatFile {
        /// File.
        file: FileHandle,
    },
    /// statfs(2) of the file system that holds a path. -> [`Output::Stat`]
    StatFs {
        /// Path.
        path: PathBuf,
    },
    /// rename(2). -> [`Output::Unit`]
    Rename {
        /// Old path.
        from: PathBuf,
        /// New path, replaced when it exists.
        to: PathBuf,
    },
    /// unlink(2). -> [`Output::Unit`]
    Unlink {
        /// Path.
        path: PathBuf,
    },
    /// mkdir(2). -> [`Output::Unit`]
    Mkdir {
        /// Path.
        path: PathBuf,
    },
    /// rmdir(2). -> [`Output::Unit`]
    Rmdir {
        /// Path.
        path: PathBuf,
    },
    /// Names in a directory, sorted. -> [`Output::Dir`]
    ReadDir {
        /// Path.
        path: PathBuf,
    },
    /// accept4(2). -> [`Output::Socket`]
    Accept {
        /// Listening socket.
        listener: SocketHandle,
    },
    /// connect(2) to an IPv4 or IPv6 address. -> [`Output::Socket`]
    Connect {
        /// Peer.
        addr: std::net::SocketAddr,
    },
    /// Receives at least one byte, at most `len`, into `buf[at..at + len]`. 0 = the peer closed. -> [`Output::Len`]
    Recv {
        /// Connected socket.
        socket: SocketHandle,
        /// Written at `at`.
        buf: AlignedBuf,
        /// First byte to fill.
        at: usize,
        /// Bytes, `at + len <= buf.capacity()`.
        len: usize,
        /// Wait for all `len` bytes (MSG_WAITALL).
        all: bool,
    },
    /// Sends all buffers in order (sendmsg, MSG_NOSIGNAL). -> [`Output::Len`], short only at an error, or if `now`.
    Send {
        /// Connected socket.
        socket: SocketHandle,
        /// At most 64 buffers.
        bufs: Vec<Bytes>,
        /// More follows at once (MSG_MORE).
        more: bool,
        /// Only what the socket takes at once (MSG_DONTWAIT), else all of it (MSG_WAITALL).
        now: bool,
    },
    /// Waits until the socket can take bytes. -> [`Output::Unit`]
    PollWritable {
        /// Connected socket.
        socket: SocketHandle,
    },
    /// Waits until the peer has closed its end, or the connection has ended otherwise; bytes that
    /// were received before may still be unread. -> [`Output::Unit`]
    PollClosed {
        /// Connected socket.
        socket: SocketHandle,
    },
    /// shutdown(2), both ways. -> [`Output::Unit`]
    Shutdown {
        /// Connected socket.
        socket: SocketHandle,
    },
    /// Runs a closure on a helper thread (in the twin: in place). -> [`Output::Unit`]
    Blocking {
        /// Taken when it starts.
        work: Option<Box<dyn FnOnce() + Send>>,
    },
}

/// What an operation gave.
#[derive(Debug)]
pub enum Output {
    /// Nothing but success.
    Unit,
    /// Bytes moved.
    Len(usize),
    /// An open file.
    File(FileHandle),
    /// A socket.
    Socket(SocketHandle),
    /// What the file system says.
    Stat(Stat),
    /// Names, sorted.
    Dir(Vec<DirEntry>),
}

/// The end of an operation: its token, itself with all it owned, and the result.
pub struct Completion {
    /// Token given at submission.
    pub token: Token,
    /// The operation, with its buffers.
    pub op: Op,
    /// The result; errors carry the OS error number.
    pub result: io::Result<Output>,
}

/// The machine below one shard.
///
/// Shard: created, used and dropped on the shard's own thread.
pub trait Driver {
    /// Takes an operation. It starts at the next [`Driver::turn`] at the latest. Never blocks and
    /// never fails: a refusal is a completion with an error.
    fn submit(&mut self, op: Op) -> Token;

    /// Asks to end an operation early. Its completion still comes (ECANCELED, or its result).
    fn cancel(&mut self, token: Token);

    /// Submits what is queued, waits at most `wait` for the first completion or doorbell
    /// (`None` = for ever, zero = do not wait) and appends what has completed.
    /// Returns true when a doorbell rang.
    fn turn(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> bool;

    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;

    /// Milliseconds since the Unix epoch.
    fn wall_clock_ms(&self) -> i64;

    /// Chance (seeded in the twin).
    fn random_u64(&mut self) -> u64;

    /// sendfile(2) on a non-blocking socket from a buffered file: bytes taken, or WouldBlock.
    /// Call it only for pages that [`Driver::is_cached`] found.
    fn send_file(
        &mut self,
        socket: &SocketHandle,
        file: &FileHandle,
        offset: u64,
        len: usize,
    ) -> io::Result<usize>;

    /// True when `preadv2(RWF_NOWAIT)` finds one byte per 64 KiB and the last byte of the range in
    /// the page cache; else the offset of the first page missing.
    fn is_cached(&mut self, file: &FileHandle, offset: u64, len: usize) -> io::Result<Cached>;

    /// A handle with which other threads wake this shard.
    fn doorbell(&self) -> Arc<dyn Doorbell>;

    /// Rings another shard's doorbell, at the next [`Driver::turn`] at the latest.
    fn ring_peer(&mut self, peer: &Arc<dyn Doorbell>) {
        peer.ring();
    }

    /// Counters for /metrics.
    fn counters(&self) -> DriverCounters;
}

/// Answer of [`Driver::is_cached`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// Every probed page is there.
    All,
    /// The page at this file offset is not.
    MissingAt(u64),
}

/// Wakes a sleeping shard from any thread.
pub trait Doorbell: Send + Sync {
    /// Makes the shard's current or next [`Driver::turn`] return at once.
    fn ring(&self);

    /// Descriptor of the shard's io_uring, to which another ring may post; open as long as this
    /// doorbell lives.
    fn uring_fd(&self) -> Option<i32> {
        None
    }
}

/// What the driver counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// Operations submitted.
    pub submitted: u64,
    /// io_uring_enter calls.
    pub enters: u64,
    /// Completion queue overflows seen.
    pub cq_overflows: u64,
    /// Operations that run on an io-wq worker whatever happens (fsync, fallocate, names). The
    /// kernel does not tell which others did.
    pub io_wq_punts: u64,
    /// sendfile calls.
    pub sendfile_calls: u64,
    /// Bytes sendfile moved.
    pub sendfile_bytes: u64,
}
