//! `.index` and `.timeindex`, printed, and checked against their segment.

use std::path::{Path, PathBuf};

use anyhow::Result;
use corelog_record::batch::BatchHeader;
use corelog_runtime::blocking;
use corelog_storage::index::{OffsetIndex, TimeIndex};

use super::segment::{self, Place, Shown};
use super::{Findings, base_offset};

/// Prints one index file; its segment, if it is there, is read to check it.
pub fn dump(path: &Path, findings: &mut Findings) -> Result<()> {
    let base = base_offset(path).unwrap_or(0);
    if path.extension().is_some_and(|e| e == "index") {
        if let Some(index) = offsets(path, base, findings) {
            for entry in index.entries() {
                let offset = base.saturating_add(i64::from(entry.relative_offset));
                say!("index offset={offset} position={}", entry.position);
            }
        }
    } else if let Some(index) = times(path, base, findings) {
        for entry in index.entries() {
            let offset = base.saturating_add(i64::from(entry.relative_offset));
            say!("timeindex timestamp={} offset={offset}", entry.timestamp);
        }
    }
    let log = path.with_extension("log");
    if log.exists() {
        let quiet = Shown {
            batches: false,
            records: false,
        };
        segment::dump(&log, quiet, &Place::of(&log), findings)?;
    }
    Ok(())
}

fn read(path: &Path, findings: &mut Findings) -> Option<Vec<u8>> {
    match blocking::read_file(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            findings.damage(path, error);
            None
        }
    }
}

fn offsets(path: &Path, base: i64, findings: &mut Findings) -> Option<OffsetIndex> {
    let bytes = read(path, findings)?;
    match OffsetIndex::decode(base, &bytes, u64::MAX) {
        Ok(index) => Some(index),
        Err(error) => {
            findings.damage(path, error);
            None
        }
    }
}

fn times(path: &Path, base: i64, findings: &mut Findings) -> Option<TimeIndex> {
    let bytes = read(path, findings)?;
    match TimeIndex::decode(base, &bytes, i64::MAX) {
        Ok(index) => Some(index),
        Err(error) => {
            findings.damage(path, error);
            None
        }
    }
}

/// Both indexes of a segment, held against its batches as they come.
pub struct IndexCheck {
    base: i64,
    index_path: PathBuf,
    time_path: PathBuf,
    index: OffsetIndex,
    times: TimeIndex,
    next_index: usize,
    next_time: usize,
    max_timestamp: i64,
}

impl IndexCheck {
    /// The indexes beside a segment; those that are missing say nothing.
    pub fn open(log: &Path, findings: &mut Findings) -> IndexCheck {
        let base = base_offset(log).unwrap_or(0);
        let (index_path, time_path) =
            (log.with_extension("index"), log.with_extension("timeindex"));
        IndexCheck {
            base,
            index: offsets(&index_path, base, findings).unwrap_or(OffsetIndex::new(base)),
            times: times(&time_path, base, findings).unwrap_or(TimeIndex::new(base)),
            index_path,
            time_path,
            next_index: 0,
            next_time: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// The segment's next batch.
    pub fn on_batch(&mut self, position: u64, header: &BatchHeader, findings: &mut Findings) {
        while let Some(entry) = self.index.entries().get(self.next_index)
            && u64::from(entry.position) <= position
        {
            let offset = self.base.saturating_add(i64::from(entry.relative_offset));
            let told = entry.position;
            if u64::from(told) < position {
                findings.damage(&self.index_path, format_args!("no batch begins at {told}"));
            } else if offset != header.last_offset() {
                let last = header.last_offset();
                findings.damage(
                    &self.index_path,
                    format_args!(
                        "position {told} is told for offset {offset}, and its batch ends at {last}"
                    ),
                );
            }
            self.next_index += 1;
        }
        // Entries whose offset lies before this batch are about what came so far.
        self.judge_times(header.base_offset, findings);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    fn judge_times(&mut self, below: i64, findings: &mut Findings) {
        while let Some(entry) = self.times.entries().get(self.next_time)
            && self.base.saturating_add(i64::from(entry.relative_offset)) < below
        {
            if self.max_timestamp > entry.timestamp {
                let offset = self.base.saturating_add(i64::from(entry.relative_offset));
                let (told, max) = (entry.timestamp, self.max_timestamp);
                findings.damage(
                    &self.time_path,
                    format_args!("{told} is told up to offset {offset}, and {max} is there"),
                );
            }
            self.next_time += 1;
        }
    }

    /// The segment has ended after so many bytes; `torn`: it may have been longer before a crash.
    pub fn finish(mut self, bytes: u64, next_offset: i64, torn: bool, findings: &mut Findings) {
        self.judge_times(next_offset, findings);
        if torn {
            return;
        }
        if let Some(entry) = self.index.entries().get(self.next_index) {
            let told = entry.position;
            findings.damage(
                &self.index_path,
                format_args!("position {told} is not in the segment's {bytes} bytes of batches"),
            );
        }
        if let Some(entry) = self.times.entries().get(self.next_time) {
            let offset = self.base.saturating_add(i64::from(entry.relative_offset));
            findings.damage(
                &self.time_path,
                format_args!("offset {offset} is past the segment's end {next_offset}"),
            );
        }
    }
}
