//! `corelog dump`: what is in the files of a log directory, and whether it is whole.
//!
//! Files are read as they are, past the page cache where the file system allows it: no broker is
//! needed, and one that runs is not disturbed. Damage is told and ends in exit code 1.

mod directory;
mod index;
mod metadata;
mod reader;
mod segment;
mod small;

use std::path::{Path, PathBuf};

use anyhow::Result;
use corelog_runtime::blocking;
use corelog_storage::checkpoint_files::{
    CLEANER_OFFSETS, HIGH_WATERMARKS, LOG_STARTS, META_PROPERTIES, PARTITION_METADATA,
    RECOVERY_POINTS,
};
use corelog_storage::leader_epochs;

/// Directory of the metadata log inside a log directory.
const METADATA_DIRECTORY: &str = "corelog-metadata";

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Files (.log, .index, .timeindex, .snapshot, checkpoints, meta.properties), partition
    /// directories, `corelog-metadata`, or whole log directories.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Prints a line for every batch, of directories too.
    #[arg(long)]
    batches: bool,
    /// Prints every record, with its key and value.
    #[arg(long)]
    records: bool,
    /// The broker's program, which knows the metadata log; without it, the one beside this
    /// program.
    #[arg(long, value_name = "PATH")]
    corelogd: Option<PathBuf>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings {
    damage: usize,
}

impl Findings {
    /// Tells of bytes that are not what was written.
    fn damage(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.damage += 1;
        say!("DAMAGE {}: {what}", path.display());
    }
}

/// Dumps; false when something is damaged or cannot be read.
pub fn run(options: &Options) -> Result<bool> {
    let mut findings = Findings::default();
    for path in &options.paths {
        dump(options, path, &mut findings)?;
    }
    if findings.damage > 0 {
        say!("damaged: {}", findings.damage);
    }
    Ok(findings.damage == 0)
}

fn dump(options: &Options, path: &Path, findings: &mut Findings) -> Result<()> {
    let name = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if path.is_dir() {
        return directory::dump(options, path, findings);
    }
    if !path.exists() {
        findings.damage(path, "there is no such file");
        return Ok(());
    }
    say!("file {}", path.display());
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    match (extension, name.as_str()) {
        ("log", _) => {
            let shown = segment::Shown {
                batches: true,
                records: options.records,
            };
            segment::dump(path, shown, &segment::Place::of(path), findings).map(|_| ())
        }
        ("index" | "timeindex", _) => index::dump(path, findings),
        ("snapshot", _) => small::producer_snapshot(path, findings),
        ("entries", _) | (_, "vote" | "snapshot") => {
            let directory = path.parent().unwrap_or(Path::new("."));
            metadata::dump(options, directory, findings)
        }
        (_, META_PROPERTIES) => small::meta_properties(path, findings),
        (_, PARTITION_METADATA) => small::partition_metadata(path, findings),
        (_, leader_epochs::FILE_NAME) => small::leader_epochs(path, findings),
        (_, RECOVERY_POINTS | HIGH_WATERMARKS | LOG_STARTS | CLEANER_OFFSETS) => {
            small::offsets(path, findings)
        }
        _ => {
            say!("{}: not a file of a log directory", path.display());
            Ok(())
        }
    }
}

/// The base offset that a file's name tells.
fn base_offset(path: &Path) -> Option<i64> {
    let stem = path.file_stem()?.to_str()?;
    let digits = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| stem.parse().ok()).flatten()
}

/// Names below a directory, in order. One that cannot be read is damage.
fn names(path: &Path, findings: &mut Findings) -> Vec<String> {
    let listed = blocking::read_dir(path).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
    });
    match listed {
        Ok(mut names) => {
            names.sort();
            names
        }
        Err(error) => {
            findings.damage(path, error);
            Vec::new()
        }
    }
}
