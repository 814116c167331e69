//! One process of a history: opens the log, checks what it finds, then does what chance says.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_record::batch::TimestampType;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;
use corelog_record::validate::{Rules, validate};
use corelog_runtime::Rt;
use corelog_runtime::sim::SimWorld;
use corelog_storage::cold::read_range;
use corelog_storage::config::LogConfig;
use corelog_storage::flush_policy::FlushPolicy;
use corelog_storage::log::{
    Admission, AppendError, Appended, Log, LogParams, ReadError, RecoveryReport, ValidatedBatch,
};
use corelog_storage::log_dir::StartKind;
use corelog_storage::shard::{ShardStorage, StorageLimits};

use super::disk::{Disk, Guard, Held, ROOT, TOPIC};
use super::history::{Plan, Tally};
use super::oracle::{Batch, Chance, Crash, Oracle};

pub const PRODUCER: i64 = 7;

/// What a history is made of; outlives its processes.
pub struct Shared {
    pub oracle: Oracle,
    pub chance: Chance,
    pub plan: Plan,
    pub ops_left: u64,
    pub violation: Option<String>,
    pub tally: Tally,
    pub shard: Option<Rc<ShardStorage>>,
    pub config: LogConfig,
    pub full: bool,
    /// How often the file system was filled up.
    pub times_filled: u64,
    pub has_fixed_policy: bool,
    /// Parts of the reserve given back.
    pub released: Rc<std::cell::Cell<u64>>,
    /// The session itself crashed the machine, and said so to the oracle.
    pub crash_noted: bool,
}

pub type Cell = Rc<RefCell<Shared>>;

/// How a process ended by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All operations are done, or the log was closed.
    Done,
    /// The log failed by an I/O error: what is left of it goes with the process.
    Failed,
}

#[derive(Clone)]
pub struct Session {
    pub rt: Rt,
    world: SimWorld,
    pub log: Log,
    disk: Rc<Disk>,
    guard: Rc<Guard>,
    shard: Rc<ShardStorage>,
    pub cell: Cell,
}

pub async fn run(rt: Rt, world: SimWorld, cell: Cell) -> Result<End, String> {
    let (config, tail_cache_bytes) = {
        let mut shared = cell.borrow_mut();
        let tail = [4 << 10, 32 << 10, 1 << 20][shared.chance.below(3) as usize];
        (shared.config.clone(), tail)
    };
    let limits = StorageLimits {
        tail_cache_bytes,
        cold_read_bytes: 64 << 10,
        open_segments: 3,
        direct: !cell.borrow().plan.buffered,
        ..StorageLimits::default()
    };
    let shard = ShardStorage::new(limits);
    if let Some(bug) = &cell.borrow().plan.planted {
        plant(&shard, bug);
    }
    let (disk, clean) = match Disk::open(&rt).await {
        Ok(opened) => opened,
        Err(_) if cell.borrow().plan.has_faults => return Ok(End::Failed),
        Err(error) => return Err(format!("directory: {error}")),
    };
    shard.set_checkpoint_sink(disk.clone());
    let guard = Guard::new(&rt, &world, cell.borrow().released.clone());
    if cell.borrow().plan.has_guard {
        shard.set_guard(Rc::new(Held(guard.clone())));
    }
    cell.borrow_mut().shard = Some(shard.clone());
    let params = LogParams {
        dir: format!("{ROOT}/{TOPIC}-0").into(),
        topic: TOPIC.into(),
        partition: 0,
        topic_id: [5; 16],
        leader_epoch: 3,
        recovery_point: disk.point.get(),
        high_watermark: 0,
        log_start: disk.start.get(),
        start: if clean {
            StartKind::Clean
        } else {
            StartKind::Unclean
        },
        config,
    };
    let (log, report) = match Log::open(&rt, &shard, params).await {
        Ok(opened) => opened,
        Err(_) if cell.borrow().plan.has_faults => return Ok(End::Failed),
        Err(error) => return Err(format!("open: {error}")),
    };
    let session = Session {
        rt,
        world,
        log,
        disk,
        guard,
        shard,
        cell,
    };
    session.check_opened(clean, &report).await?;
    session.operations().await
}

