//! Scrub: sealed segments are read again, slowly, and held against what they must be: whole batches
//! with right CRCs, in order, up to the exact end of the file. What is wrong is told with file and
//! position. Nothing is changed or removed, and no directory is condemned.
//!
//! The reading goes through [`ScrubFiles`], so that it runs on the maintenance thread and in the twin.
//! The owner of the log says what to read ([`Log::sealed_files`]) and judges whether what was found
//! still holds ([`Log::is_sealed`]): segments may go while they are read.
//!
//! [`Log::sealed_files`]: crate::log::Log::sealed_files
//! [`Log::is_sealed`]: crate::log::Log::is_sealed

mod pace;
mod pass;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use corelog_record::batch::{ATTRIBUTES_OFFSET, BatchHeader, Crc32c, HEADER_BYTES};
use corelog_runtime::BLOCK_BYTES;

pub use self::pace::Pace;
pub use self::pass::{Between, Pass};
use crate::guard::is_device_error;
use crate::log::scan::implausible;
use crate::log::segment::{LOG, segment_path};

/// Bytes of one read.
pub const WINDOW_BYTES: usize = 256 << 10;
/// Findings of one segment that are told; a rotten one may have thousands.
pub const FINDINGS_MAX: usize = 8;

/// A sealed segment as its log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// The partition's directory.
    pub dir: PathBuf,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Base offset of the next segment.
    pub end_offset: i64,
    /// Bytes of the log file.
    pub bytes: u64,
}

impl SealedFile {
    /// The log file.
    pub fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.base_offset, LOG)
    }
}

/// A place that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Byte in the log file where the batch begins.
    pub position: u64,
    /// What is wrong there.
    pub why: String,
}

/// What the scrub of one segment saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Whole batches whose CRC was right.
    pub batches: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Places where something is wrong.
    pub damaged: u64,
    /// The first [`FINDINGS_MAX`] of them, in the order of positions.
    pub findings: Vec<Finding>,
    /// Bytes at the end of the file in which no batch could be looked for, because where the next one
    /// begins is not known.
    pub unchecked_bytes: u64,
}

impl ScrubReport {
    fn note(&mut self, position: u64, why: String) {
        self.damaged += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { position, why });
        }
    }
}

/// Why a segment was not scrubbed to its end. Says nothing about its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubError {
    /// There is no such file.
    Gone,
    /// Whoever reads was told to end.
    Interrupted,
    /// It could not be opened or read for want of something; not the device's fault.
    Failed(String),
}

impl fmt::Display for ScrubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScrubError::Gone => f.write_str("there is no such file"),
            ScrubError::Interrupted => f.write_str("interrupted"),
            ScrubError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ScrubError {}

/// Where a scrub reads. One file at a time.
pub trait ScrubFiles {
    /// An open file.
    type File;

    /// Opens a file for reading past the page cache, or without keeping anything there.
    fn open(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;

    /// Bytes of a file.
    fn len(&self, file: &Self::File) -> impl Future<Output = io::Result<u64>>;

    /// Reads at most `len` bytes at `offset`, both multiples of 4 KiB; none only at the end of the file.
    fn read_at(
        &self,
        file: &Self::File,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = io::Result<Vec<u8>>>;

    /// Gives a file back.
    fn close(&self, file: Self::File) -> impl Future<Output = ()>;

    /// So many bytes were read: waits until more may be. False: no more is to be read at all.
    fn keep_pace(&self, bytes: usize) -> impl Future<Output = bool>;
}

/// Reads a segment and tells what it saw. What the device does not give is a finding.
pub async fn scrub<F: ScrubFiles>(
    files: &F,
    segment: &SealedFile,
) -> Result<ScrubReport, ScrubError> {
    let mut report = ScrubReport::default();
    let file = match files.open(&segment.path()).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ScrubError::Gone),
        Err(error) => {
            report.note(0, of_the_device("opened", &error)?);
            report.unchecked_bytes = segment.bytes;
            return Ok(report);
        }
    };
    let mut scrubber = Scrubber {
        files,
        file: &file,
        segment,
        len: 0,
        window: Vec::new(),
        window_start: 0,
        report,
    };
    let result = scrubber.run().await;
    let report = scrubber.report;
    files.close(file).await;
    result.map(|()| report)
}

/// What is told of an error that is the device's; any other ends the scrub.
fn of_the_device(done: &str, error: &io::Error) -> Result<String, ScrubError> {
    let told = format!("cannot be {done}: {error}");
    if is_device_error(error) {
        Ok(told)
    } else {
        Err(ScrubError::Failed(told))
    }
}

/// Why the bytes at a position are no batch.
enum Bad {
    /// No header, or none whose length can be believed.
    Header(String),
    /// A header, but not the bytes it was made for. Another batch may follow.
    Body(BatchHeader, String),
}

/// Why a step ended.
enum Ended {
    /// The device did not give the bytes.
    Device(String),
    Error(ScrubError),
}

struct Scrubber<'a, F: ScrubFiles> {
    files: &'a F,
    file: &'a F::File,
    segment: &'a SealedFile,
    /// Bytes that are there and belong to the segment.
    len: u64,
    window: Vec<u8>,
    window_start: u64,
    report: ScrubReport,
}

