//! APIs of tools that ask all shards: log directories, producers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use corelog_core::api::{LogDirSpace, LogDirState};
use corelog_core::metadata::names::validate_topic_name;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::describe_producers_request::DescribeProducersRequestData;
use corelog_net::cold::messages::describe_producers_response::{
    DescribeProducersResponseData, PartitionResponse, ProducerState, TopicResponse,
};
use corelog_net::error_code::ErrorCode;
use corelog_runtime::ShardId;
use corelog_storage::producer_state::ActiveProducer;

use super::offsets::{ask, find};
use crate::errors::{PartitionError, error_code};
use crate::shard::Shard;
use crate::shard::message::{Request, Response};

/// What DescribeLogDirs tells: every shard says the sizes of its logs, the file system its space.
pub async fn log_dirs(shard: &Rc<Shard>) -> Vec<LogDirState> {
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
                shard.rt.yield_if_needed().await;
            }
            for at in failed {
                if let Some(dir) = dirs.get_mut(at) {
                    dir.failed = true;
                }
            }
        }
    }
    dirs
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
pub async fn describe_producers(
    shard: &Rc<Shard>,
    request: DescribeProducersRequestData,
) -> DescribeProducersResponseData {
    let image = shard.image();
    let mut seen: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    let mut asked: Vec<(KafkaString, Vec<i32>)> = Vec::with_capacity(request.topics.len());
    let mut questions = Vec::new();
    for topic in request.topics {
        let mut indexes = Vec::new();
        let seen = seen.entry(topic.name.to_string()).or_default();
        for index in topic.partition_indexes {
            if seen.insert(index) {
                questions.push(find(&image, topic.name.as_str(), index));
                indexes.push(index);
            }
            shard.rt.yield_if_needed().await;
        }
        asked.push((topic.name, indexes));
        shard.rt.yield_if_needed().await;
    }
    let take = |response| match response {
        Response::Producers(answers) => Some(answers),
        _ => None,
    };
    let found = ask(shard, questions, Request::Producers, take).await;
    let mut found = found.into_iter();
    let mut response = DescribeProducersResponseData::default();
    for (name, indexes) in asked {
        let refusal = refusal(name.as_str(), image.topic(name.as_str()).is_some());
        let mut of_topic = TopicResponse::default().with_name(name);
        for index in indexes {
            let answer = found.next().expect("one answer per question");
            let partition = producers_of(index, answer, refusal.as_ref());
            of_topic.partitions.push(partition);
            shard.rt.yield_if_needed().await;
        }
        response.topics.push(of_topic);
        shard.rt.yield_if_needed().await;
    }
    response
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
