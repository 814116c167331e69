//! Reading a file from front to end past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use corelog_runtime::buf::AlignedBuf;
use corelog_runtime::{BLOCK_BYTES, BufferPool, blocking};

/// Bytes read at a time: a multiple of every alignment.
const WINDOW_BYTES: usize = 1 << 20;
/// `O_DIRECT` of Linux on the machines that are served.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
const O_DIRECT: i32 = 0o40_000;
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86")))]
const O_DIRECT: i32 = 0o200_000;

/// A file, and a stretch of it in memory.
pub struct Reader {
    file: File,
    len: u64,
    window: AlignedBuf,
    bytes: Vec<u8>,
    /// Where `bytes` begins in the file.
    start: u64,
}

impl Reader {
    /// Opens a file; its length is what it is now.
    pub fn open(path: &Path) -> io::Result<Reader> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(O_DIRECT);
        let file = match blocking::open_file_with(path, &options) {
            // Some file systems know the page cache only.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => blocking::open_file(path)?,
            opened => opened?,
        };
        Ok(Reader {
            len: file.metadata()?.len(),
            file,
            window: BufferPool::new(0).get(WINDOW_BYTES),
            bytes: Vec::new(),
            start: 0,
        })
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes from `at` on: `wanted` of them, fewer only at the end of the file. Places asked for
    /// rise.
    pub fn bytes(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let end = at.saturating_add(wanted as u64).min(self.len);
        let drop = usize::try_from(at.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let have_end = self.start + self.bytes.len() as u64;
        if end > have_end {
            self.bytes.drain(..drop.min(self.bytes.len()));
            self.start = at.min(have_end);
            if self.bytes.is_empty() {
                self.start = at - at % BLOCK_BYTES as u64;
            }
            while self.start + (self.bytes.len() as u64) < end && self.read_on()? > 0 {}
        }
        let from = usize::try_from(at.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let from = from.min(self.bytes.len());
        let to = (from + wanted).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }

    /// Reads the next window; 0 at the end.
    fn read_on(&mut self) -> io::Result<usize> {
        let at = self.start + self.bytes.len() as u64;
        // The end of what is in memory is the end of a block, or of the file.
        let aligned = at - at % BLOCK_BYTES as u64;
        let skip = (at - aligned) as usize;
        let read = self.file.read_at(self.window.as_mut_slice(), aligned)?;
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let fresh = read.saturating_sub(skip).min(left);
        self.bytes
            .extend_from_slice(&self.window.as_mut_slice()[skip..skip + fresh]);
        Ok(fresh)
    }
}
