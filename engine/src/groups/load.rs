//! Loading: a coordinator reads its partition's log from its start to its end.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_core::group::{Event, GroupCoordinator, LoadRecord};
use corelog_record::batch::{BatchIter, BatchView};
use corelog_storage::cold::read_range;
use corelog_storage::log::{FileRange, ReadError};

use super::host::Hosted;
use crate::shard::Shard;
use crate::shard::append::DECOMPRESSED_BYTES_MAX;
use crate::shard::partition::Partition;
use crate::stats::add;

/// Most bytes read at once, whatever `offsets.load.buffer.size` says.
const READ_BYTES_MAX: usize = 1 << 20;
/// Records given to the coordinator between two looks at the time.
const RECORDS_AT_ONCE: usize = 256;

/// First and longest pause before a load that failed is tried again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why a log could not be loaded.
#[derive(Debug)]
enum LoadError {
    Read(ReadError),
    Damaged { offset: i64, why: String },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "{error}"),
            Self::Damaged { offset, why } => write!(f, "offset {offset}: {why}"),
        }
    }
}

/// Starts to load a coordinator.
pub fn start(shard: &Rc<Shard>, hosted: Rc<Hosted>) {
    let shard = Rc::clone(shard);
    shard.clone().spawn("group_load", async move {
        let mut hosted = hosted;
        let mut pause = PAUSE_MIN;
        let mut told = None;
        while let Err(error) = load(&shard, &hosted).await {
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                let partition = hosted.partition();
                tracing::error!(topic = %partition.topic, partition = partition.key.partition, %error,
                    "the group coordinator could not be loaded; its groups are not served until it can");
                told = Some(text);
            }
            hosted.fail(&shard);
            shard.rt.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match super::replace_failed(&shard, &hosted) {
                Some(next) => hosted = next,
                None => return,
            }
        }
    });
}

/// Loads a coordinator once; it is active then, unless its partition went meanwhile.
async fn load(shard: &Rc<Shard>, hosted: &Rc<Hosted>) -> Result<(), LoadError> {
    let turn = shard.groups.loads.acquire(1).await;
    let began = shard.rt.now();
    let partition = Rc::clone(hosted.partition());
    let result = read_all(shard, hosted, &partition).await;
    drop(turn);
    if hosted.is_ended() {
        return Ok(());
    }
    let counters = &shard.groups.counters;
    match result {
        Ok(records) => {
            let took = shard.rt.now().saturating_duration_since(began);
            add(&counters.loads, 1);
            add(&counters.load_us, took.as_micros() as u64);
            if records > 0 {
                tracing::info!(
                    partition = partition.key.partition,
                    records,
                    took_ms = took.as_millis() as u64,
                    "loaded a group coordinator"
                );
            }
            let unreadable = hosted.look(GroupCoordinator::unreadable_records);
            if unreadable > 0 {
                tracing::error!(topic = %partition.topic, partition = partition.key.partition,
                        unreadable, "records that no version of Kafka writes were left out");
            }
            hosted.loaded(shard);
            super::forget_unknown_topics(shard, hosted).await;
            Ok(())
        }
        Err(error) => {
            add(&counters.load_failures, 1);
            Err(error)
        }
    }
}

/// Feeds every record of the log; gives their number.
async fn read_all(
    shard: &Rc<Shard>,
    hosted: &Rc<Hosted>,
    partition: &Partition,
) -> Result<u64, LoadError> {
    let buffer = READ_BYTES_MAX;
    let mut from = partition.log.marks().log_start;
    let mut records = 0;
    loop {
        let end = partition.log.marks().log_end;
        if from >= end || hosted.is_ended() {
            return Ok(records);
        }
        let plan = match partition.log.read(from, buffer, true, end).await {
            Ok(plan) => plan,
            Err(ReadError::Stale) => continue,
            Err(error) => return Err(LoadError::Read(error)),
        };
        let before = from;
        for range in &plan.ranges {
            let bytes = read_bytes(shard, partition, range).await?;
            records += feed(shard, hosted, &bytes, &mut from).await?;
        }
        if from <= before {
            let why = "no whole batch could be read".to_owned();
            return Err(LoadError::Damaged { offset: from, why });
        }
    }
}

/// All bytes of a range: slices of the written buffers, else from the file.
async fn read_bytes(
    shard: &Rc<Shard>,
    partition: &Partition,
    range: &FileRange,
) -> Result<Bytes, LoadError> {
    let mut bytes = BytesMut::with_capacity(range.len);
    while bytes.len() < range.len {
        let at = range.position + bytes.len() as u64;
        let left = range.len - bytes.len();
        let before = bytes.len();
        match partition.log.lookup_tail(range, at, left) {
            Some(slices) => slices.iter().for_each(|s| bytes.extend_from_slice(s)),
            None => {
                let read = read_range(&shard.rt, &shard.storage, range, at, left).await;
                bytes.extend_from_slice(&read.map_err(LoadError::Read)?);
            }
        }
        if bytes.len() == before {
            let why = "an empty read inside a range".to_owned();
            return Err(LoadError::Read(ReadError::Corrupt(why.into())));
        }
    }
    Ok(bytes.freeze())
}

/// Feeds the records of whole batches at or past `from`, and moves `from` past them.
async fn feed(
    shard: &Rc<Shard>,
    hosted: &Rc<Hosted>,
    bytes: &[u8],
    from: &mut i64,
) -> Result<u64, LoadError> {
    let mut fed = 0;
    for item in BatchIter::new(bytes) {
        let damaged = |offset: i64, why: String| LoadError::Damaged { offset, why };
        let (_, header, batch) = item.map_err(|e| damaged(*from, e.to_string()))?;
        if header.next_offset() <= *from {
            continue;
        }
        if !header.is_control() {
            let view = BatchView::parse(batch).map_err(|e| damaged(*from, e.to_string()))?;
            let mut records = Vec::new();
            view.check_crc()
                .map_err(|e| damaged(header.base_offset, e.to_string()))?;
            let payload = view
                .decompressed_records(DECOMPRESSED_BYTES_MAX)
                .map_err(|e| damaged(header.base_offset, e.to_string()))?;
            for record in &payload {
                let record = record.map_err(|e| damaged(header.base_offset, e.to_string()))?;
                let offset = header.base_offset + i64::from(record.offset_delta);
                // A record without a key says nothing; the topic takes none.
                let Some(key) = record.key.filter(|_| offset >= *from) else {
                    continue;
                };
                records.push(LoadRecord {
                    key: Bytes::copy_from_slice(key),
                    value: record.value.map(Bytes::copy_from_slice),
                    // Wraps as in Kafka: both are as a client wrote them.
                    timestamp_ms: header.base_timestamp.wrapping_add(record.timestamp_delta),
                });
                fed += 1;
                if records.len() == RECORDS_AT_ONCE {
                    hosted.handle(shard, Event::Load(std::mem::take(&mut records)));
                    shard.rt.yield_if_needed().await;
                }
            }
            if !records.is_empty() {
                hosted.handle(shard, Event::Load(records));
            }
        }
        *from = header.next_offset();
        shard.rt.yield_if_needed().await;
    }
    Ok(fed)
}
