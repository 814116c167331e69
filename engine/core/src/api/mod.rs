//! Answers to requests that only read the image. Requests and answers are `kacrab-protocol`'s
//! structs; an answer leaves every field at its default that the version does not have.

mod config_resources;
mod configs;
mod coordinators;
mod describe;
mod elections;
mod log_dirs;
mod metadata;

pub use config_resources::list_config_resources;
pub use configs::describe_configs;
pub use coordinators::{
    CoordinatorNode, InitProducerId, asks_for_groups, find_coordinator, init_producer_id,
    init_producer_id_answer, init_producer_id_error,
};
pub use describe::{describe_cluster, describe_topic_partitions};
pub use elections::{elect_leaders, list_partition_reassignments};
pub use log_dirs::{LogDirSpace, LogDirState, LogSize, describe_log_dirs};
pub use metadata::{MetadataAnswer, metadata};

use kacrab_protocol::KafkaString;

use crate::config::BrokerConfig;
use crate::metadata::{Image, Partition};

/// "Authorized operations were not asked for."
const OPERATIONS_OMITTED: i32 = i32::MIN;

/// All operations on a topic, as bits of Kafka's `AclOperation`: read, write, create, delete,
/// alter, describe, describe configs, alter configs. There are no ACLs: everybody has them.
const TOPIC_OPERATIONS: i32 =
    1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;

/// All operations on the cluster: create, alter, describe, cluster action, describe configs,
/// alter configs, idempotent write.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// What answers need besides image and request.
#[derive(Debug, Clone, Copy)]
pub struct ApiContext<'a> {
    /// Id of the cluster.
    pub cluster_id: &'a str,
    /// Node id of the controller, or -1.
    pub controller_id: i32,
    /// Name of the listener the request came in on: its addresses are what the client is told.
    pub listener: &'a str,
    /// Configuration of this broker, dynamic settings in force.
    pub broker: &'a BrokerConfig,
}

fn text(text: impl Into<String>) -> KafkaString {
    KafkaString::from(text.into())
}

/// Replicas on brokers that are not registered, or in log directories that do not work.
fn offline(image: &Image, partition: &Partition) -> Vec<i32> {
    let is_offline = |id: &i32| {
        let broker = image.broker(*id);
        broker.is_none_or(|broker| !broker.has_online(partition))
    };
    partition
        .replicas
        .iter()
        .copied()
        .filter(is_offline)
        .collect()
}

fn operations(asked: bool, all: i32) -> i32 {
    if asked { all } else { OPERATIONS_OMITTED }
}
