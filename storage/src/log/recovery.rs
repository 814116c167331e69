//! Recovery: what an unclean stop left is read batch by batch and believed only as far as it
//! proves itself. Indexes are never trusted, nothing cut ever comes back, bad files are renamed.

use std::io;
use std::rc::Rc;

use corelog_record::batch::BatchHeader;
use corelog_runtime::{FallocateMode, File, OpenOptions};

use super::RecoveryReport;
use crate::index::IndexBuilder;
use crate::leader_epochs::LeaderEpochs;
use crate::log::api::is_no_space;
use crate::log::files::{TEMPORARY, replace_derived_files, set_aside, unlink_if_there};
use crate::log::open::{Opening, Parts, feed, read_if_there};
use crate::log::scan::{Found, SCAN_BYTES, Scanner};
use crate::log::segment::{
    INDEX, LOG, OpenSegment, PREPARED_NAME, SNAPSHOT, SealedSegment, TIME_INDEX, TXN_INDEX,
    parse_segment_name, segment_path,
};
use crate::log::writer::align_up;
use crate::producer_state::ProducerState;

/// Progress is logged every so many bytes of a segment.
const PROGRESS_BYTES: u64 = 256 << 20;

/// What the replay of one segment found.
struct Replayed {
    file: File,
    /// Bytes of the file (i_size).
    len: u64,
    /// End of its last good batch.
    end: u64,
    /// Why there is no further batch, unless the file ends there.
    bad: Option<String>,
    index: IndexBuilder,
}

/// The replay under way.
struct Replay<'a> {
    opening: &'a Opening<'a>,
    epochs: LeaderEpochs,
    producers: ProducerState,
    report: RecoveryReport,
    /// The next batch begins at or past it.
    expected: i64,
    epoch: i32,
}

/// Recovers the log in its directory.
pub(crate) async fn recover(opening: &Opening<'_>) -> io::Result<Parts> {
    let params = opening.params;
    let mut report = RecoveryReport {
        replayed: true,
        ..RecoveryReport::default()
    };
    remove_leftovers(opening).await?;
    let bases = opening.segment_bases().await?;
    remove_orphans(opening, &bases).await?;
    if bases.is_empty() {
        let mut parts = opening.create_empty(params.log_start).await?;
        parts.report = report;
        return Ok(parts);
    }
    let mut epochs = opening.read_epochs(&mut report.set_aside).await?;
    let (producers, snapshot_offset) = newest_snapshot(opening, bases[0], &mut report).await?;
    let replay_from = snapshot_offset.min(params.recovery_point);
    // A segment is known to be sealed when the recovery point lies past the begin of the next one:
    // at its very begin, the seal may not have been done.
    let first = bases
        .partition_point(|&base| base < replay_from)
        .saturating_sub(1);
    // Epochs of what is replayed are learned again from the batches.
    let expected = bases[first];
    epochs.truncate_from_end(expected);
    // No derived file says that a batch is wrong: the first epoch met is right.
    let epoch = i32::MIN;
    let mut replay = Replay {
        opening,
        epochs,
        producers,
        report,
        expected,
        epoch,
    };
    let mut sealed = Vec::new();
    for pair in bases[..=first].windows(2) {
        let size = opening
            .rt
            .stat(segment_path(&params.dir, pair[0], LOG))
            .await?
            .len;
        sealed.push(SealedSegment::new(opening.rt, pair[0], pair[1], size));
    }
    let active = replay.segments(&bases[first..], &mut sealed).await?;
    let end = replay.expected;
    replay.epochs.truncate_from_end(end);
    drop_snapshots_past(opening, end).await?;
    opening.rt.sync_dir(&params.dir).await?;
    let report = replay.report;
    tracing::info!(
        topic = params.topic,
        partition = params.partition,
        log_end = end,
        recovery_point = params.recovery_point,
        batches = report.batches_checked,
        bytes_cut = report.bytes_cut,
        damaged = report.damaged,
        reason = report.end_reason.as_deref().unwrap_or("end of file"),
        "log recovered"
    );
    Ok(Parts {
        sealed,
        active,
        epochs: replay.epochs,
        producers: replay.producers,
        report,
    })
}

