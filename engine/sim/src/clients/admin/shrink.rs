//! What makes logs shorter: DeleteRecords, and narrower rules of retention.

use std::rc::Rc;

use corelog_net::client::Client;
use corelog_net::cold::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequestData, DeleteRecordsTopic,
};
use corelog_net::error_code::ErrorCode;

use super::Admin;
use crate::clients::fetching::Before;
use crate::clients::requests::{code, text};
use crate::invariants::Broken;
use crate::oracle::log::{Key, TopicId};
use crate::plan::{Beside, Retention, retention};
use crate::stage::Lost;

/// Up to the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// Records that no history has.
const FAR: i64 = 1_000_000;

/// Values of `retention.bytes` and `retention.ms`.
pub fn values(rules: &Retention) -> [(&'static str, Option<String>); 2] {
    [
        ("retention.bytes", rules.bytes.map(|n| n.to_string())),
        (
            "retention.ms",
            // No limit is not what is taken where nothing is set.
            Some(rules.ms.map_or("-1".to_owned(), |ms| ms.to_string())),
        ),
    ]
}

impl Admin {
    /// Begins with what the director wants under way, if there is a topic for it.
    pub(super) async fn grant(&mut self, client: &Client, wish: Beside) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let shrinking = {
            let oracle = stage.oracle.borrow();
            let plans = stage.plan.topics.iter().filter(|plan| plan.shrinks);
            let named = |name: &str| {
                let mut topics = oracle.topics.iter().filter(|(_, topic)| {
                    topic.name == name && topic.known.exists && !topic.known.dying
                });
                topics.next().map(|(id, _)| *id)
            };
            plans
                .filter_map(|plan| named(&plan.name))
                .collect::<Vec<_>>()
        };
        if shrinking.is_empty() {
            stage.wish.set(None);
            stage.changed.notify_all();
            return Ok(());
        }
        let id = self.actor.chance.pick(&shrinking);
        match wish {
            Beside::Deletion => self.delete_records(client, id).await,
            Beside::Retention | Beside::Anything => {
                let rules = Retention {
                    bytes: Some(self.actor.chance.below(3_000)),
                    ms: None,
                };
                self.change_retention(client, id, rules).await
            }
        }
    }

    pub(super) async fn some_retention(
        &mut self,
        client: &Client,
        id: TopicId,
    ) -> Result<(), Lost> {
        let rules = retention(&mut self.actor.chance);
        self.change_retention(client, id, rules).await
    }

    async fn change_retention(
        &mut self,
        client: &Client,
        id: TopicId,
        rules: Retention,
    ) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some((name, _)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        stage.say(format!("admin sets {name} to {rules:?}"));
        let now_ns = stage.now_ns();
        stage.oracle.borrow_mut().retention_sent(&id, rules, now_ns);
        let done = self.alter(client, &name, &values(&rules)).await;
        stage.wish.set(None);
        stage.changed.notify_all();
        if done? {
            let now_ns = stage.now_ns();
            stage.oracle.borrow_mut().retention_acked(&id, now_ns);
            stage.hit("retention changed while running");
        }
        Ok(())
    }

    /// Deletes records of a partition up to some offset.
    pub(super) async fn delete_records(
        &mut self,
        client: &Client,
        id: TopicId,
    ) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some((name, partitions)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        let index = self.actor.chance.below(partitions.max(1) as u64) as i32;
        let key = (id, index);
        let before = Before::now(&stage, &key);
        let known = before.high_watermark.max(before.start);
        let offset = match self.actor.chance.below(12) {
            0 => None,
            1 => Some(known + FAR),
            2 => Some(self.actor.chance.below(before.start as u64 + 1) as i64),
            _ => {
                let room = (known - before.start) as u64;
                Some(before.start + self.actor.chance.below(room + 1) as i64)
            }
        };
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(index)
            .with_offset(offset.unwrap_or(HIGH_WATERMARK));
        let topic = DeleteRecordsTopic::default()
            .with_name(text(&name))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        stage.say(format!("admin deletes {name}-{index} up to {offset:?}"));
        let is_far = offset.is_some_and(|offset| offset > known);
        if !is_far {
            stage.oracle.borrow_mut().deletion_sent(key, offset);
        }
        stage.wish.set(None);
        stage.changed.notify_all();
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "DeleteRecords", calling)
            .await;
        if answer.is_err() {
            stage.hit(match stage.is_open() {
                true => "DeleteRecords: no answer",
                false => "crash: DeleteRecords under way",
            });
        }
        let mut partitions = answer?
            .topics
            .into_iter()
            .flat_map(|topic| topic.partitions);
        let Some(result) = partitions.next() else {
            return Ok(());
        };
        let error = code(result.error_code);
        stage.say(format!(
            "admin heard: {name}-{index} starts at {}: {}",
            result.low_watermark,
            error.name()
        ));
        let judged = self.deleted(key, offset, &before, result.low_watermark, error);
        stage.oracle.borrow_mut().note(judged);
        Ok(())
    }

    /// What the answer to DeleteRecords says.
    fn deleted(
        &self,
        key: Key,
        offset: Option<i64>,
        before: &Before,
        told: i64,
        error: ErrorCode,
    ) -> Result<(), Broken> {
        let stage = &self.actor.stage;
        let mut oracle = stage.oracle.borrow_mut();
        let known = before.high_watermark.max(before.start);
        let is_far = offset.is_some_and(|offset| offset > known);
        match error {
            ErrorCode::None if is_far => {
                return Err(format!(
                    "log start: records were deleted up to {told}, far behind the end"
                ));
            }
            ErrorCode::None => {
                oracle.tally.hit("DeleteRecords: acknowledged");
                oracle.deletion_acked(key, offset, told, before.high_watermark);
                let start = (told, before.start);
                oracle.log_start_told(key, start, before.asked_ns, stage.now_ns());
            }
            ErrorCode::OffsetOutOfRange if is_far => {
                oracle.tally.hit("DeleteRecords: behind the end, refused");
            }
            ErrorCode::OffsetOutOfRange => {
                oracle.deletion_refused(key, offset);
                return Err(format!(
                    "high watermark: records up to {offset:?} cannot be deleted after {known} was seen"
                ));
            }
            // It may still be done.
            _ => oracle.tally.hit("DeleteRecords: refused"),
        }
        Ok(())
    }
}
