//! The way of a batch into the log: its turn, its checks, room on disk, then its offsets.

use bytes::Bytes;
use corelog_record::batch::{
    ATTRIBUTE_LOG_APPEND_TIME, ATTRIBUTES_OFFSET, BatchHeader, CRC_OFFSET, Crc32c, HEADER_BYTES,
};

use super::{Admission, AppendError, Appended, Log, LogInner, Turn, ValidatedBatch};
use crate::config::{LogConfig, TimestampRule};
use crate::flush_policy::Requirement;
use crate::producer_state::{ProducerError, RememberedBatch, Sequenced};
use std::rc::Rc;

/// Attributes to the end of the header: what of it the CRC covers.
const CRC_FROM: usize = ATTRIBUTES_OFFSET;

impl Log {
    /// Appends a client's batch: waits for its turn and for room on disk, then gives offsets. The
    /// answer is acknowledged after [`Log::wait`]. The bytes are copied; base offset, leader epoch
    /// and (for `LogAppendTime`, or a wrong maximum) timestamps are patched in the copy.
    ///
    /// Dropping the future before it is ready appends nothing.
    pub async fn append(
        &self,
        place: Admission,
        batch: ValidatedBatch,
    ) -> Result<Appended, AppendError> {
        self.append_in_turn(place.turn().await, batch).await
    }

    /// [`Log::append`] for a caller that has its turn already.
    pub async fn append_in_turn(
        &self,
        turn: Turn,
        batch: ValidatedBatch,
    ) -> Result<Appended, AppendError> {
        let log = &self.0;
        let _turn = turn;
        if log.shard.is_planted("panic-on-append") {
            panic!("planted: panic-on-append");
        }
        log.check_append()?;
        let config = log.config.borrow().clone();
        let mut header = parse_whole(&batch.bytes)?;
        if batch.bytes.len() > config.max_message_bytes {
            return Err(AppendError::MessageTooLarge {
                bytes: batch.bytes.len(),
                max: config.max_message_bytes,
            });
        }
        let sequenced = log.check_sequence(&header).await?;
        if let Sequenced::Duplicate(known) = sequenced {
            return Ok(log.duplicate(&known));
        }
        log.make_room(
            &config,
            header.records_count.max(1),
            batch.bytes.len() as u64,
        )
        .await?;

        // From here to the return nothing waits: offsets are given to what surely fits.
        let log_end = log.state.borrow().marks.log_end;
        let log_append_time_ms = match config.timestamp {
            TimestampRule::CreateTime => -1,
            TimestampRule::LogAppendTime => log.rt.wall_clock_ms(),
        };
        header.base_offset = log_end;
        header.partition_leader_epoch = log.leader_epoch.get();
        let stamp = match config.timestamp {
            TimestampRule::LogAppendTime => {
                header.attributes |= ATTRIBUTE_LOG_APPEND_TIME;
                Some(log_append_time_ms)
            }
            TimestampRule::CreateTime => batch
                .validated
                .needs_max_timestamp_rewrite
                .then_some(batch.validated.max_timestamp),
        };
        if let Some(stamp) = stamp {
            header.max_timestamp = stamp;
            header.crc = crc_of(&header, &batch.bytes);
        }
        Ok(log.commit(&header, &batch.bytes, log_append_time_ms))
    }

    /// Appends a batch that has its offsets and leader epoch: fetched from a leader. Its base offset
    /// is the log's end or above.
    pub async fn append_as_is(
        &self,
        place: Admission,
        bytes: Bytes,
    ) -> Result<Appended, AppendError> {
        let log = &self.0;
        let _turn = place.0.wait().await;
        log.check_append()?;
        let config = log.config.borrow().clone();
        let header = parse_whole(&bytes)?;
        let log_end = log.state.borrow().marks.log_end;
        if header.base_offset < log_end {
            let why = format!(
                "base offset {} is below the log's end {log_end}",
                header.base_offset
            );
            return Err(AppendError::Malformed(why));
        }
        log.make_room(&config, header.records_count.max(1), bytes.len() as u64)
            .await?;
        Ok(log.commit(&header, &bytes, -1))
    }
}

/// The header of a slice that is exactly one batch.
fn parse_whole(bytes: &Bytes) -> Result<BatchHeader, AppendError> {
    let header =
        BatchHeader::parse(bytes).map_err(|error| AppendError::Malformed(error.to_string()))?;
    if header.size_bytes() != bytes.len() {
        let why = format!(
            "its header says {} bytes, {} came",
            header.size_bytes(),
            bytes.len()
        );
        return Err(AppendError::Malformed(why));
    }
    if header.last_offset_delta < 0
        || header
            .base_offset
            .checked_add(i64::from(header.last_offset_delta) + 1)
            .is_none()
    {
        return Err(AppendError::Malformed(format!(
            "last offset delta {}",
            header.last_offset_delta
        )));
    }
    Ok(header)
}

