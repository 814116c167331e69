//! A consumer without a group: reads partitions from any offset on, and asks for their ends.

use std::rc::Rc;

use corelog_net::error_code::ErrorCode;

use super::Actor;
use super::fetching::{Before, Edge, offset_of, take};
use super::requests::fetch;
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

/// An offset to begin at: of the log as it is known, or one that is deleted.
fn somewhere(actor: &mut Actor, key: &Key) -> i64 {
    let known = Before::now(&actor.stage, key);
    let (start, end) = (known.start, known.high_watermark.max(known.start));
    if start > 0 && actor.chance.one_in(6) {
        return actor.chance.below(start as u64) as i64;
    }
    start + actor.chance.below((end - start) as u64 + 1) as i64
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
        let edge = actor.chance.pick(&[Edge::End, Edge::Start]);
        offset_of(actor, &client, key, edge).await?;
    }
    let mut next = somewhere(actor, &key);
    for _ in 0..actor.chance.between(1, 6) {
        if stage.finishing.get() || !stage.is_open() {
            return Ok(());
        }
        stage.step();
        let max_bytes = actor.chance.pick(&[1, 500, 10_000, 1 << 20]);
        let max_wait_ms = actor.chance.pick(&[0, 0, 20, 200]);
        let terms = (max_bytes, max_wait_ms);
        let before = Before::now(&stage, &key);
        let Some(answer) = fetch(&stage, &actor.name, &client, key, next, terms).await? else {
            return Ok(());
        };
        let Some(after) = take(actor, &client, key, next, &before, &answer).await? else {
            return Ok(());
        };
        let waited_ns = stage.now_ns() - before.asked_ns;
        if answer.error_code == ErrorCode::None
            && answer.records_bytes() == 0
            && waited_ns >= max_wait_ms.max(1) as u64 * 1_000_000
        {
            stage.hit("fetch: waited for data");
        }
        next = after;
        actor.pause(3_000).await;
    }
    if actor.chance.one_in(12) {
        stage.hit("client reconnects");
        actor.disconnect();
    }
    Ok(())
}
