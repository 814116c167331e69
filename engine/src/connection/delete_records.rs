//! DeleteRecords: the owners of the partitions raise their log starts.

use std::rc::Rc;

use corelog_core::metadata::names::is_internal;
use corelog_net::cold::messages::delete_records_request::DeleteRecordsRequestData;
use corelog_net::cold::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponseData, DeleteRecordsTopicResult,
};

use super::offsets::{ask, find};
use crate::errors::{PartitionError, error_code};
use crate::shard::Shard;
use crate::shard::message::{Deletion, Request, Response};

/// Kafka's INVALID_LOW_WATERMARK.
const NO_LOW_WATERMARK: i64 = -1;

/// Answers DeleteRecords. With one replica the low watermark is the log start.
pub async fn delete_records(
    shard: &Rc<Shard>,
    request: DeleteRecordsRequestData,
) -> DeleteRecordsResponseData {
    let image = shard.image();
    let timeout_ms = request.timeout_ms;
    let mut questions = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let found = find(&image, topic.name.as_str(), partition.partition_index);
            questions.push(match found {
                Ok(_) if is_internal(topic.name.as_str()) => Err(PartitionError::InternalTopic),
                Ok((owner, key)) => {
                    let offset = partition.offset;
                    let deletion = Deletion {
                        key,
                        offset,
                        timeout_ms,
                    };
                    Ok((owner, deletion))
                }
                Err(error) => Err(error),
            });
            shard.rt.yield_if_needed().await;
        }
        shard.rt.yield_if_needed().await;
    }
    let take = |response| match response {
        Response::DeleteRecords(answers) => Some(answers),
        _ => None,
    };
    let answers = ask(shard, questions, Request::DeleteRecords, take).await;
    let mut answers = answers.into_iter();
    let mut response = DeleteRecordsResponseData::default();
    for topic in request.topics {
        let mut of_topic = DeleteRecordsTopicResult::default().with_name(topic.name);
        for partition in topic.partitions {
            let answer = answers.next().expect("one answer per question");
            let result = result(partition.partition_index, answer);
            of_topic.partitions.push(result);
            shard.rt.yield_if_needed().await;
        }
        response.topics.push(of_topic);
        shard.rt.yield_if_needed().await;
    }
    response
}

fn result(
    partition_index: i32,
    answer: Result<i64, PartitionError>,
) -> DeleteRecordsPartitionResult {
    let (low_watermark, code) = match answer {
        Ok(log_start) => (log_start, 0),
        Err(error) => (NO_LOW_WATERMARK, error_code(&error).code()),
    };
    DeleteRecordsPartitionResult::default()
        .with_partition_index(partition_index)
        .with_low_watermark(low_watermark)
        .with_error_code(code)
}
