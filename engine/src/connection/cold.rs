//! Every API but Produce and Fetch: decoded whole, answered whole.

use std::rc::Rc;

use bytes::Bytes;
use corelog_core::api as answers;
use corelog_core::api::InitProducerId;
use corelog_net::api::ApiKey;
use corelog_net::api_versions::{ApiVersionsAnswer, is_valid_software_name};
use corelog_net::cold::messages::api_versions_request::ApiVersionsRequestData;
use corelog_net::cold::messages::init_producer_id_request::InitProducerIdRequestData;
use corelog_net::cold::messages::init_producer_id_response::InitProducerIdResponseData;
use corelog_net::cold::{ColdRequest, decode_charge_bytes};
use corelog_net::error_code::ErrorCode;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;

use super::aside::{aside, is_heavy, reply};
use super::changes::ask_controller;
use super::{Connection, admin, changes, delete_records, image_answers, offsets};
use crate::controller::{AdminAnswer, AdminRequest};
use crate::groups;
use crate::request_memory::{Answering, SMALL_BYTES_MAX};
use crate::shard::Shard;

/// Bytes that one partition takes in answers about many.
const PARTITION_ANSWER_BYTES: usize = 96;
/// Bytes that all configs of one resource take.
const CONFIGS_ANSWER_BYTES: usize = 8 << 10;
/// Topics named in a request up to which their partitions are counted.
const COUNTED_TOPICS_MAX: usize = 500;

/// About how many bytes an answer takes that may be much larger than its request; 0 for others.
fn answer_bytes(shard: &Shard, request: &ColdRequest) -> usize {
    let all = || shard.partition_count() * PARTITION_ANSWER_BYTES;
    match request {
        ColdRequest::Metadata(request) => match &request.topics {
            Some(topics) if (1..COUNTED_TOPICS_MAX).contains(&topics.len()) => {
                let image = shard.image();
                let named = topics.iter().filter_map(|topic| match &topic.name {
                    Some(name) if topic.topic_id.is_nil() => image.topic(name.as_str()),
                    _ => image.topic_by_id(&topic.topic_id),
                });
                let partitions: usize = named.map(|topic| topic.partitions.len()).sum();
                partitions * PARTITION_ANSWER_BYTES
            }
            _ => all(),
        },
        ColdRequest::DescribeLogDirs(_) => all(),
        ColdRequest::DescribeConfigs(request) => {
            let known = shard.image().topics().len() + 2; // and this broker, and all brokers
            request.resources.len().min(known) * CONFIGS_ANSWER_BYTES
        }
        _ => 0,
    }
}

/// Answers a request; the bytes are a whole frame. `None`: the connection is to be closed.
///
/// `memory` is that of the decoded request; what comes back is that of the answer.
pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    frame: &RequestFrame,
    mut memory: Answering,
) -> Result<Option<(Bytes, Option<Answering>)>, WireError> {
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
            groups::answer(shard, connection, frame, request, memory).await
        }
        request => {
            let bytes = answer_bytes(shard, &request);
            if bytes > SMALL_BYTES_MAX {
                let all = bytes + decode_charge_bytes(frame.body.len());
                drop(memory);
                let Some(kept) = connection.keep(shard, all).await else {
                    return Ok(None);
                };
                memory = Answering::Kept(kept);
            }
            let heavy = is_heavy(frame) || bytes > SMALL_BYTES_MAX;
            let answer = of_metadata(shard, connection, frame, heavy, request).await?;
            Ok(Some((answer, Some(memory))))
        }
    }
}

async fn decode(shard: &Rc<Shard>, frame: &RequestFrame) -> Result<ColdRequest, WireError> {
    let (api, version, body) = (frame.api, frame.version, frame.body.clone());
    let decode = move || ColdRequest::decode(api, version, &body);
    aside(shard, is_heavy(frame), decode).await
}

/// Answers what is asked of the metadata, or of the partitions of topics.
async fn of_metadata(
    shard: &Rc<Shard>,
    connection: &Connection,
    frame: &RequestFrame,
    heavy: bool,
    request: ColdRequest,
) -> Result<Bytes, WireError> {
    match request {
        ColdRequest::ApiVersions(request) => api_versions(shard, frame, &request),
        ColdRequest::InitProducerId(request) => {
            let answer = init_producer_id(shard, &request).await;
            reply(shard, frame, false, move || answer).await
        }
        ColdRequest::ListOffsets(request) => {
            let answer = offsets::list_offsets(shard, frame.version, request).await;
            reply(shard, frame, heavy, move || answer).await
        }
        ColdRequest::DeleteRecords(request) => {
            let answer = delete_records::delete_records(shard, request).await;
            reply(shard, frame, heavy, move || answer).await
        }
        ColdRequest::OffsetForLeaderEpoch(request) => {
            let answer = offsets::epoch_ends(shard, request).await;
            reply(shard, frame, heavy, move || answer).await
        }
        ColdRequest::DescribeLogDirs(request) => {
            let dirs = admin::log_dirs(shard).await;
            let build = move || answers::describe_log_dirs(&request, dirs);
            reply(shard, frame, heavy, build).await
        }
        ColdRequest::DescribeProducers(request) => {
            let answer = admin::describe_producers(shard, request).await;
            // A partition may have any number of producers.
            reply(shard, frame, true, move || answer).await
        }
        request if image_answers::is_one(&request) => {
            image_answers::answer(shard, connection, frame, heavy, request).await
        }
        request => changes::answer(shard, frame, heavy, request).await,
    }
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
    match ask_controller(shard, false, AdminRequest::ProducerIds).await {
        AdminAnswer::ProducerIds(mut block) => {
            let id = block.next();
            *shard.producer_ids.left.borrow_mut() = block;
            id
        }
        _ => None,
    }
}
