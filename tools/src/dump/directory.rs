//! Partition directories and log directories, as a whole.

use std::path::Path;

use anyhow::Result;
use corelog_runtime::blocking;
use corelog_storage::checkpoint_files::{
    DirName, META_PROPERTIES, PARTITION_METADATA, RECOVERY_POINTS, decode_offsets, parse_dir_name,
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
    let mut total = Summary::default();
    for (at, log) in segments.iter().enumerate() {
        let place = Place {
            active: at + 1 == segments.len(),
            recovery_point,
        };
        let base = base_offset(log).unwrap_or(0);
        if at > 0 && base < total.next_offset {
            let end = total.next_offset;
            findings.damage(
                log,
                format_args!("begins below {end}, the end of the one before"),
            );
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

/// The recovery point of a partition, from the checkpoint beside its directory; 0 when unknown.
pub fn recovery_point(partition: &Path) -> i64 {
    let canonical = partition
        .canonicalize()
        .unwrap_or_else(|_| partition.to_owned());
    let name = canonical.file_name().and_then(|name| name.to_str());
    let Some(DirName::Partition { topic, partition }) = name.map(parse_dir_name) else {
        return 0;
    };
    let checkpoint = canonical.with_file_name(RECOVERY_POINTS);
    let offsets = blocking::read_file(&checkpoint)
        .ok()
        .and_then(|bytes| decode_offsets(RECOVERY_POINTS, &bytes).ok());
    offsets
        .and_then(|offsets| offsets.get(&(topic, partition)).copied())
        .unwrap_or(0)
}
