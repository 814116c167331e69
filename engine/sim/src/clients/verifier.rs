//! After each start, before any other client: the metadata and every partition are read from start to
//! end, and the oracle compares. At the end of a history: everything serves.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_net::client::Client;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::FetchPartitionResponse;
use corelog_record::builder::BatchBuilder;
use corelog_record::codec::Codec;

use super::Actor;
use super::fetching::{Before, Edge, offset_of};
use super::producer::stored_bytes_max;
use super::requests::{PRODUCE, fetch, produce, produced, record_bytes, topics};
use crate::invariants::durability::Fall;
use crate::oracle::Extent;
use crate::oracle::log::{Key, Sent};
use crate::stage::{Lost, Stage};

/// Pause after an answer that may be better later.
const PAUSE: Duration = Duration::from_millis(20);

/// How long partitions may answer with errors when a log directory failed since the start: it is
/// offline until the next one.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Reads all there is; false when the broker went down meanwhile, or when, after an I/O error
/// (`ails` tells), some of it does not serve.
pub async fn settle(stage: &Rc<Stage>, fall: &Fall, ails: impl Fn() -> bool) -> bool {
    let mut actor = Actor::new(stage, "verifier".to_owned(), 91);
    let mut done: BTreeMap<Key, ()> = BTreeMap::new();
    let began_ns = stage.now_ns();
    loop {
        if stage.now_ns() - began_ns > PATIENCE_NS && ails() {
            return false;
        }
        match try_settle(&mut actor, fall, &mut done).await {
            Ok(true) => {
                for group in (0..).take(stage.plan.groups.len()) {
                    // It may not serve yet; what it says has to be right.
                    let _later = super::member::probe(stage, group).await;
                }
                return stage.is_open();
            }
            Ok(false) => {
                let _closed = stage.while_open(stage.rt.sleep(PAUSE)).await;
            }
            Err(lost) => actor.lost(&lost).await,
        }
        if !stage.is_open() || stage.oracle.borrow().broken().is_some() {
            return false;
        }
    }
}

async fn try_settle(
    actor: &mut Actor,
    fall: &Fall,
    done: &mut BTreeMap<Key, ()>,
) -> Result<bool, Lost> {
    let stage = Rc::clone(&actor.stage);
    let client = actor.client().await?;
    let Some(told) = topics(&stage, &actor.name, &client).await? else {
        return Ok(false);
    };
    stage.oracle.borrow_mut().metadata_told(&told);
    let planned = |name: &str| stage.plan.topics.iter().any(|plan| plan.name == name);
    let mut whole = true;
    for (id, (name, partitions)) in told.iter().filter(|(_, (name, _))| planned(name)) {
        for index in 0..*partitions {
            let key = (*id, index);
            if done.contains_key(&key) {
                continue;
            }
            match read_all(actor, &client, name, key).await? {
                Some((bytes, range)) => {
                    let mut oracle = stage.oracle.borrow_mut();
                    oracle.tally.hit("verified partitions");
                    oracle.settled(key, &bytes, range, fall);
                    done.insert(key, ());
                }
                None => whole = false,
            }
        }
    }
    Ok(whole)
}

/// A partition's batches, its start and its end; `None` while it answers with errors, or when
/// retention takes its begin meanwhile.
async fn read_all(
    actor: &mut Actor,
    client: &Client,
    name: &str,
    key: Key,
) -> Result<Option<(Vec<u8>, (i64, i64))>, Lost> {
    let stage = Rc::clone(&actor.stage);
    let before = Before::now(&stage, &key);
    let mut edges = [0; 2];
    for (edge, timestamp) in edges.iter_mut().zip([-2, -1]) {
        let asking = client.list_offset(name, key.1, timestamp, 0);
        let answer = stage.answer(&actor.name, "ListOffsets", asking).await?;
        if answer.error_code != 0 {
            return Ok(None);
        }
        *edge = answer.offset;
    }
    let [start, end] = edges;
    stage.oracle.borrow_mut().log_start_told(
        key,
        (start, before.start),
        before.asked_ns,
        stage.now_ns(),
    );
    let mut next = start;
    let mut all = Vec::new();
    while next < end {
        let terms = (1 << 20, 0);
        let Some(answer) = fetch(&stage, &actor.name, client, key, next, terms).await? else {
            return Ok(None);
        };
        if answer.error_code != ErrorCode::None {
            return Ok(None);
        }
        let bytes = record_bytes(&answer);
        let reads = stage.oracle.borrow_mut().parse(key, &bytes, Extent::Whole);
        let after = reads.map(|reads| reads.last().map(|read| read.next));
        match after {
            Ok(Some(after)) => next = after,
            Ok(None) => return Ok(None),
            Err(broken) => {
                stage.oracle.borrow_mut().note(Err(broken));
                return Ok(None);
            }
        }
        all.extend_from_slice(&bytes);
    }
    Ok(Some((all, (start, end))))
}

