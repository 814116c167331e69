//! An administrator: makes and deletes topics, adds partitions, changes flush policies, segment sizes and
//! retention, deletes records.

mod shrink;

use std::rc::Rc;
use std::time::Duration;

use corelog_net::client::Client;
use corelog_net::cold::messages::create_partitions_request::{
    CreatePartitionsRequestData, CreatePartitionsTopic,
};
use corelog_net::cold::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use corelog_net::cold::messages::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequestData,
};
use corelog_net::cold::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use corelog_net::error_code::ErrorCode;
use corelog_record::codec::Codec;

use super::Actor;
use super::requests::{code, text, topics, uuid};
use crate::oracle::Made;
use crate::oracle::log::TopicId;
use crate::plan::{Beside, TopicPlan, compression, policy, retention};
use crate::stage::{Lost, Stage};

/// Resource type of topics in config requests.
const TOPIC: i8 = 2;
/// Partitions of a topic at most.
const PARTITIONS_MAX: i32 = 4;

struct Admin {
    actor: Actor,
    /// What topics being made may have, by name: the answer may be lost.
    making: Vec<(String, Made)>,
}

/// Makes the topics of the plan, then changes things now and then, to the end of the history.
pub async fn run(stage: Rc<Stage>) {
    let _working = stage.begin();
    let mut admin = Admin {
        actor: Actor::new(&stage, "admin".to_owned(), 90),
        making: Vec::new(),
    };
    while !stage.finishing.get() {
        let _inside = stage.enter().await;
        while stage.is_open() && !stage.finishing.get() {
            if let Err(lost) = admin.act().await {
                admin.actor.lost(&lost).await;
            }
        }
        admin.actor.disconnect();
    }
}

fn config(name: &str, value: &str) -> CreatableTopicConfig {
    CreatableTopicConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
}

/// A value of `compression.type`.
fn codec_name(codec: Option<Codec>) -> &'static str {
    match codec {
        None => "producer",
        Some(Codec::None) => "uncompressed",
        Some(codec) => codec.name(),
    }
}

impl Admin {
    async fn act(&mut self) -> Result<(), Lost> {
        let client = self.actor.client().await?;
        self.look(&client).await?;
        let stage = Rc::clone(&self.actor.stage);
        for plan in &stage.plan.topics {
            if self.alive(&plan.name).is_none() {
                self.create(&client, plan).await?;
            }
        }
        if let Some(wish) = self.idle().await {
            return self.grant(&client, wish).await;
        }
        let planned = self.actor.chance.below(stage.plan.topics.len() as u64) as usize;
        let plan = &stage.plan.topics[planned];
        let Some(id) = self.alive(&plan.name) else {
            return Ok(());
        };
        stage.step();
        match self.actor.chance.below(12) {
            0 if plan.mortal => self.delete(&client, id).await,
            1 => self.add_partition(&client, id).await,
            2..6 => self.change_policy(&client, id).await,
            6 => self.change_segments(&client, id).await,
            11 if plan.recompresses => self.change_compression(&client, id).await,
            7..10 if plan.shrinks => self.delete_records(&client, id).await,
            10 if plan.shrinks => self.some_retention(&client, id).await,
            _ => Ok(()),
        }
    }

    /// A pause, unless the director wants something.
    async fn idle(&mut self) -> Option<Beside> {
        let stage = Rc::clone(&self.actor.stage);
        let pause = Duration::from_micros(1 + self.actor.chance.below(60_000));
        let called = stage.wait(|| stage.wish.get().is_some() || !stage.is_open());
        let _over = stage.rt.timeout(pause, called).await;
        stage.wish.get()
    }

    fn alive(&self, name: &str) -> Option<TopicId> {
        let oracle = self.actor.stage.oracle.borrow();
        let mut alive = oracle
            .topics
            .iter()
            .filter(|(_, topic)| topic.name == name && topic.known.exists && !topic.known.dead);
        alive.next().map(|(id, _)| *id)
    }

