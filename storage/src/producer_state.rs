//! What a partition remembers of its idempotent producers, so that a retry is recognised and a gap
//! refused.
//!
//! A pure function of the log: every replica that replays the same batches holds the same state.
//! The last five batches of each producer's newest epoch are kept, since a client has at most five
//! requests in flight. `<offset>.snapshot` holds the last batch of each; the four before it are
//! [recalled](ProducerState::recall) from the log when a retry asks for one of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use corelog_record::BatchHeader;
use corelog_record::schemas::producer_snapshot::{self, ProducerSnapshotEntry, SnapshotError};

/// Batches kept per producer.
pub const BATCHES_KEPT: usize = 5;
/// Producer id of a batch that has none.
pub const NO_PRODUCER_ID: i64 = -1;
const NO_SEQUENCE: i32 = -1;
const NO_OFFSET: i64 = -1;
const NO_COORDINATOR_EPOCH: i32 = -1;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record (wraps from 2^31 - 1 to 0).
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Its greatest timestamp, ms.
    pub timestamp: i64,
}

impl RememberedBatch {
    fn of(batch: &BatchHeader) -> RememberedBatch {
        RememberedBatch {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset,
            last_offset: batch.last_offset(),
            timestamp: batch.max_timestamp,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// Oldest first, all of `epoch`, at most [`BATCHES_KEPT`].
    batches: Vec<RememberedBatch>,
    last_timestamp: i64,
    /// End of the log just after the producer's last batch or marker.
    end_offset: i64,
    coordinator_epoch: i32,
    txn_first_offset: Option<i64>,
}

/// What a client's batch is to the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequenced {
    /// The next one of its producer (or it has no producer): give it offsets.
    Next,
    /// A retry of this batch: answer with its offsets and wait for the same marks.
    Duplicate(RememberedBatch),
}

/// Why a client's batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerError {
    /// Sequences are missing between the producer's last batch and this one, or a new epoch does
    /// not begin at 0 (OUT_OF_ORDER_SEQUENCE_NUMBER).
    OutOfOrderSequence {
        /// Producer.
        producer_id: i64,
        /// Epoch of the refused batch.
        epoch: i16,
        /// Its first sequence.
        first_sequence: i32,
        /// Last sequence taken in that epoch; -1 = none.
        last_sequence: i32,
    },
    /// A newer epoch of the producer has written here (INVALID_PRODUCER_EPOCH).
    InvalidProducerEpoch {
        /// Producer.
        producer_id: i64,
        /// Epoch of the refused batch.
        epoch: i16,
        /// Newest epoch seen.
        current_epoch: i16,
    },
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ProducerError::OutOfOrderSequence {
                producer_id,
                epoch,
                first_sequence,
                last_sequence,
            } => write!(
                f,
                "out of order sequence number for producer {producer_id} epoch {epoch}: {first_sequence} \
                 (incoming), {last_sequence} (current end)"
            ),
            ProducerError::InvalidProducerEpoch {
                producer_id,
                epoch,
                current_epoch,
            } => write!(
                f,
                "epoch {epoch} of producer {producer_id} is below the last seen epoch {current_epoch}"
            ),
        }
    }
}

impl std::error::Error for ProducerError {}

/// A producer as it is told to those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Producer.
    pub producer_id: i64,
    /// Newest epoch seen.
    pub epoch: i16,
    /// Last sequence taken in that epoch; -1 = none.
    pub last_sequence: i32,
    /// Greatest timestamp of its last batch, ms.
    pub last_timestamp: i64,
    /// Epoch of the coordinator that wrote its last marker; -1 = none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction; -1 = none.
    pub txn_first_offset: i64,
}

/// Answer of [`ProducerState::truncate_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Truncated {
    /// No batch of a producer was cut: the state is that of the shorter log.
    Kept,
    /// The state was cleared: load the newest snapshot at or below the new end, replay from there.
    MustReload,
}

/// Producers of one partition.
///
/// Shard: the partition's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
    end_offset: i64,
    /// Loaded from a snapshot at this offset: of the batches below, only the last one of each
    /// producer is known.
    recall_below: Option<i64>,
}

/// Batches of producers met in a stretch of the log: the last five of each producer and epoch.
#[derive(Debug, Default)]
pub struct Recalled(BTreeMap<(i64, i16), VecDeque<RememberedBatch>>);

impl Recalled {
    /// Takes a batch of the log; they come in offset order.
    pub fn on_batch(&mut self, batch: &BatchHeader) {
        if batch.producer_id < 0 || batch.is_control() {
            return;
        }
        let name = (batch.producer_id, batch.producer_epoch);
        let batches = self.0.entry(name).or_default();
        if batches.len() == BATCHES_KEPT {
            batches.pop_front();
        }
        batches.push_back(RememberedBatch::of(batch));
    }
}

impl ProducerState {
    /// Knows no producer; the first batch replayed begins at or past `end_offset`.
    pub fn new(end_offset: i64) -> ProducerState {
        ProducerState {
            producers: BTreeMap::new(),
            end_offset,
            recall_below: None,
        }
    }