#[cfg(feature = "planted")]
fn plant(shard: &ShardStorage, bug: &str) {
    shard.plant(bug);
}

#[cfg(not(feature = "planted"))]
fn plant(_: &ShardStorage, bug: &str) {
    panic!("build with --features planted to plant {bug}");
}

impl Session {
    pub fn chance(&self, n: u64) -> u64 {
        self.cell.borrow_mut().chance.below(n)
    }

    /// Notes what the log says of itself: each is a promise.
    fn note_claims(&self) -> Result<(), String> {
        let marks = self.log.marks();
        let committable = self.log.committable_end();
        let mut shared = self.cell.borrow_mut();
        if marks.log_end != shared.oracle.end() {
            return Err(format!(
                "log end {} but the model ends at {}",
                marks.log_end,
                shared.oracle.end()
            ));
        }
        if committable > marks.written_end {
            return Err(format!(
                "committable {committable} past written {}",
                marks.written_end
            ));
        }
        let oracle = &mut shared.oracle;
        oracle.starts_at(marks.log_start)?;
        if marks.written_end < oracle.written_claim || marks.flushed_end < oracle.flushed_claim {
            return Err(format!("marks went down: {marks}"));
        }
        oracle.written_claim = marks.written_end;
        oracle.flushed_claim = marks.flushed_end;
        drop(shared);
        self.log.set_high_watermark(committable);
        Ok(())
    }

    /// The recovered log is a prefix of the model, byte for byte, and holds all it must.
    async fn check_opened(&self, clean: bool, report: &RecoveryReport) -> Result<(), String> {
        let marks = self.log.marks();
        {
            let mut shared = self.cell.borrow_mut();
            shared.tally.opens += 1;
            shared.tally.clean_opens += u64::from(clean && !report.replayed);
            if clean && report.replayed {
                return Err(format!("a clean stop was replayed: {report:?}"));
            }
            shared.tally.starts_found += u64::from(marks.log_start > 0);
            shared
                .oracle
                .reopened(marks.log_start, marks.log_end, clean)?;
            shared.oracle.start_tried = marks.log_start;
        }
        if marks.written_end != marks.log_end || marks.flushed_end != marks.log_end {
            return Err(format!("something unflushed after opening: {marks}"));
        }
        let mut at = marks.log_start;
        while at < marks.log_end {
            at = self.read_at(at, 100_000, i64::MAX).await?;
        }
        self.retry_recent().await
    }

    async fn operations(&self) -> Result<End, String> {
        loop {
            if let Some(violation) = self.cell.borrow_mut().violation.take() {
                return Err(violation);
            }
            if self.log.failure().is_some() {
                if !self.cell.borrow().plan.has_faults {
                    return Err(format!("the log failed: {:?}", self.log.failure()));
                }
                if self.cell.borrow().plan.has_guard && self.guard.told.get() == 0 {
                    let why = self.log.failure();
                    return Err(format!("nobody was told that the log failed: {why:?}"));
                }
                self.cell.borrow_mut().tally.told += self.guard.told.get();
                return Ok(End::Failed);
            }
            self.note_claims()?;
            if self.cell.borrow().ops_left == 0 {
                return self.clean_stop().await;
            }
            self.cell.borrow_mut().ops_left -= 1;
            let crash_weight = self.cell.borrow().plan.crash_weight;
            match self.chance(100 + crash_weight) {
                0..40 => self.append_some(),
                40..48 => self.read_somewhere().await?,
                48..52 => self.find_time().await?,
                52..57 => self.rest().await,
                57..60 => self.flush().await?,
                60..64 => {
                    self.checkpoint().await?;
                    // The second one finds an idle log, unless an append comes first.
                    if self.chance(2) == 0 {
                        self.checkpoint().await?;
                    }
                }
                64..67 => self.set_policy(),
                67..70 => self.cut().await?,
                70..72 => self.fill_disk(),
                72..74 => self.retry_recent().await?,
                74 => return self.clean_stop().await,
                75..77 => self.delete_records().await?,
                77..79 => self.retain().await?,
                79 => {
                    self.rt
                        .sleep(Duration::from_millis(1 + self.chance(60)))
                        .await
                }
                80..100 => {
                    self.rt.sleep(Duration::from_micros(self.chance(300))).await;
                    self.append_some();
                }
                n => {
                    return self.crash(if n % 2 == 0 {
                        Crash::Kill
                    } else {
                        Crash::PowerLoss
                    });
                }
            }
        }
    }