    /// Learns of topics whose making was never answered.
    async fn look(&mut self, client: &Client) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some(told) = topics(&stage, &self.actor.name, client).await? else {
            return Ok(());
        };
        let now_ns = stage.now_ns();
        let mut oracle = stage.oracle.borrow_mut();
        for (id, (name, partitions)) in told {
            let dying = oracle
                .topics
                .get(&id)
                .is_some_and(|topic| topic.known.dying);
            if stage.plan.topics.iter().any(|plan| plan.name == name) && !dying {
                self.exists(&mut oracle, id, &name, partitions, now_ns);
            }
        }
        Ok(())
    }

    fn exists(
        &self,
        oracle: &mut crate::oracle::Oracle,
        id: TopicId,
        name: &str,
        partitions: i32,
        now_ns: u64,
    ) {
        let is_new = !oracle.topics.contains_key(&id);
        let mut made = self.making.iter().filter(|(made, _)| made == name);
        let first = made.next().map(|(_, made)| *made).unwrap_or_default();
        oracle.topic_exists(id, name, partitions, &first, now_ns);
        if is_new {
            made.for_each(|(_, made)| {
                oracle.policy_sent(&id, made.policy, now_ns);
                oracle.retention_sent(&id, made.rules, now_ns);
                oracle.codec_sent(&id, made.codec);
            });
        }
    }

    /// As planned at first, by chance later.
    fn made_with(&mut self, plan: &TopicPlan) -> Made {
        if !self.making.iter().any(|(name, _)| *name == plan.name) {
            return Made {
                policy: plan.policy,
                rules: plan.retention,
                codec: plan.codec,
            };
        }
        let chance = &mut self.actor.chance;
        Made {
            policy: policy(chance),
            rules: match plan.shrinks {
                true => retention(chance),
                false => plan.retention,
            },
            codec: match plan.recompresses {
                true => compression(chance),
                false => plan.codec,
            },
        }
    }

    async fn create(&mut self, client: &Client, plan: &TopicPlan) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let terms = self.made_with(plan);
        let (flush, rules) = (terms.policy, terms.rules);
        self.making.push((plan.name.clone(), terms));
        let mut configs = vec![config(
            "internal.segment.bytes",
            &plan.segment_bytes.to_string(),
        )];
        if let Some(messages) = flush.messages {
            configs.push(config("flush.messages", &messages.to_string()));
        }
        if let Some(ms) = flush.ms {
            configs.push(config("flush.ms", &ms.to_string()));
        }
        if plan.recompresses {
            configs.push(config("compression.type", codec_name(terms.codec)));
        }
        if plan.shrinks {
            for (name, value) in shrink::values(&rules) {
                configs.extend(value.map(|value| config(name, &value)));
            }
            let delay_ms = self.actor.chance.pick(&[0, 50, 60_000]);
            configs.push(config("file.delete.delay.ms", &delay_ms.to_string()));
        }
        let topic = CreatableTopic::default()
            .with_name(text(&plan.name))
            .with_num_partitions(plan.partitions)
            .with_replication_factor(1)
            .with_configs(configs);
        let request = CreateTopicsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        stage.say(format!("admin makes {} with {terms:?}", plan.name));
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "CreateTopics", calling)
            .await?;
        for made in answer.topics {
            match code(made.error_code) {
                ErrorCode::None => {
                    let (id, now_ns) = (made.topic_id.to_bytes(), stage.now_ns());
                    let mut oracle = stage.oracle.borrow_mut();
                    oracle.tally.hit("topic created");
                    // Earlier makings of this name that were never answered came to nothing.
                    self.making.retain(|(name, _)| *name != plan.name);
                    self.making.push((plan.name.clone(), terms));
                    self.exists(&mut oracle, id, &plan.name, plan.partitions, now_ns);
                }
                ErrorCode::TopicAlreadyExists => {}
                error => {
                    stage.hit("topic not created");
                    stage.say(format!("{} was not made: {}", plan.name, error.name()));
                    self.actor.pause(50_000).await;
                }
            }
        }
        Ok(())
    }

    async fn delete(&mut self, client: &Client, id: TopicId) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        stage.oracle.borrow_mut().topic_dies(&id, false);
        let topic = DeleteTopicState::default()
            .with_name(None)
            .with_topic_id(uuid(&id));
        let request = DeleteTopicsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        stage.say("admin deletes a topic");
        let calling = client.call_at(6, &request);
        let answer = stage
            .answer(&self.actor.name, "DeleteTopics", calling)
            .await?;
        let deleted = answer.responses.iter().all(|one| {
            matches!(
                code(one.error_code),
                ErrorCode::None | ErrorCode::UnknownTopicId
            )
        });
        if deleted {
            stage.oracle.borrow_mut().topic_dies(&id, true);
            stage.hit("topic deleted");
        }
        Ok(())
    }

    fn name_and_partitions(&self, id: &TopicId) -> Option<(String, i32)> {
        let oracle = self.actor.stage.oracle.borrow();
        let topic = oracle.topics.get(id)?;
        Some((topic.name.clone(), topic.known.partitions))
    }

    async fn add_partition(&mut self, client: &Client, id: TopicId) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some((name, partitions)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        if partitions >= PARTITIONS_MAX {
            return Ok(());
        }
        let topic = CreatePartitionsTopic::default()
            .with_name(text(&name))
            .with_count(partitions + 1)
            .with_assignments(None);
        let request = CreatePartitionsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "CreatePartitions", calling)
            .await?;
        if answer.results.iter().all(|result| result.error_code == 0)
            && let Some(topic) = stage.oracle.borrow_mut().topics.get_mut(&id)
        {
            topic.known.partitions = topic.known.partitions.max(partitions + 1);
        } else {
            return Ok(());
        }
        stage.hit("partitions added");
        Ok(())
    }

    /// Sets configs of a topic; true when that is acknowledged.
    async fn alter(
        &mut self,
        client: &Client,
        name: &str,
        changes: &[(&str, Option<String>)],
    ) -> Result<bool, Lost> {
        let change = |(key, value): &(&str, Option<String>)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.as_deref().map(text))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configs(changes.iter().map(change).collect());
        let request = IncrementalAlterConfigsRequestData::default().with_resources(vec![resource]);
        let stage = Rc::clone(&self.actor.stage);
        let calling = client.call(&request);
        let answer = stage
            .answer(&self.actor.name, "IncrementalAlterConfigs", calling)
            .await?;
        Ok(answer
            .responses
            .iter()
            .all(|response| response.error_code == 0))
    }

    async fn change_policy(&mut self, client: &Client, id: TopicId) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some((name, _)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        let next = policy(&mut self.actor.chance);
        stage.say(format!("admin sets {name} to {next:?}"));
        stage
            .oracle
            .borrow_mut()
            .policy_sent(&id, next, stage.now_ns());
        let changes = [
            ("flush.messages", next.messages.map(|n| n.to_string())),
            ("flush.ms", next.ms.map(|ms| ms.to_string())),
        ];
        if self.alter(client, &name, &changes).await? {
            stage.oracle.borrow_mut().policy_acked(&id, stage.now_ns());
            stage.hit("config changed while running");
        }
        Ok(())
    }

    async fn change_compression(&mut self, client: &Client, id: TopicId) -> Result<(), Lost> {
        let stage = Rc::clone(&self.actor.stage);
        let Some((name, _)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        let codec = compression(&mut self.actor.chance);
        stage.oracle.borrow_mut().codec_sent(&id, codec);
        let changes = [("compression.type", Some(codec_name(codec).to_owned()))];
        if self.alter(client, &name, &changes).await? {
            stage.hit("compression.type changed while running");
        }
        Ok(())
    }

    async fn change_segments(&mut self, client: &Client, id: TopicId) -> Result<(), Lost> {
        let Some((name, _)) = self.name_and_partitions(&id) else {
            return Ok(());
        };
        let bytes = self
            .actor
            .chance
            .pick(&[4u64 << 10, 16 << 10, 64 << 10, 1 << 20]);
        let changes = [("internal.segment.bytes", Some(bytes.to_string()))];
        self.alter(client, &name, &changes).await?;
        Ok(())
    }
}