/// Files that were being written: never part of the log.
async fn remove_leftovers(opening: &Opening<'_>) -> io::Result<()> {
    let dir = &opening.params.dir;
    for entry in opening.rt.read_dir(dir).await? {
        if entry.name == PREPARED_NAME || entry.name.ends_with(&format!(".{TEMPORARY}")) {
            unlink_if_there(opening.rt, &dir.join(entry.name)).await?;
        }
    }
    Ok(())
}

/// Derived files of segments that retention removed: a crash came between the renames. Only those
/// below the first segment; the replay looks after the others.
async fn remove_orphans(opening: &Opening<'_>, bases: &[i64]) -> io::Result<()> {
    let dir = &opening.params.dir;
    for entry in opening.rt.read_dir(dir).await? {
        let Some((base, INDEX | TIME_INDEX | TXN_INDEX)) = parse_segment_name(&entry.name) else {
            continue;
        };
        if bases.first().is_none_or(|&first| base < first) {
            unlink_if_there(opening.rt, &dir.join(entry.name)).await?;
        }
    }
    Ok(())
}

/// The newest whole producer snapshot at or below the recovery point and not below the first
/// segment, and its offset. The first segment's own counts whatever the recovery point says: it
/// speaks of removed segments alone, all of which was flushed before they went. Without one the state
/// is built from the log's first batch on.
async fn newest_snapshot(
    opening: &Opening<'_>,
    first_base: i64,
    report: &mut RecoveryReport,
) -> io::Result<(ProducerState, i64)> {
    let dir = &opening.params.dir;
    let mut offsets: Vec<i64> = opening
        .rt
        .read_dir(dir)
        .await?
        .iter()
        .filter_map(|e| parse_segment_name(&e.name))
        .filter(|&(offset, suffix)| suffix == SNAPSHOT && offset >= first_base)
        .filter(|&(offset, _)| offset <= opening.params.recovery_point.max(first_base))
        .map(|(offset, _)| offset)
        .collect();
    offsets.sort_unstable();
    for &offset in offsets.iter().rev() {
        if let Some(producers) = opening.read_snapshot(offset).await? {
            return Ok((producers, offset));
        }
        if let Some(to) = set_aside(opening.rt, &segment_path(dir, offset, SNAPSHOT), "bad").await?
        {
            report.set_aside.push(to.to_string_lossy().into_owned());
        }
    }
    Ok((ProducerState::new(first_base), first_base))
}

/// Snapshots past the recovered end speak of batches that are gone.
async fn drop_snapshots_past(opening: &Opening<'_>, end: i64) -> io::Result<()> {
    let dir = &opening.params.dir;
    for entry in opening.rt.read_dir(dir).await? {
        if let Some((offset, SNAPSHOT)) = parse_segment_name(&entry.name)
            && offset > end
        {
            unlink_if_there(opening.rt, &dir.join(entry.name)).await?;
        }
    }
    Ok(())
}

