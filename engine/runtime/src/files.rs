//! Files as tasks use them: thin over [`Rt::submit`].

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use crate::buf::{AlignedBuf, BLOCK_BYTES};
use crate::driver::{Advice, DirEntry, FallocateMode, FileHandle, Op, OpenOptions, Output, Stat};
use crate::rt::Rt;

/// Reads that bring nothing more, after which the place they stop at is taken for the end of the file.
const SHORT_READS_MAX: u32 = 8;
/// What a short direct read is a multiple of, unless it met the end of the file.
const SECTOR_BYTES: usize = 512;
/// Bytes read at once by [`Rt::read_whole`].
const READ_STEP_BYTES: usize = 64 << 10;
/// Writes in a row that took less than a block before a file counts as full.
const STUCK_WRITES_MAX: usize = 3;

pub(crate) fn unexpected() -> io::Error {
    io::Error::other("the driver answered with a result of another operation")
}

pub(crate) fn unit(result: io::Result<Output>) -> io::Result<()> {
    match result? {
        Output::Unit => Ok(()),
        _ => Err(unexpected()),
    }
}

pub(crate) fn length(result: io::Result<Output>) -> io::Result<usize> {
    match result? {
        Output::Len(len) => Ok(len),
        _ => Err(unexpected()),
    }
}

fn stat(result: io::Result<Output>) -> io::Result<Stat> {
    match result? {
        Output::Stat(stat) => Ok(stat),
        _ => Err(unexpected()),
    }
}

/// An open file on its shard. Cheap to clone; closed off the shard when the last handle is gone.
#[derive(Clone)]
pub struct File {
    rt: Rt,
    handle: FileHandle,
}

impl File {
    /// A file opened elsewhere, for use on this shard.
    pub fn from_handle(rt: &Rt, handle: FileHandle) -> Self {
        Self {
            rt: rt.clone(),
            handle,
        }
    }

    /// The `Send` part.
    pub fn handle(&self) -> &FileHandle {
        &self.handle
    }

    /// Reads `len` bytes at `offset` into the front of `buf`, fewer only at the end of the file;
    /// sets the buffer's length to the bytes read. Direct files: `offset` and `len` are multiples
    /// of [`BLOCK_BYTES`]. Asking for more than the capacity is an InvalidInput error.
    pub async fn read_at(
        &self,
        mut buf: AlignedBuf,
        offset: u64,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        buf.set_len(0);
        let file = self.handle.clone();
        let (op, result) = self
            .rt
            .submit(Op::ReadAt {
                file,
                buf,
                offset,
                len,
            })
            .await;
        let Op::ReadAt { mut buf, .. } = op else {
            return (Err(unexpected()), self.rt.pool().get(0));
        };
        let mut filled = match length(result) {
            Ok(filled) => filled,
            Err(error) => return (Err(error), buf),
        };
        let mut stuck = 0;
        // Short reads are rare: the rest goes through a second buffer, so that operations always
        // fill a buffer from its start.
        while filled > 0 && filled < len {
            // Direct reads go on from the block boundary below.
            let from = filled - filled % BLOCK_BYTES;
            let rest = self.rt.pool().get(len - from);
            let (file, at) = (self.handle.clone(), offset + from as u64);
            let op = Op::ReadAt {
                file,
                buf: rest,
                offset: at,
                len: len - from,
            };
            let (op, result) = self.rt.submit(op).await;
            let Op::ReadAt { buf: mut rest, .. } = op else {
                return (Err(unexpected()), buf);
            };
            let more = match length(result) {
                Ok(more) => more,
                Err(error) => return (Err(error), buf),
            };
            if from + more <= filled {
                // The end of the file, or one more short read. Those move whole sectors.
                let is_end = from + more == filled && !filled.is_multiple_of(SECTOR_BYTES);
                stuck += 1;
                if more == 0 || is_end || stuck == SHORT_READS_MAX {
                    break;
                }
                continue;
            }
            buf.as_mut_slice()[from..from + more].copy_from_slice(&rest.as_mut_slice()[..more]);
            filled = from + more;
        }
        buf.set_len(filled);
        (Ok(filled), buf)
    }

