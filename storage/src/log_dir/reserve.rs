//! The reserve: a file that does nothing but hold space, given back piece by piece when the file
//! system is full and something must be written all the same.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use corelog_runtime::sync::FifoMutex;
use corelog_runtime::{FallocateMode, File, OpenOptions, Rt};

use crate::log::is_no_space;

/// The file. Ours: Kafka passes it over.
pub const RESERVE_FILE: &str = ".corelog_reserve";
/// A reserve is given back in so many pieces, none smaller than [`PIECE_BYTES_MIN`].
const PIECES: u64 = 16;
const PIECE_BYTES_MIN: u64 = 256 << 10;
const BLOCK: u64 = 4096;

/// Space held in one log directory. Shard: the one that opened the directory.
pub(super) struct Reserve {
    rt: Rt,
    path: PathBuf,
    file: std::cell::RefCell<Option<File>>,
    /// Bytes it should hold, and holds.
    wanted: Cell<u64>,
    held: Cell<u64>,
    turn: FifoMutex,
}

impl Reserve {
    /// Takes over the file that an earlier process left, if there is one.
    pub async fn open(rt: &Rt, log_dir: &Path) -> io::Result<Reserve> {
        let path = log_dir.join(RESERVE_FILE);
        let options = OpenOptions {
            read: true,
            write: true,
            ..OpenOptions::default()
        };
        let (file, held) = match rt.open(&path, options).await {
            Ok(file) => {
                let held = file.stat().await?.len;
                (Some(file), held)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, 0),
            Err(error) => return Err(error),
        };
        Ok(Reserve {
            rt: rt.clone(),
            path,
            file: file.into(),
            wanted: Cell::new(held),
            held: Cell::new(held),
            turn: FifoMutex::new(),
        })
    }

    /// Bytes it holds.
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// Makes it this large, from here on; 0 removes it. Fails where the file system has not as
    /// much, holding what there is.
    pub async fn resize(&self, bytes: u64) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let bytes = bytes.next_multiple_of(BLOCK);
        self.wanted.set(bytes);
        if bytes == 0 {
            return self.remove().await;
        }
        let file = self.file().await?;
        if self.held.get() > bytes {
            return self.cut(&file, bytes).await;
        }
        self.grow(&file, bytes).await
    }

    /// Gives a piece back. False when nothing is left.
    pub async fn release(&self) -> bool {
        let _turn = self.turn.lock().await;
        let held = self.held.get();
        let Some(file) = self.file.borrow().clone().filter(|_| held > 0) else {
            return false;
        };
        let piece = (self.wanted.get() / PIECES).max(PIECE_BYTES_MIN);
        let left = held.saturating_sub(piece) / BLOCK * BLOCK;
        match self.cut(&file, left).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the reserve cannot be used");
                false
            }
        }
    }

    /// Holds all it should again, and shows that `spare` more bytes could be had. Fails with the
    /// file system's refusal, or before it takes anything where that has less: others are to find
    /// what little there is.
    pub async fn refill(&self, spare: u64) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let (wanted, spare) = (self.wanted.get(), spare.next_multiple_of(BLOCK));
        let lacking = wanted.saturating_sub(self.held.get()) + spare;
        let log_dir = self.path.parent().unwrap_or(Path::new("."));
        let stat = self.rt.statfs(log_dir).await;
        if stat.is_ok_and(|stat| stat.free_bytes < lacking) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.file().await?;
        self.grow(&file, wanted + spare).await?;
        self.cut(&file, wanted).await
    }

    async fn file(&self) -> io::Result<File> {
        let known = self.file.borrow().clone();
        if let Some(file) = known {
            return Ok(file);
        }
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let file = self.rt.open(&self.path, options).await?;
        *self.file.borrow_mut() = Some(file.clone());
        Ok(file)
    }

    async fn grow(&self, file: &File, bytes: u64) -> io::Result<()> {
        // From the start: what a crash left may be size without space.
        match file.fallocate(FallocateMode::Extend, 0, bytes).await {
            Ok(()) => {
                self.held.set(bytes.max(self.held.get()));
                Ok(())
            }
            Err(error) => {
                if is_no_space(&error) {
                    // Some file systems keep what they had allocated when they ran out.
                    self.cut(file, self.held.get()).await?;
                }
                Err(error)
            }
        }
    }

    async fn cut(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.ftruncate(bytes).await?;
        self.held.set(bytes);
        // Some give blocks to others only when the change that freed them is on disk.
        file.fdatasync().await
    }

    async fn remove(&self) -> io::Result<()> {
        self.held.set(0);
        if self.file.take().is_some() {
            self.rt.unlink(&self.path).await?;
        }
        Ok(())
    }
}
