//! Scrub on the shard's side: which sealed segments are read again, in which order and how often, and
//! what is made of what was found. The reading is the maintenance thread's: jobs go out, outcomes come
//! back as messages. Without that thread (the twin has none) nothing is scrubbed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corelog_core::config::BrokerConfig;
use corelog_maintenance::{Done, Handle, Outcome};
use corelog_runtime::sync::{Notify, Sender, oneshot};
use corelog_runtime::{Gateway, Instant, ShardId, blocking};
use corelog_storage::scrub::{Finding, Pass, ScrubError, ScrubReport, SealedFile};

use super::Shard;
use super::message::{PartitionKey, Request, Response};
use super::partition::Partition;
use crate::stats::{ShardStats, add};

/// Longest wait for the first pass after a start.
const FIRST_PASS_MAX: Duration = Duration::from_secs(3600);
/// Shortest time between the begins of two passes.
const PASS_MIN: Duration = Duration::from_millis(10);
/// How often the maintenance thread tries an inbox that is full.
const FULL_INBOX_RETRY: Duration = Duration::from_millis(1);

/// The way to the maintenance thread and back.
#[derive(Clone)]
struct Way {
    handle: Handle,
    gateway: Gateway<Request, Response>,
}

/// What a shard knows of its scrub.
#[derive(Default)]
pub struct Scrub {
    way: RefCell<Option<Way>>,
    next_number: Cell<u64>,
    /// The job that is not answered yet; there is one at a time.
    asked: RefCell<Option<(u64, Sender<Outcome>)>>,
    terms_changed: Notify,
    passes: Cell<u64>,
    segments: Cell<u64>,
    batches: Cell<u64>,
    bytes: Cell<u64>,
    damaged_places: Cell<u64>,
    damaged_segments: Cell<u64>,
    failures: Cell<u64>,
}

impl Scrub {
    /// Gives the shard its way to the thread.
    pub fn join(&self, handle: Handle, gateway: Gateway<Request, Response>) {
        *self.way.borrow_mut() = Some(Way { handle, gateway });
    }

    /// There is a thread, or was one.
    pub fn is_joined(&self) -> bool {
        self.way.borrow().is_some()
    }

    fn is_up(&self) -> bool {
        let way = self.way.borrow();
        way.as_ref().is_some_and(|way| way.handle.is_up())
    }

    /// Rate and interval bind from now on. Every shard says the same to the thread.
    pub fn set_terms(&self, config: &BrokerConfig) {
        if let Some(way) = &*self.way.borrow() {
            way.handle.set_rate(config.scrub_bytes_per_second);
            self.terms_changed.notify_all();
        }
    }

    /// The thread tells how a job ended.
    pub fn heard(&self, number: u64, outcome: Outcome) {
        let asked = self.asked.borrow_mut().take_if(|(of, _)| *of == number);
        if let Some((_, sender)) = asked {
            // Nobody waits any more: the shard stops.
            let _gone = sender.send(outcome);
        }
    }

    /// Has a segment read, and waits.
    async fn ask(&self, own: ShardId, segment: SealedFile) -> Outcome {
        let way = self.way.borrow().clone();
        let Some(Way { handle, gateway }) = way else {
            return Err(ScrubError::Interrupted);
        };
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let (sender, outcome) = oneshot();
        *self.asked.borrow_mut() = Some((number, sender));
        let done = Done::new(move |outcome| pass_on(&gateway, own, number, outcome));
        if !handle.scrub(segment, done) {
            return Err(ScrubError::Interrupted);
        }
        outcome.await.unwrap_or(Err(ScrubError::Interrupted))
    }

    fn count(&self, report: &ScrubReport) {
        add(&self.segments, 1);
        add(&self.batches, report.batches);
        add(&self.bytes, report.bytes);
        add(&self.damaged_places, report.damaged);
        add(&self.damaged_segments, u64::from(report.damaged > 0));
    }

    /// Adds the counters to a copy of the shard's.
    pub fn add_counts(&self, stats: &mut ShardStats) {
        stats.others.extend([
            (
                "corelog_scrub_passes",
                "Times all sealed segments of the shard were read again.",
                self.passes.get(),
            ),
            (
                "corelog_scrub_segments",
                "Sealed segments read again.",
                self.segments.get(),
            ),
            (
                "corelog_scrub_batches",
                "Batches in them that were whole.",
                self.batches.get(),
            ),
            (
                "corelog_scrub_bytes",
                "Bytes read for that.",
                self.bytes.get(),
            ),
            (
                "corelog_scrub_damaged_batches",
                "Places in sealed segments that were damaged, at every pass again.",
                self.damaged_places.get(),
            ),
            (
                "corelog_scrub_damaged_segments",
                "Sealed segments with damage, at every pass again.",
                self.damaged_segments.get(),
            ),
            (
                "corelog_scrub_failures",
                "Sealed segments that could not be read for want of something.",
                self.failures.get(),
            ),
        ]);
        stats.gauges.push((
            "corelog_maintenance_up",
            "1: the maintenance thread runs; 0: it could not start, or has ended, and nothing is scrubbed.",
            i64::from(self.is_up()),
        ));
    }
}

/// On the maintenance thread: sends an outcome to its shard, unless that has ended.
fn pass_on(gateway: &Gateway<Request, Response>, to: ShardId, number: u64, outcome: Outcome) {
    let request = || Request::Scrubbed(number, Box::new(outcome.clone()));
    while gateway.send_with(to, request(), |_taken| {}).is_err() && !gateway.has_ended(to) {
        blocking::sleep(FULL_INBOX_RETRY);
    }
}

