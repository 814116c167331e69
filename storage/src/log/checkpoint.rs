//! Checkpoints, the clean stop and the end of a log.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::{Log, LogError, LogInner};
use crate::guard::is_passing;
use crate::leader_epochs;
use crate::log::api::is_no_space;
use crate::log::files::{replace_files, unlink_if_there};
use crate::log::roll::NextFile;
use crate::log::segment::{
    INDEX, OpenSegment, PREPARED_NAME, SNAPSHOT, TIME_INDEX, parse_segment_name, segment_path,
};
use crate::log::unlink::{remove_dir_later, rename_doomed};

/// Snapshots of checkpoints kept: should the newest be damaged, recovery replays from the one before.
const SNAPSHOTS_KEPT: usize = 2;

/// See [`LogInner::take_checkpoint`].
struct Taken {
    end: i64,
    active: Rc<OpenSegment>,
    /// Of the active segment.
    indexes: Vec<(PathBuf, Vec<u8>)>,
    others: Vec<(PathBuf, Vec<u8>)>,
}

impl Log {
    /// Makes recovery cheap: flushes the log, then index files, epochs and a producer snapshot up
    /// to that offset. The answer is the new recovery point (also in [`Log::marks`]); the caller
    /// writes it to the directory's checkpoint file, from the marks as they are when that write
    /// begins. A partition without news since the last call gives back its buffers, the space
    /// prepared past its last block, and its descriptor: on a full disk it does so first, and then
    /// the checkpoint may use the reserve. `NoSpace` at once while a write of the log waits for space.
    pub async fn checkpoint(&self) -> Result<i64, LogError> {
        let log = &self.0;
        let turn = async { Ok(log.maintenance.lock().await) };
        let _turn = log.unless_out_of_space(turn).await?;
        log.check()?;
        let (end, is_idle, is_done) = {
            let mut state = log.state.borrow_mut();
            let end = state.marks.log_end;
            let is_idle = std::mem::replace(&mut state.idle_end, end) == end;
            (end, is_idle, state.marks.recovery_point == end)
        };
        let uses_reserve = log.config.borrow().uses_reserve;
        let made = match is_done {
            true => Ok(end),
            false => log.checkpoint_now(uses_reserve).await,
        };
        if let Err(error) = &made
            && *error != LogError::NoSpace
        {
            return made;
        }
        if is_idle {
            log.rest().await?;
        }
        match made {
            Err(_) => log.checkpoint_now(true).await,
            made => made,
        }
    }

    /// Clean stop: no append is accepted any more; everything is flushed, the active file trimmed
    /// to its exact size, indexes, epochs and producer snapshot written. Gives the recovery point,
    /// which is the log's end. Fails, and leaves the rest to recovery, when the log failed.
    pub async fn close(&self) -> Result<i64, LogError> {
        let log = self.0.clone();
        let task = self
            .0
            .rt
            .spawn_vital("log close", async move { log.close_now().await });
        task.await.unwrap_or(Err(LogError::Closed))
    }

    /// Stops at once, without flush or checkpoint: as if the process had been killed. Writes in
    /// flight end by themselves.
    pub fn abandon(&self) {
        self.0.state.borrow_mut().closed = true;
        self.0.end_waits(i64::MIN);
    }

    /// Deletes the log. Its directory is renamed to `<dir>.<32 hex>-delete`, durably, so that nothing
    /// comes back as a log; the files go `file.delete.delay.ms` later.
    pub async fn delete(self) -> Result<(), LogError> {
        let log = self.0.clone();
        let task = self
            .0
            .rt
            .spawn_vital("log delete", async move { log.delete_now().await });
        task.await.unwrap_or(Err(LogError::Closed))
    }
}

