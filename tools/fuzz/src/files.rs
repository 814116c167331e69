//! What is read from disk, in binary: indexes, snapshots, the metadata log, the records of groups.

use bytes::Bytes;
use corelog_core::group::subscription;
use corelog_core::group::{
    Client, Command, Event, GroupCoordinator, GroupSettings, Input, LoadRecord, Request,
};
use corelog_core::metadata::Image;
use corelog_core::metadata::record::{decode_records, encode_records};
use corelog_engine::metadata_log::format::{
    Entry, decode_entries, decode_snapshot, decode_vote, encode_entry, encode_snapshot, encode_vote,
};
use corelog_record::batch::{BatchHeader, MAGIC_V2, crc32c};
use corelog_record::schemas::consumer_offsets::{
    GroupMetadataValue, Key, OffsetCommitValue, decode_key,
};
use corelog_storage::index::{IndexBuilder, OffsetIndex, TimeIndex};
use corelog_storage::producer_state::{ProducerState, Recalled, Truncated};

use crate::memory::bounded;
use crate::take;

const SLACK_BYTES: usize = 4096;

/// Both indexes of a segment, their lookups, what is appended to them, and a cut.
pub fn index(data: &[u8]) {
    let mut rest = data;
    let base = i64::from_be_bytes(take::<8>(&mut rest));
    let log_bytes = u64::from(u32::from_be_bytes(take::<4>(&mut rest)));
    let next = i64::from_be_bytes(take::<8>(&mut rest));
    let probe = i64::from_be_bytes(take::<8>(&mut rest));
    let [split] = take::<1>(&mut rest);
    // File names hold offsets from 0 on.
    if base < 0 {
        return;
    }
    let at = (usize::from(split) * 4).min(rest.len());
    let (offsets, times) = rest.split_at(at);
    let limit = 2 * rest.len() + SLACK_BYTES;
    let (offsets, times) = bounded("index", limit, || {
        (
            OffsetIndex::decode(base, offsets, log_bytes),
            TimeIndex::decode(base, times, next),
        )
    });
    if let Ok(index) = &offsets {
        let position = index.position_for(probe);
        assert!(u64::from(position) < log_bytes.max(1));
        assert!(index.boundary_at_or_below(probe as u32) <= probe as u32);
        let again = OffsetIndex::decode(base, &index.encode(), log_bytes);
        assert_eq!(again.as_ref(), Ok(index));
    }
    if let Ok(index) = &times {
        let offset = index.offset_for(probe);
        assert!(offset >= base && (offset < next || index.entries().is_empty()));
        let again = TimeIndex::decode(base, &index.encode(), next);
        assert_eq!(again.as_ref(), Ok(index));
    }
    if let (Ok(offsets), Ok(times)) = (offsets, times) {
        let (mut builder, from) = IndexBuilder::resume(offsets, times, 64);
        let mut position = from;
        for step in 1..6u32 {
            let last = probe.saturating_add(i64::from(step) * 10);
            if last < base || !builder.has_room_for(last, u64::from(position), 1 << 20) {
                break;
            }
            builder.on_batch(position, 100, last, last);
            position = position.saturating_add(100);
        }
        let cut = builder.truncate_to(probe);
        assert!(cut <= position);
        builder.seal();
        let _ = builder.finish();
    }
}