/// What one pass saw.
#[derive(Debug, Default)]
struct Seen {
    segments: u64,
    bytes: u64,
    damaged_segments: u64,
}

/// Scrubs the shard's sealed segments, one after the other, in passes, while a rate is set.
pub async fn run(shard: Rc<Shard>) {
    let began = shard.rt.now();
    let mut last = None;
    while wait_for_turn(&shard, began, last).await {
        let began = shard.rt.now();
        match pass(&shard).await {
            Some(seen) => {
                last = Some(began);
                add(&shard.scrub.passes, 1);
                tell(
                    &shard,
                    &seen,
                    shard.rt.now().saturating_duration_since(began),
                );
            }
            // Called off: it begins anew when there is a rate again.
            None => {
                last = None;
                shard.rt.sleep(PASS_MIN).await;
            }
        }
    }
}

/// Waits until the next pass is due, the first one for an hour at most. False: there will be none.
async fn wait_for_turn(shard: &Shard, start: Instant, last: Option<Instant>) -> bool {
    loop {
        let changed = shard.scrub.terms_changed.notified();
        if shard.stopping.get() || !shard.scrub.is_up() {
            return false;
        }
        let config = shard.config();
        let interval = Duration::from_millis(config.scrub_interval_ms).max(PASS_MIN);
        let due = match last {
            Some(last) => last + interval,
            None => start + interval.min(FIRST_PASS_MAX),
        };
        if config.scrub_bytes_per_second == 0 {
            changed.await;
            continue;
        }
        let left = due.saturating_duration_since(shard.rt.now());
        if left.is_zero() {
            return true;
        }
        // An end is an end, whichever came first: all is looked at again.
        let _changed = shard.rt.timeout(left, changed).await;
    }
}

/// Reads every sealed segment once, beginning anywhere: a broker that does not run for long at a time
/// comes to all of them too. `None`: it was called off.
async fn pass(shard: &Rc<Shard>) -> Option<Seen> {
    let mut seen = Seen::default();
    let Some(start) = any_partition(shard) else {
        return Some(seen);
    };
    let mut pass = Pass::from(start);
    while let Some(key) = pass.next(|between| shard.first_partition(between)) {
        shard.rt.yield_if_needed().await;
        let Ok(partition) = shard.partition(&key) else {
            continue;
        };
        for file in partition.log.sealed_files() {
            if shard.stopping.get() {
                return None;
            }
            if partition.log.is_sealed(&file) {
                scrub_one(shard, &partition, &file, &mut seen).await?;
            }
        }
    }
    Some(seen)
}

fn any_partition(shard: &Shard) -> Option<PartitionKey> {
    let partitions = shard.partitions();
    let chance = shard.rt.random_u64();
    let at = chance.checked_rem(partitions.len() as u64)?;
    partitions.get(at as usize).map(|partition| partition.key)
}

/// `None`: the pass is called off.
async fn scrub_one(
    shard: &Rc<Shard>,
    partition: &Partition,
    file: &SealedFile,
    seen: &mut Seen,
) -> Option<()> {
    let outcome = shard.scrub.ask(shard.id(), file.clone()).await;
    if outcome == Err(ScrubError::Interrupted) {
        return None;
    }
    // What was found in a segment that went meanwhile says nothing.
    if !partition.log.is_sealed(file) {
        return Some(());
    }
    let report = match outcome {
        Ok(report) => report,
        Err(ScrubError::Gone) => gone(file),
        Err(error) => {
            add(&shard.scrub.failures, 1);
            tracing::warn!(topic = %partition.topic, partition = partition.key.partition,
                file = %file.path().display(), %error,
                "scrub could not read a segment; it will be tried again at the next pass");
            return Some(());
        }
    };
    shard.scrub.count(&report);
    seen.segments += 1;
    seen.bytes += report.bytes;
    seen.damaged_segments += u64::from(report.damaged > 0);
    if report.damaged > 0 {
        tell_damage(partition, file, &report);
    }
    Some(())
}

/// The log knows the segment, and its file has been taken away.
fn gone(file: &SealedFile) -> ScrubReport {
    ScrubReport {
        damaged: 1,
        findings: vec![Finding {
            position: 0,
            why: ScrubError::Gone.to_string(),
        }],
        unchecked_bytes: file.bytes,
        ..ScrubReport::default()
    }
}

fn tell_damage(partition: &Partition, file: &SealedFile, report: &ScrubReport) {
    let path = file.path();
    for Finding { position, why } in &report.findings {
        tracing::error!(topic = %partition.topic, partition = partition.key.partition,
            file = %path.display(), position, reason = why,
            "scrub found damage in a sealed segment; nothing was changed");
    }
    tracing::error!(topic = %partition.topic, partition = partition.key.partition,
        file = %path.display(), damaged = report.damaged, whole = report.batches,
        unchecked_bytes = report.unchecked_bytes, base_offset = file.base_offset,
        end_offset = file.end_offset, "a sealed segment is damaged");
}

fn tell(shard: &Shard, seen: &Seen, took: Duration) {
    if seen.segments == 0 {
        return;
    }
    tracing::info!(
        segments = seen.segments,
        bytes = seen.bytes,
        damaged_segments = seen.damaged_segments,
        seconds = took.as_secs(),
        "scrub pass ended"
    );
    let interval_ms = shard.config().scrub_interval_ms;
    if took.as_millis() > u128::from(interval_ms) {
        tracing::warn!(
            seconds = took.as_secs(),
            interval_ms,
            "a scrub pass takes longer than corelog.scrub.interval.ms: corelog.scrub.bytes.per.second is too low for so much data"
        );
    }
}
