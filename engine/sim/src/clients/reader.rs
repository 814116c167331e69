//! A consumer without a group: reads partitions from any offset on, and asks for their ends.

use std::rc::Rc;

use corelog_net::client::Client;
use corelog_net::error_code::ErrorCode;

use super::Actor;
use super::requests::{fetch, record_bytes};
use crate::oracle::log::Key;
use crate::stage::{Lost, Stage};

/// Runs a reader to the end of the history.
pub async fn run(stage: Rc<Stage>, number: u64) {
    let _working = stage.begin();
    let mut actor = Actor::new(&stage, format!("reader-{number}"), 50 + number);
    while !stage.finishing.get() {
        let _inside = stage.enter().await;
        while stage.is_open() && !stage.finishing.get() {
            if let Err(lost) = read(&mut actor).await {
                actor.lost(&lost).await;
            }
        }
        actor.disconnect();
    }
}

/// Reads a partition for a while.
async fn read(actor: &mut Actor) -> Result<(), Lost> {
    let stage = Rc::clone(&actor.stage);
    let client = actor.client().await?;
    let Some(key) = actor.some_partition() else {
        actor.pause(5_000).await;
        return Ok(());
    };
    if actor.chance.one_in(4) {
        end_of(actor, &client, key).await?;
    }
    let known = stage.oracle.borrow().high_watermark(&key).max(0) as u64;
    let mut next = actor.chance.below(known + 1) as i64;
    for _ in 0..actor.chance.between(1, 6) {
        if stage.finishing.get() || !stage.is_open() {
            return Ok(());
        }
        stage.step();
        let max_bytes = actor.chance.pick(&[1, 500, 10_000, 1 << 20]);
        let max_wait_ms = actor.chance.pick(&[0, 0, 20, 200]);
        let terms = (max_bytes, max_wait_ms);
        let floor = stage.oracle.borrow().high_watermark(&key);
        let began_ns = stage.now_ns();
        let Some(answer) = fetch(&stage, &actor.name, &client, key, next, terms).await? else {
            return Ok(());
        };
        if answer.error_code != ErrorCode::None {
            out_of_range(&stage, answer.error_code, next, floor);
            return Ok(());
        }
        let bytes = record_bytes(&answer);
        {
            let mut oracle = stage.oracle.borrow_mut();
            oracle.high_watermark_told(key, answer.high_watermark, floor);
            next = oracle.fetched(key, next, answer.high_watermark, &bytes);
            if !bytes.is_empty() {
                oracle.tally.hit("fetch: records");
            } else if stage.now_ns() - began_ns >= max_wait_ms.max(1) as u64 * 1_000_000 {
                oracle.tally.hit("fetch: waited for data");
            }
        }
        actor.pause(3_000).await;
    }
    if actor.chance.one_in(12) {
        stage.hit("client died");
        actor.disconnect();
    }
    Ok(())
}

/// An offset below a high watermark that was seen is never out of range.
pub fn out_of_range(stage: &Stage, error: ErrorCode, next: i64, floor: i64) {
    if error == ErrorCode::OffsetOutOfRange && next <= floor {
        let broken = format!("high watermark: {next} is out of range after {floor} was seen");
        stage.oracle.borrow_mut().note(Err(broken));
    }
}

/// ListOffsets of the end.
async fn end_of(actor: &mut Actor, client: &Client, key: Key) -> Result<(), Lost> {
    let stage = Rc::clone(&actor.stage);
    let name = {
        let oracle = stage.oracle.borrow();
        let topic = oracle.topics.get(&key.0);
        topic.filter(|t| !t.known.dying).map(|t| t.name.clone())
    };
    let Some(name) = name else { return Ok(()) };
    let floor = stage.oracle.borrow().high_watermark(&key);
    let asking = client.list_offset(&name, key.1, -1, 0);
    let answer = stage.answer(&actor.name, "ListOffsets", asking).await?;
    stage.hit("list offsets");
    let mut oracle = stage.oracle.borrow_mut();
    // By name: another topic may have it by now.
    let same = oracle.topics.get(&key.0).is_some_and(|t| !t.known.dying);
    if answer.error_code == 0 && same {
        oracle.high_watermark_told(key, answer.offset, floor);
    }
    Ok(())
}
