//! Every API but Produce and Fetch: decoded whole, answered whole.
//!
//! What only reads the metadata is answered here from this shard's image; a change goes to the
//! controller on shard 0 and is answered when all shards hold it.

use std::rc::Rc;

use bytes::Bytes;
use corelog_core::api as answers;
use corelog_core::api::{ApiContext, InitProducerId};
use corelog_net::api::ApiKey;
use corelog_net::api_versions::{ApiVersionsAnswer, is_valid_software_name};
use corelog_net::cold::messages::api_versions_request::ApiVersionsRequestData;
use corelog_net::cold::messages::create_partitions_request::CreatePartitionsRequestData;
use corelog_net::cold::messages::create_partitions_response::{
    CreatePartitionsResponseData, CreatePartitionsTopicResult,
};
use corelog_net::cold::messages::create_topics_request::CreateTopicsRequestData;
use corelog_net::cold::messages::create_topics_response::{
    CreatableTopicResult, CreateTopicsResponseData,
};
use corelog_net::cold::messages::delete_topics_request::DeleteTopicsRequestData;
use corelog_net::cold::messages::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponseData,
};
use corelog_net::cold::messages::incremental_alter_configs_request::IncrementalAlterConfigsRequestData;
use corelog_net::cold::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsResponseData,
};
use corelog_net::cold::messages::init_producer_id_request::InitProducerIdRequestData;
use corelog_net::cold::messages::init_producer_id_response::InitProducerIdResponseData;
use corelog_net::cold::messages::metadata_request::MetadataRequestData;
use corelog_net::cold::messages::metadata_response::MetadataResponseData;
use corelog_net::cold::{ColdMessage, ColdRequest, encode_response};
use corelog_net::error_code::ErrorCode;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;

use super::{Connection, ErrorCodes, admin, delete_records, offsets};
use crate::controller::{AdminAnswer, AdminRequest};
use crate::groups;
use crate::request_memory::Held;
use crate::shard::Shard;
use crate::shard::message::{Request, Response};

/// The shard that hosts the controller.
const CONTROLLER_SHARD: ShardId = ShardId(0);

/// Bodies above this are decoded by a helper: small elements become many structs.
const DECODE_HERE_BYTES_MAX: usize = 64 << 10;
/// Longest body that names nothing, and so asks for all there is.
const ALL_BODY_BYTES_MAX: usize = 8;
/// Bytes that one partition takes in answers about all of them.
const PARTITION_ANSWER_BYTES: usize = 96;

/// Bytes that an answer about everything takes; that to a request that names what it wants is
/// accounted for by the names.
pub fn answer_bytes(shard: &Shard, frame: &RequestFrame) -> usize {
    match frame.api {
        ApiKey::Metadata | ApiKey::DescribeLogDirs if frame.body.len() <= ALL_BODY_BYTES_MAX => {
            shard.partition_count() * PARTITION_ANSWER_BYTES
        }
        _ => 0,
    }
}

/// Answers a request; the bytes are a whole frame. `None`: the connection is to be closed.
///
/// `memory` is that of the decoded request; it comes back when the answer may be large too.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &RequestFrame,
    memory: Held,
) -> Result<Option<(Bytes, Option<Held>)>, WireError> {
    if frame.api == ApiKey::ApiVersions && !frame.api.serves(frame.version) {
        // KIP-511: a version from the future is told our range in the oldest form.
        let answer = ApiVersionsAnswer::default();
        let bytes = answer.encode_frame(frame.version, frame.correlation_id)?;
        return Ok(Some((bytes.freeze(), None)));
    }
    let request = decode(shard, frame).await?;
    match request {
        ColdRequest::FindCoordinator(_)
        | ColdRequest::JoinGroup(_)
        | ColdRequest::SyncGroup(_)
        | ColdRequest::Heartbeat(_)
        | ColdRequest::LeaveGroup(_)
        | ColdRequest::OffsetCommit(_)
        | ColdRequest::OffsetFetch(_)
        | ColdRequest::OffsetDelete(_)
        | ColdRequest::ListGroups(_)
        | ColdRequest::DescribeGroups(_)
        | ColdRequest::DeleteGroups(_) => {
            let answer = groups::answer(shard, connection, frame, request, memory).await?;
            Ok(answer.map(|answer| (answer, None)))
        }
        request => {
            let answer = of_metadata(shard, connection, frame, request).await?;
            Ok(Some((answer, Some(memory))))
        }
    }
}