impl LogInner {
    /// Waits until every rolled segment is sealed.
    pub async fn wait_sealed(&self) -> Result<(), LogError> {
        loop {
            let changed = self.segments_changed.notified();
            self.check()?;
            {
                let state = self.state.borrow();
                if state.open.len() == 1 && !state.rolling {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// What a checkpoint writes: the state as it is now, to be used once the log is flushed up to
    /// its end.
    fn take_checkpoint(&self) -> Taken {
        let dir = self.dir.borrow().clone();
        let mut state = self.state.borrow_mut();
        let active = state.active();
        let end = state.marks.log_end;
        let now_ms = self.rt.wall_clock_ms();
        state
            .producers
            .expire(now_ms, self.config.borrow().producer_id_expiration_ms);
        let index = active.index.borrow();
        let indexes = vec![
            (
                segment_path(&dir, active.base_offset, INDEX),
                index.offsets().encode(),
            ),
            (
                segment_path(&dir, active.base_offset, TIME_INDEX),
                index.times().encode(),
            ),
        ];
        drop(index);
        let mut others = vec![(
            segment_path(&dir, end, SNAPSHOT),
            state.producers.encode_snapshot(),
        )];
        if std::mem::take(&mut state.epochs_changed) {
            others.push((dir.join(leader_epochs::FILE_NAME), state.epochs.encode()));
        }
        Taken {
            end,
            active,
            indexes,
            others,
        }
    }

    /// The caller holds `maintenance`.
    pub async fn checkpoint_now(self: &Rc<Self>, uses_reserve: bool) -> Result<i64, LogError> {
        let dir = self.dir.borrow().clone();
        let Taken {
            end,
            active,
            indexes: mut files,
            others,
        } = self.take_checkpoint();
        let flushed = async {
            self.wait_flushed_or_want(end).await?;
            self.wait_sealed().await
        };
        if let Err(error) = self.unless_out_of_space(flushed).await {
            self.state.borrow_mut().epochs_changed = true;
            return Err(error);
        }
        let mut turn = self.small_files.lock().await;
        if active.rolled.get() {
            // Its seal writes the whole indexes: ours are older.
            drop(turn);
            if let Err(error) = self.unless_out_of_space(self.wait_sealed()).await {
                self.state.borrow_mut().epochs_changed = true;
                return Err(error);
            }
            turn = self.small_files.lock().await;
            files.clear();
        }
        files.extend(others);
        let _turn = turn;
        loop {
            match replace_files(&self.rt, &dir, files.clone()).await {
                Ok(()) => break,
                Err(error) if is_no_space(&error) && self.make_space(uses_reserve).await => {}
                Err(error) => {
                    self.state.borrow_mut().epochs_changed = true;
                    return Err(self.soft_failure("checkpoint", &error));
                }
            }
        }
        {
            let mut state = self.state.borrow_mut();
            // A cut excludes checkpoints, so the marks only went up.
            let end = end.max(state.marks.recovery_point);
            state.marks.set_recovery_point(end);
        }
        if let Err(error) = self.drop_old_snapshots(end).await {
            self.read_error("drop of old snapshots", &error);
            tracing::warn!(dir = %dir.display(), %error, "old producer snapshots stay");
        }
        Ok(end)
    }

    /// An error beside the log itself: without space the log lives on, others end it.
    pub(super) fn soft_failure(&self, what: &str, error: &io::Error) -> LogError {
        // Too many open files, or no memory for one: as passing as a full disk.
        if is_passing(error) {
            tracing::warn!(what, %error, "put off");
            return LogError::Io(format!("{what}: {error}").into());
        }
        match LogError::io(what, error) {
            LogError::NoSpace => LogError::NoSpace,
            _ => self.fail(what, error),
        }
    }

    async fn drop_old_snapshots(&self, newest: i64) -> io::Result<()> {
        let dir = self.dir.borrow().clone();
        let mut offsets: Vec<i64> = self
            .rt
            .read_dir(&dir)
            .await?
            .iter()
            .filter_map(|e| parse_segment_name(&e.name))
            .filter(|&(offset, suffix)| suffix == SNAPSHOT && offset < newest)
            .map(|(offset, _)| offset)
            .collect();
        {
            // Those of segments go with the segments: a cut, and a log whose begin went, need them.
            let state = self.state.borrow();
            let open = |offset: &i64| state.open.iter().any(|s| s.base_offset == *offset);
            offsets.retain(|offset| !state.sealed.contains_key(offset) && !open(offset));
        }
        offsets.sort_unstable();
        let keep_from = offsets.len().saturating_sub(SNAPSHOTS_KEPT - 1);
        for &offset in &offsets[..keep_from] {
            unlink_if_there(&self.rt, &segment_path(&dir, offset, SNAPSHOT)).await?;
        }
        Ok(())
    }

    async fn close_now(self: &Rc<Self>) -> Result<i64, LogError> {
        let _turn = self.gate.lock().await;
        let _maintenance = self.maintenance.lock().await;
        self.check()?;
        self.wait_file_makers().await;
        self.flush_all().await?;
        self.wait_sealed().await?;
        let active = self.state.borrow().active();
        self.settle(&active).await?;
        let trim = async {
            let file = self.file(&active).await?;
            file.ftruncate(active.size()).await?;
            active.prepared_end.set(active.size());
            active.allocated_end.set(active.size());
            file.fdatasync().await?;
            let dir = self.dir.borrow().clone();
            unlink_if_there(&self.rt, &dir.join(PREPARED_NAME)).await
        };
        if let Err(error) = trim.await {
            return Err(self.fail("clean stop", &error));
        }
        active.index.borrow_mut().seal();
        self.state.borrow_mut().epochs_changed = true;
        // The last to ask: what is left of the reserve has no other use.
        let end = self.checkpoint_now(true).await?;
        {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            state.next_file = NextFile::None;
            active.shared.next_generation();
        }
        self.shard.forget_open(&active.shared);
        active.shared.close();
        self.end_waits(i64::MIN);
        self.tail.clear();
        // The callback may hold the log: let go of each other.
        self.progress.take();
        Ok(end)
    }

    async fn delete_now(self: &Rc<Self>) -> Result<(), LogError> {
        // First: who holds a lock may wait for space, which perhaps this alone makes.
        self.state.borrow_mut().closed = true;
        self.end_waits(i64::MIN);
        self.segments_changed.notify_all();
        let _turn = self.gate.lock().await;
        let _maintenance = self.maintenance.lock().await;
        self.end_waits(i64::MIN);
        self.wait_file_makers().await;
        // Writes and the preparer end first: they would find their files gone from under them.
        let open: Vec<_> = self.state.borrow().open.iter().cloned().collect();
        for segment in &open {
            let _ = self.settle(segment).await;
            segment.shared.next_generation();
            self.shard.forget_open(&segment.shared);
            segment.shared.close();
        }
        {
            let mut state = self.state.borrow_mut();
            for sealed in std::mem::take(&mut state.sealed).into_values() {
                if let Some(file) = sealed.file.borrow().upgrade() {
                    file.next_generation();
                    self.shard.forget_open(&file);
                }
            }
            state.next_file = NextFile::None;
        }
        self.tail.clear();
        self.progress.take();
        self.delete_files().await.map_err(|error| {
            self.read_error("delete", &error);
            LogError::io("delete", &error)
        })
    }

    /// Waits for whatever makes or renames files: rolls, seals, the next file.
    async fn wait_file_makers(&self) {
        loop {
            let changed = self.segments_changed.notified();
            {
                let state = self.state.borrow();
                let is_making = matches!(state.next_file, NextFile::Making);
                let is_sealing = state.open.len() > 1 && state.failed.is_none();
                if !state.rolling && !is_making && !is_sealing {
                    return;
                }
            }
            changed.await;
        }
    }

    async fn delete_files(&self) -> io::Result<()> {
        let dir = self.dir.borrow().clone();
        let doomed = rename_doomed(&self.rt, &dir, &self.topic, self.partition).await?;
        *self.dir.borrow_mut() = doomed.clone();
        let delay = Duration::from_millis(self.config.borrow().file_delete_delay_ms);
        remove_dir_later(&self.rt, &self.shard, doomed, delay);
        Ok(())
    }
}
