//! The requests most tests make, on a [`Connection`].

use bytes::Bytes;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::create_partitions_request::{
    CreatePartitionsRequestData, CreatePartitionsTopic,
};
use corelog_net::cold::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use corelog_net::cold::messages::create_topics_response::CreatableTopicResult;
use corelog_net::cold::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequestData, DeleteRecordsTopic,
};
use corelog_net::cold::messages::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequestData,
};
use corelog_net::cold::messages::describe_configs_request::{
    DescribeConfigsRequestData, DescribeConfigsResource,
};
use corelog_net::cold::messages::describe_configs_response::DescribeConfigsResourceResult;
use corelog_net::cold::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use corelog_net::cold::messages::init_producer_id_request::InitProducerIdRequestData;
use corelog_net::cold::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use corelog_net::cold::messages::list_offsets_response::ListOffsetsPartitionResponse;
use corelog_net::cold::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use corelog_net::cold::messages::metadata_response::MetadataResponseData;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::{FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic};
use corelog_net::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceTopic,
};
use corelog_net::wire::{TopicId, WireStr};

use super::{Connection, Row, parse_rows};

/// Resource type of topics in config requests.
pub const TOPIC: i8 = 2;
/// Resource type of brokers in config requests.
pub const BROKER: i8 = 4;
/// The highest versions that name topics by name.
pub const BY_NAME: i16 = 12;
/// The highest version of OffsetCommit and OffsetFetch that names topics by name.
pub const BY_NAME_OFFSETS: i16 = 9;

pub fn topic_name(name: &str) -> KafkaString {
    KafkaString::from(name.to_owned())
}

/// A Produce request for one partition.
pub fn produce_request(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let partition = ProducePartition {
        index: partition,
        records: Some(records),
    };
    ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topics: vec![ProduceTopic {
            name: WireStr::from(topic),
            partitions: vec![partition],
            ..ProduceTopic::default()
        }],
        ..ProduceRequest::default()
    }
}

