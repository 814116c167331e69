//! What the world must look like to clients. They tell it what they send, hear and read; it keeps the
//! model and asks the [`crate::invariants`]. The first rule that does not hold ends the history.

mod begin;
pub mod log;

use std::collections::BTreeMap;

use bytes::Bytes;
use corelog_record::batch::{BatchHeader, BatchIter, BatchView};
use corelog_record::codec::Codec;
use corelog_storage::flush_policy::FlushPolicy;

pub use self::begin::UNDER_WAY_NS;
use self::log::{Key, PartitionModel, Placed, PolicySpan, Read, Retained, Sent, TopicId, policies};
use crate::invariants::commits::Commits;
use crate::invariants::durability::{Fall, judge};
use crate::invariants::metadata::{self, Known};
use crate::invariants::owners::Owners;
use crate::invariants::{Broken, content, duplicates, high_watermark, log_start, offsets};
use crate::plan::Retention;
use crate::tally::Tally;

/// What a topic is made with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Made {
    /// Flush policy.
    pub policy: FlushPolicy,
    /// Retention.
    pub rules: Retention,
    /// `compression.type`; `None` = the producer's codec.
    pub codec: Option<Codec>,
}

/// How much of the batches an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Whole ones, and one at least where there is any.
    Whole,
    /// The last one may be cut off, all of them may be missing.
    Cut,
}

/// A topic as clients know it.
#[derive(Debug, Default)]
pub struct TopicModel {
    /// Its name.
    pub name: String,
    /// What is known of its life.
    pub known: Known,
    /// Its policies over time.
    pub policies: Vec<PolicySpan>,
    /// What of it might go, over time.
    pub retention: Vec<Retained>,
    /// Every `compression.type` it may have had; `None` = the producer's codec.
    pub codecs: Vec<Option<Codec>>,
}

/// The model of everything.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Topics by id.
    pub topics: BTreeMap<TopicId, TopicModel>,
    partitions: BTreeMap<Key, PartitionModel>,
    sent: BTreeMap<u64, Sent>,
    /// Batches by checksum, with the bytes they are read as.
    by_crc: BTreeMap<u32, Vec<(u64, Bytes)>>,
    /// Batches by the key of their first record.
    by_key: BTreeMap<Vec<u8>, u64>,
    next_batch: u64,
    /// Owners of group partitions.
    pub owners: Owners,
    /// Committed offsets.
    pub commits: Commits,
    broken: Option<Broken>,
    /// The wall clock when the virtual one began, ms.
    pub epoch_ms: i64,
    /// One of [`UNDER_WAY_NS`].
    pub under_way_ns: u64,
    /// Counts of rare things.
    pub tally: Tally,
}

