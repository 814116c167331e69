//! Properties of the controller's decisions under requests that mean no good.

mod common;

use common::{alter, by_names, cluster, create, id, new_topic, registration, state, text};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{
    ControllerContext, Image, Record, allocate_producer_ids, create_partitions, create_topics,
    delete_topics, incremental_alter_configs, register_broker,
};
use kacrab_protocol::generated::create_partitions_request::*;
use kacrab_protocol::generated::delete_topics_request::DeleteTopicsRequestData;
use kacrab_protocol::generated::incremental_alter_configs_request::IncrementalAlterConfigsRequestData;
use proptest::prelude::*;

/// One request of a client that means no good: few names, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Create(Vec<(String, i32, i16)>),
    DeleteByName(Vec<String>),
    Delete(Vec<(Option<String>, u64)>),
    Partitions(Vec<(String, i32)>),
    Alter(Vec<(i8, String, String, i8, Option<String>)>),
    Restart(i32, u64, u16),
    ProducerIds,
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = || "[ab]([._][ab])?";
    let some = |n: usize| 0..n;
    prop_oneof![
        prop::collection::vec((name(), -2i32..5, -2i16..4), some(4)).prop_map(Step::Create),
        prop::collection::vec(name(), some(4)).prop_map(Step::DeleteByName),
        prop::collection::vec((prop::option::of(name()), 0u64..12), some(4)).prop_map(Step::Delete),
        prop::collection::vec((name(), -1i32..8), some(3)).prop_map(Step::Partitions),
        prop::collection::vec(
            (
                prop::sample::select(vec![2i8, 4, 8]),
                prop_oneof!["[ab]([._][ab])?", "[0-2]?"],
                prop::sample::select(vec![
                    "flush.messages".to_owned(),
                    "cleanup.policy".to_owned(),
                    "message.max.bytes".to_owned(),
                    "nope".to_owned(),
                ]),
                -1i8..5,
                prop::option::of(prop::sample::select(vec![
                    "1".to_owned(),
                    "compact".to_owned(),
                    "delete".to_owned(),
                    String::new(),
                ])),
            ),
            some(4)
        )
        .prop_map(Step::Alter),
        (0i32..3, 0u64..50, 1u16..5).prop_map(|(node, n, shards)| Step::Restart(node, n, shards)),
        Just(Step::ProducerIds),
    ]
}

fn decide(
    image: &Image,
    context: &ControllerContext<'_>,
    step: &Step,
    next_id: &mut u64,
) -> Vec<Record> {
    let mut fresh = || {
        *next_id += 1;
        id(*next_id)
    };
    match step {
        Step::Create(topics) => {
            let topics = topics
                .iter()
                .map(|(name, count, factor)| new_topic(name, *count, *factor));
            create_topics(image, context, &create(topics.collect()), &mut fresh).0
        }
        Step::DeleteByName(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            delete_topics(image, context, 5, &by_names(&names)).0
        }
        Step::Delete(states) => {
            let states = states
                .iter()
                .map(|(name, topic)| state(name.as_deref(), *topic));
            let request = DeleteTopicsRequestData::default().with_topics(states.collect());
            delete_topics(image, context, 6, &request).0
        }
        Step::Partitions(topics) => {
            let topics = topics.iter().map(|(name, count)| {
                CreatePartitionsTopic::default()
                    .with_name(text(name))
                    .with_count(*count)
                    .with_assignments(None)
            });
            let request = CreatePartitionsRequestData::default().with_topics(topics.collect());
            create_partitions(image, context, &request).0
        }
        Step::Alter(changes) => {
            let resources = changes.iter().map(|(kind, name, key, op, value)| {
                alter(*kind, name, &[(key, *op, value.as_deref())])
                    .resources
                    .remove(0)
            });
            let request =
                IncrementalAlterConfigsRequestData::default().with_resources(resources.collect());
            incremental_alter_configs(image, context, &request).0
        }
        Step::Restart(node, incarnation, shards) => {
            register_broker(image, &registration(*node, *incarnation, *shards))
        }
        Step::ProducerIds => allocate_producer_ids(image).0,
    }
}

proptest! {
    /// A batch that does not apply would stop the broker: no request may make one.
    #[test]
    fn whatever_is_asked_the_records_apply(steps in prop::collection::vec(any_step(), 1..40)) {
        let broker = BrokerConfig::default();
        let mut image = cluster(&[1]);
        let mut next_id = 0;
        let mut shards = 4;
        for step in &steps {
            if let Step::Restart(1, _, now) = step {
                shards = *now;
            }
            let context = ControllerContext { broker: &broker, shards };
            let records = decide(&image, &context, step, &mut next_id);
            let next = image.apply(image.version() + 1, &records);
            prop_assert!(next.is_ok(), "{step:?}: {next:?}");
            let next = next.unwrap();
            for topic in next.topics() {
                prop_assert!(!topic.partitions.is_empty());
                if let Some(before) = image.topic_by_id(&topic.id) {
                    prop_assert!(topic.partitions.len() >= before.partitions.len());
                    for (new, old) in topic.partitions.iter().zip(&before.partitions) {
                        prop_assert!(new.leader_epoch >= old.leader_epoch);
                        prop_assert!(new.partition_epoch > old.partition_epoch || new == old);
                    }
                }
                for partition in &topic.partitions {
                    prop_assert!(!partition.isr.is_empty());
                    prop_assert!(partition.isr.iter().all(|id| partition.replicas.contains(id)));
                    prop_assert!(partition.isr.contains(&partition.leader));
                }
            }
            let snapshot = Image::from_snapshot(next.version(), &next.snapshot());
            prop_assert_eq!(snapshot.unwrap(), next.clone());
            image = next;
        }
    }
}