    /// The end, with operations in flight.
    fn crash(&self, kind: Crash) -> Result<End, String> {
        {
            let mut shared = self.cell.borrow_mut();
            shared.oracle.crash(kind, self.world.now_ns());
            shared.crash_noted = true;
        }
        match kind {
            Crash::Kill => self.world.kill_process(),
            Crash::PowerLoss => self.world.power_loss(),
        }
        // Nobody hears it: the process is dead.
        Ok(End::Done)
    }

    /// A batch of a few records; now and then a large one.
    fn make_batch(&self) -> (Bytes, Vec<i64>, Option<i32>) {
        let mut shared = self.cell.borrow_mut();
        let records = 1 + shared.chance.below(4);
        let value_bytes = match shared.chance.below(40) {
            0 => 20_000 + shared.chance.below(60_000),
            1..=4 => 3_000 + shared.chance.below(6_000),
            5..=12 => 700 + shared.chance.below(1_500),
            _ => shared.chance.below(200),
        };
        let is_sequenced = shared.chance.one_in(3) && shared.plan.sequenced_in_flight == 0;
        let start_ms = 1_000 + shared.oracle.end() * 3;
        let mut builder = BatchBuilder::new(Codec::None, start_ms);
        let sequence = is_sequenced.then(|| shared.oracle.next_sequence());
        if let Some(sequence) = sequence {
            builder = builder.producer(PRODUCER, 0, sequence);
        }
        let mut timestamps = Vec::new();
        for _ in 0..records {
            let timestamp = start_ms + shared.chance.below(30) as i64;
            let fill = shared.chance.next() as u8;
            let value: Vec<u8> = (0..value_bytes)
                .map(|i| fill.wrapping_add(i as u8))
                .collect();
            builder.append(timestamp, None, Some(&value), &[]);
            timestamps.push(timestamp);
        }
        (builder.build().into(), timestamps, sequence)
    }

    fn append_some(&self) {
        for _ in 0..1 + self.chance(4) {
            let (bytes, timestamps, sequence) = self.make_batch();
            let place = self.log.admit();
            let (log, cell, rt) = (self.log.clone(), self.cell.clone(), self.rt.clone());
            let known_full = self.guard.is_known_full();
            {
                let mut shared = cell.borrow_mut();
                shared.plan.appends_in_flight += 1;
                shared.plan.sequenced_in_flight += u64::from(sequence.is_some());
            }
            let task = async move {
                let (began_full, times_filled) = {
                    let shared = cell.borrow();
                    (shared.full || known_full, shared.times_filled)
                };
                let result = append(&log, place, bytes.clone()).await;
                let placed = Placed {
                    bytes,
                    timestamps,
                    sequence,
                    began_full,
                    times_filled,
                };
                let Some(appended) = placed.note(&mut cell.borrow_mut(), result) else {
                    return;
                };
                if log.wait(&appended).await.is_ok() {
                    note_ack(&mut cell.borrow_mut(), appended.base_offset, rt.now().0);
                }
            };
            self.rt.spawn("append", task).detach();
        }
    }

