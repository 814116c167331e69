//! Partition directories and log directories, as a whole.

use std::path::Path;

use anyhow::Result;
use corelog_runtime::blocking;
use corelog_storage::checkpoint_files::{
    CLEANER_OFFSETS, DirName, LOG_STARTS, META_PROPERTIES, PARTITION_METADATA, RECOVERY_POINTS,
    decode_offsets, parse_dir_name,
};
use corelog_storage::leader_epochs;

use super::segment::{self, Place, Shown, Summary};
use super::{Findings, METADATA_DIRECTORY, Options, base_offset, names, small};

/// Dumps a directory of any of the three kinds.
pub fn dump(options: &Options, path: &Path, findings: &mut Findings) -> Result<()> {
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = canonical.file_name().and_then(|name| name.to_str());
    match name.map(parse_dir_name) {
        // A log directory may be named as partitions are: `disk-1`.
        _ if path.join(META_PROPERTIES).exists() => log_directory(options, path, findings),
        Some(DirName::Partition { .. }) => partition(options, path, findings),
        _ if name == Some(METADATA_DIRECTORY) => super::metadata::dump(options, path, findings),
        _ => {
            let what = "neither a log directory nor a partition's: meta.properties is missing";
            findings.damage(path, what);
            Ok(())
        }
    }
}

/// Everything of a log directory, the metadata log included.
fn log_directory(options: &Options, path: &Path, findings: &mut Findings) -> Result<()> {
    for name in names(path, findings) {
        let child = path.join(&name);
        if child.is_dir() {
            match parse_dir_name(&name) {
                DirName::Partition { .. } => partition(options, &child, findings)?,
                _ if name == METADATA_DIRECTORY => {
                    super::metadata::dump(options, &child, findings)?;
                }
                DirName::Deleted | DirName::Other => say!("{name}: left out, as by the broker"),
            }
        } else if name == META_PROPERTIES || name.ends_with("-offset-checkpoint") {
            super::dump(options, &child, findings)?;
        }
    }
    Ok(())
}

/// Files of one partition: segments in order, each against its indexes; offsets go on from one
/// to the next.
fn partition(options: &Options, path: &Path, findings: &mut Findings) -> Result<()> {
    say!("partition {}", path.display());
    let all = names(path, findings);
    let has = |extension: &str| {
        let of = |name: &&String| Path::new(name).extension().is_some_and(|e| e == extension);
        let files = all.iter().filter(of).map(|name| path.join(name));
        files
            .filter(|file| base_offset(file).is_some())
            .collect::<Vec<_>>()
    };
    if all.iter().any(|name| name == PARTITION_METADATA) {
        small::partition_metadata(&path.join(PARTITION_METADATA), findings)?;
    }
    if all.iter().any(|name| name == leader_epochs::FILE_NAME) {
        small::leader_epochs(&path.join(leader_epochs::FILE_NAME), findings)?;
    }
    let segments = has("log");
    let shown = Shown {
        batches: options.batches || options.records,
        records: options.records,
    };
    let recovery_point = recovery_point(path);
    // Below the log start nothing is missed; a log that was compacted may have holes anywhere.
    let log_start = checkpointed(path, LOG_STARTS).unwrap_or(0);
    let is_compacted = checkpointed(path, CLEANER_OFFSETS).is_some();
    let holes_end = if is_compacted { i64::MAX } else { log_start };
    let mut total = Summary::default();
    for (at, log) in segments.iter().enumerate() {
        let place = Place {
            active: at + 1 == segments.len(),
            recovery_point,
            next_base: segments.get(at + 1).and_then(|next| base_offset(next)),
        };
        let base = base_offset(log).unwrap_or(0);
        if at > 0 {
            check_begin(log, base, total.next_offset, holes_end, findings);
        }
        let summary = segment::dump(log, shown, &place, findings)?;
        say!(
            "segment base_offset={base} next_offset={} batches={} records={} bytes={}",
            summary.next_offset,
            summary.batches,
            summary.records,
            summary.bytes
        );
        total.batches += summary.batches;
        total.records += summary.records;
        total.bytes += summary.bytes;
        total.next_offset = summary.next_offset;
    }
    for snapshot in has("snapshot") {
        small::producer_snapshot(&snapshot, findings)?;
    }
    let start = segments
        .first()
        .and_then(|log| base_offset(log))
        .unwrap_or(0);
    say!(
        "total segments={} first_offset={start} next_offset={} batches={} records={} bytes={}",
        segments.len(),
        total.next_offset,
        total.batches,
        total.records,
        total.bytes
    );
    Ok(())
}

/// A segment begins where the one before ended, `end`; later only up to `holes_end`.
fn check_begin(log: &Path, base: i64, end: i64, holes_end: i64, findings: &mut Findings) {
    if base < end {
        let what = format_args!("begins below {end}, the end of the one before");
        findings.damage(log, what);
    } else if base > end && base > holes_end {
        let what =
            format_args!("begins at {base}, and the one before ends at {end}: records are missing");
        findings.damage(log, what);
    }
}

/// The recovery point of a partition, from the checkpoint beside its directory; 0 when unknown.
pub fn recovery_point(partition: &Path) -> i64 {
    checkpointed(partition, RECOVERY_POINTS).unwrap_or(0)
}

/// What a checkpoint beside a partition's directory says of it.
fn checkpointed(partition: &Path, checkpoint: &str) -> Option<i64> {
    let canonical = partition
        .canonicalize()
        .unwrap_or_else(|_| partition.to_owned());
    let name = canonical.file_name().and_then(|name| name.to_str());
    let DirName::Partition { topic, partition } = parse_dir_name(name?) else {
        return None;
    };
    let bytes = blocking::read_file(canonical.with_file_name(checkpoint)).ok()?;
    let offsets = decode_offsets(checkpoint, &bytes).ok()?;
    offsets.get(&(topic, partition)).copied()
}
