//! A producer: rounds of batches to one partition, several in flight, sent again until answered.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use corelog_net::client::Client;
use corelog_net::cold::messages::init_producer_id_request::InitProducerIdRequestData;
use corelog_net::error_code::ErrorCode;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;

use super::Actor;
use super::requests::{PRODUCE, produce, produced};
use crate::invariants::{content, duplicates, offsets};
use crate::oracle::log::{Key, Sent};
use crate::plan::{CODECS, ProducerPlan};
use crate::stage::{Lost, Stage};

/// What a batch of one record with a key of 16 bytes takes beside a value of 100 to 8,000 bytes.
const UNIFORM_OVERHEAD_BYTES: u64 = 86;
/// Header of a batch, and what a codec adds to records that it cannot make smaller.
const CODEC_OVERHEAD_BYTES: u64 = 256;
/// Rounds after which an unanswered batch is given up.
const ROUNDS_MAX: u32 = 40;

/// An id from the broker, and where its sequence is in the one partition it writes to.
#[derive(Debug, Clone, Copy)]
struct Identity {
    id: i64,
    epoch: i16,
    key: Key,
    next_sequence: i32,
    /// Power losses of the partition when it began.
    power_losses: u64,
    /// Starts of the broker until then.
    starts: u64,
    /// A batch of it was acknowledged.
    is_known: bool,
    /// Its first batch in the log was not its first batch: as with Kafka, a producer that a log does
    /// not know may begin with any sequence, and then what was refused before is out of order.
    has_gap: bool,
}

impl Identity {
    /// The log may have forgotten what it knew of it: by power loss; or because its records are deleted.
    /// Over a restart a producer's last batch is in Kafka's snapshots, the four before it are found
    /// again in the log, if they are still there.
    fn is_forgotten(&self, stage: &Stage) -> bool {
        let oracle = stage.oracle.borrow();
        let shrinks = stage.shrinks(&oracle, &self.key.0);
        oracle.power_losses(&self.key) > self.power_losses
            || (shrinks && stage.starts.get() > self.starts)
    }
}

/// A batch that has no answer yet.
struct Open {
    batch: u64,
    bytes: Bytes,
    sent_before: bool,
}

struct Producer {
    actor: Actor,
    number: u64,
    plan: ProducerPlan,
    identity: Option<Identity>,
    open: VecDeque<Open>,
    key: Option<Key>,
    rounds: u32,
}

/// What is known of the batch before one that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Taken,
    /// It may be in the log or not.
    Unknown,
    /// It is in no log.
    Refused,
}

/// What came of a round.
enum Outcome {
    /// Go on.
    Fine,
    /// Wait a little, then send again what is open.
    Again,
    /// The identity is of no use any more.
    Reset,
}

/// Runs a producer to the end of the history.
pub async fn run(stage: Rc<Stage>, number: u64, plan: ProducerPlan) {
    let _working = stage.begin();
    let mut producer = Producer {
        actor: Actor::new(&stage, format!("producer-{number}"), number),
        number,
        plan,
        identity: None,
        open: VecDeque::new(),
        key: None,
        rounds: 0,
    };
    while !(stage.finishing.get() && producer.open.is_empty()) {
        let _inside = stage.enter().await;
        while stage.is_open() && !(stage.finishing.get() && producer.open.is_empty()) {
            if let Err(lost) = producer.round().await {
                producer.no_answers();
                producer.actor.lost(&lost).await;
            }
        }
        producer.actor.disconnect();
    }
}

impl Producer {
    async fn round(&mut self) -> Result<(), Lost> {
        let client = self.actor.client().await?;
        if self.open.is_empty() && !self.choose(&client).await? {
            self.actor.pause(5_000).await;
            return Ok(());
        }
        let Some(key) = self.key else { return Ok(()) };
        if !self.actor.stage.finishing.get() {
            self.make_batches(key);
        }
        self.rounds += 1;
        match self.send(&client, key).await? {
            Outcome::Fine => {
                self.rounds = 0;
                self.actor.pause(self.plan.pause_us_max).await;
            }
            Outcome::Again if self.rounds <= ROUNDS_MAX => self.actor.pause(50_000).await,
            Outcome::Again | Outcome::Reset => self.give_up(),
        }
        if self.actor.chance.one_in(40) {
            self.actor.stage.hit("client reconnects");
            self.actor.disconnect();
        }
        Ok(())
    }