async fn decode(shard: &Rc<Shard>, frame: &RequestFrame) -> Result<ColdRequest, WireError> {
    if frame.body.len() <= DECODE_HERE_BYTES_MAX {
        return ColdRequest::decode(frame.api, frame.version, &frame.body);
    }
    let (api, version, body) = (frame.api, frame.version, frame.body.clone());
    let decode = move || ColdRequest::decode(api, version, &body);
    shard.rt.blocking(decode).await
}

/// Answers what is asked of the metadata, or of the partitions of topics.
async fn of_metadata(
    shard: &Rc<Shard>,
    connection: &Connection,
    frame: &RequestFrame,
    request: ColdRequest,
) -> Result<Bytes, WireError> {
    let image = shard.image();
    let config = shard.config();
    let cluster_id = shard.cluster_id();
    let context = ApiContext {
        cluster_id: &cluster_id,
        controller_id: config.node_id,
        listener: connection.listener(),
        broker: &config,
    };
    let version = frame.version;
    match request {
        ColdRequest::ApiVersions(request) => api_versions(shard, frame, &request),
        ColdRequest::Metadata(request) => reply_counted(
            shard,
            frame,
            &metadata(shard, connection, version, &request).await,
        ),
        ColdRequest::DescribeCluster(request) => reply_counted(
            shard,
            frame,
            &answers::describe_cluster(&image, &context, version, &request),
        ),
        ColdRequest::DescribeTopicPartitions(request) => reply_counted(
            shard,
            frame,
            &answers::describe_topic_partitions(&image, &context, &request),
        ),
        ColdRequest::DescribeConfigs(request) => reply_counted(
            shard,
            frame,
            &answers::describe_configs(&image, &context, version, &request),
        ),
        ColdRequest::InitProducerId(request) => {
            reply_counted(shard, frame, &init_producer_id(shard, &request).await)
        }
        ColdRequest::ListOffsets(request) => {
            reply(frame, &offsets::list_offsets(shard, version, request).await)
        }
        ColdRequest::DeleteRecords(request) => {
            reply(frame, &delete_records::delete_records(shard, request).await)
        }
        ColdRequest::OffsetForLeaderEpoch(request) => {
            reply(frame, &offsets::epoch_ends(shard, request).await)
        }
        ColdRequest::CreateTopics(request) => {
            reply_counted(shard, frame, &create_topics(shard, request).await)
        }
        ColdRequest::DeleteTopics(request) => {
            reply_counted(shard, frame, &delete_topics(shard, version, request).await)
        }
        ColdRequest::CreatePartitions(request) => {
            reply_counted(shard, frame, &create_partitions(shard, request).await)
        }
        ColdRequest::IncrementalAlterConfigs(request) => {
            reply_counted(shard, frame, &alter_configs(shard, request).await)
        }
        request => admin::answer(shard, &context, frame, request).await,
    }
}

/// An answer whose error codes are counted here.
pub(super) fn reply_counted<T: ColdMessage + ErrorCodes>(
    shard: &Shard,
    frame: &RequestFrame,
    body: &T,
) -> Result<Bytes, WireError> {
    let api = frame.api.number();
    body.each(&mut |code| shard.stats.count_error(api, code));
    reply(frame, body)
}

pub(super) fn reply<T: ColdMessage>(frame: &RequestFrame, body: &T) -> Result<Bytes, WireError> {
    Ok(encode_response(frame.version, frame.correlation_id, body)?.freeze())
}

fn api_versions(
    shard: &Shard,
    frame: &RequestFrame,
    request: &ApiVersionsRequestData,
) -> Result<Bytes, WireError> {
    let named = |name: &str| is_valid_software_name(name);
    let valid = frame.version < 3
        || (named(request.client_software_name.as_str())
            && named(request.client_software_version.as_str()));
    let bytes = if valid {
        let answer = ApiVersionsAnswer {
            finalized_epoch: shard.image().version() as i64,
            ..ApiVersionsAnswer::default()
        };
        answer.encode_frame(frame.version, frame.correlation_id)?
    } else {
        shard
            .stats
            .count_error(frame.api.number(), ErrorCode::InvalidRequest.code());
        ApiVersionsAnswer::invalid_request_frame(frame.version, frame.correlation_id)?
    };
    Ok(bytes.freeze())
}

/// Asks the controller; `Unavailable` also when its shard is gone.
pub async fn ask_controller(shard: &Rc<Shard>, request: AdminRequest) -> AdminAnswer {
    match shard.call(CONTROLLER_SHARD, Request::Admin(request)).await {
        Some(Response::Admin(answer)) => answer,
        _ => AdminAnswer::Unavailable,
    }
}

