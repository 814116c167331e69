//! Segments: batches in order, their CRCs, their offsets, and what the indexes beside them say.

use std::path::Path;

use anyhow::Result;
use corelog_record::batch::{
    BatchHeader, BatchView, HEADER_BYTES, LENGTH_OFFSET, LOG_OVERHEAD, TimestampType,
};

use super::index::IndexCheck;
use super::reader::Reader;
use super::{Findings, base_offset};

/// Most bytes a compressed batch may grow to.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;
/// How far behind a bad batch whole ones are looked for.
const LOOK_BEHIND_BYTES: usize = 64 << 20;

/// What is printed of a segment.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    pub batches: bool,
    pub records: bool,
}

/// What is known of a segment besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// It is the last one of its directory: it may end in a batch that is being written.
    pub active: bool,
    /// Everything below was on stable storage.
    pub recovery_point: i64,
    /// Base offset of the segment after it.
    pub next_base: Option<i64>,
}

impl Place {
    /// Of a file alone, from its neighbours.
    pub fn of(path: &Path) -> Place {
        let own = base_offset(path);
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut unread = Findings::default();
        let names = super::names(directory, &mut unread).into_iter();
        let bases = names.filter_map(|name| {
            let name = Path::new(&name);
            let is_log = name.extension().is_some_and(|e| e == "log");
            base_offset(name).filter(|_| is_log)
        });
        let next_base = bases.filter(|&base| Some(base) > own).min();
        Place {
            active: own.is_some() && next_base.is_none(),
            recovery_point: super::directory::recovery_point(directory),
            next_base,
        }
    }
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub batches: u64,
    pub records: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Offset after its last batch.
    pub next_offset: i64,
}

/// How the batches of a file end.
enum End {
    /// At the end of the file.
    File,
    /// At zeros.
    Zeros,
    /// At bytes that are no batch.
    Bad(String),
}

/// Dumps one segment and checks its indexes against it.
pub fn dump(path: &Path, shown: Shown, place: &Place, findings: &mut Findings) -> Result<Summary> {
    let base = base_offset(path).unwrap_or(0);
    let mut summary = Summary {
        next_offset: base,
        ..Summary::default()
    };
    let mut reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            findings.damage(path, error);
            return Ok(summary);
        }
    };
    let mut indexes = IndexCheck::open(path, findings);
    let mut position = 0;
    let end = loop {
        match batch(&mut reader, position, summary.next_offset) {
            Ok(Step::Batch(header, bytes)) => {
                indexes.on_batch(position, &header, findings);
                if shown.batches {
                    say_batch(position, &header);
                }
                check_records(path, position, &header, bytes, shown.records, findings);
                position += header.size_bytes() as u64;
                summary.batches += 1;
                summary.records += header.records_count.max(0) as u64;
                summary.next_offset = header.next_offset();
            }
            Ok(Step::End(end)) => break end,
            Err(error) => {
                findings.damage(path, format_args!("byte {position}: {error}"));
                return Ok(summary);
            }
        }
    };
    summary.bytes = position;
    let torn = judge_end(path, &mut reader, place, &summary, end, findings);
    indexes.finish(position, summary.next_offset, torn, findings);
    Ok(summary)
}

enum Step<'a> {
    Batch(BatchHeader, &'a [u8]),
    End(End),
}

/// The batch at `position`, whole, with a right CRC, and not below `next_offset`.
fn batch(reader: &mut Reader, position: u64, next_offset: i64) -> std::io::Result<Step<'_>> {
    let left = reader.len().saturating_sub(position);
    if left == 0 {
        return Ok(Step::End(End::File));
    }
    let bad = |why: String| Ok(Step::End(End::Bad(why)));
    let head = reader.bytes(position, HEADER_BYTES)?;
    let length = head.get(LENGTH_OFFSET..LOG_OVERHEAD);
    if length.is_none_or(|length| length.iter().all(|&byte| byte == 0)) {
        return Ok(Step::End(End::Zeros));
    }
    let header = match BatchHeader::parse(head) {
        Ok(header) => header,
        Err(error) => return bad(error.to_string()),
    };
    let size = header.size_bytes();
    if size as u64 > left {
        return bad(format!("the batch has {size} bytes, the file {left} more"));
    }
    if header.base_offset < next_offset {
        let base = header.base_offset;
        return bad(format!("base offset {base} is below {next_offset}"));
    }
    if header.last_offset_delta < 0 {
        return bad(format!("last offset delta {}", header.last_offset_delta));
    }
    let bytes = reader.bytes(position, size)?;
    match BatchView::parse(bytes).and_then(|view| view.check_crc()) {
        Ok(()) => Ok(Step::Batch(header, bytes)),
        Err(error) => bad(error.to_string()),
    }
}