    /// Reads from `from`; compares; gives the next offset.
    async fn read_at(&self, from: i64, max_bytes: usize, limit: i64) -> Result<i64, String> {
        let written = self.log.marks().written_end;
        let plan = match self.log.read(from, max_bytes, true, limit).await {
            Ok(plan) => plan,
            Err(_) if self.cell.borrow().plan.has_faults => return Ok(i64::MAX),
            Err(ReadError::OffsetOutOfRange { .. }) if from < self.log.marks().log_start => {
                self.cell.borrow_mut().tally.reads_below_start += 1;
                return Ok(i64::MAX);
            }
            Err(error) => return Err(format!("read at {from}: {error}")),
        };
        let mut bytes = Vec::new();
        for range in &plan.ranges {
            let mut at = range.position;
            let end = range.position + range.len as u64;
            while at < end {
                let from_tail = self.log.lookup_tail(range, at, (end - at) as usize);
                if let Some(slices) = from_tail {
                    for slice in slices {
                        at += slice.len() as u64;
                        bytes.extend_from_slice(&slice);
                    }
                    continue;
                }
                match read_range(&self.rt, &self.shard, range, at, (end - at) as usize).await {
                    Ok(piece) => {
                        at += piece.len() as u64;
                        bytes.extend_from_slice(&piece);
                    }
                    Err(_) if self.cell.borrow().plan.has_faults => return Ok(i64::MAX),
                    // Its file was pushed out, removed and unlinked meanwhile.
                    Err(ReadError::Stale) if from < self.log.marks().log_start => {
                        self.cell.borrow_mut().tally.reads_below_start += 1;
                        return Ok(i64::MAX);
                    }
                    Err(error) => return Err(format!("range of a read at {from}: {error}")),
                }
            }
        }
        let shared = self.cell.borrow();
        let readable = limit.min(written);
        if bytes.is_empty() {
            let holder = shared
                .oracle
                .holder(from)
                .map(|i| &shared.oracle.batches[i]);
            return match holder {
                Some(b) if b.next <= readable => Err(format!(
                    "read at {from} is empty, readable up to {readable}"
                )),
                _ => Ok(i64::MAX),
            };
        }
        let next =
            shared
                .oracle
                .check_read(from, limit.min(self.log.marks().written_end), &bytes)?;
        if plan.next_offset.is_some_and(|planned| planned != next) {
            return Err(format!(
                "read at {from} ends at {next}, its plan says {:?}",
                plan.next_offset
            ));
        }
        Ok(next)
    }

    async fn read_somewhere(&self) -> Result<(), String> {
        let end = self.log.marks().log_end;
        let from = self.chance(end as u64 + 1) as i64;
        let max_bytes = [1, 500, 5_000, 200_000][self.chance(4) as usize];
        let limit = if self.chance(3) == 0 {
            from + self.chance(20) as i64
        } else {
            i64::MAX
        };
        self.read_at(from, max_bytes, limit).await.map(|_| ())
    }

    async fn find_time(&self) -> Result<(), String> {
        let end = self.log.marks().log_end;
        let timestamp = 1_000 + self.chance(end as u64 * 3 + 40) as i64;
        let written = self.log.marks().written_end;
        let start = self.log.marks().log_start;
        let found = match self.log.offset_for_timestamp(timestamp).await {
            Ok(found) => found,
            Err(_) if self.cell.borrow().plan.has_faults => return Ok(()),
            Err(error) => return Err(format!("time {timestamp}: {error}")),
        };
        let shared = self.cell.borrow();
        let now_written = self.log.marks().written_end;
        if self.log.marks().log_start > start {
            return Ok(()); // raised meanwhile: either answer is right
        }
        let (low, high) = (
            shared.oracle.offset_for_timestamp(timestamp, written),
            shared.oracle.offset_for_timestamp(timestamp, now_written),
        );
        if found != low && found != high {
            return Err(format!(
                "time {timestamp}: found {found:?}, the model says {low:?} or {high:?}"
            ));
        }
        Ok(())
    }

    /// Waits until all is written.
    async fn rest(&self) {
        for _ in 0..200 {
            let marks = self.log.marks();
            if marks.written_end == marks.log_end || self.log.failure().is_some() {
                return;
            }
            self.rt.sleep(Duration::from_micros(100)).await;
        }
    }