impl Replay<'_> {
    /// Replays the segments in order; the last one believed becomes the active one.
    async fn segments(
        &mut self,
        bases: &[i64],
        sealed: &mut Vec<Rc<SealedSegment>>,
    ) -> io::Result<Rc<OpenSegment>> {
        let recovery_point = self.opening.params.recovery_point;
        for (i, &base) in bases.iter().enumerate() {
            let replayed = self.segment(base).await?;
            let next = bases.get(i + 1).copied();
            let is_whole = replayed.end == replayed.len && replayed.bad.is_none();
            // Past the recovery point a hole between segments is lost data, not compaction; below the
            // log start nothing is missed.
            let holes_end = recovery_point.max(self.opening.params.log_start);
            let follows =
                next.is_some_and(|n| n == self.expected || (n > self.expected && n <= holes_end));
            if let Some(next) = next.filter(|_| is_whole && follows) {
                self.seal(base, next, replayed, sealed).await?;
                continue;
            }
            if next.is_some() && is_whole {
                let why = format!("the segment after offset {} is missing", self.expected);
                self.report.end_reason.get_or_insert(why);
            }
            self.set_later_aside(&bases[i + 1..]).await?;
            return self.end_at(base, replayed).await;
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no segment to replay",
        ))
    }

    /// Checks every batch of a segment.
    async fn segment(&mut self, base: i64) -> io::Result<Replayed> {
        let file = self.opening.open_log_file(base, true).await?;
        barrier(&file).await?;
        let len = file.stat().await?.len;
        let mut scanner = Scanner::new(self.opening.rt, file.clone(), len, SCAN_BYTES);
        let mut index = self.opening.new_index(base);
        let (mut position, mut logged) = (0, 0);
        self.expected = self.expected.max(base);
        let mut last = (position, self.expected);
        let bad = loop {
            let header = match scanner.batch(position).await? {
                Found::End => break None,
                Found::Bad(why) => break Some(why),
                Found::Batch(header) => header,
            };
            if let Some(why) = self.out_of_order(&header) {
                break Some(why);
            }
            last = (position, self.expected);
            self.take(&header);
            feed(&mut index, position, &header);
            position += header.size_bytes() as u64;
            if position - logged >= PROGRESS_BYTES {
                logged = position;
                tracing::info!(
                    topic = self.opening.params.topic,
                    partition = self.opening.params.partition,
                    "recovery of segment {base}: {position} of {len} bytes"
                );
            }
        };
        if self.opening.shard.is_planted("recovery-off-by-one") {
            (position, self.expected) = last;
        }
        Ok(Replayed {
            file,
            len,
            end: position,
            bad,
            index,
        })
    }

    fn out_of_order(&self, header: &BatchHeader) -> Option<String> {
        if header.base_offset < self.expected {
            return Some(format!(
                "base offset {} where {} or more is due",
                header.base_offset, self.expected
            ));
        }
        let believes = self.opening.shard.is_planted("cut-leaves-old-batches");
        if header.partition_leader_epoch < self.epoch && !believes {
            return Some(format!(
                "leader epoch {} after {}",
                header.partition_leader_epoch, self.epoch
            ));
        }
        None
    }

    fn take(&mut self, header: &BatchHeader) {
        self.report.batches_checked += 1;
        self.report.bytes_checked += header.size_bytes() as u64;
        self.expected = header.next_offset();
        self.epoch = header.partition_leader_epoch;
        self.epochs
            .assign(header.partition_leader_epoch, header.base_offset);
        if header.base_offset >= self.producers.end_offset() {
            self.producers.on_batch(header);
        }
    }

    /// A segment that is whole and has a successor.
    async fn seal(
        &mut self,
        base: i64,
        next: i64,
        mut replayed: Replayed,
        sealed: &mut Vec<Rc<SealedSegment>>,
    ) -> io::Result<()> {
        replayed.file.fdatasync().await?;
        replayed.index.seal();
        let (rt, dir) = (self.opening.rt, &self.opening.params.dir);
        let mut stale = Vec::new();
        let wanted = [
            (INDEX, replayed.index.offsets().encode()),
            (TIME_INDEX, replayed.index.times().encode()),
        ];
        for (suffix, bytes) in wanted {
            let path = segment_path(dir, base, suffix);
            let there = read_if_there(rt, &path, bytes.len().max(1)).await?;
            if there.as_deref() != Some(bytes.as_slice()) {
                self.report.indexes_rebuilt += 1;
                stale.push((path, bytes));
            }
        }
        if !stale.is_empty() {
            replace_derived_files(rt, dir, stale).await?;
        }
        sealed.push(SealedSegment::new(rt, base, next, replayed.end));
        Ok(())
    }

    /// The log ends in this segment: what follows its last good batch is taken off.
    async fn end_at(&mut self, base: i64, replayed: Replayed) -> io::Result<Rc<OpenSegment>> {
        let Replayed {
            file,
            len,
            end,
            bad,
            index,
        } = replayed;
        let recovery_point = self.opening.params.recovery_point;
        // What is missing below the recovery point was on stable storage: no torn tail. Below the log
        // start nothing is missed.
        let log_start = self.opening.params.log_start;
        let is_damage = self.expected < recovery_point && recovery_point > log_start;
        if is_damage {
            self.report.damaged = true;
            self.report.end_reason = Some(format!(
                "the log ends at {}, below its recovery point {recovery_point}",
                self.expected
            ));
        }
        if end < len {
            let mut scanner = Scanner::new(self.opening.rt, file.clone(), len, SCAN_BYTES);
            let rest = scanner.rest(end, self.expected).await?;
            self.report.bytes_cut += rest.data_end.saturating_sub(end);
            if rest.data_end > 0 {
                self.report.end_reason = bad.or(self.report.end_reason.take());
            }
            if rest.has_batch || (is_damage && rest.data_end > 0) {
                self.report.damaged = true;
                // A batch may end in zeros.
                let kept_end = align_up(rest.data_end).min(len);
                self.keep_cut(base, &mut scanner, end, kept_end).await?;
            }
            if !self.opening.shard.is_planted("cut-leaves-old-batches") {
                file.ftruncate(end).await?;
            }
        }
        file.fdatasync().await?;
        // The files of an active segment's indexes lag behind; one that claims more is stale.
        for suffix in [INDEX, TIME_INDEX] {
            unlink_if_there(
                self.opening.rt,
                &segment_path(&self.opening.params.dir, base, suffix),
            )
            .await?;
        }
        let opened = self
            .opening
            .open_segment(file, base, end, self.expected, index)
            .await?;
        if self.opening.shard.is_planted("cut-leaves-old-batches") {
            let kept = (align_up(len + 1) - align_up(1)).max(end);
            opened.prepared_end.set(kept);
            opened.allocated_end.set(kept);
        }
        Ok(opened)
    }

    /// Keeps the bytes behind a bad batch in `<base>.log.cut`.
    async fn keep_cut(
        &mut self,
        base: i64,
        scanner: &mut Scanner,
        from: u64,
        to: u64,
    ) -> io::Result<()> {
        let (rt, dir) = (self.opening.rt, &self.opening.params.dir);
        for n in 0..1000 {
            let suffix = if n == 0 {
                "log.cut".to_owned()
            } else {
                format!("log.cut{n}")
            };
            let path = segment_path(dir, base, &suffix);
            let options = OpenOptions {
                write: true,
                create_new: true,
                ..OpenOptions::default()
            };
            let out = match rt.open(&path, options).await {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            };
            let name = path.to_string_lossy().into_owned();
            tracing::warn!(
                file = name,
                "valid batches follow a bad one: damage; the bytes are kept"
            );
            match scanner.copy_to(from, to, &out).await {
                Err(error) if is_no_space(&error) => {
                    // Without room for the copy the log must not start: the bytes would be lost.
                    unlink_if_there(rt, &path).await?;
                    return Err(error);
                }
                result => result?,
            }
            rt.sync_dir(dir).await?;
            self.report.set_aside.push(name);
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a thousand cuts of this segment are kept already",
        ))
    }

    /// Segments behind the end of the log: renamed, with all that is derived from them removed.
    async fn set_later_aside(&mut self, bases: &[i64]) -> io::Result<()> {
        let (rt, dir) = (self.opening.rt, &self.opening.params.dir);
        // From the last to the first: a crash on the way leaves no hole.
        for &base in bases.iter().rev() {
            if let Some(to) = set_aside(rt, &segment_path(dir, base, LOG), "aside").await? {
                tracing::warn!(file = %to.display(), "a segment behind the end of the log is set aside");
                self.report
                    .set_aside
                    .push(to.to_string_lossy().into_owned());
            }
            for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
                unlink_if_there(rt, &segment_path(dir, base, suffix)).await?;
            }
        }
        if !bases.is_empty() {
            rt.sync_dir(dir).await?;
        }
        Ok(())
    }
}

/// Direct writes in flight outlive a killed process; this waits for them on ext4 and XFS.
async fn barrier(file: &File) -> io::Result<()> {
    match file.fallocate(FallocateMode::KeepSize, 0, 4096).await {
        Err(error) if is_no_space(&error) || error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}