/// A snapshot of producers, and what a log does with it.
pub fn producer_snapshot(data: &[u8]) {
    let mut rest = data;
    let [mended] = take::<1>(&mut rest);
    let end = i64::from_be_bytes(take::<8>(&mut rest));
    if end < 0 {
        return;
    }
    let mut bytes = rest.to_vec();
    if mended & 1 != 0 && bytes.len() >= 10 {
        bytes[..2].copy_from_slice(&1i16.to_be_bytes());
        if mended & 2 != 0 {
            let entries = ((bytes.len() - 10) / 46) as i32;
            bytes[6..10].copy_from_slice(&entries.to_be_bytes());
        }
        let crc = crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    // An entry of 46 bytes becomes a node of a map and a vector of one batch.
    let limit = 16 * bytes.len() + SLACK_BYTES;
    let decoded = bounded("snapshot", limit, || {
        ProducerState::decode_snapshot(end, &bytes, 1_000, 1_000)
    });
    let Ok(mut state) = decoded else {
        return;
    };
    let ids: Vec<_> = state.active(1_000, 1_000);
    let _ = state.first_unstable_offset();
    let again = ProducerState::decode_snapshot(end, &state.encode_snapshot(), 1_000, 1_000);
    let again = again.expect("what was encoded here is read");
    assert_eq!(again.len(), state.len());
    for producer in &ids {
        let sequence = producer.last_sequence.checked_add(1).unwrap_or(0);
        let header = header_of(producer.producer_id, producer.epoch, sequence, end);
        let _ = state.check(&header);
        let _ = state.recall_below(&header);
    }
    let mut recalled = Recalled::default();
    for producer in ids.iter().take(3) {
        recalled.on_batch(&header_of(producer.producer_id, producer.epoch, 0, 0));
    }
    state.recall(recalled);
    for producer in ids.iter().take(3) {
        state.on_batch(&header_of(producer.producer_id, producer.epoch, 0, end));
    }
    if state.truncate_to(end / 2) == Truncated::Kept {
        state.expire(i64::MAX, 0);
    }
}

fn header_of(producer_id: i64, epoch: i16, sequence: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset: base_offset.min(i64::MAX - 10),
        length: 100,
        partition_leader_epoch: 0,
        magic: MAGIC_V2,
        crc: 0,
        attributes: 0,
        last_offset_delta: 1,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id,
        producer_epoch: epoch,
        base_sequence: sequence,
        records_count: 2,
    }
}

/// The files of the metadata log, and the records in them.
pub fn metadata_log(data: &[u8]) {
    let mut rest = data;
    let [kind, first] = take::<2>(&mut rest);
    match kind % 5 {
        0 => entries(rest, u64::from(first)),
        1 => {
            if let Some(vote) = decode_vote(rest) {
                assert_eq!(encode_vote(vote), rest);
            }
        }
        2 => {
            let limit = rest.len() + SLACK_BYTES;
            if let Some(snapshot) = bounded("snapshot", limit, || decode_snapshot(rest)) {
                assert_eq!(encode_snapshot(&snapshot), rest);
                records(&snapshot.payload);
            }
        }
        3 => records(rest),
        // Entries with CRCs as they must be, so that what lies behind them is looked at.
        _ => {
            let mut file = Vec::new();
            let payload_bytes = usize::from(first);
            for (at, payload) in rest.chunks(payload_bytes.max(1)).enumerate() {
                let entry = Entry {
                    term: 1,
                    index: 1 + at as u64,
                    entry_type: corelog_engine::metadata_log::format::EntryType::Records,
                    payload: payload.to_vec(),
                };
                encode_entry(&entry, &mut file);
            }
            entries(&file, 1);
        }
    }
}

fn entries(file: &[u8], first_index: u64) {
    // An entry without payload takes 28 bytes and becomes a struct of 48 in a vector that doubles.
    let limit = 8 * file.len() + SLACK_BYTES;
    let decoded = bounded("entries", limit, || decode_entries(file, first_index));
    assert!(decoded.good_bytes <= file.len());
    let mut again = Vec::new();
    for entry in &decoded.entries {
        encode_entry(entry, &mut again);
        records(&entry.payload);
    }
    assert_eq!(again, file[..decoded.good_bytes]);
}

/// A batch of metadata records, applied as a start does.
fn records(bytes: &[u8]) {
    // The smallest records take 8 bytes and become enums in a vector that doubles.
    let limit = 64 * bytes.len() + SLACK_BYTES;
    let Ok(records) = bounded("records", limit, || decode_records(bytes)) else {
        return;
    };
    assert_eq!(
        decode_records(&encode_records(&records)).as_ref(),
        Ok(&records)
    );
    if let Ok(image) = Image::new().apply(1, &records) {
        let again = Image::from_snapshot(1, &image.snapshot());
        assert_eq!(again.map(|image| image.snapshot()), Ok(image.snapshot()));
    }
}

