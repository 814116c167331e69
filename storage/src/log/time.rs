//! Offsets by timestamp.

use std::rc::Rc;

use corelog_record::batch::{BatchHeader, BatchView, TimestampType};

use super::{Log, LogInner, ReadError};
use crate::log::read::{Segment, View};
use crate::log::scan::{LOOKUP_BYTES, Scanner};

/// Largest decompressed batch looked into.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// See `time_hint`.
type TimeHint = (Option<(i64, i64)>, i64);

impl Log {
    /// The first written record at or past the log start with a timestamp of at least `timestamp`:
    /// its timestamp and offset. The caller bounds the answer by the high watermark.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let log = &self.0;
        let log_start = log.state.borrow().marks.log_start;
        let end = log.check_range(log_start, i64::MAX)?;
        for segment in log.segments() {
            let (view, (max, start)) = match log.view_with_hint(&segment, timestamp).await {
                // Deleted since the look-up began.
                Err(ReadError::Stale) => continue,
                found => found?,
            };
            if view.end_offset <= log_start || max.is_none_or(|(max, _)| max < timestamp) {
                continue;
            }
            let mut scanner = Scanner::new(&log.rt, view.file.clone(), view.size, LOOKUP_BYTES);
            let mut position = view.index.position_for(start.max(log_start));
            while let Some(header) = log.header_at(&mut scanner, &view, position).await? {
                if header.base_offset >= end {
                    return Ok(None);
                }
                if header.max_timestamp >= timestamp && header.next_offset() > log_start {
                    let wanted = |ts: i64, offset: i64| ts >= timestamp && offset >= log_start;
                    let found = log
                        .first_record(&mut scanner, &view, position, &header, wanted)
                        .await?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                position += header.size_bytes() as u64;
                log.rt.yield_if_needed().await;
            }
        }
        Ok(None)
    }

    /// The greatest timestamp of the written log and the offset of the first record that has it.
    pub async fn max_timestamp(&self) -> Result<Option<(i64, i64)>, ReadError> {
        let log = &self.0;
        let log_start = log.state.borrow().marks.log_start;
        let end = log.check_range(log_start, i64::MAX)?;
        let mut best: Option<(i64, i64, Segment)> = None;
        for segment in log.segments() {
            let hint = match log.time_hint(&segment, i64::MAX).await {
                Err(ReadError::Stale) => continue,
                found => found?,
            };
            let (Some((timestamp, last_offset)), _) = hint else {
                continue;
            };
            if last_offset >= log_start && best.as_ref().is_none_or(|b| timestamp > b.0) {
                best = Some((timestamp, last_offset, segment));
            }
        }
        let Some((timestamp, last_offset, segment)) = best else {
            return Ok(None);
        };
        if last_offset >= end {
            // In flight: it will be written in a moment, or the log fails.
            log.wait_written(last_offset + 1)
                .await
                .map_err(|error| ReadError::Io(error.to_string().into()))?;
        }
        let view = log.view(&segment).await?;
        let mut scanner = Scanner::new(&log.rt, view.file.clone(), view.size, LOOKUP_BYTES);
        let mut position = view.index.position_for(last_offset);
        while let Some(header) = log.header_at(&mut scanner, &view, position).await? {
            if header.next_offset() > last_offset {
                let wanted = |ts: i64, _| ts == timestamp;
                let found = log
                    .first_record(&mut scanner, &view, position, &header, wanted)
                    .await?;
                return Ok(found.or(Some((timestamp, last_offset))));
            }
            position += header.size_bytes() as u64;
        }
        Ok(None)
    }
}

impl LogInner {
    async fn view_with_hint(
        self: &Rc<Self>,
        segment: &Segment,
        timestamp: i64,
    ) -> Result<(View, TimeHint), ReadError> {
        let view = self.view(segment).await?;
        Ok((view, self.time_hint(segment, timestamp).await?))
    }

    /// Greatest timestamp of a segment with the last offset of its batch, and where to begin to
    /// scan it for `timestamp`.
    async fn time_hint(
        self: &Rc<Self>,
        segment: &Segment,
        timestamp: i64,
    ) -> Result<TimeHint, ReadError> {
        match segment {
            Segment::Open(open) => {
                let index = open.index.borrow();
                Ok((index.max_timestamp(), index.times().offset_for(timestamp)))
            }
            Segment::Sealed(sealed) => {
                let view = self.view(segment).await?;
                let index = self.sealed_index(sealed, &view.file).await;
                let index = index.map_err(|error| self.index_error(sealed, &error))?;
                Ok((index.times.last(), index.times.offset_for(timestamp)))
            }
        }
    }

    /// The first record of a batch that is wanted by timestamp and offset.
    async fn first_record(
        &self,
        scanner: &mut Scanner,
        view: &View,
        position: u64,
        header: &BatchHeader,
        wanted: impl Fn(i64, i64) -> bool,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        if header.timestamp_type() == TimestampType::LogAppendTime {
            let at = |offset| (header.max_timestamp, offset);
            return Ok((header.base_offset..header.next_offset())
                .find(|&o| wanted(header.max_timestamp, o))
                .map(at));
        }
        let base = view.shared.base_offset();
        let corrupt = |why: String| {
            ReadError::Corrupt(format!("segment {base} at byte {position}: {why}").into())
        };
        let bytes = scanner.read(position, header).await;
        let bytes = bytes
            .map_err(|error| self.read_error(format_args!("cannot read segment {base}"), &error))?;
        let batch = BatchView::parse(&bytes).map_err(|e| corrupt(e.to_string()))?;
        let records = batch
            .decompressed_records(DECOMPRESSED_BYTES_MAX)
            .map_err(|e| corrupt(e.to_string()))?;
        for record in records.iter() {
            let record = record.map_err(|e| corrupt(e.to_string()))?;
            let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
            let offset = header.base_offset + i64::from(record.offset_delta);
            if wanted(timestamp, offset) {
                return Ok(Some((timestamp, offset)));
            }
        }
        Ok(None)
    }
}
