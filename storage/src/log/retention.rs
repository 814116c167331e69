//! The begin of the log: records deleted on request, retention, and the end of the segments that lie
//! below the log start.
//!
//! The order that a crash at any moment leaves right: everything below the new log start is flushed,
//! so that power loss cannot end the log before its start; log start and recovery point are durable
//! in the directory's checkpoints; only then are files renamed, oldest first; the marks follow, and
//! the unlinking comes last. A log start that anybody was told of never goes back.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::{DeleteRecordsError, Log, LogError, LogInner, ReadError};
use crate::index::TimeIndex;
use crate::log::files::INDEX_BYTES_MAX;
use crate::log::open::read_if_there;
use crate::log::read::Segment;
use crate::log::segment::{
    INDEX, LOG, OpenSegment, SNAPSHOT, SealedSegment, TIME_INDEX, TXN_INDEX, deleted_path,
    segment_path,
};
use crate::log::unlink::unlink_later;
use crate::retention::{Candidate, Judge, Rules, Verdict, Why};

/// What [`Log::retain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The segments that go, oldest first.
#[derive(Default)]
struct Doomed {
    sealed: Vec<Rc<SealedSegment>>,
    /// The active one goes too: it has to roll first.
    active: Option<Rc<OpenSegment>>,
    /// Why the last one goes.
    why: Option<Why>,
}

impl Log {
    /// `delete.records`: raises the log start to `offset`, at most to the high watermark; a lower
    /// offset changes nothing. Gives the log start. Durable when it answers. What lies below goes at
    /// the next [`Log::retain`]. Dropping the future does not call it off.
    pub async fn delete_records(&self, offset: i64) -> Result<i64, DeleteRecordsError> {
        let log = self.0.clone();
        let task = self.0.rt.spawn_vital("delete records", async move {
            let _turn = log.maintenance.lock().await;
            log.check()?;
            let high_watermark = log.state.borrow().marks.high_watermark;
            if offset > high_watermark {
                return Err(DeleteRecordsError::OffsetOutOfRange { high_watermark });
            }
            if offset > log.state.borrow().marks.log_start {
                log.make_start_durable(offset).await?;
                log.set_log_start(offset);
            }
            Ok(log.state.borrow().marks.log_start)
        });
        task.await
            .unwrap_or(Err(DeleteRecordsError::Log(LogError::Closed)))
    }

    /// Removes segments that are over: below the log start, and, where `cleanup.policy` says delete,
    /// by `retention.bytes` and `retention.ms`. The active segment rolls when it is over too. Files
    /// are renamed to `.deleted`, and unlinked after `file.delete.delay.ms`. While a write of the log
    /// waits for space, nothing is waited for, and only what is sealed goes. Dropping the future does
    /// not call it off.
    pub async fn retain(&self) -> Result<Retained, LogError> {
        let log = self.0.clone();
        let task = self.0.rt.spawn_vital("log retention", async move {
            // The gate comes before `maintenance`, as in a cut and a close.
            let rolled = async {
                log.wait_sealed().await?;
                match log.find_doomed().await.active {
                    Some(active) => log.roll_if_unchanged(&active).await,
                    None => Ok(()),
                }
            };
            match log.unless_out_of_space(rolled).await {
                Ok(()) | Err(LogError::NoSpace) => {}
                Err(error) => return Err(error),
            }
            let turn = async { Ok(log.maintenance.lock().await) };
            let _turn = log.unless_out_of_space(turn).await?;
            log.check()?;
            log.retain_now().await
        });
        task.await.unwrap_or(Err(LogError::Closed))
    }
}

impl LogInner {
    /// Makes a log start durable, and all below it. The caller holds `maintenance`, so that neither
    /// the marks nor the checkpoint of this log go down meanwhile.
    async fn make_start_durable(self: &Rc<Self>, offset: i64) -> Result<(), LogError> {
        self.unless_out_of_space(self.wait_flushed_or_want(offset))
            .await?;
        let Some(sink) = self.shard.sink() else {
            return Ok(());
        };
        let marks = self.state.borrow().marks.get();
        let start = offset.max(marks.log_start);
        // Whoever writes the checkpoints looks after their directory: nothing of this log failed.
        sink.raise_log_start(&self.topic, self.partition, start, marks.recovery_point)
            .await
            .map_err(|error| LogError::io("log start", &error))
    }

    fn set_log_start(&self, offset: i64) {
        let mut state = self.state.borrow_mut();
        if state.marks.set_log_start(offset) {
            self.shard.count(|c| c.log_start_raises += 1);
            state.epochs_changed |= state.epochs.truncate_from_start(offset);
        }
    }