    /// Every batch below was taken into account: what a snapshot taken now is named after.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }

    /// Producers remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Judges a batch of a client before it gets offsets. `batch` needs no offsets yet.
    pub fn check(&self, batch: &BatchHeader) -> Result<Sequenced, ProducerError> {
        let (producer_id, epoch) = (batch.producer_id, batch.producer_epoch);
        if producer_id < 0 {
            return Ok(Sequenced::Next);
        }
        // Nothing remembered (new, expired, or deleted with its records): any sequence will do.
        let Some(producer) = self.producers.get(&producer_id) else {
            return Ok(Sequenced::Next);
        };
        let (first, last) = (batch.base_sequence, batch.last_sequence());
        if epoch < producer.epoch {
            let current_epoch = producer.epoch;
            return Err(ProducerError::InvalidProducerEpoch {
                producer_id,
                epoch,
                current_epoch,
            });
        }
        let out_of_order = |last_sequence| {
            Err(ProducerError::OutOfOrderSequence {
                producer_id,
                epoch,
                first_sequence: first,
                last_sequence,
            })
        };
        if epoch > producer.epoch {
            return if first == 0 {
                Ok(Sequenced::Next)
            } else {
                out_of_order(NO_SEQUENCE)
            };
        }
        let same = |b: &&RememberedBatch| b.first_sequence == first && b.last_sequence == last;
        if let Some(known) = producer.batches.iter().find(same) {
            return Ok(Sequenced::Duplicate(*known));
        }
        let taken = producer
            .batches
            .last()
            .map_or(NO_SEQUENCE, |b| b.last_sequence);
        // i32::MAX is followed by 0.
        let next = taken.checked_add(1).unwrap_or(0);
        if first == next {
            Ok(Sequenced::Next)
        } else {
            out_of_order(taken)
        }
    }

    /// Takes a batch that has its offsets: appended by a client after [`ProducerState::check`],
    /// fetched from a leader, or replayed. Nothing is judged: what is in the log has happened.
    /// Markers go to [`ProducerState::on_marker`].
    pub fn on_batch(&mut self, batch: &BatchHeader) {
        let next_offset = batch.next_offset();
        self.end_offset = self.end_offset.max(next_offset);
        if batch.producer_id < 0 || batch.is_control() {
            return;
        }
        let producer = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| Producer::new(batch.producer_epoch));
        producer.enter_epoch(batch.producer_epoch);
        producer.end_offset = producer.end_offset.max(next_offset);
        producer.last_timestamp = batch.max_timestamp;
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.remove(0);
        }
        producer.batches.push(RememberedBatch::of(batch));
        if batch.is_transactional() && producer.txn_first_offset.is_none() {
            producer.txn_first_offset = Some(batch.base_offset);
        }
    }

    /// Takes a control batch that ends a transaction: `coordinator_epoch` is in its record's value.
    pub fn on_marker(&mut self, batch: &BatchHeader, coordinator_epoch: i32) {
        self.end_offset = self.end_offset.max(batch.next_offset());
        if batch.producer_id < 0 {
            return;
        }
        let producer = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| Producer::new(batch.producer_epoch));
        producer.enter_epoch(batch.producer_epoch);
        producer.end_offset = producer.end_offset.max(batch.next_offset());
        producer.last_timestamp = batch.max_timestamp;
        producer.coordinator_epoch = coordinator_epoch;
        producer.txn_first_offset = None;
    }

    /// First offset of the oldest open transaction.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        self.producers
            .values()
            .filter_map(|p| p.txn_first_offset)
            .min()
    }

    /// Producers that are not expired by `now_ms`, by id.
    pub fn active(&self, now_ms: i64, expiration_ms: i64) -> Vec<ActiveProducer> {
        let active = |(&producer_id, producer): (&i64, &Producer)| ActiveProducer {
            producer_id,
            epoch: producer.epoch,
            last_sequence: producer
                .batches
                .last()
                .map_or(NO_SEQUENCE, |batch| batch.last_sequence),
            last_timestamp: producer.last_timestamp,
            coordinator_epoch: producer.coordinator_epoch,
            txn_first_offset: producer.txn_first_offset.unwrap_or(NO_OFFSET),
        };
        self.producers
            .iter()
            .filter(|(_, producer)| !producer.expired(now_ms, expiration_ms))
            .map(active)
            .collect()
    }

    /// Forgets producers whose last timestamp is `expiration_ms` or more before `now_ms` (Unix
    /// epoch) and that have no open transaction. Answers how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers
            .retain(|_, p| !p.expired(now_ms, expiration_ms));
        before - self.producers.len()
    }

    /// Bytes of the `.snapshot` file named after [`ProducerState::end_offset`].
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let entries: Vec<ProducerSnapshotEntry> = self
            .producers
            .iter()
            .map(|(&id, producer)| producer.snapshot_entry(id))
            .collect();
        producer_snapshot::encode(&entries)
    }

    /// The state that `<end_offset>.snapshot` holds, without producers expired by `now_ms`.
    pub fn decode_snapshot(
        end_offset: i64,
        bytes: &[u8],
        now_ms: i64,
        expiration_ms: i64,
    ) -> Result<ProducerState, SnapshotError> {
        let mut producers = BTreeMap::new();
        for entry in producer_snapshot::decode(bytes)? {
            let producer = Producer::from_snapshot_entry(&entry);
            if !producer.expired(now_ms, expiration_ms) {
                producers.insert(entry.producer_id, producer);
            }
        }
        Ok(ProducerState {
            recall_below: (!producers.is_empty()).then_some(end_offset),
            producers,
            end_offset,
        })
    }

    /// A batch that [`ProducerState::check`] refused may be a retry of one that the snapshot left
    /// out: the log below this offset tells. `None`: it is not.
    pub fn recall_below(&self, batch: &BatchHeader) -> Option<i64> {
        let producer = self.producers.get(&batch.producer_id)?;
        let may_be_older =
            producer.epoch == batch.producer_epoch && producer.batches.len() < BATCHES_KEPT;
        self.recall_below.filter(|_| may_be_older)
    }

    /// Completes what a snapshot left out with batches found in the log. Once: what is not among
    /// them is not known.
    pub fn recall(&mut self, mut found: Recalled) {
        self.recall_below = None;
        for (&id, producer) in &mut self.producers {
            let Some(mut older) = found.0.remove(&(id, producer.epoch)) else {
                continue;
            };
            if let Some(oldest) = producer.batches.first() {
                older.retain(|batch| batch.last_offset < oldest.base_offset);
            }
            let room = BATCHES_KEPT - producer.batches.len();
            let skip = older.len().saturating_sub(room);
            producer.batches.splice(0..0, older.into_iter().skip(skip));
        }
    }

    /// The log was cut to end at `end_offset`. Only the last batches are known, so a cut through
    /// any of them cannot be undone from memory.
    pub fn truncate_to(&mut self, end_offset: i64) -> Truncated {
        if end_offset >= self.end_offset {
            return Truncated::Kept;
        }
        self.end_offset = end_offset;
        if self.producers.values().all(|p| p.end_offset <= end_offset) {
            return Truncated::Kept;
        }
        self.producers.clear();
        Truncated::MustReload
    }

    /// The log was emptied and begins anew at `offset`.
    pub fn restart_at(&mut self, offset: i64) {
        *self = ProducerState::new(offset);
    }
}

