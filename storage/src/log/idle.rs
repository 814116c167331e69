//! Descriptors: the file of a segment that is written is opened when somebody works on it, and
//! closed when others need its place or nobody did for long.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::File;

use super::{LogError, LogInner};
use crate::log::files::unlink_if_there;
use crate::log::roll::NextFile;
use crate::log::segment::{OpenSegment, PREPARED_NAME};
use crate::log::writer::align_up;

/// How long, and how often, somebody waits for a descriptor when the process has none left.
const OPEN_RETRY: Duration = Duration::from_millis(50);
const OPEN_TRIES: u32 = 200;

/// ENFILE or EMFILE: others will close theirs.
fn is_no_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

impl LogInner {
    /// The file of a segment that is not sealed, opened when it is closed. What is appended waits
    /// in the write buffer meanwhile, so that the order of bytes and marks is the same.
    pub async fn file(self: &Rc<Self>, segment: &Rc<OpenSegment>) -> io::Result<File> {
        let mut tries = 0;
        loop {
            let was_open = segment.shared.own().is_some();
            match segment.shared.open_own(&self.rt).await {
                Ok(handle) => {
                    self.shard.count(|c| c.reopens += u64::from(!was_open));
                    self.shard.keep_active_open(self, segment);
                    return Ok(File::from_handle(&self.rt, handle));
                }
                Err(error) if is_no_descriptor(&error) && tries < OPEN_TRIES => {
                    if tries == 0 {
                        tracing::warn!(topic = self.topic, partition = self.partition, %error,
                            "no descriptor for a segment file; others are closed");
                    }
                    tries += 1;
                    self.shard.close_half();
                    self.rt.sleep(OPEN_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What an idle partition does not need: buffers, the space prepared past its last block, a
    /// prepared next file, indexes of segments that nobody reads, and its descriptor. The caller
    /// holds `maintenance`.
    pub(super) async fn rest(self: &Rc<Self>) -> Result<(), LogError> {
        let active = {
            let state = self.state.borrow();
            for sealed in state.sealed.values() {
                if sealed.file.borrow().strong_count() == 0 {
                    *sealed.index.borrow_mut() = None;
                }
            }
            state.active()
        };
        self.drop_next_file().await?;
        let is_trimmed = active.allocated_end.get() <= align_up(active.size());
        if !is_trimmed && let Err(error) = self.trim(&active).await {
            return Err(self.soft_failure("giving space back", &error));
        }
        let is_flushed = self.shard.limits().direct || active.is_flushed();
        if !active.is_at_work() && is_flushed {
            active.writer.borrow_mut().release_memory();
            self.shard.forget_open(&active.shared);
            active.shared.close();
        }
        Ok(())
    }

    /// Gives back what is prepared past the last block. An append that comes meanwhile waits, as it
    /// does for a preparation step.
    async fn trim(self: &Rc<Self>, active: &Rc<OpenSegment>) -> io::Result<()> {
        let file = self.file(active).await?;
        if active.is_at_work() || self.state.borrow().rolling {
            return Ok(());
        }
        // The end of the last block, not of the last byte: a cut inside a block would bring that
        // block into the page cache.
        let end = align_up(active.size());
        active.preparing.set(true);
        active.prepared_end.set(end);
        active.allocated_end.set(end);
        active.prepare_step.set(0);
        active.durable_len.set(active.durable_len.get().min(end));
        let result = file.ftruncate(end).await;
        active.preparing.set(false);
        active.progress.notify_all();
        self.shard.count(|c| c.idle_trims += 1);
        result
    }

    async fn drop_next_file(&self) -> Result<(), LogError> {
        {
            let mut state = self.state.borrow_mut();
            if state.rolling || !matches!(state.next_file, NextFile::Ready(..)) {
                return Ok(());
            }
            state.next_file = NextFile::Making;
        }
        let path = self.dir.borrow().join(PREPARED_NAME);
        let result = unlink_if_there(&self.rt, &path).await;
        self.state.borrow_mut().next_file = NextFile::None;
        self.segments_changed.notify_all();
        result.map_err(|error| self.soft_failure("dropping the next file", &error))
    }

    /// A flush of everything appended, for a file that is to be closed.
    pub(crate) fn want_flush_of_all(self: &Rc<Self>) {
        let end = self.state.borrow().marks.log_end;
        self.want_flush(end);
    }
}