impl<F: ScrubFiles> Scrubber<'_, F> {
    async fn run(&mut self) -> Result<(), ScrubError> {
        let expected = self.segment.bytes;
        let found = match self.files.len(self.file).await {
            Ok(found) => found,
            Err(error) => {
                self.report.note(0, of_the_device("read", &error)?);
                self.report.unchecked_bytes = expected;
                return Ok(());
            }
        };
        self.len = found.min(expected);
        self.batches().await?;
        if found != expected {
            let why = format!("the file has {found} bytes, not {expected}");
            self.report.note(self.len, why);
        }
        Ok(())
    }

    async fn batches(&mut self) -> Result<(), ScrubError> {
        let (mut position, mut expected, mut epoch) = (0, self.segment.base_offset, i32::MIN);
        // The batch before was bad, and may have lied about its length.
        let mut is_doubtful = false;
        while position < self.len {
            let header = match self.batch(position).await {
                Ok(Ok(header)) => {
                    self.report.batches += 1;
                    is_doubtful = false;
                    header
                }
                Ok(Err(Bad::Body(header, why))) => {
                    self.report.note(position, why);
                    is_doubtful = true;
                    header
                }
                Ok(Err(Bad::Header(why))) => {
                    if !is_doubtful {
                        self.report.note(position, why);
                    }
                    self.report.unchecked_bytes = self.segment.bytes - position;
                    return Ok(());
                }
                Err(Ended::Device(why)) => {
                    self.report.note(position, why);
                    self.report.unchecked_bytes = self.segment.bytes - position;
                    return Ok(());
                }
                Err(Ended::Error(error)) => return Err(error),
            };
            position += header.size_bytes() as u64;
            if is_doubtful {
                // Nothing of it is believed.
                continue;
            }
            if let Some(why) = self.disorder(&header, expected, epoch) {
                let at = position - header.size_bytes() as u64;
                self.report.note(at, why);
            }
            expected = header.next_offset();
            epoch = header.partition_leader_epoch;
        }
        Ok(())
    }

    /// What of a whole batch does not fit the one before it, or the segment.
    fn disorder(&self, header: &BatchHeader, expected: i64, epoch: i32) -> Option<String> {
        let base = header.base_offset;
        if base < expected {
            return Some(format!("offset {base}, where {expected} was to come"));
        }
        if header.next_offset() > self.segment.end_offset {
            let (last, end) = (header.last_offset(), self.segment.end_offset);
            return Some(format!(
                "offset {last}, but the next segment begins at {end}"
            ));
        }
        let its_epoch = header.partition_leader_epoch;
        (its_epoch < epoch).then(|| format!("leader epoch {its_epoch} after {epoch}"))
    }

    /// The batch at `position`, whole and with its CRC, or what is wrong with it.
    async fn batch(&mut self, position: u64) -> Result<Result<BatchHeader, Bad>, Ended> {
        let left = self.len - position;
        let bytes = self.bytes(position, HEADER_BYTES).await?;
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(Bad::Header(error.to_string()))),
        };
        let size = header.size_bytes() as u64;
        if size > left {
            let why = format!("the batch has {size} bytes, the file {left} more");
            return Ok(Err(Bad::Header(why)));
        }
        if let Some(why) = implausible(&header) {
            return Ok(Err(Bad::Body(header, why)));
        }
        let mut crc = Crc32c::new();
        let end = position + size;
        let mut at = position + ATTRIBUTES_OFFSET as u64;
        while at < end {
            let bytes = self.bytes(at, 1).await?;
            let n = (bytes.len() as u64).min(end - at) as usize;
            if n == 0 {
                let why = "the file ends inside the batch".to_owned();
                return Ok(Err(Bad::Header(why)));
            }
            crc.update(&bytes[..n]);
            at += n as u64;
        }
        let (stored, computed) = (header.crc, crc.value());
        Ok(if computed == stored {
            Ok(header)
        } else {
            let why = format!("stored CRC {stored:08x}, computed {computed:08x}");
            Err(Bad::Body(header, why))
        })
    }

    /// At least `min` bytes from `position` on (at most half a window), fewer only at the end.
    async fn bytes(&mut self, position: u64, min: usize) -> Result<&[u8], Ended> {
        let wanted_end = (position + min as u64).min(self.len);
        let has_end = self.window_start + self.window.len() as u64;
        if position < self.window_start || wanted_end > has_end {
            self.window_start = position - position % BLOCK_BYTES as u64;
            self.window.clear();
            // Reads may be cut short.
            while self.window_start + (self.window.len() as u64) < wanted_end {
                if self.read_on().await? == 0 {
                    break;
                }
            }
        }
        let from = (position - self.window_start) as usize;
        let last = self.len - self.window_start;
        let to = (self.window.len()).min(usize::try_from(last).unwrap_or(usize::MAX));
        Ok(&self.window[from.min(to)..to])
    }

    /// Reads what follows the window, from its last whole block on. Gives the number of new bytes.
    async fn read_on(&mut self) -> Result<usize, Ended> {
        let kept = self.window.len() - self.window.len() % BLOCK_BYTES;
        let before = self.window.len();
        let at = self.window_start + kept as u64;
        let left = (self.len - at).next_multiple_of(BLOCK_BYTES as u64);
        let len = left.min((WINDOW_BYTES - kept) as u64) as usize;
        let read = match self.files.read_at(self.file, at, len).await {
            Ok(read) => read,
            Err(error) => {
                let told = of_the_device("read", &error).map_err(Ended::Error)?;
                return Err(Ended::Device(format!("{told}, near byte {at}")));
            }
        };
        self.window.truncate(kept);
        self.window.extend_from_slice(&read);
        self.report.bytes += read.len() as u64;
        if !self.files.keep_pace(read.len()).await {
            return Err(Ended::Error(ScrubError::Interrupted));
        }
        Ok(self.window.len().saturating_sub(before))
    }
}