/// Every partition takes a record with acks=all and gives it back; `Err` says what does not yet.
pub async fn serves(stage: &Rc<Stage>, number: u64) -> Result<(), String> {
    let mut actor = Actor::new(stage, "prober".to_owned(), 1000 + number);
    let client = actor
        .client()
        .await
        .map_err(|lost| format!("no connection: {lost:?}"))?;
    let told = topics(stage, &actor.name, &client).await;
    let Ok(Some(told)) = told else {
        return Err(format!("no metadata: {:?}", told.err()));
    };
    let planned = |name: &str| stage.plan.topics.iter().any(|plan| plan.name == name);
    for (id, (name, partitions)) in told.iter().filter(|(_, (name, _))| planned(name)) {
        for index in 0..*partitions {
            let probed = probe(&mut actor, &client, (*id, index)).await;
            let outcome = probed
                .map_err(|lost| format!("{lost:?}"))
                .and_then(|result| result);
            outcome.map_err(|why| format!("{name}-{index}: {why}"))?;
        }
    }
    for group in (0..).take(stage.plan.groups.len()) {
        super::member::probe(stage, group).await?;
    }
    Ok(())
}

async fn probe(actor: &mut Actor, client: &Client, key: Key) -> Result<Result<(), String>, Lost> {
    let stage = Rc::clone(&actor.stage);
    let now_ms = stage.world.wall_clock_ms();
    let mut builder = BatchBuilder::new(Codec::None, now_ms);
    let unique = actor.chance.draw().to_be_bytes();
    builder.append(now_ms, Some(&unique), Some(b"probe"), &[]);
    let bytes = Bytes::from(builder.build());
    let bytes_max = stored_bytes_max(&stage, &key, &bytes);
    let batch = {
        let mut oracle = stage.oracle.borrow_mut();
        let batch = oracle.made(Sent {
            key,
            bytes: bytes.clone(),
            count: 1,
            bytes_max,
            timestamp_ms: now_ms,
            idempotent: false,
            sent_ns: stage.now_ns(),
            pending: 0,
            places: Vec::new(),
        });
        oracle.attempted(batch);
        batch
    };
    let request = produce(key, -1, bytes);
    let sending = client.produce(PRODUCE, &request).map_err(Lost::Client)?;
    let response = stage.answer(&actor.name, "Produce", sending).await?;
    let Some(answer) = produced(response) else {
        return Ok(Err("no answer for the partition".to_owned()));
    };
    if answer.error_code != ErrorCode::None {
        return Ok(Err(format!("Produce: {}", answer.error_code.name())));
    }
    stage
        .oracle
        .borrow_mut()
        .acked(batch, answer.base_offset, stage.now_ns());
    let (terms, base) = ((1 << 20, 0), answer.base_offset);
    let answer = fetch(&stage, &actor.name, client, key, base, terms).await?;
    let is_gone =
        |answer: &FetchPartitionResponse<Bytes>| answer.error_code == ErrorCode::OffsetOutOfRange;
    if answer.as_ref().is_some_and(is_gone) {
        // Retention may have been faster.
        let start = offset_of(actor, client, key, Edge::Start).await?;
        return Ok(match start {
            Some(start) if start > base => Ok(()),
            _ => Err("Fetch: out of range".to_owned()),
        });
    }
    let Some(answer) = answer.filter(|answer| answer.error_code == ErrorCode::None) else {
        return Ok(Err("Fetch: an error".to_owned()));
    };
    let bytes = record_bytes(&answer);
    if bytes.is_empty() {
        return Ok(Err(
            "Fetch: nothing where a record was acknowledged".to_owned()
        ));
    }
    Ok(Ok(()))
}
