//! A consumer with an incremental fetch session (KIP-227): its requests name what changes, the answers
//! what is news; it seeks, adds and forgets partitions, reconnects, and now and then errs on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use corelog_net::client::Client;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic,
};

use super::Actor;
use super::fetching::{Before, take_part};
use super::requests::FETCH;
use crate::invariants::sessions::{self, Absent};
use crate::oracle::log::Key;
use crate::stage::{Lost, Stage};

/// Opens a session.
const INITIAL: i32 = 0;
/// Ends one.
const FINAL: i32 = -1;
/// Partitions of a session at most.
const PARTITIONS_MAX: usize = 5;

/// A partition of the session.
#[derive(Debug, Clone, Copy)]
struct Part {
    next: i64,
    /// What the broker was told last; `None` = it was not.
    sent: Option<i64>,
    /// High watermark and log start that the session told last; `None` = none, or an error.
    told: Option<(i64, i64)>,
    /// Answers in a row with records of others and none of this one, though it has some.
    starved: u64,
}

/// A session as its client knows it.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: i32,
    /// Of the next request.
    epoch: i32,
    /// Process of the broker that made it.
    of_start: u64,
    /// Connection on which it was made.
    of_connection: u64,
    /// A request of it has no answer.
    is_unsure: bool,
}

struct SessionReader {
    actor: Actor,
    connections: u64,
    known: Option<Known>,
    parts: BTreeMap<Key, Part>,
    forgotten: BTreeSet<Key>,
}

/// A request under way.
struct Asked {
    session: Option<Known>,
    epoch: i32,
    /// All partitions it is about, with what was known then.
    before: BTreeMap<Key, (Part, Before)>,
}

/// Runs one to the end of the history.
pub async fn run(stage: Rc<Stage>, number: u64) {
    let _working = stage.begin();
    let mut reader = SessionReader {
        actor: Actor::new(&stage, format!("session-{number}"), 70 + number),
        connections: 0,
        known: None,
        parts: BTreeMap::new(),
        forgotten: BTreeSet::new(),
    };
    while !stage.finishing.get() {
        let _inside = stage.enter().await;
        reader.connections += 1;
        while stage.is_open() && !stage.finishing.get() {
            if let Err(lost) = reader.go_on().await {
                reader.connections += 1;
                if let Some(known) = &mut reader.known {
                    known.is_unsure = true;
                }
                reader.actor.lost(&lost).await;
            }
        }
        reader.actor.disconnect();
    }
}

impl SessionReader {
    async fn go_on(&mut self) -> Result<(), Lost> {
        let client = self.actor.client().await?;
        self.leave_the_dead();
        while self.parts.len() < PARTITIONS_MAX
            && (self.parts.is_empty() || self.actor.chance.one_in(4))
        {
            let Some(key) = self.actor.some_partition() else {
                break;
            };
            self.want(key);
        }
        if self.parts.is_empty() {
            self.actor.pause(5_000).await;
            return Ok(());
        }
        self.change_mind();
        self.ask(&client).await?;
        self.actor.pause(5_000).await;
        if self.actor.chance.one_in(25) {
            self.actor.stage.hit("client reconnects");
            self.connections += 1;
            self.actor.disconnect();
        }
        Ok(())
    }

    /// One that the broker was not told is forgotten yet is still in the session, with what it told.
    fn want(&mut self, key: Key) {
        if self.forgotten.contains(&key) {
            return;
        }
        let start = self.actor.stage.oracle.borrow().log_start(&key);
        self.parts.entry(key).or_insert(Part {
            next: start,
            sent: None,
            told: None,
            starved: 0,
        });
    }

    fn forget(&mut self, key: Key) {
        if self
            .parts
            .remove(&key)
            .is_some_and(|part| part.sent.is_some())
        {
            self.forgotten.insert(key);
        }
    }

    /// Topics that are deleted leave the session.
    fn leave_the_dead(&mut self) {
        let dead: Vec<Key> = {
            let oracle = self.actor.stage.oracle.borrow();
            let is_dead = |key: &&Key| {
                let topic = oracle.topics.get(&key.0);
                topic.is_none_or(|topic| topic.known.dying)
            };
            self.parts.keys().filter(is_dead).copied().collect()
        };
        dead.into_iter().for_each(|key| self.forget(key));
    }

