//! One request of each version of the APIs that tools use.

use corelog_net::api::ApiKey;
use corelog_net::cold::messages::*;
use corelog_net::error_code::ErrorCode;

use crate::common::groups::code;
use crate::common::requests::deletion;
use crate::common::*;
use crate::versions::answered;

/// Asks about topic `t`, which has one partition with records, and checks the answer.
pub fn of_tools(client: &mut Connection, api: ApiKey, version: i16) {
    match api {
        ApiKey::AlterConfigs => alter_configs(client, version),
        ApiKey::DescribeLogDirs => describe_log_dirs(client, version),
        ApiKey::ElectLeaders => elect_leaders(client, version),
        ApiKey::DeleteRecords => {
            let request = deletion("t", &[(0, 0), (7, 0)]);
            let answer = answered(client, version, &request);
            let partitions = answer.topics[0].partitions.iter();
            let found: Vec<_> = partitions
                .map(|p| (p.partition_index, p.low_watermark, code(p.error_code)))
                .collect();
            let expected = [
                (0, 0, ErrorCode::None),
                (7, -1, ErrorCode::UnknownTopicOrPartition),
            ];
            assert_eq!(found, expected, "DeleteRecords v{version}");
        }
        ApiKey::ListConfigResources => list_config_resources(client, version),
        ApiKey::ListPartitionReassignments => {
            let request =
                list_partition_reassignments_request::ListPartitionReassignmentsRequestData::default(
                );
            let answer = answered(client, version, &request);
            assert_eq!((answer.error_code, answer.topics.len()), (0, 0));
        }
        ApiKey::DescribeProducers => {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(topic_name("t"))
                .with_partition_indexes(vec![0]);
            let request = describe_producers_request::DescribeProducersRequestData::default()
                .with_topics(vec![topic]);
            let answer = answered(client, version, &request);
            let partition = &answer.topics[0].partitions[0];
            assert_eq!((partition.error_code, partition.partition_index), (0, 0));
        }
        other => panic!("{other} is no API of tools"),
    }
}

fn alter_configs(client: &mut Connection, version: i16) {
    let value = format!("{}", 200 + version);
    let config = alter_configs_request::AlterableConfig::default()
        .with_name(topic_name("flush.ms"))
        .with_value(Some(topic_name(&value)));
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(topic_name("t"))
        .with_configs(vec![config]);
    let request =
        alter_configs_request::AlterConfigsRequestData::default().with_resources(vec![resource]);
    let answer = answered(client, version, &request);
    assert_eq!(answer.responses[0].error_code, 0, "AlterConfigs v{version}");
    let found = client.config(TOPIC, "t", "flush.ms").value.unwrap();
    assert_eq!(found.as_str(), value, "AlterConfigs v{version}");
}

fn describe_log_dirs(client: &mut Connection, version: i16) {
    let topic = describe_log_dirs_request::DescribableLogDirTopic::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![0]);
    let request = describe_log_dirs_request::DescribeLogDirsRequestData::default()
        .with_topics(Some(vec![topic]));
    let answer = answered(client, version, &request);
    let dir = &answer.results[0];
    assert_eq!((answer.error_code, dir.error_code), (0, 0));
    assert!(dir.topics[0].partitions[0].partition_size > 0);
    let known = version >= 4;
    assert_eq!(dir.total_bytes > 0, known, "DescribeLogDirs v{version}");
    assert_eq!(dir.usable_bytes > 0, known, "DescribeLogDirs v{version}");
}

fn elect_leaders(client: &mut Connection, version: i16) {
    let topic = elect_leaders_request::TopicPartitions::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![0, 1]);
    let request = elect_leaders_request::ElectLeadersRequestData::default()
        .with_election_type(i8::from(version >= 1))
        .with_topic_partitions(Some(vec![topic]));
    let answer = answered(client, version, &request);
    let results = answer.replica_election_results[0].partition_result.iter();
    let codes: Vec<_> = results.map(|result| code(result.error_code)).collect();
    let expected = [
        ErrorCode::ElectionNotNeeded,
        ErrorCode::UnknownTopicOrPartition,
    ];
    assert_eq!(codes, expected, "ElectLeaders v{version}");
}

fn list_config_resources(client: &mut Connection, version: i16) {
    let request = list_config_resources_request::ListConfigResourcesRequestData::default();
    let answer = answered(client, version, &request);
    assert_eq!(answer.error_code, 0);
    let mut found = answer.config_resources.iter();
    let listed = found.any(|r| (r.resource_type, r.resource_name.as_str()) == (TOPIC, "t"));
    assert_eq!(listed, version >= 1, "ListConfigResources v{version}");
}