    async fn retain_now(self: &Rc<Self>) -> Result<Retained, LogError> {
        let mut doomed = self.find_doomed().await;
        let Some(last) = doomed.sealed.last() else {
            return Ok(Retained::default());
        };
        let start = last.end_offset.get();
        if self.state.borrow().marks.recovery_point < start {
            // Recovery would not find the producers of what is gone. Out of the reserve, if need
            // be: this is what makes space.
            match self.checkpoint_now(true).await {
                Ok(_) => {}
                Err(LogError::NoSpace) => self.spare_what_needs_a_checkpoint(&mut doomed).await?,
                Err(error) => return Err(error),
            }
        }
        let Some(last) = doomed.sealed.last() else {
            return Err(LogError::NoSpace);
        };
        let start = last.end_offset.get();
        // Also when the log start is there already: the recovery point may have moved since.
        match self.make_start_durable(start).await {
            // The names will tell: they are durable before the marks move. So will the snapshot of
            // the first segment that is left.
            Ok(()) | Err(LogError::NoSpace) => {}
            Err(error) => return Err(error),
        }
        self.remove(&doomed, start).await
    }

    /// Without room for a checkpoint only what lies below one goes: below the last one that was
    /// made, or, as far as it is flushed, below a segment whose own producer snapshot is there.
    /// Recovery begins with that one when the segment is the log's first.
    async fn spare_what_needs_a_checkpoint(&self, doomed: &mut Doomed) -> Result<(), LogError> {
        let dir = self.dir.borrow().clone();
        let marks = self.state.borrow().marks.get();
        let mut going = 0;
        for sealed in &doomed.sealed {
            let end = sealed.end_offset.get();
            if end > marks.flushed_end {
                break;
            }
            if end > marks.recovery_point {
                match self.rt.stat(segment_path(&dir, end, SNAPSHOT)).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(self.soft_failure("retention", &error)),
                }
            }
            going += 1;
        }
        doomed.sealed.truncate(going);
        Ok(())
    }

    /// Asks the rules about the segments, from the oldest on.
    async fn find_doomed(self: &Rc<Self>) -> Doomed {
        let config = self.config.borrow().clone();
        let marks = self.state.borrow().marks.get();
        let rules = Rules {
            deletes: config.deletes,
            bytes: config.retention_bytes,
            ms: config.retention_ms,
            now_ms: self.rt.wall_clock_ms(),
            log_start: marks.log_start,
            high_watermark: marks.high_watermark,
        };
        let segments = self.segments();
        let bytes = segments.iter().map(segment_bytes).sum();
        let mut judge = Judge::new(rules, bytes);
        let mut doomed = Doomed::default();
        let count = segments.len();
        for (i, segment) in segments.into_iter().enumerate() {
            let active = i + 1 == count;
            if !active && matches!(segment, Segment::Open(_)) {
                break; // not sealed yet: the next time
            }
            let verdict = judge.judge(Candidate {
                end_offset: end_offset(&segment),
                bytes: segment_bytes(&segment),
                active,
            });
            let goes = match verdict {
                Verdict::Goes(why) => Some(why),
                Verdict::Stays => None,
                Verdict::ByAge => match self.greatest_timestamp(&segment).await {
                    Ok(greatest) => judge.is_expired(greatest).then_some(Why::Age),
                    Err(error) => {
                        // Nothing goes whose age is not known.
                        tracing::warn!(topic = self.topic, partition = self.partition, %error,
                            "retention cannot tell a segment's age; it stays");
                        None
                    }
                },
            };
            let Some(why) = goes else { break };
            doomed.why = Some(why);
            match segment {
                Segment::Sealed(sealed) => doomed.sealed.push(sealed),
                Segment::Open(open) => doomed.active = Some(open),
            }
        }
        doomed
    }

    /// The greatest timestamp of a segment's records; its age in this process when they have none.
    async fn greatest_timestamp(self: &Rc<Self>, segment: &Segment) -> io::Result<i64> {
        let sealed = match segment {
            Segment::Open(open) => {
                let greatest = open.index.borrow().max_timestamp().map(|(at, _)| at);
                return Ok(match greatest.filter(|&at| at >= 0) {
                    Some(at) => at,
                    None => {
                        self.learn_age(open).await;
                        let since = open.first_append_ms.get();
                        since.unwrap_or_else(|| self.rt.wall_clock_ms())
                    }
                });
            }
            Segment::Sealed(sealed) => sealed,
        };
        let greatest = match sealed.max_timestamp.get() {
            Some(known) => known,
            None => {
                let read = match self.read_greatest_timestamp(sealed).await {
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        self.age_of_unreadable(sealed, &error).await?
                    }
                    read => read?,
                };
                sealed.max_timestamp.set(Some(read));
                read
            }
        };
        Ok(if greatest >= 0 {
            greatest
        } else {
            sealed.known_since_ms
        })
    }

    /// Damage must not keep a segment, and all behind it, for ever: as old as its last change, as
    /// in Kafka. -1 when the file system does not know.
    async fn age_of_unreadable(&self, sealed: &SealedSegment, why: &io::Error) -> io::Result<i64> {
        let path = segment_path(&self.dir.borrow(), sealed.base_offset, LOG);
        let modified_ms = self.rt.stat(path).await?.modified_ms;
        tracing::warn!(topic = self.topic, partition = self.partition, %why,
            "a damaged segment tells no timestamps; retention takes the time of its last change");
        Ok(if modified_ms > 0 { modified_ms } else { -1 })
    }

    /// From the time index, the file alone where that is whole; -1 when there is no timestamp.
    async fn read_greatest_timestamp(
        self: &Rc<Self>,
        sealed: &Rc<SealedSegment>,
    ) -> io::Result<i64> {
        let (base, end) = (sealed.base_offset, sealed.end_offset.get());
        let path = segment_path(&self.dir.borrow(), base, TIME_INDEX);
        let bytes = read_if_there(&self.rt, &path, INDEX_BYTES_MAX).await?;
        let index = bytes.and_then(|bytes| TimeIndex::decode(base, &bytes, end).ok());
        // A sealed segment has an entry for its greatest timestamp; one without any is not believed.
        if let Some((at, _)) = index.and_then(|index| index.last()) {
            return Ok(at);
        }
        let view = self.view(&Segment::Sealed(sealed.clone())).await;
        let view = view.map_err(|error| match error {
            ReadError::Corrupt(why) => io::Error::new(io::ErrorKind::InvalidData, &*why),
            error => io::Error::other(error.to_string()),
        })?;
        let index = self.sealed_index(sealed, &view.file).await?;
        Ok(index.times.last().map_or(-1, |(at, _)| at))
    }

    /// Rolls the active segment, all of which is over, unless it got an append meanwhile; then waits
    /// for its seal.
    async fn roll_if_unchanged(self: &Rc<Self>, active: &Rc<OpenSegment>) -> Result<(), LogError> {
        let end = active.end_offset.get();
        {
            let _turn = self.gate.lock().await;
            self.check()?;
            let same = Rc::ptr_eq(&self.state.borrow().active(), active);
            if !same || active.end_offset.get() != end || self.state.borrow().rolling {
                return Ok(());
            }
            match self.roll_with(0).await {
                Ok(()) => self.shard.count(|c| c.retention_rolls += 1),
                Err(_) if self.state.borrow().failed.is_none() => return Ok(()), // no space
                Err(error) => return Err(LogError::Io(error.to_string().into())),
            }
        }
        self.wait_sealed().await
    }

    /// Takes segments off the begin of the log, which then starts at `start`.
    async fn remove(self: &Rc<Self>, doomed: &Doomed, start: i64) -> Result<Retained, LogError> {
        for sealed in &doomed.sealed {
            sealed.retired.set(true);
        }
        let files = self.rename_files(&doomed.sealed).await;
        let files = files.map_err(|error| self.soft_failure("removal of segments", &error))?;
        self.set_log_start(start);
        let mut retained = Retained::default();
        for sealed in &doomed.sealed {
            retained.segments += 1;
            retained.bytes += sealed.size;
            self.state.borrow_mut().sealed.remove(&sealed.base_offset);
            if let Some(file) = sealed.file.borrow().upgrade() {
                self.shard.forget_open(&file);
            }
        }
        self.shard.count(|c| {
            c.segments_removed += retained.segments;
            c.segment_bytes_removed += retained.bytes;
        });
        tracing::info!(
            topic = self.topic,
            partition = self.partition,
            log_start = start,
            segments = retained.segments,
            bytes = retained.bytes,
            why = ?doomed.why,
            "segments removed from the begin of the log"
        );
        unlink_later(self, files);
        Ok(retained)
    }

    /// Renames the files of segments, oldest first, so that a crash on the way leaves no hole.
    /// Durable when it answers with their new names.
    async fn rename_files(&self, segments: &[Rc<SealedSegment>]) -> io::Result<Vec<PathBuf>> {
        let dir = self.dir.borrow().clone();
        let _turn = self.small_files.lock().await;
        let mut renamed = Vec::new();
        for sealed in segments {
            for suffix in [LOG, INDEX, TIME_INDEX, TXN_INDEX, SNAPSHOT] {
                let path = segment_path(&dir, sealed.base_offset, suffix);
                let to = deleted_path(&path);
                match self.rt.rename(&path, &to).await {
                    // Derived files come and go, and a try before may have renamed this one.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => renamed.push(to),
                }
            }
        }
        self.rt.sync_dir(&dir).await?;
        Ok(renamed)
    }
}

fn segment_bytes(segment: &Segment) -> u64 {
    match segment {
        Segment::Open(open) => open.size(),
        Segment::Sealed(sealed) => sealed.size,
    }
}

fn end_offset(segment: &Segment) -> i64 {
    match segment {
        Segment::Open(open) => open.end_offset.get(),
        Segment::Sealed(sealed) => sealed.end_offset.get(),
    }
}
