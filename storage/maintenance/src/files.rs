//! The adapter: what a scrub asks of files, on the executor of this thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use corelog_runtime::blocking;
use corelog_storage::scrub::{Pace, ScrubFiles};
use crossbeam::channel::Receiver;
use glommio::GlommioError;
use glommio::io::BufferedFile;

/// Longest sleep before the rate, and whether the thread ends, are looked at again.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Files read at a rate, until the thread is to end.
pub struct PacedFiles<R> {
    stop: Receiver<()>,
    rate: R,
    pace: RefCell<Pace>,
    began: Instant,
}

impl<R: Fn() -> u64> PacedFiles<R> {
    /// Ends when `stop` has a message, or nobody can send one any more, and while `rate` is 0.
    pub fn new(stop: Receiver<()>, rate: R) -> PacedFiles<R> {
        PacedFiles {
            stop,
            rate,
            pace: RefCell::new(Pace::new()),
            began: blocking::now(),
        }
    }

    /// Where the end is told.
    pub fn stop(&self) -> &Receiver<()> {
        &self.stop
    }

    fn is_ended(&self) -> bool {
        !self.stop.is_empty() || (self.rate)() == 0
    }

    fn now(&self) -> Duration {
        blocking::now().saturating_duration_since(self.began)
    }
}

/// A file that is read on the executor's ring.
///
/// Glommio's own type for O_DIRECT is not used. It finds out how to wait for a device by reading the
/// first file it sees there, and an empty one tells it wrong, so that every later read fails; it asks
/// the name again after opening, and panics when the file was renamed meanwhile, as retention does; it
/// panics where the device is not described as it expects. Reads of the other type are the same
/// operations into memory that is aligned the same.
pub struct OpenFile {
    file: BufferedFile,
    len: u64,
}

/// The error that the system gave, with its number: what the device says is told by that.
fn of_the_system(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } | GlommioError::IoError(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

impl<R: Fn() -> u64> ScrubFiles for PacedFiles<R> {
    type File = OpenFile;

    async fn open(&self, path: &Path) -> io::Result<OpenFile> {
        let file = blocking::open_past_cache(path)?;
        let len = file.metadata()?.len();
        #[expect(unsafe_code, reason = "glommio takes descriptors in no other way")]
        // SAFETY: the descriptor is open, and given away here by its only owner.
        let file = unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) };
        Ok(OpenFile { file, len })
    }

    async fn len(&self, file: &OpenFile) -> io::Result<u64> {
        Ok(file.len)
    }

    async fn read_at(&self, file: &OpenFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let read = file.file.read_at(offset, len).await;
        Ok(read.map_err(of_the_system)?.to_vec())
    }

    async fn close(&self, file: OpenFile) {
        if let Err(error) = file.file.close().await {
            tracing::debug!(%error, "a file that was read did not close well");
        }
    }

    async fn keep_pace(&self, bytes: usize) -> bool {
        self.pace.borrow_mut().book(bytes);
        while !self.is_ended() {
            let wait = self.pace.borrow_mut().wait(self.now(), (self.rate)());
            if wait.is_zero() {
                glommio::yield_if_needed().await;
                return true;
            }
            glommio::timer::sleep(wait.min(SLEEP_MAX)).await;
        }
        false
    }
}
