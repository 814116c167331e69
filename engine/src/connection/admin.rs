//! APIs of tools: log directories, producers, elections, and configs as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use corelog_core::api as answers;
use corelog_core::api::{ApiContext, LogDirSpace, LogDirState};
use corelog_core::metadata::names::validate_topic_name;
use corelog_net::api::ApiKey;
use corelog_net::cold::ColdRequest;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::alter_configs_request::AlterConfigsRequestData;
use corelog_net::cold::messages::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponseData,
};
use corelog_net::cold::messages::describe_log_dirs_request::DescribeLogDirsRequestData;
use corelog_net::cold::messages::describe_log_dirs_response::DescribeLogDirsResponseData;
use corelog_net::cold::messages::describe_producers_request::DescribeProducersRequestData;
use corelog_net::cold::messages::describe_producers_response::{
    DescribeProducersResponseData, PartitionResponse, ProducerState, TopicResponse,
};
use corelog_net::error_code::ErrorCode;
use corelog_net::frame::RequestFrame;
use corelog_net::wire::WireError;
use corelog_runtime::ShardId;
use corelog_storage::producer_state::ActiveProducer;

use super::cold::{ask_controller, reply, reply_counted};
use super::offsets::{ask, find};
use crate::controller::{AdminAnswer, AdminRequest};
use crate::errors::{PartitionError, error_code};
use crate::shard::Shard;
use crate::shard::message::{Request, Response};

/// Answers what only tools ask; any other request is an error.
pub async fn answer(
    shard: &Rc<Shard>,
    context: &ApiContext<'_>,
    frame: &RequestFrame,
    request: ColdRequest,
) -> Result<Bytes, WireError> {
    let (image, version) = (shard.image(), frame.version);
    match request {
        ColdRequest::DescribeLogDirs(request) => {
            reply_counted(shard, frame, &describe_log_dirs(shard, &request).await)
        }
        ColdRequest::DescribeProducers(request) => {
            reply(frame, &describe_producers(shard, request).await)
        }
        ColdRequest::AlterConfigs(request) => {
            reply_counted(shard, frame, &alter_configs(shard, request).await)
        }
        ColdRequest::ListConfigResources(request) => reply_counted(
            shard,
            frame,
            &answers::list_config_resources(&image, context, version, &request),
        ),
        ColdRequest::ElectLeaders(request) => reply_counted(
            shard,
            frame,
            &answers::elect_leaders(&image, version, &request),
        ),
        ColdRequest::ListPartitionReassignments(request) => reply_counted(
            shard,
            frame,
            &answers::list_partition_reassignments(&request),
        ),
        other => {
            let api = other.api().number();
            Err(WireError::unsupported("request", api, version))
        }
    }
}

/// Asks every shard for the sizes of its logs, and the file system for its space.
async fn describe_log_dirs(
    shard: &Rc<Shard>,
    request: &DescribeLogDirsRequestData,
) -> DescribeLogDirsResponseData {
    let ask = |to: usize| shard.call(ShardId(to as u16), Request::LogSizes);
    let calls: Vec<_> = (0..shard.shards()).map(ask).collect();
    let mut dirs = Vec::new();
    for (at, path) in shard.log_dir_paths().into_iter().enumerate() {
        dirs.push(LogDirState {
            space: match shard.dirs.failure(at) {
                Some(_) => None,
                None => space(shard, &path).await,
            },
            path: absolute(&path),
            ..LogDirState::default()
        });
    }
    for call in calls {
        // A shard that is gone stops with the process: its logs are left out.
        if let Some(Response::LogSizes(sizes, failed)) = call.await {
            for (at, size) in sizes {
                dirs[at].logs.push(size); // logs are in directories of log.dirs
            }
            for at in failed {
                if let Some(dir) = dirs.get_mut(at) {
                    dir.failed = true;
                }
            }
        }
    }
    answers::describe_log_dirs(request, dirs)
}