/// A key and a value of `__consumer_offsets`.
pub fn consumer_offsets(data: &[u8]) {
    let mut rest = data;
    let [which] = take::<1>(&mut rest);
    let limit = 32 * rest.len() + SLACK_BYTES;
    match which % 3 {
        0 => {
            let Ok(key) = bounded("key", limit, || decode_key(rest)) else {
                return;
            };
            if let Ok(bytes) = key.encode() {
                assert_eq!(decode_key(&bytes), Ok(key));
            } else {
                assert!(matches!(key, Key::Other { .. }));
            }
        }
        1 => {
            let Ok(value) = bounded("offset", limit, || OffsetCommitValue::decode(rest)) else {
                return;
            };
            let bytes = value.encode();
            // A string of a flexible version may be longer than what is written here.
            if let Ok(bytes) = bytes {
                let again = OffsetCommitValue::decode(&bytes).expect("what was written is read");
                assert_eq!(again.encode().as_ref(), Ok(&bytes));
            }
        }
        _ => {
            let Ok(value) = bounded("group", limit, || GroupMetadataValue::decode(rest)) else {
                return;
            };
            if let Ok(bytes) = value.encode() {
                let again = GroupMetadataValue::decode(&bytes).expect("what was written is read");
                assert_eq!(again.encode().as_ref(), Ok(&bytes));
            }
        }
    }
}

/// A coordinator that loads records of any content, and then serves.
pub fn group_load(data: &[u8]) {
    let mut rest = data;
    let mut now_ms = i64::from(u32::from_be_bytes(take::<4>(&mut rest))) * 1000;
    let mut records = Vec::new();
    while !rest.is_empty() && records.len() < 64 {
        let [key_bytes, value_bytes, time] = take::<3>(&mut rest);
        let (key, after) = rest.split_at(usize::from(key_bytes).min(rest.len()));
        // 255 is a tombstone.
        let (value, after) = match value_bytes {
            255 => (None, after),
            n => {
                let (value, after) = after.split_at(usize::from(n).min(after.len()));
                (Some(Bytes::copy_from_slice(value)), after)
            }
        };
        rest = after;
        records.push(LoadRecord {
            key: Bytes::copy_from_slice(key),
            value,
            timestamp_ms: i64::from(time) * 1_000_000,
        });
    }
    let groups: Vec<String> = records
        .iter()
        .filter_map(|record| match decode_key(&record.key) {
            Ok(Key::OffsetCommit { group, .. } | Key::GroupMetadata { group }) => Some(group),
            _ => None,
        })
        .collect();
    let mut coordinator = GroupCoordinator::new(GroupSettings::default());
    drive(&mut coordinator, now_ms, Event::Load(records));
    drive(&mut coordinator, now_ms, Event::Loaded);
    let _ = coordinator.committed().count();
    let asked = groups.into_iter().take(8).flat_map(|group_id| {
        [
            Request::Describe {
                version: 5,
                group_id: group_id.clone(),
                include_authorized_operations: true,
            },
            Request::Delete { group_id },
        ]
    });
    for (token, request) in asked.enumerate() {
        let client = Client {
            id: String::new(),
            host: String::new(),
        };
        let token = token as u64;
        let event = Event::Request {
            token,
            client,
            request,
        };
        drive(&mut coordinator, now_ms, event);
    }
    for _ in 0..8 {
        let Some(deadline) = coordinator.next_deadline_ms() else {
            break;
        };
        now_ms = now_ms.max(deadline);
        drive(&mut coordinator, now_ms, Event::Tick);
    }
    drive(&mut coordinator, now_ms, Event::Unloaded);
}

/// Gives an event, and tells the coordinator that what it writes was written.
fn drive(coordinator: &mut GroupCoordinator, now_ms: i64, event: Event) {
    let input = Input {
        now_ms,
        random: [7; 16],
    };
    let mut commands = coordinator.handle(input, event);
    while let Some(command) = commands.pop() {
        if let Command::Write { write, records } = command {
            for record in &records {
                assert!(decode_key(&record.key).is_ok());
            }
            let result = Ok(());
            commands.extend(coordinator.handle(input, Event::Written { write, result }));
        }
    }
}

/// The topics of a consumer.
pub fn subscription(data: &[u8]) {
    let limit = 32 * data.len() + SLACK_BYTES;
    if let Some(topics) = bounded("subscription", limit, || subscription::topics(data)) {
        assert!(topics.iter().map(|topic| topic.len() + 2).sum::<usize>() <= data.len());
    }
}
