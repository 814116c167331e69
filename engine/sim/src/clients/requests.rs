//! The requests that clients make.

use bytes::Bytes;
use corelog_net::client::Client;
use corelog_net::cold::messages::metadata_request::MetadataRequestData;
use corelog_net::cold::messages::{KafkaString, KafkaUuid};
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
};
use std::collections::BTreeMap;

use crate::oracle::log::{Key, TopicId};
use crate::stage::{Lost, Stage};

/// The version of Produce in use: it names topics by id.
pub const PRODUCE: i16 = 13;
/// The version of Fetch in use: it names topics by id.
pub const FETCH: i16 = 17;

/// Text of the wire.
pub fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// A topic id as the generated structs have it.
pub fn uuid(id: &TopicId) -> KafkaUuid {
    let number = u128::from_be_bytes(*id);
    KafkaUuid::from_parts((number >> 64) as u64, number as u64)
}

/// An error code.
pub fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}

/// A Produce request of one batch.
pub fn produce(key: Key, acks: i16, records: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topics: vec![ProduceTopic {
            topic_id: key.0,
            partitions: vec![ProducePartition {
                index: key.1,
                records: Some(records),
            }],
            ..ProduceTopic::default()
        }],
        ..ProduceRequest::default()
    }
}

/// The only partition of a Produce answer.
pub fn produced(response: ProduceResponse) -> Option<ProducePartitionResponse> {
    response
        .topics
        .into_iter()
        .next()?
        .partitions
        .into_iter()
        .next()
}

/// Fetches one partition.
pub async fn fetch(
    stage: &Stage,
    who: &str,
    client: &Client,
    key: Key,
    from: i64,
    (max_bytes, max_wait_ms): (i32, i32),
) -> Result<Option<FetchPartitionResponse<Bytes>>, Lost> {
    let request = FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic_id: key.0,
            partitions: vec![FetchPartition {
                index: key.1,
                fetch_offset: from,
                max_bytes,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let pending = client.fetch(FETCH, &request).map_err(Lost::Client)?;
    let response = stage.answer(who, "Fetch", pending).await?;
    let topic = response.topics.into_iter().next();
    Ok(topic.and_then(|topic| topic.partitions.into_iter().next()))
}

/// Record bytes of a Fetch answer.
pub fn record_bytes(answer: &FetchPartitionResponse<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(answer.records_bytes());
    for range in &answer.records {
        bytes.extend_from_slice(&range.range);
    }
    bytes
}

/// All topics by id, with name and number of partitions; `None` while one has an error.
pub async fn topics(
    stage: &Stage,
    who: &str,
    client: &Client,
) -> Result<Option<BTreeMap<TopicId, (String, i32)>>, Lost> {
    let request = MetadataRequestData::default()
        .with_topics(None)
        .with_allow_auto_topic_creation(false);
    let response = stage.answer(who, "Metadata", client.call(&request)).await?;
    let mut topics = BTreeMap::new();
    for topic in response.topics {
        if topic.error_code != 0 {
            return Ok(None);
        }
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        let partitions = topic.partitions.len() as i32;
        topics.insert(topic.topic_id.to_bytes(), (name, partitions));
    }
    Ok(Some(topics))
}