    /// Writes all bytes of `bufs` in order at `offset`; `dsync`: durable at completion. After a
    /// short write the rest is written from the block boundary below. An error leaves the range
    /// undefined.
    pub async fn write_at(&self, bufs: Vec<Bytes>, offset: u64, dsync: bool) -> io::Result<()> {
        let mut left: usize = bufs.iter().map(Bytes::len).sum();
        let (mut bufs, mut offset) = (bufs, offset);
        let mut stuck = 0;
        while left > 0 {
            let file = self.handle.clone();
            let (op, result) = self
                .rt
                .submit(Op::WriteAt {
                    file,
                    bufs,
                    offset,
                    dsync,
                })
                .await;
            let written = length(result)?;
            let Op::WriteAt { bufs: back, .. } = op else {
                return Err(unexpected());
            };
            if written >= left {
                return Ok(());
            }
            let step = written - written % BLOCK_BYTES;
            // Less than a block: the same blocks once more, but not for ever.
            stuck = if step == 0 { stuck + 1 } else { 0 };
            if stuck > STUCK_WRITES_MAX {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bufs = skip(back, step);
            offset += step as u64;
            left -= step;
        }
        Ok(())
    }

    /// Makes all writes completed before this call durable (fdatasync).
    pub async fn fdatasync(&self) -> io::Result<()> {
        unit(
            self.rt
                .submit(Op::Fdatasync {
                    file: self.handle.clone(),
                })
                .await
                .1,
        )
    }

    /// Allocates blocks.
    pub async fn fallocate(&self, mode: FallocateMode, offset: u64, len: u64) -> io::Result<()> {
        unit(
            self.rt
                .submit(Op::Fallocate {
                    file: self.handle.clone(),
                    mode,
                    offset,
                    len,
                })
                .await
                .1,
        )
    }

    /// Sets the file's length.
    pub async fn ftruncate(&self, len: u64) -> io::Result<()> {
        unit(
            self.rt
                .submit(Op::Ftruncate {
                    file: self.handle.clone(),
                    len,
                })
                .await
                .1,
        )
    }

    /// Tells the kernel what will be read (`len` 0 = to the end). A hint: an error may be ignored.
    pub async fn fadvise(&self, advice: Advice, offset: u64, len: u64) -> io::Result<()> {
        unit(
            self.rt
                .submit(Op::Fadvise {
                    file: self.handle.clone(),
                    advice,
                    offset,
                    len,
                })
                .await
                .1,
        )
    }

    /// Length and direct-I/O alignment.
    pub async fn stat(&self) -> io::Result<Stat> {
        stat(
            self.rt
                .submit(Op::StatFile {
                    file: self.handle.clone(),
                })
                .await
                .1,
        )
    }
}

/// Drops the first `count` bytes of a list of buffers.
pub(crate) fn skip(bufs: Vec<Bytes>, mut count: usize) -> Vec<Bytes> {
    let mut rest = Vec::with_capacity(bufs.len());
    for mut buf in bufs {
        let gone = count.min(buf.len());
        buf.advance(gone);
        count -= gone;
        if !buf.is_empty() {
            rest.push(buf);
        }
    }
    rest
}

impl Rt {
    /// Opens a file.
    pub async fn open(&self, path: impl Into<PathBuf>, options: OpenOptions) -> io::Result<File> {
        match self
            .submit(Op::Open {
                path: path.into(),
                options,
            })
            .await
            .1?
        {
            Output::File(handle) => Ok(File::from_handle(self, handle)),
            _ => Err(unexpected()),
        }
    }