impl Oracle {
    /// Notes a broken rule; the first counts.
    pub fn note(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.broken.get_or_insert(broken);
        }
    }

    /// The first rule that was broken.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// A topic was made or found, with a policy.
    pub fn topic_exists(
        &mut self,
        id: TopicId,
        name: &str,
        partitions: i32,
        made: &Made,
        now_ns: u64,
    ) {
        let topic = self.topics.entry(id).or_insert_with(|| TopicModel {
            name: name.to_owned(),
            known: Known::default(),
            codecs: vec![made.codec],
            policies: vec![PolicySpan {
                policy: made.policy,
                from_ns: now_ns,
                to_ns: None,
            }],
            retention: vec![Retained {
                rules: made.rules,
                from_ns: now_ns,
                to_ns: None,
            }],
        });
        topic.known.exists = true;
        topic.known.partitions = topic.known.partitions.max(partitions);
    }

    /// A topic may have another `compression.type` from now on.
    pub fn codec_sent(&mut self, id: &TopicId, codec: Option<Codec>) {
        if let Some(topic) = self.topics.get_mut(id) {
            topic.codecs.push(codec);
        }
    }

    /// Its deletion is asked for, or (`done`) acknowledged.
    pub fn topic_dies(&mut self, id: &TopicId, done: bool) {
        if let Some(topic) = self.topics.get_mut(id) {
            topic.known.dying = true;
            topic.known.dead |= done;
        }
    }

    /// A policy is on its way to a topic.
    pub fn policy_sent(&mut self, id: &TopicId, policy: FlushPolicy, now_ns: u64) {
        if let Some(topic) = self.topics.get_mut(id) {
            topic.policies.push(PolicySpan {
                policy,
                from_ns: now_ns,
                to_ns: None,
            });
        }
    }

    /// The last policy sent is the topic's.
    pub fn policy_acked(&mut self, id: &TopicId, now_ns: u64) {
        let Some(topic) = self.topics.get_mut(id) else {
            return;
        };
        let last = topic.policies.len() - 1;
        for span in &mut topic.policies[..last] {
            span.to_ns.get_or_insert(now_ns);
        }
    }

    /// What Metadata says of all topics after a start.
    pub fn metadata_told(&mut self, told: &BTreeMap<TopicId, (String, i32)>) {
        let mut result = Ok(());
        for (id, topic) in &mut self.topics {
            let count = told.get(id).map(|(_, count)| *count);
            result = result.and_then(|()| metadata::check(&topic.name, &topic.known, count));
            match count {
                Some(count) => {
                    topic.known.partitions = topic.known.partitions.max(count);
                    // A deletion without an answer did not happen.
                    topic.known.dying = topic.known.dead;
                }
                None => topic.known.dead = true,
            }
        }
        self.note(result);
    }

    /// A producer made a batch; the answer names it.
    pub fn made(&mut self, sent: Sent) -> u64 {
        self.next_batch += 1;
        let crc = BatchView::parse(&sent.bytes).map_or(0, |view| view.header.crc);
        let form = (self.next_batch, sent.bytes.clone());
        self.by_crc.entry(crc).or_default().push(form);
        if let Ok(Some(key)) = content::first_key(&sent.bytes) {
            self.by_key.insert(key, self.next_batch);
        }
        self.sent.insert(self.next_batch, sent);
        self.next_batch
    }

    /// It is sent (once more).
    pub fn attempted(&mut self, batch: u64) {
        if let Some(sent) = self.sent.get_mut(&batch) {
            sent.pending += 1;
        }
    }

    /// This sending of it is in no log.
    pub fn refused(&mut self, batch: u64) {
        if let Some(sent) = self.sent.get_mut(&batch) {
            sent.pending = sent.pending.saturating_sub(1);
        }
    }

    /// Its producer heard that it stands at `base`.
    pub fn acked(&mut self, batch: u64, base: i64, now_ns: u64) {
        let Some((key, sent_ns)) = self.sent.get(&batch).map(|sent| (sent.key, sent.sent_ns))
        else {
            return;
        };
        let is_new = |oracle: &Oracle| {
            let partition = oracle.partitions.get(&key);
            partition.is_none_or(|partition| !partition.placed.contains_key(&base))
        };
        let is_news = is_new(self);
        let mut result = self.place(key, batch, base);
        if is_news && result.is_ok() {
            // It may be gone already.
            result = self.met_below(key, base, (sent_ns, now_ns));
        }
        if result.is_ok()
            && let Some(partition) = self.partitions.get_mut(&key)
            && let Some(placed) = partition.placed.get_mut(&base)
        {
            placed.acked_ns.get_or_insert(now_ns);
        }
        self.note(result);
    }

    /// A batch stands at `base`.
    fn place(&mut self, key: Key, batch: u64, base: i64) -> Result<(), Broken> {
        let partition = self.partitions.entry(key).or_default();
        let Some(sent) = self.sent.get_mut(&batch) else {
            return Ok(());
        };
        let next = base + sent.count;
        if offsets::place(&partition.placed, batch, base, next)?.is_none() {
            return Ok(());
        }
        duplicates::another(batch, sent, base)?;
        sent.pending -= 1;
        sent.places.push(base);
        let placed = Placed {
            batch,
            next,
            acked_ns: None,
            seen: false,
        };
        partition.placed.insert(base, placed);
        Ok(())
    }

    /// Batches of one partition as bytes.
    pub fn parse(&mut self, key: Key, bytes: &[u8], extent: Extent) -> Result<Vec<Read>, Broken> {
        let mut reads = Vec::new();
        let mut batches = BatchIter::new(bytes);
        for item in batches.by_ref() {
            let (_, header, bytes) =
                item.map_err(|error| format!("content: a batch that is none: {error}"))?;
            let batch = self.known(key, bytes, &header)?;
            reads.push(Read {
                batch,
                base: header.base_offset,
                next: header.next_offset(),
                producer: header.has_producer_id().then_some((
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                )),
            });
        }
        if batches.position() != bytes.len() && extent == Extent::Whole {
            return Err("content: an answer ends inside a batch".to_owned());
        }
        Ok(reads)
    }

    /// Which batch these bytes are.
    fn known(&mut self, key: Key, bytes: &[u8], header: &BatchHeader) -> Result<u64, Broken> {
        let of_key = |batch: &u64| self.sent.get(batch).is_some_and(|sent| sent.key == key);
        let forms = self.by_crc.get(&header.crc).map_or(&[][..], Vec::as_slice);
        if let Some((batch, form)) = forms.iter().find(|(batch, _)| of_key(batch)) {
            content::check(form, bytes, header)?;
            return self.check_codec(*batch, key, bytes).map(|()| *batch);
        }
        let first = content::first_key(bytes)?;
        let batch = first.and_then(|first| self.by_key.get(&first).copied());
        let Some(batch) = batch.filter(of_key) else {
            return Err(format!(
                "content: nobody sent the batch at {} to partition {}",
                header.base_offset, key.1
            ));
        };
        if let Some(sent) = self.sent.get(&batch) {
            content::same_records(&sent.bytes, bytes)?;
        }
        self.check_codec(batch, key, bytes)?;
        self.tally.hit("batch stored with the topic's codec");
        // From now on it is read like this, byte for byte.
        let form = (batch, Bytes::copy_from_slice(bytes));
        self.by_crc.entry(header.crc).or_default().push(form);
        Ok(batch)
    }

    fn check_codec(&self, batch: u64, key: Key, bytes: &[u8]) -> Result<(), Broken> {
        let (Some(sent), Some(topic)) = (self.sent.get(&batch), self.topics.get(&key.0)) else {
            return Ok(());
        };
        let codecs = (content::codec_of(&sent.bytes)?, content::codec_of(bytes)?);
        content::codec(codecs.0, codecs.1, &topic.codecs)
    }

    /// The high watermark to which a request made now must not go back.
    pub fn high_watermark(&self, key: &Key) -> i64 {
        self.partitions.get(key).map_or(0, |p| p.high_watermark)
    }

    /// An answer told a high watermark; `floor` as of its request.
    pub fn high_watermark_told(&mut self, key: Key, seen: i64, floor: i64) {
        let partition = self.partitions.entry(key).or_default();
        partition.high_watermark = partition.high_watermark.max(seen);
        self.note(high_watermark::check(seen, floor));
    }

    /// A consumer asked for `from`, when `floor` was the log start told last, and got these bytes below
    /// `high_watermark`. Gives the next offset.
    pub fn fetched(
        &mut self,
        key: Key,
        (from, floor): (i64, i64),
        high_watermark: i64,
        (bytes, extent): (&[u8], Extent),
    ) -> i64 {
        self.note(log_start::below(from, floor));
        match self.try_fetched(key, from, high_watermark, (bytes, extent)) {
            Ok(next) => next,
            Err(broken) => {
                self.note(Err(broken));
                from
            }
        }
    }

    fn try_fetched(
        &mut self,
        key: Key,
        from: i64,
        high_watermark: i64,
        (bytes, extent): (&[u8], Extent),
    ) -> Result<i64, Broken> {
        let reads = self.parse(key, bytes, extent)?;
        let (Some(first), Some(last)) = (reads.first(), reads.last()) else {
            if from < high_watermark && extent == Extent::Whole {
                return Err(format!(
                    "offsets: nothing at {from}, though the high watermark is {high_watermark}"
                ));
            }
            return Ok(from);
        };
        if first.base > from || first.next <= from {
            return Err(format!(
                "offsets: {from} was asked for, the answer begins with {}..{}",
                first.base, first.next
            ));
        }
        if last.next > high_watermark {
            return Err(format!(
                "offsets: records up to {} were read, the high watermark is {high_watermark}",
                last.next
            ));
        }
        offsets::dense(&reads)?;
        for read in &reads {
            self.place(key, read.batch, read.base)?;
            if let Some(partition) = self.partitions.get_mut(&key)
                && let Some(placed) = partition.placed.get_mut(&read.base)
            {
                placed.seen = true;
            }
        }
        Ok(last.next)
    }

    /// The broker is down.
    pub fn broker_died(&mut self, now_ns: u64) {
        self.commits.broker_died(now_ns);
    }

    /// A partition was read from its start to its end after a start of the broker, before anything is
    /// appended: what is gone is judged, and the model goes on from there. The start was told before.
    pub fn settled(&mut self, key: Key, bytes: &[u8], range: (i64, i64), fall: &Fall) {
        let result = self.settle(key, bytes, range, fall);
        self.note(result.map_err(|broken| format!("partition {} after a start: {broken}", key.1)));
    }

    fn settle(
        &mut self,
        key: Key,
        bytes: &[u8],
        (start, end): (i64, i64),
        fall: &Fall,
    ) -> Result<(), Broken> {
        let reads = self.parse(key, bytes, Extent::Whole)?;
        offsets::dense(&reads)?;
        offsets::in_order(&reads)?;
        let (first, last) = (reads.first(), reads.last());
        let begins = first.is_none_or(|read| read.base <= start && start < read.next);
        if !begins || last.map_or(start, |read| read.next) != end {
            return Err(format!(
                "offsets: {start}..{end} was to be read, {first:?} to {last:?} was"
            ));
        }
        self.deletions_end(&key, start);
        let partition = self.partitions.entry(key).or_default();
        if !fall.power_lost {
            high_watermark::check(end, partition.high_watermark)?;
        }
        partition.power_losses += u64::from(fall.power_lost);
        partition.high_watermark = end;
        let before = std::mem::take(&mut partition.placed);
        let stands: BTreeMap<i64, u64> = reads.iter().map(|r| (r.base, r.batch)).collect();
        let spans = self
            .topics
            .get(&key.0)
            .map_or(&[][..], |t| t.policies.as_slice());
        let mut lost = Vec::new();
        let mut kept = BTreeMap::new();
        for (base, placed) in before {
            // What is below the start was judged when the start was told.
            if placed.next <= start || stands.get(&base) == Some(&placed.batch) {
                kept.insert(base, placed);
                continue;
            }
            if let Some(sent) = self.sent.get_mut(&placed.batch) {
                sent.places.retain(|&at| at != base);
                let until_ns = placed.acked_ns.unwrap_or(fall.at_ns);
                lost.push((base, placed, policies(spans, sent.sent_ns, until_ns)));
            }
        }
        judge(&lost, fall, &mut self.tally)?;
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.placed = kept;
        }
        for read in &reads {
            self.place(key, read.batch, read.base)?;
        }
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition
                .placed
                .values_mut()
                .for_each(|placed| placed.seen = true);
        }
        // What was on its way when the broker went down is in the log by now, or never will be.
        for sent in self.sent.values_mut().filter(|sent| sent.key == key) {
            sent.pending = 0;
        }
        Ok(())
    }

    /// Power losses a partition went through.
    pub fn power_losses(&self, key: &Key) -> u64 {
        self.partitions.get(key).map_or(0, |p| p.power_losses)
    }
}