/// A Fetch request for one partition that does not wait.
pub fn fetch_request(topic: &str, partition: i32, fetch_offset: i64) -> FetchRequest {
    let partition = FetchPartition {
        index: partition,
        fetch_offset,
        max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    FetchRequest {
        max_bytes: 50 << 20,
        topics: vec![FetchTopic {
            name: WireStr::from(topic),
            partitions: vec![partition],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// A DeleteRecords request for partitions of one topic, each with its offset.
pub fn deletion(topic: &str, partitions: &[(i32, i64)]) -> DeleteRecordsRequestData {
    let of_partition = |&(index, offset): &(i32, i64)| {
        DeleteRecordsPartition::default()
            .with_partition_index(index)
            .with_offset(offset)
    };
    let of_topic = DeleteRecordsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.iter().map(of_partition).collect());
    DeleteRecordsRequestData::default()
        .with_timeout_ms(30_000)
        .with_topics(vec![of_topic])
}

impl Connection {
    /// Deletes records of one partition below an offset: the low watermark and the error.
    pub fn delete_records(&mut self, topic: &str, partition: i32, offset: i64) -> (i64, ErrorCode) {
        let mut answer = self.call(&deletion(topic, &[(partition, offset)]));
        let found = answer.topics.remove(0).partitions.remove(0);
        (found.low_watermark, ErrorCode::from_code(found.error_code))
    }

    /// Creates a topic and gives the answer.
    pub fn try_create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
        configs: &[(&str, &str)],
    ) -> CreatableTopicResult {
        let config = |&(key, value): &(&str, &str)| {
            CreatableTopicConfig::default()
                .with_name(topic_name(key))
                .with_value(Some(topic_name(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replication_factor)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        self.call(&request).topics.remove(0)
    }

    /// Creates a topic, which must work, and gives its id.
    #[track_caller]
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> TopicId {
        let created = self.try_create_topic(name, partitions, 1, configs);
        assert_eq!(created.error_code, 0, "{created:?}");
        created.topic_id.to_bytes()
    }

    /// Deletes a topic by name.
    pub fn delete_topic(&mut self, name: &str) -> ErrorCode {
        let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
        let request = DeleteTopicsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        ErrorCode::from_code(self.call(&request).responses[0].error_code)
    }

    /// Sets a topic's number of partitions.
    pub fn create_partitions(&mut self, name: &str, count: i32) -> ErrorCode {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequestData::default()
            .with_timeout_ms(30_000)
            .with_topics(vec![topic]);
        ErrorCode::from_code(self.call(&request).results[0].error_code)
    }

    /// Metadata of topics by name, or of all.
    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> MetadataResponseData {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequestData::default()
            .with_topics(topics.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(create);
        self.call(&request)
    }

    /// Produces to one partition, by topic name.
    pub fn produce_acks(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        records: Bytes,
    ) -> ProducePartitionResponse {
        let request = produce_request(topic, partition, acks, records);
        let sent = self.send_produce(BY_NAME, &request);
        self.produced(sent).topics.remove(0).partitions.remove(0)
    }

    /// Produces with acks=1, which must work, and gives the base offset.
    #[track_caller]
    pub fn produce(&mut self, topic: &str, partition: i32, records: Bytes) -> i64 {
        let answer = self.produce_acks(topic, partition, 1, records);
        assert_eq!(answer.error_code, ErrorCode::None, "{answer:?}");
        answer.base_offset
    }

    /// Produces with acks=1, which must fail.
    #[track_caller]
    pub fn produce_error(&mut self, topic: &str, partition: i32, records: Bytes) -> ErrorCode {
        let answer = self.produce_acks(topic, partition, 1, records);
        assert_eq!(answer.base_offset, -1, "{answer:?}");
        answer.error_code
    }

    /// Fetches one partition once.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        fetch_offset: i64,
    ) -> FetchPartitionResponse<Bytes> {
        let sent = self.send_fetch(BY_NAME, &fetch_request(topic, partition, fetch_offset));
        self.fetched(sent).topics.remove(0).partitions.remove(0)
    }

    /// Reads a partition from an offset to its high watermark.
    #[track_caller]
    pub fn read_from(&mut self, topic: &str, partition: i32, from: i64) -> Vec<Row> {
        let mut all: Vec<Row> = Vec::new();
        loop {
            let next = all.last().map_or(from, |row| row.offset + 1);
            let answer = self.fetch(topic, partition, next);
            assert_eq!(answer.error_code, ErrorCode::None, "at {next}: {answer:?}");
            if next >= answer.high_watermark {
                return all;
            }
            let rows = parse_rows(&answer.record_bytes());
            let fresh = rows.into_iter().filter(|row| row.offset >= next);
            let before = all.len();
            all.extend(fresh);
            assert!(
                all.len() > before,
                "no progress at {next} of {}",
                answer.high_watermark
            );
        }
    }

    /// Reads a whole partition.
    #[track_caller]
    pub fn read_all(&mut self, topic: &str, partition: i32) -> Vec<Row> {
        self.read_from(topic, partition, 0)
    }

    /// ListOffsets of one partition.
    pub fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let of_topic = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![asked]);
        let request = ListOffsetsRequestData::default()
            .with_replica_id(-1)
            .with_topics(vec![of_topic]);
        self.call(&request).topics.remove(0).partitions.remove(0)
    }

    /// Sets a config, or deletes it for `None`. Gives the error and its message.
    pub fn alter_config(
        &mut self,
        resource_type: i8,
        resource: &str,
        key: &str,
        value: Option<&str>,
    ) -> (ErrorCode, String) {
        let config = AlterableConfig::default()
            .with_name(topic_name(key))
            .with_config_operation(i8::from(value.is_none()))
            .with_value(value.map(topic_name));
        let of_resource = AlterConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(topic_name(resource))
            .with_configs(vec![config]);
        let request =
            IncrementalAlterConfigsRequestData::default().with_resources(vec![of_resource]);
        let answer = self.call(&request).responses.remove(0);
        let message = answer.error_message.map(|text| text.to_string());
        (
            ErrorCode::from_code(answer.error_code),
            message.unwrap_or_default(),
        )
    }

    /// Sets a config, which must work.
    #[track_caller]
    pub fn set_config(&mut self, resource_type: i8, resource: &str, key: &str, value: &str) {
        let answer = self.alter_config(resource_type, resource, key, Some(value));
        assert_eq!(answer.0, ErrorCode::None, "{answer:?}");
    }

    /// One config as DescribeConfigs tells it.
    pub fn config(
        &mut self,
        resource_type: i8,
        resource: &str,
        key: &str,
    ) -> DescribeConfigsResourceResult {
        let of_resource = DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(topic_name(resource))
            .with_configuration_keys(Some(vec![topic_name(key)]));
        let request = DescribeConfigsRequestData::default()
            .with_resources(vec![of_resource])
            .with_include_synonyms(true);
        let mut answer = self.call(&request).results.remove(0);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        answer.configs.remove(0)
    }

    /// A producer id and epoch.
    pub fn init_producer_id(&mut self) -> (i64, i16) {
        let request = InitProducerIdRequestData::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(-1)
            .with_producer_epoch(-1);
        let answer = self.call(&request);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        (answer.producer_id, answer.producer_epoch)
    }
}