    /// Chooses a partition, and gets an identity for it where one is needed.
    async fn choose(&mut self, client: &Client) -> Result<bool, Lost> {
        let stays = self.identity.is_some_and(|identity| {
            let oracle = self.actor.stage.oracle.borrow();
            let topic = oracle.topics.get(&identity.key.0);
            topic.is_some_and(|topic| !topic.known.dying)
        });
        if stays && !self.actor.chance.one_in(30) {
            return Ok(true);
        }
        self.identity = None;
        self.key = self.actor.some_partition();
        let Some(key) = self.key else {
            return Ok(false);
        };
        if !self.plan.idempotent {
            return Ok(true);
        }
        let request = InitProducerIdRequestData::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(-1)
            .with_producer_epoch(-1);
        let stage = Rc::clone(&self.actor.stage);
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "InitProducerId", calling)
            .await?;
        if answer.error_code != 0 {
            return Ok(false);
        }
        let power_losses = stage.oracle.borrow().power_losses(&key);
        self.identity = Some(Identity {
            id: answer.producer_id,
            epoch: answer.producer_epoch,
            key,
            next_sequence: 0,
            power_losses,
            starts: stage.starts.get(),
            is_known: false,
            has_gap: false,
        });
        Ok(true)
    }

    /// Fills the window.
    fn make_batches(&mut self, key: Key) {
        let wanted = self.actor.chance.between(1, self.plan.window) as usize;
        while self.open.len() < wanted {
            let stage = Rc::clone(&self.actor.stage);
            let count = match self.plan.uniform_bytes {
                Some(_) => 1,
                None => self.actor.chance.between(1, 3),
            };
            let (bytes, timestamp_ms) = self.batch(count);
            let sent = Sent {
                key,
                bytes: bytes.clone(),
                count: count as i64,
                bytes_max: stored_bytes_max(&stage, &key, &bytes),
                timestamp_ms,
                idempotent: self.plan.idempotent,
                sent_ns: stage.now_ns(),
                pending: 0,
                places: Vec::new(),
            };
            let batch = stage.oracle.borrow_mut().made(sent);
            self.open.push_back(Open {
                batch,
                bytes,
                sent_before: false,
            });
        }
    }

    /// A batch, and its greatest timestamp.
    fn batch(&mut self, count: u64) -> (Bytes, i64) {
        let uniform = self.plan.uniform_bytes;
        let chance = &mut self.actor.chance;
        let value_bytes = match (uniform, chance.below(30)) {
            (Some(bytes), _) => bytes - UNIFORM_OVERHEAD_BYTES,
            (None, 0) => 5_000 + chance.below(20_000),
            (None, 1..=4) => 1_000 + chance.below(3_500),
            (None, 5..=12) => 200 + chance.below(500),
            (None, _) => chance.below(100),
        };
        let codec = match uniform.is_none() && chance.one_in(8) {
            true => chance.pick(&CODECS),
            false => Codec::None,
        };
        let skew_ms = self.plan.clock_skew_ms as i64;
        let skew_ms = chance.below(2 * skew_ms as u64 + 1) as i64 - skew_ms;
        let now_ms = self.actor.stage.world.wall_clock_ms() + skew_ms;
        let mut builder = BatchBuilder::new(codec, now_ms);
        if let Some(identity) = &mut self.identity {
            builder = builder.producer(identity.id, identity.epoch, identity.next_sequence);
            identity.next_sequence += count as i32;
        }
        for _ in 0..count {
            // Which no other record has.
            let key = [self.number, self.actor.chance.draw()]
                .map(u64::to_be_bytes)
                .concat();
            let fill = self.actor.chance.draw() as u8;
            let value: Vec<u8> = (0..value_bytes)
                .map(|i| fill.wrapping_add(i as u8))
                .collect();
            builder.append(now_ms, Some(&key), Some(&value), &[]);
        }
        (Bytes::from(builder.build()), now_ms)
    }

    /// Sends all that is open, in order, and hears of each.
    async fn send(&mut self, client: &Client, key: Key) -> Result<Outcome, Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let mut pending = Vec::with_capacity(self.open.len());
        for open in &mut self.open {
            stage.step();
            stage.oracle.borrow_mut().attempted(open.batch);
            if open.sent_before {
                stage.hit("produce: sent again");
            }
            open.sent_before = true;
            let request = produce(key, self.plan.acks, open.bytes.clone());
            let sending = client.produce(PRODUCE, &request).map_err(Lost::Client)?;
            pending.push((open.batch, sending));
        }
        if self.plan.acks == 0 {
            for (_, sending) in pending {
                stage.answer(&self.actor.name, "Produce", sending).await?;
                stage.hit("produce: sent, acks=0");
            }
            self.open.clear();
            return Ok(Outcome::Fine);
        }
        let mut outcome = Outcome::Fine;
        let mut bases = Vec::new();
        let (mut all_before, mut one_before) = (true, Before::Taken);
        for (batch, sending) in pending {
            let response = stage.answer(&self.actor.name, "Produce", sending).await?;
            let Some(answer) = produced(response) else {
                outcome = Outcome::Again;
                (all_before, one_before) = (false, Before::Unknown);
                continue;
            };
            match answer.error_code {
                ErrorCode::None => {
                    self.note_gap(one_before);
                    one_before = Before::Taken;
                    self.acked(batch, answer.base_offset);
                    bases.push(answer.base_offset);
                }
                error => {
                    let judged = self.refused(batch, error, all_before);
                    all_before = false;
                    one_before = match error.retriable() {
                        true => Before::Unknown,
                        false => Before::Refused,
                    };
                    if !matches!(outcome, Outcome::Reset) {
                        outcome = judged;
                    }
                }
            }
        }
        if !self.plan.retries {
            stage.oracle.borrow_mut().note(offsets::ascending(&bases));
            self.open.clear();
        }
        Ok(outcome)
    }

    /// A batch is in the log; what is known of the one sent before it.
    fn note_gap(&mut self, before: Before) {
        let Some(identity) = &mut self.identity else {
            return;
        };
        identity.has_gap |= before != Before::Taken && !identity.is_known;
        // One with a passing error may be there all the same: when its wait for the disk, or the look
        // for its first copy, ended with its log directory. It is sent again, and then it shows.
        if before == Before::Refused && identity.is_known && !identity.has_gap {
            let forgotten = identity.is_forgotten(&self.actor.stage);
            let mut oracle = self.actor.stage.oracle.borrow_mut();
            oracle.note(duplicates::gap(self.number, forgotten));
        }
        identity.is_known = true;
    }

    fn acked(&mut self, batch: u64, base: i64) {
        let stage = &self.actor.stage;
        let now_ns = stage.now_ns();
        stage.say(format!(
            "{} heard: batch {batch} is at {base}",
            self.actor.name
        ));
        stage.oracle.borrow_mut().acked(batch, base, now_ns);
        stage.hit(match self.plan.acks {
            1 => "produce: acknowledged, acks=1",
            _ => "produce: acknowledged, acks=all",
        });
        self.open.retain(|open| open.batch != batch);
    }

    /// A batch was refused; `first`: all before it are acknowledged.
    fn refused(&mut self, batch: u64, error: ErrorCode, first: bool) -> Outcome {
        let stage = &self.actor.stage;
        let name = &self.actor.name;
        stage.say(format!(
            "{name} heard: batch {batch} is refused: {}",
            error.name()
        ));
        match error {
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::UnknownProducerId => {
                let may_be = self
                    .identity
                    .is_some_and(|identity| identity.has_gap || identity.is_forgotten(stage));
                let mut oracle = stage.oracle.borrow_mut();
                oracle.refused(batch);
                if !first {
                    return Outcome::Again;
                }
                oracle.tally.hit("produce: refused for its sequence");
                oracle.note(duplicates::refused(self.number, error.name(), may_be));
                Outcome::Reset
            }
            ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
                let mut oracle = stage.oracle.borrow_mut();
                oracle.refused(batch);
                oracle.tally.hit("produce: no such topic");
                let dying = self.key.is_none_or(|key| {
                    oracle
                        .topics
                        .get(&key.0)
                        .is_none_or(|topic| topic.known.dying)
                });
                if dying {
                    Outcome::Reset
                } else {
                    Outcome::Again
                }
            }
            error if error.retriable() => {
                stage.hit("produce: refused, may be tried again");
                // One behind it may be in the log though its answer was lost.
                if let Some(identity) = &mut self.identity {
                    identity.has_gap |= !identity.is_known;
                }
                Outcome::Again
            }
            error => {
                let broken = format!("content: {name}'s batch was refused: {}", error.name());
                stage.oracle.borrow_mut().note(Err(broken));
                Outcome::Reset
            }
        }
    }

    /// The connection is gone, and with it the answers.
    fn no_answers(&mut self) {
        let sent = self.open.iter().filter(|open| open.sent_before).count();
        self.actor
            .stage
            .tally(|tally| tally.add("produce: no answer", sent as u64));
        if !self.plan.retries {
            self.open.clear();
        }
    }

    /// Lets go of what is open: it may be in the log or not.
    fn give_up(&mut self) {
        self.open.clear();
        self.identity = None;
        self.key = None;
        self.rounds = 0;
    }
}

/// What a batch takes in a log at most: where the topic has a codec of its own, what its records take
/// with one that only adds to them.
pub fn stored_bytes_max(stage: &Stage, key: &Key, bytes: &Bytes) -> u64 {
    let sent = bytes.len() as u64;
    let name = stage
        .oracle
        .borrow()
        .topics
        .get(&key.0)
        .map(|topic| topic.name.clone());
    let mut plans = stage.plan.topics.iter();
    if !plans.any(|plan| plan.recompresses && Some(&plan.name) == name.as_ref()) {
        return sent;
    }
    let records = content::records(bytes).map_or(0, |records| records.len() as u64);
    sent.max(records + CODEC_OVERHEAD_BYTES)
}