    /// Renames; an existing `to` is replaced. Durable after [`Rt::sync_dir`] of the directory.
    pub async fn rename(&self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> io::Result<()> {
        unit(
            self.submit(Op::Rename {
                from: from.into(),
                to: to.into(),
            })
            .await
            .1,
        )
    }

    /// Removes a file.
    pub async fn unlink(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        unit(self.submit(Op::Unlink { path: path.into() }).await.1)
    }

    /// Makes one directory.
    pub async fn mkdir(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        unit(self.submit(Op::Mkdir { path: path.into() }).await.1)
    }

    /// Makes a directory and its missing ancestors. Not durable by itself.
    pub async fn mkdir_all(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        let path = path.into();
        let mut missing = Vec::new();
        for ancestor in path
            .ancestors()
            .filter(|ancestor| !ancestor.as_os_str().is_empty())
        {
            match self.stat(ancestor).await {
                Ok(stat) if stat.is_dir => break,
                Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
                Err(error) => return Err(error),
            }
        }
        for ancestor in missing.into_iter().rev() {
            match self.mkdir(ancestor).await {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        unit(self.submit(Op::Rmdir { path: path.into() }).await.1)
    }

    /// Names in a directory, sorted.
    pub async fn read_dir(&self, path: impl Into<PathBuf>) -> io::Result<Vec<DirEntry>> {
        match self.submit(Op::ReadDir { path: path.into() }).await.1? {
            Output::Dir(entries) => Ok(entries),
            _ => Err(unexpected()),
        }
    }

    /// What the file system says of a path.
    pub async fn stat(&self, path: impl Into<PathBuf>) -> io::Result<Stat> {
        stat(self.submit(Op::StatPath { path: path.into() }).await.1)
    }

    /// Free and total bytes of the file system that holds a path.
    pub async fn statfs(&self, path: impl Into<PathBuf>) -> io::Result<Stat> {
        stat(self.submit(Op::StatFs { path: path.into() }).await.1)
    }

    /// Makes creations, renames and removals in a directory durable.
    pub async fn sync_dir(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        unit(self.submit(Op::SyncDir { path: path.into() }).await.1)
    }

    /// Reads a file of at most `max_bytes` (InvalidData when it is longer), through the page cache.
    pub async fn read_whole(
        &self,
        path: impl Into<PathBuf>,
        max_bytes: usize,
    ) -> io::Result<Vec<u8>> {
        let file = self
            .open(
                path,
                OpenOptions {
                    read: true,
                    ..OpenOptions::default()
                },
            )
            .await?;
        let mut whole = Vec::new();
        let mut buf = self.pool().get(READ_STEP_BYTES);
        loop {
            // One byte above the limit tells a longer file; what a file says of its length is
            // not asked, as files below /proc say zero.
            let want = READ_STEP_BYTES.min(max_bytes.saturating_add(1) - whole.len());
            let (result, back) = file.read_at(buf, whole.len() as u64, want).await;
            buf = back;
            let read = result?;
            whole.extend_from_slice(&buf);
            if whole.len() > max_bytes {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is longer than allowed",
                ));
            }
            if read < want {
                return Ok(whole);
            }
        }
    }

    /// Replaces a file as a whole, durably: writes `path.tmp`, fdatasync, rename, fsync of the
    /// directory. After a crash the file holds the old bytes or the new.
    pub async fn write_atomic(&self, path: impl Into<PathBuf>, bytes: Vec<u8>) -> io::Result<()> {
        let path = path.into();
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let options = OpenOptions {
            write: true,
            create: true,
            truncate: true,
            ..OpenOptions::default()
        };
        let file = self.open(&temporary, options).await?;
        file.write_at(vec![Bytes::from(bytes)], 0, false).await?;
        file.fdatasync().await?;
        drop(file);
        self.rename(&temporary, &path).await?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        self.sync_dir(parent.unwrap_or(Path::new("."))).await
    }
}