    async fn flush(&self) -> Result<(), String> {
        let end = self.log.marks().log_end;
        match self.log.flush().await {
            Ok(()) if self.log.marks().flushed_end < end => {
                Err("flush returned before the flush".into())
            }
            Err(error) if !self.cell.borrow().plan.has_faults => Err(format!("flush: {error}")),
            _ => Ok(()),
        }
    }

    async fn checkpoint(&self) -> Result<(), String> {
        if let Err(error) = self.log.checkpoint().await {
            let shared = self.cell.borrow();
            let is_expected = shared.plan.has_faults || shared.full;
            return if is_expected {
                Ok(())
            } else {
                Err(format!("checkpoint: {error}"))
            };
        }
        let written = self
            .disk
            .write_point(|| self.log.marks().recovery_point)
            .await;
        match written {
            Err(error) if !self.cell.borrow().plan.has_faults && !self.cell.borrow().full => {
                Err(format!("recovery point: {error}"))
            }
            _ => Ok(()),
        }
    }

    fn set_policy(&self) {
        if self.cell.borrow().has_fixed_policy {
            return;
        }
        let policy = match self.chance(8) {
            0..3 => FlushPolicy::default(),
            3 | 4 => FlushPolicy {
                messages: Some(1),
                ms: None,
            },
            5 => FlushPolicy {
                messages: Some(2 + self.chance(12)),
                ms: None,
            },
            6 => FlushPolicy {
                messages: None,
                ms: Some(1 + self.chance(60)),
            },
            _ => FlushPolicy {
                messages: Some(2 + self.chance(12)),
                ms: Some(1 + self.chance(60)),
            },
        };
        let mut shared = self.cell.borrow_mut();
        shared.config.flush = policy;
        self.log.set_config(shared.config.clone());
    }

    async fn cut(&self) -> Result<(), String> {
        // Appends that wait for room get their offsets, or a refusal, first: then the model's end is
        // the log's.
        while self.cell.borrow().plan.is_busy() {
            self.rt.sleep(Duration::from_micros(50)).await;
            if self.log.failure().is_some() {
                return Ok(());
            }
        }
        let end = self.log.marks().log_end;
        let start = self.log.marks().log_start;
        self.cell.borrow_mut().oracle.starts_at(start)?;
        let back = self.chance(if self.chance(4) == 0 { 200 } else { 10 }) as i64;
        let offset = (end - back).max(0);
        self.cell.borrow_mut().oracle.cutting = Some(offset);
        if let Err(error) = self.log.truncate_to(offset).await {
            let shared = self.cell.borrow();
            let is_expected = shared.plan.has_faults || shared.full;
            return if is_expected {
                Ok(())
            } else {
                Err(format!("cut: {error}"))
            };
        }
        let mut shared = self.cell.borrow_mut();
        shared.oracle.cutting = None;
        let expected = shared.oracle.cut_end(offset);
        shared.oracle.truncate(expected);
        let marks = self.log.marks();
        if marks.log_end != expected || (offset < end && marks.flushed_end != expected) {
            return Err(format!("cut to {offset}, expected {expected}: {marks}"));
        }
        Ok(())
    }

    /// The file system fills up, or has room again.
    fn fill_disk(&self) {
        let mut shared = self.cell.borrow_mut();
        shared.full = !shared.full && shared.plan.fills_disk;
        shared.times_filled += u64::from(shared.full);
        let capacity = if shared.full {
            self.world.used_bytes() + shared.chance.below(40_000)
        } else {
            1 << 40
        };
        self.world.set_capacity(capacity);
    }

    /// A producer sends one of its last batches once more: a duplicate with the same offsets, also
    /// over stops of any kind.
    async fn retry_recent(&self) -> Result<(), String> {
        if self.cell.borrow().plan.sequenced_in_flight > 0 {
            return Ok(());
        }
        let last = {
            let mut shared = self.cell.borrow_mut();
            let back = shared.chance.below(5) as usize;
            let batches = shared.oracle.batches.iter().rev();
            // A snapshot holds one batch of a producer, the log tells of the others: while they last.
            let start = shared.oracle.start;
            let sequenced = batches.filter(|b| b.sequence.is_some() && b.base >= start);
            sequenced.take(back + 1).last().cloned()
        };
        let Some(last) = last else { return Ok(()) };
        let result = append(&self.log, self.log.admit(), last.bytes.clone()).await;
        match result {
            Ok(appended) if appended.duplicate && appended.base_offset == last.base => {
                self.cell.borrow_mut().tally.duplicates += 1;
                Ok(())
            }
            Err(AppendError::DirOffline(_)) => Ok(()),
            other => Err(format!("the retry of {} gave {other:?}", last.base)),
        }
    }