async fn metadata(
    shard: &Rc<Shard>,
    connection: &Connection,
    version: i16,
    request: &MetadataRequestData,
) -> MetadataResponseData {
    let answer = |shard: &Shard| {
        let config = shard.config();
        let cluster_id = shard.cluster_id();
        let context = ApiContext {
            cluster_id: &cluster_id,
            controller_id: config.node_id,
            listener: connection.listener(),
            broker: &config,
        };
        answers::metadata(&shard.image(), &context, version, request)
    };
    let first = answer(shard);
    if first.auto_create.is_empty() {
        return first.response;
    }
    ask_controller(shard, AdminRequest::AutoCreate(first.auto_create)).await;
    answer(shard).response
}

async fn init_producer_id(
    shard: &Rc<Shard>,
    request: &InitProducerIdRequestData,
) -> InitProducerIdResponseData {
    match answers::init_producer_id(request) {
        InitProducerId::Refused(refused) => refused,
        InitProducerId::NeedsProducerId => match next_producer_id(shard).await {
            Some(id) => answers::init_producer_id_answer(id),
            None => answers::init_producer_id_error(
                kacrab_protocol::generated::ErrorCode::CoordinatorNotAvailable,
            ),
        },
    }
}

/// A producer id from this shard's block; a new block comes from the controller.
async fn next_producer_id(shard: &Rc<Shard>) -> Option<i64> {
    let _turn = shard.producer_ids.order.ticket().wait().await;
    let left = shard.producer_ids.left.borrow_mut().next();
    if left.is_some() {
        return left;
    }
    match ask_controller(shard, AdminRequest::ProducerIds).await {
        AdminAnswer::ProducerIds(mut block) => {
            let id = block.next();
            *shard.producer_ids.left.borrow_mut() = block;
            id
        }
        _ => None,
    }
}

async fn create_topics(
    shard: &Rc<Shard>,
    request: CreateTopicsRequestData,
) -> CreateTopicsResponseData {
    let names: Vec<_> = request
        .topics
        .iter()
        .map(|topic| topic.name.clone())
        .collect();
    match ask_controller(shard, AdminRequest::CreateTopics(request)).await {
        AdminAnswer::CreateTopics(response) => response,
        _ => {
            let refused = |name| {
                CreatableTopicResult::default()
                    .with_name(name)
                    .with_error_code(ErrorCode::NotController.code())
            };
            CreateTopicsResponseData::default()
                .with_topics(names.into_iter().map(refused).collect())
        }
    }
}

async fn delete_topics(
    shard: &Rc<Shard>,
    version: i16,
    request: DeleteTopicsRequestData,
) -> DeleteTopicsResponseData {
    let by_id = request
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.topic_id));
    let by_name = request
        .topic_names
        .iter()
        .map(|name| (Some(name.clone()), Default::default()));
    let asked: Vec<_> = by_id.chain(by_name).collect();
    match ask_controller(shard, AdminRequest::DeleteTopics(version, request)).await {
        AdminAnswer::DeleteTopics(response) => response,
        _ => {
            let refused = |(name, topic_id)| {
                DeletableTopicResult::default()
                    .with_name(name)
                    .with_topic_id(topic_id)
                    .with_error_code(ErrorCode::NotController.code())
            };
            DeleteTopicsResponseData::default()
                .with_responses(asked.into_iter().map(refused).collect())
        }
    }
}

async fn create_partitions(
    shard: &Rc<Shard>,
    request: CreatePartitionsRequestData,
) -> CreatePartitionsResponseData {
    let names: Vec<_> = request
        .topics
        .iter()
        .map(|topic| topic.name.clone())
        .collect();
    match ask_controller(shard, AdminRequest::CreatePartitions(request)).await {
        AdminAnswer::CreatePartitions(response) => response,
        _ => {
            let refused = |name| {
                CreatePartitionsTopicResult::default()
                    .with_name(name)
                    .with_error_code(ErrorCode::NotController.code())
            };
            CreatePartitionsResponseData::default()
                .with_results(names.into_iter().map(refused).collect())
        }
    }
}

async fn alter_configs(
    shard: &Rc<Shard>,
    request: IncrementalAlterConfigsRequestData,
) -> IncrementalAlterConfigsResponseData {
    let asked: Vec<_> = request
        .resources
        .iter()
        .map(|resource| (resource.resource_type, resource.resource_name.clone()))
        .collect();
    match ask_controller(shard, AdminRequest::IncrementalAlterConfigs(request)).await {
        AdminAnswer::IncrementalAlterConfigs(response) => response,
        _ => {
            let refused = |(resource_type, name)| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource_type)
                    .with_resource_name(name)
                    .with_error_code(ErrorCode::NotController.code())
            };
            IncrementalAlterConfigsResponseData::default()
                .with_responses(asked.into_iter().map(refused).collect())
        }
    }
}