fn say_batch(position: u64, header: &BatchHeader) {
    let codec = header.codec().map_or("unknown", |codec| codec.name());
    let stamp = match header.timestamp_type() {
        TimestampType::CreateTime => "create_time",
        TimestampType::LogAppendTime => "log_append_time",
    };
    say!(
        "batch base_offset={} last_offset={} count={} position={position} bytes={} {stamp}={} \
         codec={codec} leader_epoch={} producer_id={} producer_epoch={} base_sequence={} \
         transactional={} control={} crc={}",
        header.base_offset,
        header.last_offset(),
        header.records_count,
        header.size_bytes(),
        header.max_timestamp,
        header.partition_leader_epoch,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.is_transactional(),
        header.is_control(),
        header.crc,
    );
}

/// Records are as many as the header says, and none is beyond its last offset.
fn check_records(
    path: &Path,
    position: u64,
    header: &BatchHeader,
    bytes: &[u8],
    print: bool,
    findings: &mut Findings,
) {
    let view = BatchView::parse(bytes);
    let records = view.and_then(|view| view.decompressed_records(DECOMPRESSED_BYTES_MAX));
    let records = match records {
        Ok(records) => records,
        Err(error) => return findings.damage(path, format_args!("batch at {position}: {error}")),
    };
    let mut count = 0;
    for record in &records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                return findings.damage(path, format_args!("batch at {position}: {error}"));
            }
        };
        count += 1;
        if record.offset_delta < 0 || record.offset_delta > header.last_offset_delta {
            let delta = record.offset_delta;
            findings.damage(
                path,
                format_args!("batch at {position}: offset delta {delta}"),
            );
        }
        if print {
            let text = |bytes: Option<&[u8]>| {
                bytes.map_or_else(
                    || "null".to_owned(),
                    |b| format!("\"{}\"", b.escape_ascii()),
                )
            };
            say!(
                "record offset={} timestamp={} headers={} key={} value={}",
                header
                    .base_offset
                    .saturating_add(i64::from(record.offset_delta)),
                header.base_timestamp.saturating_add(record.timestamp_delta),
                record.header_count,
                text(record.key),
                text(record.value),
            );
        }
    }
    if count != header.records_count {
        let told = header.records_count;
        findings.damage(
            path,
            format_args!("batch at {position}: {count} records, the header says {told}"),
        );
    }
}

/// True when the end may be one that a crash or a write under way leaves: a start cuts it, and
/// with it what the indexes say of it.
fn judge_end(
    path: &Path,
    reader: &mut Reader,
    place: &Place,
    summary: &Summary,
    end: End,
    findings: &mut Findings,
) -> bool {
    let at = summary.bytes;
    let left = reader.len() - at;
    match end {
        End::File => {}
        End::Zeros => {
            let begins = not_zero(reader, at);
            let flushed = summary.next_offset < place.recovery_point;
            // Cut to its last batch a moment after the next segment begins.
            let is_sealing = begins.is_none() && place.next_base == Some(summary.next_offset);
            if begins.is_some_and(|begins| follows(reader, at, begins, summary)) {
                findings.damage(
                    path,
                    format_args!("byte {at}: zeros, and whole batches follow"),
                );
            } else if flushed || !(place.active || is_sealing) {
                findings.damage(
                    path,
                    format_args!("byte {at}: {left} bytes without a batch, which begin with zeros"),
                );
            } else {
                say!("zeros position={at} bytes={left} (space that is not in use yet)");
            }
        }
        End::Bad(why) => {
            let follows = follows(reader, at, 1, summary);
            let flushed = summary.next_offset < place.recovery_point;
            if !place.active || flushed || follows {
                let more = if follows {
                    ", and whole batches follow"
                } else {
                    ""
                };
                findings.damage(path, format_args!("byte {at}: {why}{more}"));
                return false;
            }
            say!(
                "torn_tail position={at} bytes={left} ({why}: never acknowledged, or being \
                 written now; a start after a crash cuts it)"
            );
            return true;
        }
    }
    false
}

/// How far behind a place the first byte is that is not zero, within what is looked at.
fn not_zero(reader: &mut Reader, at: u64) -> Option<usize> {
    let bytes = reader.bytes(at, LOOK_BEHIND_BYTES).ok()?;
    bytes.iter().position(|&byte| byte != 0)
}

/// A whole batch lies somewhere behind a bad one or behind zeros, whose header is not over before
/// the byte `begins` behind them.
fn follows(reader: &mut Reader, at: u64, begins: usize, summary: &Summary) -> bool {
    let Ok(bytes) = reader.bytes(at, LOOK_BEHIND_BYTES) else {
        return false;
    };
    let next_offset = summary.next_offset;
    let first = begins.saturating_sub(HEADER_BYTES).max(1);
    (first..bytes.len().saturating_sub(HEADER_BYTES)).any(|from| {
        let rest = &bytes[from..];
        BatchHeader::parse(rest).is_ok_and(|header| {
            header.base_offset >= next_offset
                && header.base_offset - next_offset <= i64::from(u32::MAX)
                && header.last_offset_delta >= 0
                && header.size_bytes() <= rest.len()
                && BatchView::parse(&rest[..header.size_bytes()]).is_ok_and(|view| view.crc_ok())
        })
    })
}
