//! The cold APIs against bytes made from Kafka's own schemas (tests/golden/ColdGolden.java): each field of
//! each version filled, decoded through our wrappers, and written back the same.

mod common;

use bytes::{Bytes, BytesMut};
use common::{body_of, unhex};
use corelog_net::ApiKey;
use corelog_net::cold::messages::*;
use corelog_net::cold::{ColdCall, ColdMessage, ColdRequest, encode_request, encode_response};
use corelog_net::frame::RequestFrame;

fn back<T: ColdMessage>(version: i16, body: &Bytes) -> Bytes {
    let message = T::decode(version, body).unwrap();
    let frame = encode_response(version, 41, &message).unwrap().freeze();
    body_of(T::API, version, 41, &frame)
}

fn check<T: ColdCall>(version: i16, kind: &str, body: &Bytes) {
    let name = format!("{} v{version} {kind}", T::API);
    if kind == "response" {
        assert_eq!(back::<T::Response>(version, body), body, "{name}");
        return;
    }
    let message = T::decode(version, body).unwrap();
    let mut buf = BytesMut::new();
    message.encode(version, &mut buf).unwrap();
    assert_eq!(buf, body, "{name}");
    let frame = encode_request(version, 41, Some("me"), &message)
        .unwrap()
        .freeze();
    let request = RequestFrame::decode(&frame.slice(4..)).unwrap();
    assert_eq!(
        (request.api, request.version, request.correlation_id),
        (T::API, version, 41),
        "{name}"
    );
    assert_eq!(request.body, body, "{name}");
    assert_eq!(
        ColdRequest::decode(T::API, version, body).unwrap().api(),
        T::API,
        "{name}"
    );
}

#[test]
fn every_version_of_every_cold_api_is_kafkas() {
    let mut seen = Vec::new();
    for line in include_str!("golden/kafka-4.3.1-cold.txt").lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [api, version, kind, hex] = fields[..] else {
            panic!("{line}")
        };
        let api = *ApiKey::ALL
            .iter()
            .find(|key| key.name().eq_ignore_ascii_case(api))
            .unwrap();
        let (version, body): (i16, _) = (version.parse().unwrap(), unhex(hex));
        assert!(api.serves(version), "{line}");
        seen.push((api, version));
        match api {
            ApiKey::ListOffsets => {
                check::<list_offsets_request::ListOffsetsRequestData>(version, kind, &body)
            }
            ApiKey::Metadata => {
                check::<metadata_request::MetadataRequestData>(version, kind, &body)
            }
            ApiKey::FindCoordinator => {
                check::<find_coordinator_request::FindCoordinatorRequestData>(version, kind, &body)
            }
            ApiKey::ApiVersions => {
                check::<api_versions_request::ApiVersionsRequestData>(version, kind, &body)
            }
            ApiKey::CreateTopics => {
                check::<create_topics_request::CreateTopicsRequestData>(version, kind, &body)
            }
            ApiKey::DeleteTopics => {
                check::<delete_topics_request::DeleteTopicsRequestData>(version, kind, &body)
            }
            ApiKey::InitProducerId => {
                check::<init_producer_id_request::InitProducerIdRequestData>(version, kind, &body)
            }
            ApiKey::OffsetForLeaderEpoch => check::<
                offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData,
            >(version, kind, &body),
            ApiKey::DescribeConfigs => {
                check::<describe_configs_request::DescribeConfigsRequestData>(version, kind, &body)
            }
            ApiKey::CreatePartitions => check::<
                create_partitions_request::CreatePartitionsRequestData,
            >(version, kind, &body),
            ApiKey::IncrementalAlterConfigs => check::<
                incremental_alter_configs_request::IncrementalAlterConfigsRequestData,
            >(version, kind, &body),
            ApiKey::DescribeCluster => {
                check::<describe_cluster_request::DescribeClusterRequestData>(version, kind, &body)
            }
            ApiKey::DescribeTopicPartitions => check::<
                describe_topic_partitions_request::DescribeTopicPartitionsRequestData,
            >(version, kind, &body),
            ApiKey::OffsetCommit => {
                check::<offset_commit_request::OffsetCommitRequestData>(version, kind, &body)
            }
            ApiKey::OffsetFetch => {
                check::<offset_fetch_request::OffsetFetchRequestData>(version, kind, &body)
            }
            ApiKey::JoinGroup => {
                check::<join_group_request::JoinGroupRequestData>(version, kind, &body)
            }
            ApiKey::Heartbeat => {
                check::<heartbeat_request::HeartbeatRequestData>(version, kind, &body)
            }
            ApiKey::LeaveGroup => {
                check::<leave_group_request::LeaveGroupRequestData>(version, kind, &body)
            }
            ApiKey::SyncGroup => {
                check::<sync_group_request::SyncGroupRequestData>(version, kind, &body)
            }
            ApiKey::DescribeGroups => {
                check::<describe_groups_request::DescribeGroupsRequestData>(version, kind, &body)
            }
            ApiKey::ListGroups => {
                check::<list_groups_request::ListGroupsRequestData>(version, kind, &body)
            }
            ApiKey::DeleteGroups => {
                check::<delete_groups_request::DeleteGroupsRequestData>(version, kind, &body)
            }
            ApiKey::DeleteRecords => {
                check::<delete_records_request::DeleteRecordsRequestData>(version, kind, &body)
            }
            ApiKey::OffsetDelete => {
                check::<offset_delete_request::OffsetDeleteRequestData>(version, kind, &body)
            }
            ApiKey::AlterConfigs => {
                check::<alter_configs_request::AlterConfigsRequestData>(version, kind, &body)
            }
            ApiKey::DescribeLogDirs => {
                check::<describe_log_dirs_request::DescribeLogDirsRequestData>(version, kind, &body)
            }
            ApiKey::ElectLeaders => {
                check::<elect_leaders_request::ElectLeadersRequestData>(version, kind, &body)
            }
            ApiKey::ListPartitionReassignments => check::<
                list_partition_reassignments_request::ListPartitionReassignmentsRequestData,
            >(version, kind, &body),
            ApiKey::DescribeProducers => check::<
                describe_producers_request::DescribeProducersRequestData,
            >(version, kind, &body),
            ApiKey::ListConfigResources => check::<
                list_config_resources_request::ListConfigResourcesRequestData,
            >(version, kind, &body),
            ApiKey::Produce | ApiKey::Fetch => panic!("not cold: {line}"),
        }
    }
    for api in ApiKey::ALL
        .iter()
        .filter(|api| !matches!(api, ApiKey::Produce | ApiKey::Fetch))
    {
        for version in api.versions() {
            let lines = seen.iter().filter(|row| **row == (*api, version)).count();
            assert_eq!(
                lines, 4,
                "{api} v{version}: request and response, without tags and with"
            );
        }
    }
}

#[test]
fn produce_fetch_and_versions_that_are_not_served_are_errors() {
    for api in ApiKey::ALL {
        for version in [
            i16::MIN,
            -1,
            api.min_version() - 1,
            api.max_version() + 1,
            i16::MAX,
        ] {
            assert!(
                ColdRequest::decode(*api, version, &Bytes::new()).is_err(),
                "{api} v{version}"
            );
        }
    }
    for api in [ApiKey::Produce, ApiKey::Fetch] {
        assert!(
            ColdRequest::decode(api, api.max_version(), &Bytes::from_static(&[0; 64])).is_err()
        );
    }
}