impl Producer {
    fn new(epoch: i16) -> Producer {
        Producer {
            epoch,
            batches: Vec::new(),
            last_timestamp: -1,
            end_offset: 0,
            coordinator_epoch: NO_COORDINATOR_EPOCH,
            txn_first_offset: None,
        }
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    fn expired(&self, now_ms: i64, expiration_ms: i64) -> bool {
        self.txn_first_offset.is_none()
            && now_ms.saturating_sub(self.last_timestamp) >= expiration_ms
    }

    fn snapshot_entry(&self, producer_id: i64) -> ProducerSnapshotEntry {
        let last = self.batches.last();
        ProducerSnapshotEntry {
            producer_id,
            producer_epoch: self.epoch,
            last_sequence: last.map_or(NO_SEQUENCE, |b| b.last_sequence),
            last_offset: last.map_or(NO_OFFSET, |b| b.last_offset),
            // A batch holds at most 2^31 offsets: its header counts them in an i32.
            offset_delta: last.map_or(0, |b| {
                i32::try_from(b.last_offset - b.base_offset).unwrap_or(i32::MAX)
            }),
            timestamp: self.last_timestamp,
            coordinator_epoch: self.coordinator_epoch,
            current_txn_first_offset: self.txn_first_offset.unwrap_or(NO_OFFSET),
        }
    }

    fn from_snapshot_entry(entry: &ProducerSnapshotEntry) -> Producer {
        let mut producer = Producer::new(entry.producer_epoch);
        producer.last_timestamp = entry.timestamp;
        producer.coordinator_epoch = entry.coordinator_epoch;
        producer.txn_first_offset =
            (entry.current_txn_first_offset >= 0).then_some(entry.current_txn_first_offset);
        let delta = entry.offset_delta.max(0);
        if entry.last_offset >= 0 && entry.last_sequence >= 0 {
            producer.end_offset = entry.last_offset.saturating_add(1);
            producer.batches.push(RememberedBatch {
                first_sequence: decrement_sequence(entry.last_sequence, delta),
                last_sequence: entry.last_sequence,
                base_offset: entry.last_offset.saturating_sub(i64::from(delta)),
                last_offset: entry.last_offset,
                timestamp: entry.timestamp,
            });
        }
        producer
    }
}

/// `sequence - by`, wrapping from 0 to 2^31 - 1; both are >= 0.
fn decrement_sequence(sequence: i32, by: i32) -> i32 {
    match sequence.checked_sub(by) {
        Some(s) if s >= 0 => s,
        _ => i32::MAX - (by - sequence) + 1,
    }
}
