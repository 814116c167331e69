//! `corelogd --dump-metadata DIR`: the metadata log as text, for people. Reads alone, needs no
//! broker and disturbs none.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use corelog_core::metadata::decode_records;
use corelog_runtime::blocking;

use super::format::{Entry, EntryType, decode_entries, decode_snapshot, decode_vote};
use super::local::DIRECTORY;

/// Prints vote, snapshot and entries of a metadata log, given its directory or the log directory
/// around it. False when bytes are damaged or cannot be read; a torn last entry, which is being
/// written or was never acknowledged, is told and is no damage.
///
/// # Errors
/// `out` takes no more.
pub fn dump(directory: &Path, out: &mut impl Write) -> io::Result<bool> {
    let below = directory.join(DIRECTORY);
    let directory = if below.is_dir() {
        below
    } else {
        directory.to_owned()
    };
    let mut dump = Dump { out, whole: true };
    let names = match blocking::read_dir(&directory) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect::<Vec<_>>(),
        Err(error) => return dump.damage(&directory, error).map(|()| false),
    };
    let mut entries: Vec<PathBuf> = names
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "entries"))
        .collect();
    entries.sort();
    dump.vote(&directory.join("vote"))?;
    dump.snapshot(&directory.join("snapshot"))?;
    let last = entries.len();
    for (at, path) in entries.iter().enumerate() {
        dump.entries(path, at + 1 == last)?;
    }
    Ok(dump.whole)
}

struct Dump<'a, W> {
    out: &'a mut W,
    whole: bool,
}

impl<W: Write> Dump<'_, W> {
    fn damage(&mut self, path: &Path, what: impl std::fmt::Display) -> io::Result<()> {
        self.whole = false;
        writeln!(self.out, "DAMAGE {}: {what}", path.display())
    }

    /// A file's bytes; `None` when there is none, or none that can be read.
    fn read(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match blocking::read_file(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => self.damage(path, error).map(|()| None),
        }
    }

    fn vote(&mut self, path: &Path) -> io::Result<()> {
        let Some(bytes) = self.read(path)? else {
            return Ok(());
        };
        match decode_vote(&bytes) {
            Some(vote) => writeln!(
                self.out,
                "vote term={} voted_for={}",
                vote.term, vote.voted_for
            ),
            None => self.damage(path, "not a vote, or its CRC is wrong"),
        }
    }

    fn snapshot(&mut self, path: &Path) -> io::Result<()> {
        let Some(bytes) = self.read(path)? else {
            return Ok(());
        };
        let Some(snapshot) = decode_snapshot(&bytes) else {
            return self.damage(path, "not a snapshot, cut short, or its CRC is wrong");
        };
        let (term, index) = (snapshot.term, snapshot.index);
        writeln!(self.out, "snapshot term={term} index={index}")?;
        self.records(path, &snapshot.payload)
    }

    fn entries(&mut self, path: &Path, last: bool) -> io::Result<()> {
        let Some(bytes) = self.read(path)? else {
            return Ok(());
        };
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let Some(first) = name.and_then(|stem| stem.parse::<u64>().ok()) else {
            return self.damage(path, "the name is no index");
        };
        let decoded = decode_entries(&bytes, first);
        for entry in &decoded.entries {
            self.entry(path, entry)?;
        }
        let left = bytes.len() - decoded.good_bytes;
        let at = decoded.good_bytes;
        match (left, decoded.damaged || !last) {
            (0, _) => Ok(()),
            (_, true) => self.damage(path, format_args!("byte {at}: no entry, and more follow")),
            (_, false) => writeln!(self.out, "torn_tail position={at} bytes={left}"),
        }
    }

    fn entry(&mut self, path: &Path, entry: &Entry) -> io::Result<()> {
        let (term, index) = (entry.term, entry.index);
        match entry.entry_type {
            EntryType::Blank => writeln!(self.out, "entry index={index} term={term} blank"),
            EntryType::Records => {
                writeln!(self.out, "entry index={index} term={term}")?;
                self.records(path, &entry.payload)
            }
        }
    }

    fn records(&mut self, path: &Path, payload: &[u8]) -> io::Result<()> {
        match decode_records(payload) {
            Ok(records) => {
                for record in records {
                    writeln!(self.out, "  {record:?}")?;
                }
                Ok(())
            }
            Err(error) => self.damage(path, error),
        }
    }
}