pub(super) fn refusal(error: ProducerError) -> AppendError {
    match error {
        ProducerError::OutOfOrderSequence {
            producer_id,
            first_sequence,
            last_sequence,
            ..
        } => {
            let expected = last_sequence.checked_add(1).unwrap_or(0);
            AppendError::OutOfOrderSequence {
                producer_id,
                sequence: first_sequence,
                expected,
            }
        }
        ProducerError::InvalidProducerEpoch {
            producer_id,
            epoch,
            current_epoch,
        } => AppendError::InvalidProducerEpoch {
            producer_id,
            epoch,
            current: current_epoch,
        },
    }
}

/// CRC of a batch whose header was changed: the header's part from `header`, the rest from `bytes`.
fn crc_of(header: &BatchHeader, bytes: &[u8]) -> u32 {
    let mut raw = [0u8; HEADER_BYTES];
    header.write(&mut raw);
    let mut crc = Crc32c::new();
    crc.update(&raw[CRC_FROM..]);
    crc.update(&bytes[HEADER_BYTES..]);
    crc.value()
}

const _: () = assert!(CRC_OFFSET + 4 == CRC_FROM);

impl LogInner {
    /// The answer to a producer's retry: the offsets of the first time, and the same wait.
    fn duplicate(&self, known: &RememberedBatch) -> Appended {
        self.shard.count(|c| c.duplicates += 1);
        let state = self.state.borrow();
        let stamped = self.config.borrow().timestamp == TimestampRule::LogAppendTime;
        Appended {
            base_offset: known.base_offset,
            last_offset: known.last_offset,
            log_append_time_ms: if stamped { known.timestamp } else { -1 },
            log_start_offset: state.marks.log_start,
            duplicate: true,
            requirement: state.flush.requirement_of(known.base_offset),
            cut_generation: state.cut_generation,
        }
    }

    /// Returns when a batch fits below the prepared end of the active segment, rolling first when
    /// the batch belongs into the next one.
    async fn make_room(
        self: &Rc<Self>,
        config: &LogConfig,
        records: i32,
        bytes: u64,
    ) -> Result<(), AppendError> {
        loop {
            self.check_append()?;
            if self.wait_for_roll().await {
                continue;
            }
            let active = self.state.borrow().active();
            self.learn_age(&active).await;
            if self.must_roll(&active, config, records, bytes) {
                self.roll().await?;
                continue;
            }
            if self.reserve(&active, bytes).await? {
                return Ok(());
            }
        }
    }

    /// Gives offsets and copies the batch into the write buffer. Room was made before.
    fn commit(
        self: &Rc<Self>,
        header: &BatchHeader,
        bytes: &[u8],
        log_append_time_ms: i64,
    ) -> Appended {
        let mut raw = [0u8; HEADER_BYTES];
        header.write(&mut raw);
        let now_ms = self.now_ms();
        let (appended, size) = {
            let mut state = self.state.borrow_mut();
            let segment = state.active();
            let position = segment.size();
            segment
                .writer
                .borrow_mut()
                .append(self.rt.pool(), &[&raw, &bytes[HEADER_BYTES..]]);
            let next_offset = header.next_offset();
            segment.end_offset.set(next_offset);
            if segment.first_append_ms.get().is_none() {
                segment.first_append_ms.set(Some(self.rt.wall_clock_ms()));
            }
            segment.index.borrow_mut().on_batch(
                u32::try_from(position).expect("must_roll keeps positions below 2^31"),
                u32::try_from(bytes.len()).expect("a batch's length field is an i32"),
                header.last_offset(),
                header.max_timestamp,
            );
            state.producers.on_batch(header);
            state.epochs_changed |= state
                .epochs
                .assign(header.partition_leader_epoch, header.base_offset);
            state.marks.set_log_end(next_offset);
            let records = u64::from(header.records_count.max(1).unsigned_abs());
            let requirement =
                state
                    .flush
                    .on_append(now_ms, header.base_offset, next_offset, records);
            if requirement == Requirement::Flushed {
                state.flush_ends.push_back(next_offset);
            }
            let appended = Appended {
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                log_append_time_ms,
                log_start_offset: state.marks.log_start,
                duplicate: false,
                requirement,
                cut_generation: state.cut_generation,
            };
            (appended, position + bytes.len() as u64)
        };
        self.shard.count(|c| {
            c.appends += 1;
            c.append_bytes += bytes.len() as u64;
        });
        self.schedule_pump();
        self.arm_timer();
        self.prepare_ahead(size);
        appended
    }
}
