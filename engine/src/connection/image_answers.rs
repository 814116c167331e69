//! Requests that the metadata alone answer: from this shard's image, without a wait.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use corelog_core::api as answers;
use corelog_core::api::ApiContext;
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::Image;
use corelog_net::cold::ColdRequest;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;

use super::Connection;
use super::aside::{Codes, aside, count, encode};
use super::changes::ask_controller;
use crate::controller::AdminRequest;
use crate::shard::Shard;

/// A request with all that its answer needs, for any thread.
struct Question {
    image: Arc<Image>,
    broker: Arc<BrokerConfig>,
    cluster_id: Arc<str>,
    listener: Arc<str>,
    version: i16,
    correlation_id: i32,
    request: ColdRequest,
}

enum Outcome {
    Answer(Bytes, Codes),
    /// Topics are to be made first; then the question is asked again.
    Create(Vec<String>, Box<ColdRequest>, Bytes, Codes),
}

/// Whether [`answer`] takes the request.
pub fn is_one(request: &ColdRequest) -> bool {
    matches!(
        request,
        ColdRequest::Metadata(_)
            | ColdRequest::DescribeCluster(_)
            | ColdRequest::DescribeTopicPartitions(_)
            | ColdRequest::DescribeConfigs(_)
            | ColdRequest::ListConfigResources(_)
            | ColdRequest::ElectLeaders(_)
            | ColdRequest::ListPartitionReassignments(_)
    )
}

/// Answers a request. Topics that a Metadata request needs, and that may be made, are made first.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    frame: &RequestFrame,
    heavy: bool,
    request: ColdRequest,
) -> Result<Bytes, WireError> {
    let question = |request| Question {
        image: shard.image(),
        broker: shard.config(),
        cluster_id: shard.cluster_id(),
        listener: Arc::clone(&connection.listener),
        version: frame.version,
        correlation_id: frame.correlation_id,
        request,
    };
    let first = question(request);
    let (bytes, codes) = match aside(shard, heavy, move || first.answer()).await? {
        Outcome::Answer(bytes, codes) => (bytes, codes),
        Outcome::Create(names, request, ..) => {
            ask_controller(shard, heavy, AdminRequest::AutoCreate(names)).await;
            let again = question(*request);
            match aside(shard, heavy, move || again.answer()).await? {
                Outcome::Answer(bytes, codes) | Outcome::Create(_, _, bytes, codes) => {
                    (bytes, codes)
                }
            }
        }
    };
    count(shard, frame, codes);
    Ok(bytes)
}

impl Question {
    fn answer(self) -> Result<Outcome, WireError> {
        let (image, version, id) = (&*self.image, self.version, self.correlation_id);
        let context = ApiContext {
            cluster_id: &self.cluster_id,
            controller_id: self.broker.node_id,
            listener: &self.listener,
            broker: &self.broker,
        };
        let (bytes, codes) = match &self.request {
            ColdRequest::Metadata(request) => {
                let answer = answers::metadata(image, &context, version, request);
                let (bytes, codes) = encode(version, id, &answer.response)?;
                if !answer.auto_create.is_empty() {
                    let names = answer.auto_create;
                    let request = Box::new(self.request);
                    return Ok(Outcome::Create(names, request, bytes, codes));
                }
                (bytes, codes)
            }
            ColdRequest::DescribeCluster(request) => {
                let answer = answers::describe_cluster(image, &context, version, request);
                encode(version, id, &answer)?
            }
            ColdRequest::DescribeTopicPartitions(request) => {
                let answer = answers::describe_topic_partitions(image, &context, request);
                encode(version, id, &answer)?
            }
            ColdRequest::DescribeConfigs(request) => {
                let answer = answers::describe_configs(image, &context, version, request);
                encode(version, id, &answer)?
            }
            ColdRequest::ListConfigResources(request) => {
                let answer = answers::list_config_resources(image, &context, version, request);
                encode(version, id, &answer)?
            }
            ColdRequest::ElectLeaders(request) => {
                let answer = answers::elect_leaders(image, version, request);
                encode(version, id, &answer)?
            }
            ColdRequest::ListPartitionReassignments(request) => {
                encode(version, id, &answers::list_partition_reassignments(request))?
            }
            other => {
                let api = other.api().number();
                return Err(WireError::unsupported("request", api, version));
            }
        };
        Ok(Outcome::Answer(bytes, codes))
    }
}