    /// Seeks, or forgets a partition.
    fn change_mind(&mut self) {
        let keys: Vec<Key> = self.parts.keys().copied().collect();
        let key = self.actor.chance.pick(&keys);
        match self.actor.chance.below(16) {
            0 if keys.len() > 1 => {
                self.actor.stage.hit("fetch session: partition forgotten");
                self.forget(key);
            }
            1 => {
                let known = Before::now(&self.actor.stage, &key);
                let room = (known.high_watermark - known.start).max(0) as u64;
                let to = known.start + self.actor.chance.below(room + 1) as i64;
                if let Some(part) = self.parts.get_mut(&key) {
                    part.next = to;
                }
            }
            2 => self.known = None,
            _ => {}
        }
    }

    async fn ask(&mut self, client: &Client) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        stage.step();
        let session = self.known;
        let closes = session.is_some() && self.actor.chance.one_in(25);
        let errs = session.is_some() && self.actor.chance.one_in(20);
        let epoch = match session {
            None => INITIAL,
            Some(_) if closes => FINAL,
            Some(known) if errs => known.epoch + 1 + self.actor.chance.below(3) as i32,
            Some(known) => known.epoch,
        };
        let is_full = epoch == INITIAL || epoch == FINAL;
        let mut request = FetchRequest {
            max_wait_ms: self.actor.chance.pick(&[0, 0, 20, 200]),
            min_bytes: 1,
            max_bytes: self.actor.chance.pick(&[1, 3_000, 1 << 20]),
            session_id: session.map_or(0, |known| known.id),
            session_epoch: epoch,
            topics: self.topics(is_full),
            ..FetchRequest::default()
        };
        if !is_full {
            request.forgotten_topics = self.forgotten_topics();
        }
        let before = |(key, part): (&Key, &Part)| (*key, (*part, Before::now(&stage, key)));
        let asked = Asked {
            session,
            epoch,
            before: self.parts.iter().map(before).collect(),
        };
        let pending = client.fetch(FETCH, &request).map_err(Lost::Client)?;
        let response = stage.answer(&self.actor.name, "Fetch", pending).await?;
        if closes {
            stage.hit("fetch session: closed");
            self.known = None;
        }
        self.judge(client, &asked, errs && !closes, response).await
    }

    /// What the request names: all, or what the broker does not know yet.
    fn topics(&self, all: bool) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (key, part) in &self.parts {
            if !all && part.sent == Some(part.next) {
                continue;
            }
            if topics.last().is_none_or(|topic| topic.topic_id != key.0) {
                topics.push(FetchTopic {
                    topic_id: key.0,
                    ..FetchTopic::default()
                });
            }
            let partition = FetchPartition {
                index: key.1,
                fetch_offset: part.next,
                max_bytes: 100_000,
                ..FetchPartition::default()
            };
            if let Some(topic) = topics.last_mut() {
                topic.partitions.push(partition);
            }
        }
        topics
    }

    fn forgotten_topics(&self) -> Vec<ForgottenTopic> {
        let one = |key: &Key| ForgottenTopic {
            topic_id: key.0,
            partitions: vec![key.1],
            ..ForgottenTopic::default()
        };
        self.forgotten.iter().map(one).collect()
    }

    fn begin_anew(&mut self) {
        self.known = None;
        self.forgotten.clear();
        for part in self.parts.values_mut() {
            (part.sent, part.told) = (None, None);
        }
    }

    async fn judge(
        &mut self,
        client: &Client,
        asked: &Asked,
        errs: bool,
        response: FetchResponse<Bytes>,
    ) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let error = response.error_code;
        let is_incremental = asked.epoch > INITIAL;
        if let Some(known) = asked.session.filter(|_| is_incremental) {
            let judged = sessions::answered(&sessions::Asked {
                errs,
                of_dead: known.of_start != stage.starts.get(),
                elsewhere: known.of_connection != self.connections,
                is_unsure: known.is_unsure,
                error,
                id: known.id,
                told_id: response.session_id,
            });
            let mut oracle = stage.oracle.borrow_mut();
            oracle.note(judged);
            match error {
                ErrorCode::FetchSessionIdNotFound if known.of_start != stage.starts.get() => {
                    oracle.tally.hit("fetch session: unknown after a restart");
                }
                ErrorCode::InvalidFetchSessionEpoch => {
                    oracle.tally.hit("fetch session: wrong epoch refused");
                }
                ErrorCode::None => oracle.tally.hit("fetch session: incremental answer"),
                _ => {}
            }
        }
        if error != ErrorCode::None {
            // It is still there after a wrong epoch: the right one goes on.
            if !(errs && error == ErrorCode::InvalidFetchSessionEpoch) {
                self.begin_anew();
            }
            return Ok(());
        }
        match asked.epoch {
            FINAL => self.begin_anew(),
            INITIAL => {
                self.begin_anew();
                self.opened(response.session_id);
            }
            epoch => {
                if let Some(known) = &mut self.known {
                    (known.epoch, known.is_unsure) = (epoch + 1, false);
                }
                self.forgotten.clear();
            }
        }
        for (key, part) in &mut self.parts {
            part.sent = asked.before.get(key).map(|(asked, _)| asked.next);
        }
        self.take_all(client, asked, is_incremental, response).await
    }

    fn opened(&mut self, id: i32) {
        let stage = &self.actor.stage;
        if id == 0 {
            return stage.hit("fetch session: no room for one");
        }
        stage.hit("fetch session: opened");
        self.known = Some(Known {
            id,
            epoch: 1,
            of_start: stage.starts.get(),
            of_connection: self.connections,
            is_unsure: false,
        });
    }

    async fn take_all(
        &mut self,
        client: &Client,
        asked: &Asked,
        is_incremental: bool,
        response: FetchResponse<Bytes>,
    ) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let mut present = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                present.insert((topic.topic_id, partition.index), partition);
            }
        }
        let is_empty = |answer: &FetchPartitionResponse<Bytes>| answer.records_bytes() == 0;
        let has_records = present.values().any(|answer| !is_empty(answer));
        let has_errors = present
            .values()
            .any(|answer| answer.error_code != ErrorCode::None);
        let stranger = present.keys().find(|key| !asked.before.contains_key(*key));
        if let Some(key) = stranger {
            let broken = sessions::stranger(key.1);
            stage.oracle.borrow_mut().note(Err(broken));
        }
        let most = 4 * asked.before.len() as u64 + 8;
        for (key, (was, before)) in &asked.before {
            let answer = present.get(key);
            let has_data = (before.start..before.high_watermark).contains(&was.next);
            let gets_none = answer.is_none_or(is_empty);
            let mut starved = 0;
            if has_data && gets_none && has_records {
                starved = was.starved + 1;
            }
            let judged = sessions::absent(&Absent {
                partition: key.1,
                is_incremental,
                is_absent: answer.is_none(),
                told: was.told,
                high_watermark: before.high_watermark,
                start: before.start,
                next: was.next,
                has_data,
                whole_answer_is_empty: !has_records && !has_errors,
                starved,
                starved_max: most,
            });
            stage.oracle.borrow_mut().note(judged);
            if answer.is_none() {
                stage.hit("fetch session: partition without news left out");
            }
            // Before anything is awaited: the broker knows that it told all of this.
            if let Some(part) = self.parts.get_mut(key) {
                part.starved = starved;
                if let Some(answer) = answer {
                    let told = (answer.high_watermark, answer.log_start_offset);
                    part.told = (answer.error_code == ErrorCode::None).then_some(told);
                }
            }
        }
        for (key, (was, before)) in &asked.before {
            let Some(answer) = present.get(key) else {
                continue;
            };
            let next = take_part(&self.actor, client, *key, was.next, before, answer).await?;
            if let (Some(part), Some(next)) = (self.parts.get_mut(key), next) {
                part.next = next;
            }
        }
        Ok(())
    }
}
