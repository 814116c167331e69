//! Requests that change the metadata: decided by the controller on shard 0, answered when all
//! shards hold the outcome.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use corelog_net::cold::ColdRequest;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponseData,
};
use corelog_net::cold::messages::create_partitions_response::{
    CreatePartitionsResponseData, CreatePartitionsTopicResult,
};
use corelog_net::cold::messages::create_topics_response::{
    CreatableTopicResult, CreateTopicsResponseData,
};
use corelog_net::cold::messages::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponseData,
};
use corelog_net::cold::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as IncrementalResponse, IncrementalAlterConfigsResponseData,
};
use corelog_net::error_code::ErrorCode;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;

use super::aside::reply;
use crate::controller::{AdminAnswer, AdminRequest};
use crate::shard::Shard;
use crate::shard::message::{Request, Response};

/// The shard that hosts the controller.
const CONTROLLER_SHARD: ShardId = ShardId(0);
/// The answer for each element when the metadata log takes no writes.
const NOT_CONTROLLER: i16 = ErrorCode::NotController.code();

/// Asks the controller; `Unavailable` also when its shard is gone. A heavy decision is made by a
/// helper.
pub async fn ask_controller(shard: &Rc<Shard>, heavy: bool, request: AdminRequest) -> AdminAnswer {
    let request = Request::Admin { request, heavy };
    match shard.call(CONTROLLER_SHARD, request).await {
        Some(Response::Admin(answer)) => answer,
        _ => AdminAnswer::Unavailable,
    }
}

/// Answers a request that changes the metadata; any other is an error.
pub async fn answer(
    shard: &Rc<Shard>,
    frame: &RequestFrame,
    heavy: bool,
    request: ColdRequest,
) -> Result<Bytes, WireError> {
    // One use of the request is the decision; the other the refusals, when there was none.
    macro_rules! decided {
        ($request:ident, $ask:expr, $answer:ident, $refused:expr) => {{
            let $request = Arc::new($request);
            let answer = ask_controller(shard, heavy, $ask).await;
            let build = move || match answer {
                AdminAnswer::$answer(response) => response,
                _ => $refused,
            };
            reply(shard, frame, heavy, build).await
        }};
    }
    match request {
        ColdRequest::CreateTopics(request) => decided!(
            request,
            AdminRequest::CreateTopics(Arc::clone(&request)),
            CreateTopics,
            {
                let names = request.topics.iter().map(|topic| topic.name.clone());
                CreateTopicsResponseData::default().with_topics(names.map(not_created).collect())
            }
        ),
        ColdRequest::DeleteTopics(request) => decided!(
            request,
            AdminRequest::DeleteTopics(frame.version, Arc::clone(&request)),
            DeleteTopics,
            {
                let by_id = request.topics.iter();
                let by_id = by_id.map(|topic| (topic.name.clone(), topic.topic_id));
                let by_name = request.topic_names.iter();
                let by_name = by_name.map(|name| (Some(name.clone()), Default::default()));
                let results = by_id.chain(by_name).map(|(name, topic_id)| {
                    DeletableTopicResult::default()
                        .with_name(name)
                        .with_topic_id(topic_id)
                        .with_error_code(NOT_CONTROLLER)
                });
                DeleteTopicsResponseData::default().with_responses(results.collect())
            }
        ),
        ColdRequest::CreatePartitions(request) => decided!(
            request,
            AdminRequest::CreatePartitions(Arc::clone(&request)),
            CreatePartitions,
            {
                let results = request.topics.iter().map(|topic| {
                    CreatePartitionsTopicResult::default()
                        .with_name(topic.name.clone())
                        .with_error_code(NOT_CONTROLLER)
                });
                CreatePartitionsResponseData::default().with_results(results.collect())
            }
        ),
        ColdRequest::IncrementalAlterConfigs(request) => decided!(
            request,
            AdminRequest::IncrementalAlterConfigs(Arc::clone(&request)),
            IncrementalAlterConfigs,
            {
                let results = request.resources.iter().map(|resource| {
                    IncrementalResponse::default()
                        .with_resource_type(resource.resource_type)
                        .with_resource_name(resource.resource_name.clone())
                        .with_error_code(NOT_CONTROLLER)
                });
                IncrementalAlterConfigsResponseData::default().with_responses(results.collect())
            }
        ),
        ColdRequest::AlterConfigs(request) => decided!(
            request,
            AdminRequest::AlterConfigs(Arc::clone(&request)),
            AlterConfigs,
            {
                let results = request.resources.iter().map(|resource| {
                    AlterConfigsResourceResponse::default()
                        .with_resource_type(resource.resource_type)
                        .with_resource_name(resource.resource_name.clone())
                        .with_error_code(NOT_CONTROLLER)
                });
                AlterConfigsResponseData::default().with_responses(results.collect())
            }
        ),
        other => {
            let api = other.api().number();
            Err(WireError::unsupported("change", api, frame.version))
        }
    }
}

fn not_created(name: KafkaString) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(NOT_CONTROLLER)
}