async fn space(shard: &Rc<Shard>, path: &Path) -> Option<LogDirSpace> {
    match shard.rt.statfs(path).await {
        Ok(stat) => Some(LogDirSpace {
            total_bytes: stat.total_bytes,
            usable_bytes: stat.free_bytes,
        }),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the log directory cannot be asked for its space");
            None
        }
    }
}

fn absolute(path: &Path) -> String {
    let found = std::path::absolute(path);
    found.as_deref().unwrap_or(path).display().to_string()
}

/// Asks the shards for the producers of their partitions. A partition is answered once, however
/// often it is named: an answer is much larger than its question.
async fn describe_producers(
    shard: &Rc<Shard>,
    request: DescribeProducersRequestData,
) -> DescribeProducersResponseData {
    let image = shard.image();
    let mut seen: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    let mut asked: Vec<(KafkaString, Vec<i32>)> = Vec::with_capacity(request.topics.len());
    let mut questions = Vec::new();
    for topic in request.topics {
        let mut indexes = topic.partition_indexes;
        let seen = seen.entry(topic.name.to_string()).or_default();
        indexes.retain(|index| seen.insert(*index));
        for index in &indexes {
            questions.push(find(&image, topic.name.as_str(), *index));
        }
        asked.push((topic.name, indexes));
    }
    let take = |response| match response {
        Response::Producers(answers) => Some(answers),
        _ => None,
    };
    let found = ask(shard, questions, Request::Producers, take).await;
    let mut found = found.into_iter();
    let topics = asked.into_iter().map(|(name, indexes)| {
        let refusal = refusal(name.as_str(), image.topic(name.as_str()).is_some());
        let partitions = indexes.into_iter().map(|index| {
            let answer = found.next().expect("one answer per question");
            producers_of(shard, index, answer, refusal.as_ref())
        });
        TopicResponse::default()
            .with_partitions(partitions.collect())
            .with_name(name)
    });
    DescribeProducersResponseData::default().with_topics(topics.collect())
}

/// Why nothing can be told of any partition of a topic.
fn refusal(topic: &str, is_known: bool) -> Option<(ErrorCode, KafkaString)> {
    if is_known {
        return None;
    }
    Some(match validate_topic_name(topic) {
        Err(said) => (ErrorCode::InvalidTopicException, KafkaString::from(said)),
        Ok(()) => (
            ErrorCode::UnknownTopicOrPartition,
            KafkaString::from("This server does not host this topic-partition.".to_owned()),
        ),
    })
}

fn producers_of(
    shard: &Shard,
    index: i32,
    answer: Result<Vec<ActiveProducer>, PartitionError>,
    refusal: Option<&(ErrorCode, KafkaString)>,
) -> PartitionResponse {
    let response = PartitionResponse::default().with_partition_index(index);
    let (code, said) = match (refusal, answer) {
        (Some((code, said)), _) => (*code, Some(said.clone())),
        (None, Err(error)) => (error_code(&error), None),
        (None, Ok(producers)) => {
            return response.with_active_producers(producers.iter().map(shown).collect());
        }
    };
    shard
        .stats
        .count_error(ApiKey::DescribeProducers.number(), code.code());
    response
        .with_error_code(code.code())
        .with_error_message(said)
}

fn shown(producer: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.producer_id)
        .with_producer_epoch(i32::from(producer.epoch))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.txn_first_offset)
}

async fn alter_configs(
    shard: &Rc<Shard>,
    request: AlterConfigsRequestData,
) -> AlterConfigsResponseData {
    let asked: Vec<_> = request
        .resources
        .iter()
        .map(|resource| (resource.resource_type, resource.resource_name.clone()))
        .collect();
    match ask_controller(shard, AdminRequest::AlterConfigs(request)).await {
        AdminAnswer::AlterConfigs(response) => response,
        _ => {
            let refused = |(resource_type, name)| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource_type)
                    .with_resource_name(name)
                    .with_error_code(ErrorCode::NotController.code())
            };
            AlterConfigsResponseData::default()
                .with_responses(asked.into_iter().map(refused).collect())
        }
    }
}
