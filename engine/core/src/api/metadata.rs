//! Metadata, versions 0 to 13.

use std::collections::BTreeSet;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use kacrab_protocol::generated::metadata_response::{
    MetadataResponseBroker, MetadataResponseData, MetadataResponsePartition, MetadataResponseTopic,
};

use super::{ApiContext, CLUSTER_OPERATIONS, TOPIC_OPERATIONS, offline, operations, text};
use crate::metadata::names::{
    CLUSTER_METADATA_TOPIC, CONSUMER_OFFSETS_TOPIC, is_internal, validate_topic_name,
};
use crate::metadata::{Image, Partition, Topic};

/// The answer, and what the caller may do about topics that do not exist.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataAnswer {
    /// The answer; topics to be created are in it as UNKNOWN_TOPIC_OR_PARTITION.
    pub response: MetadataResponseData,
    /// Topics that request and configuration allow to create: create them, then ask again or
    /// send the answer as it is (clients come back).
    pub auto_create: Vec<String>,
}

/// Answers Metadata.
///
/// All topics are meant by an empty list in version 0, by null from version 1 on.
pub fn metadata(
    image: &Image,
    context: &ApiContext<'_>,
    version: i16,
    request: &MetadataRequestData,
) -> MetadataAnswer {
    let mut answer = Answer {
        image,
        context,
        version,
        operations: operations(
            version >= 8 && request.include_topic_authorized_operations,
            TOPIC_OPERATIONS,
        ),
        may_create: (version < 4 || request.allow_auto_topic_creation)
            && context.broker.auto_create_topics_enable,
        auto_create: Vec::new(),
    };
    let asked = match &request.topics {
        None => None,
        Some(topics) if topics.is_empty() && version == 0 => None,
        Some(topics) => Some(topics),
    };
    let topics = match asked {
        None => image.topics().map(|topic| answer.known(topic)).collect(),
        Some(topics) if version < 12 && topics.iter().any(unsupported_by_name) => {
            topics.iter().map(invalid).collect()
        }
        Some(topics) => answer.named(topics),
    };
    let cluster = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    let response = MetadataResponseData::default()
        .with_brokers(brokers(image, context))
        .with_cluster_id(Some(text(context.cluster_id)))
        .with_controller_id(context.controller_id)
        .with_topics(topics)
        .with_cluster_authorized_operations(operations(cluster, CLUSTER_OPERATIONS));
    MetadataAnswer {
        response,
        auto_create: answer.auto_create,
    }
}

/// Ids are asked for from version 12 on, though the fields are there from 10.
fn unsupported_by_name(topic: &MetadataRequestTopic) -> bool {
    topic.name.is_none() || !topic.topic_id.is_nil()
}

fn invalid(topic: &MetadataRequestTopic) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(ErrorCode::InvalidRequest.code())
        .with_name(Some(topic.name.clone().unwrap_or_default()))
        .with_topic_id(topic.topic_id)
}

fn brokers(image: &Image, context: &ApiContext<'_>) -> Vec<MetadataResponseBroker> {
    image
        .brokers()
        .filter_map(|broker| {
            let endpoint = broker.endpoint(context.listener)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(broker.node_id)
                    .with_host(text(endpoint.host.clone()))
                    .with_port(i32::from(endpoint.port))
                    .with_rack(broker.rack.clone().map(text)),
            )
        })
        .collect()
}

struct Answer<'a> {
    image: &'a Image,
    context: &'a ApiContext<'a>,
    version: i16,
    operations: i32,
    may_create: bool,
    auto_create: Vec<String>,
}

impl Answer<'_> {
    fn named(&mut self, topics: &[MetadataRequestTopic]) -> Vec<MetadataResponseTopic> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::with_capacity(topics.len());
        for topic in topics {
            let name = topic.name.as_ref().map(KafkaString::as_str);
            // A nameless topic is asked for by id, the zero id included: it is just unknown.
            let by_id = name.is_none() || !topic.topic_id.is_nil();
            if !seen.insert((if by_id { None } else { name }, topic.topic_id)) {
                continue;
            }
            out.push(if by_id {
                match self.image.topic_by_id(&topic.topic_id) {
                    Some(known) => self.known(known),
                    None => MetadataResponseTopic::default()
                        .with_error_code(ErrorCode::UnknownTopicId.code())
                        .with_name(None)
                        .with_topic_id(topic.topic_id),
                }
            } else {
                let name = name.unwrap_or_default();
                match self.image.topic(name) {
                    Some(known) => self.known(known),
                    None => self.unknown(name),
                }
            });
        }
        out
    }

    fn unknown(&mut self, name: &str) -> MetadataResponseTopic {
        let code = match validate_topic_name(name) {
            Err(_) => ErrorCode::InvalidTopicException,
            Ok(()) => {
                // Internal topics of coordinators that are not here are of no use to anybody.
                let useful = name == CONSUMER_OFFSETS_TOPIC || !is_internal(name);
                if self.may_create && useful && name != CLUSTER_METADATA_TOPIC {
                    self.auto_create.push(name.to_owned());
                }
                ErrorCode::UnknownTopicOrPartition
            }
        };
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_name(Some(text(name)))
            .with_is_internal(is_internal(name))
    }

    fn known(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = (0..).zip(&topic.partitions);
        MetadataResponseTopic::default()
            .with_name(Some(text(&*topic.name)))
            .with_topic_id(topic.id)
            .with_is_internal(is_internal(&topic.name))
            .with_partitions(
                partitions
                    .map(|(index, p)| self.partition(index, p))
                    .collect(),
            )
            .with_topic_authorized_operations(self.operations)
    }

    fn partition(&self, index: i32, partition: &Partition) -> MetadataResponsePartition {
        let leader = self.image.broker(partition.leader);
        let reachable = leader.is_some_and(|b| b.endpoint(self.context.listener).is_some());
        let code = match (leader, reachable) {
            (Some(_), true) => ErrorCode::None,
            (Some(_), false) if self.version >= 6 => ErrorCode::ListenerNotFound,
            _ => ErrorCode::LeaderNotAvailable,
        };
        MetadataResponsePartition::default()
            .with_error_code(code.code())
            .with_partition_index(index)
            .with_leader_id(if reachable { partition.leader } else { -1 })
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(partition.replicas.clone())
            .with_isr_nodes(partition.isr.clone())
            .with_offline_replicas(offline(self.image, partition))
    }
}