    async fn clean_stop(&self) -> Result<End, String> {
        self.world.set_capacity(1 << 40);
        self.cell.borrow_mut().full = false;
        let end = match self.log.close().await {
            Ok(end) => end,
            Err(_) if self.cell.borrow().plan.has_faults => return Ok(End::Failed),
            Err(error) => return Err(format!("close: {error}")),
        };
        let expected = self.cell.borrow().oracle.end();
        if end != expected {
            return Err(format!("closed at {end}, the model ends at {expected}"));
        }
        let written = async {
            self.disk.write_point(|| end).await?;
            self.disk.write_marker().await
        };
        match written.await {
            Ok(()) => Ok(End::Done),
            Err(_) if self.cell.borrow().plan.has_faults => Ok(End::Failed),
            Err(error) => Err(format!("clean marker: {error}")),
        }
    }
}

/// A batch on its way into the log.
struct Placed {
    bytes: Bytes,
    timestamps: Vec<i64>,
    sequence: Option<i32>,
    /// The file system was full when it was sent, and how often it had been filled by then.
    began_full: bool,
    times_filled: u64,
}

impl Placed {
    /// Tells the model how an append went; `None` when nothing is to be waited for.
    fn note(self, shared: &mut Shared, result: Result<Appended, AppendError>) -> Option<Appended> {
        shared.plan.appends_in_flight -= 1;
        shared.plan.sequenced_in_flight -= u64::from(self.sequence.is_some());
        let appended = match result {
            Ok(appended) => appended,
            // There may be room again since the disk refused.
            Err(AppendError::NoSpace)
                if self.began_full
                    || shared.times_filled > self.times_filled
                    || shared.plan.has_faults =>
            {
                shared.tally.no_space += 1;
                return None;
            }
            Err(AppendError::DirOffline(_) | AppendError::Closed) => return None,
            Err(error) => {
                shared.violation = Some(format!("append: {error}"));
                return None;
            }
        };
        let end = shared.oracle.end();
        if appended.base_offset != end || appended.duplicate {
            shared.violation = Some(format!("offsets are not dense: {appended:?} after {end}"));
            return None;
        }
        shared.tally.appends += 1;
        let policy = shared.config.flush;
        shared.oracle.batches.push(Batch {
            base: appended.base_offset,
            next: appended.last_offset + 1,
            bytes: Batch::placed(&self.bytes, appended.base_offset, 3),
            timestamps: self.timestamps,
            policy,
            requirement: appended.requirement,
            acked_at_ns: None,
            sequence: self.sequence,
        });
        Some(appended)
    }
}

fn note_ack(shared: &mut Shared, base_offset: i64, now_ns: u64) {
    let batches = &mut shared.oracle.batches;
    if let Some(batch) = batches.iter_mut().find(|b| b.base == base_offset) {
        batch.acked_at_ns = Some(now_ns);
        shared.tally.acks += 1;
    }
}

async fn append(log: &Log, place: Admission, bytes: Bytes) -> Result<Appended, AppendError> {
    let rules = Rules {
        now_ms: 0,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        decompressed_bytes_max: 1 << 20,
        max_message_bytes: 1 << 20,
    };
    let mut fresh = bytes.to_vec();
    corelog_record::batch::patch_base_offset_and_epoch(&mut fresh, 0, -1);
    let bytes: Bytes = fresh.into();
    let validated = validate(&bytes, &rules).expect("the test makes valid batches");
    log.append(place, ValidatedBatch { bytes, validated }).await
}
