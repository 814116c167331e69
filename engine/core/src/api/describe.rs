//! DescribeCluster and DescribeTopicPartitions.

use std::collections::BTreeSet;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::describe_cluster_request::DescribeClusterRequestData;
use kacrab_protocol::generated::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponseData,
};
use kacrab_protocol::generated::describe_topic_partitions_request::DescribeTopicPartitionsRequestData;
use kacrab_protocol::generated::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponseData, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

use super::{ApiContext, CLUSTER_OPERATIONS, TOPIC_OPERATIONS, offline, operations, text};
use crate::metadata::names::{is_internal, validate_topic_name};
use crate::metadata::{Image, Partition, Topic};

const ENDPOINTS_OF_BROKERS: i8 = 1;
const ENDPOINTS_OF_CONTROLLERS: i8 = 2;

/// Answers DescribeCluster, versions 0 to 2. Every registered broker counts as alive.
pub fn describe_cluster(
    image: &Image,
    context: &ApiContext<'_>,
    version: i16,
    request: &DescribeClusterRequestData,
) -> DescribeClusterResponseData {
    let wanted = if version >= 1 {
        request.endpoint_type
    } else {
        ENDPOINTS_OF_BROKERS
    };
    let refuse = |code: ErrorCode, message: &str| {
        DescribeClusterResponseData::default()
            .with_error_code(code.code())
            .with_error_message(Some(crate::client_message(message)))
            .with_endpoint_type(wanted)
    };
    match wanted {
        ENDPOINTS_OF_BROKERS => {}
        ENDPOINTS_OF_CONTROLLERS => {
            return refuse(
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            );
        }
        _ => {
            return refuse(
                ErrorCode::UnsupportedEndpointType,
                "Unsupported endpoint type",
            );
        }
    }
    let brokers = image.brokers().filter_map(|broker| {
        let endpoint = broker.endpoint(context.listener)?;
        Some(
            DescribeClusterBroker::default()
                .with_broker_id(broker.node_id)
                .with_host(text(endpoint.host.clone()))
                .with_port(i32::from(endpoint.port))
                .with_rack(broker.rack.clone().map(text)),
        )
    });
    DescribeClusterResponseData::default()
        .with_endpoint_type(ENDPOINTS_OF_BROKERS)
        .with_cluster_id(text(context.cluster_id))
        .with_controller_id(context.controller_id)
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ))
}

/// Answers DescribeTopicPartitions: topics by name in order, at most the smaller of the request's
/// and the broker's limit of partitions, and a cursor to go on from.
pub fn describe_topic_partitions(
    image: &Image,
    context: &ApiContext<'_>,
    request: &DescribeTopicPartitionsRequestData,
) -> DescribeTopicPartitionsResponseData {
    if let Some(cursor) = &request.cursor
        && cursor.partition_index < 0
    {
        return refused(request);
    }
    let from = request.cursor.as_deref();
    let from_topic = from.map_or("", |cursor| cursor.topic_name.as_str());
    let wanted = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .max(1);
    let mut page = Page {
        image,
        left: wanted.min(context.broker.max_request_partition_size_limit),
        topics: Vec::new(),
        next: None,
    };
    let first_index = |name: &str| match from {
        Some(cursor) if cursor.topic_name.as_str() == name => cursor.partition_index,
        _ => 0,
    };
    if request.topics.is_empty() {
        for topic in image.topics_from(from_topic) {
            if !page.add(topic, first_index(&topic.name)) {
                break;
            }
        }
    } else {
        let names: BTreeSet<&str> = request.topics.iter().map(|t| t.name.as_str()).collect();
        for name in names.range(from_topic..) {
            let more = match image.topic(name) {
                Some(topic) => page.add(topic, first_index(name)),
                None => page.unknown(name),
            };
            if !more {
                break;
            }
        }
    }
    DescribeTopicPartitionsResponseData::default()
        .with_topics(page.topics)
        .with_next_cursor(page.next.map(Box::new))
}

fn refused(request: &DescribeTopicPartitionsRequestData) -> DescribeTopicPartitionsResponseData {
    let topics = request.topics.iter().map(|topic| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic.name.clone()))
            .with_error_code(ErrorCode::InvalidRequest.code())
    });
    DescribeTopicPartitionsResponseData::default().with_topics(topics.collect())
}

struct Page<'a> {
    image: &'a Image,
    left: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<Cursor>,
}

impl Page<'_> {
    /// Whether there is room for more after this topic.
    fn add(&mut self, topic: &Topic, first: i32) -> bool {
        let first = usize::try_from(first).unwrap_or(0);
        if self.left == 0 {
            self.stop_at(&topic.name, first);
            return false;
        }
        let rest = topic.partitions.get(first..).unwrap_or(&[]);
        let taken = rest.len().min(self.left);
        let partitions = (first..).zip(&rest[..taken]);
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(text(&*topic.name)))
                .with_topic_id(topic.id)
                .with_is_internal(is_internal(&topic.name))
                .with_topic_authorized_operations(TOPIC_OPERATIONS)
                .with_partitions(
                    partitions
                        .map(|(index, p)| self.partition(index, p))
                        .collect(),
                ),
        );
        self.left -= taken;
        if taken < rest.len() {
            self.stop_at(&topic.name, first + taken);
            return false;
        }
        true
    }

    fn unknown(&mut self, name: &str) -> bool {
        let code = match validate_topic_name(name) {
            Ok(()) => ErrorCode::UnknownTopicOrPartition,
            Err(_) => ErrorCode::InvalidTopicException,
        };
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(text(name)))
                .with_error_code(code.code())
                .with_is_internal(is_internal(name)),
        );
        true
    }

    fn stop_at(&mut self, topic: &str, index: usize) {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        self.next = Some(
            Cursor::default()
                .with_topic_name(text(topic))
                .with_partition_index(index),
        );
    }

    fn partition(
        &self,
        index: usize,
        partition: &Partition,
    ) -> DescribeTopicPartitionsResponsePartition {
        let alive = self.image.broker(partition.leader).is_some();
        let code = if alive {
            ErrorCode::None
        } else {
            ErrorCode::LeaderNotAvailable
        };
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(code.code())
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
            .with_leader_id(if alive { partition.leader } else { -1 })
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(partition.replicas.clone())
            .with_isr_nodes(partition.isr.clone())
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(offline(self.image, partition))
    }
}
