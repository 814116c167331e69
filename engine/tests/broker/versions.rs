//! Every advertised version of every API is answered, and the answer is what the version says.

use bytes::BytesMut;
use corelog_net::api::ApiKey;
use corelog_net::cold::ColdCall;
use corelog_net::cold::ColdMessage;
use corelog_net::cold::messages::*;
use corelog_net::error_code::ErrorCode;
use corelog_net::fetch::FetchResponse;
use corelog_net::produce::ProduceResponse;
use corelog_net::wire::TopicId;

use crate::common::groups::{code, commit_request, fetch_group, join_request, sync_request, uuid};
use crate::common::requests::{fetch_request, produce_request};
use crate::common::*;
use crate::versions_of_tools::of_tools;

/// Sends one version and checks that its answer, encoded again, is the same bytes.
pub fn answered<T: ColdCall>(client: &mut Connection, version: i16, request: &T) -> T::Response {
    let sent = client.send(version, request);
    let body = client.answer(sent);
    let response = T::Response::decode(version, &body);
    let response = response.unwrap_or_else(|error| panic!("{} v{version}: {error}", T::API));
    let mut again = BytesMut::new();
    response.encode(version, &mut again).unwrap();
    assert_eq!(
        again,
        body,
        "{} v{version}: nothing behind the answer",
        T::API
    );
    response
}

fn produce(client: &mut Connection, version: i16, id: TopicId) {
    let mut request = produce_request("t", 0, -1, text_batch(&["x"]));
    if version >= 13 {
        request.topics[0].topic_id = id;
    }
    let sent = client.send_produce(version, &request);
    let body = client.answer(sent);
    let response = ProduceResponse::decode(version, &body).unwrap();
    let answer = &response.topics[0].partitions[0];
    assert_eq!(answer.error_code, ErrorCode::None, "Produce v{version}");
    assert_eq!(
        answer.base_offset,
        i64::from(version - 3),
        "Produce v{version}"
    );
    let mut again = BytesMut::new();
    response.encode(version, &mut again).unwrap();
    assert_eq!(again, body, "Produce v{version}");
}

fn fetch(client: &mut Connection, version: i16, id: TopicId) {
    let mut request = fetch_request("t", 0, 0);
    if version >= 13 {
        request.topics[0].topic_id = id;
    }
    let sent = client.send_fetch(version, &request);
    let body = client.answer(sent);
    let response = FetchResponse::decode(version, &body).unwrap();
    let answer = &response.topics[0].partitions[0];
    assert_eq!(answer.error_code, ErrorCode::None, "Fetch v{version}");
    let rows = parse_rows(&answer.record_bytes());
    assert_eq!(rows.len() as i64, answer.high_watermark, "Fetch v{version}");
    assert!(!rows.is_empty());
}

fn topics(client: &mut Connection, api: ApiKey, version: i16, id: TopicId) {
    match api {
        ApiKey::Metadata => {
            let topic =
                metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name("t")));
            let request = metadata_request::MetadataRequestData::default()
                .with_topics(Some(vec![topic]))
                .with_allow_auto_topic_creation(true);
            let answer = answered(client, version, &request);
            assert_eq!(answer.topics[0].partitions.len(), 1, "Metadata v{version}");
            if version >= 10 {
                assert_eq!(answer.topics[0].topic_id.to_bytes(), id);
            }
        }
        ApiKey::CreateTopics => {
            let topic = create_topics_request::CreatableTopic::default()
                .with_name(topic_name(&format!("made-by-{version}")))
                .with_num_partitions(1)
                .with_replication_factor(1);
            let request = create_topics_request::CreateTopicsRequestData::default()
                .with_topics(vec![topic])
                .with_timeout_ms(1000);
            let answer = answered(client, version, &request);
            assert_eq!(answer.topics[0].error_code, 0, "CreateTopics v{version}");
        }
        ApiKey::DeleteTopics => {
            let name = topic_name(&format!("deleted-by-{version}"));
            client.create_topic(name.as_str(), 1, &[]);
            let mut request =
                delete_topics_request::DeleteTopicsRequestData::default().with_timeout_ms(1000);
            if version >= 6 {
                let topic =
                    delete_topics_request::DeleteTopicState::default().with_name(Some(name));
                request = request.with_topics(vec![topic]);
            } else {
                request = request.with_topic_names(vec![name]);
            }
            let answer = answered(client, version, &request);
            assert_eq!(answer.responses[0].error_code, 0, "DeleteTopics v{version}");
        }
        ApiKey::CreatePartitions => {
            let topic = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic_name("grows"))
                .with_count(2 + i32::from(version))
                .with_assignments(None);
            let request = create_partitions_request::CreatePartitionsRequestData::default()
                .with_topics(vec![topic])
                .with_timeout_ms(1000);
            let answer = answered(client, version, &request);
            assert_eq!(
                answer.results[0].error_code, 0,
                "CreatePartitions v{version}"
            );
        }
        ApiKey::DescribeTopicPartitions => {
            let topic = describe_topic_partitions_request::TopicRequest::default()
                .with_name(topic_name("t"));
            let request =
                describe_topic_partitions_request::DescribeTopicPartitionsRequestData::default()
                    .with_topics(vec![topic])
                    .with_response_partition_limit(10);
            let answer = answered(client, version, &request);
            assert_eq!(answer.topics[0].partitions.len(), 1);
        }
        other => panic!("{other} is no API of topics"),
    }
}

fn offsets(client: &mut Connection, api: ApiKey, version: i16) {
    if api == ApiKey::ListOffsets {
        let partition = list_offsets_request::ListOffsetsPartition::default()
            .with_partition_index(0)
            .with_current_leader_epoch(-1)
            .with_timestamp(-1);
        let topic = list_offsets_request::ListOffsetsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = list_offsets_request::ListOffsetsRequestData::default()
            .with_replica_id(-1)
            .with_topics(vec![topic]);
        let answer = answered(client, version, &request);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        assert!(
            answer.topics[0].partitions[0].offset > 0,
            "ListOffsets v{version}"
        );
        return;
    }
    let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_leader_epoch(0);
    let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![partition]);
    let request = offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData::default()
        .with_replica_id(if version >= 3 { -1 } else { -2 })
        .with_topics(vec![topic]);
    let answer = answered(client, version, &request);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    assert!(answer.topics[0].partitions[0].end_offset > 0);
}

fn configs(client: &mut Connection, api: ApiKey, version: i16) {
    if api == ApiKey::DescribeConfigs {
        for (resource_type, name) in [(TOPIC, "t"), (BROKER, "1")] {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(resource_type)
                .with_resource_name(topic_name(name))
                .with_configuration_keys(None);
            let request = describe_configs_request::DescribeConfigsRequestData::default()
                .with_resources(vec![resource])
                .with_include_synonyms(true)
                .with_include_documentation(version >= 3);
            let answer = answered(client, version, &request);
            assert_eq!(answer.results[0].error_code, 0, "{:?}", answer.results[0]);
            assert!(answer.results[0].configs.len() > 20);
        }
        return;
    }
    let config = incremental_alter_configs_request::AlterableConfig::default()
        .with_name(topic_name("flush.ms"))
        .with_config_operation(0)
        .with_value(Some(topic_name(&format!("{}", 100 + version))));
    let resource = incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(topic_name("t"))
        .with_configs(vec![config]);
    let request = incremental_alter_configs_request::IncrementalAlterConfigsRequestData::default()
        .with_resources(vec![resource]);
    let answer = answered(client, version, &request);
    assert_eq!(answer.responses[0].error_code, 0);
}

fn coordinator(client: &mut Connection, version: i16) {
    let mut request = find_coordinator_request::FindCoordinatorRequestData::default();
    if version >= 4 {
        request = request.with_coordinator_keys(vec![topic_name("group")]);
    } else {
        request = request.with_key(topic_name("group"));
    }
    let answer = answered(client, version, &request);
    let found = match version {
        4.. => {
            let found = &answer.coordinators[0];
            (found.error_code, found.node_id, found.host.to_string())
        }
        _ => (answer.error_code, answer.node_id, answer.host.to_string()),
    };
    assert_eq!(found, (0, 1, "127.0.0.1".to_owned()), "v{version}");
}

/// A member of a group of its own, with its assignment.
fn member(client: &mut Connection, group: &str) -> String {
    let member = client.join(group).member_id.to_string();
    let synced = client.sync(group, &member, 1, &[(&member, "all")]);
    assert_eq!(&synced.assignment[..], b"all");
    member
}

fn members(client: &mut Connection, api: ApiKey, version: i16) {
    let group = format!("{api}-{version}");
    match api {
        ApiKey::JoinGroup => {
            let request = join_request(&group, "");
            let mut answer = answered(client, version, &request);
            if version >= 4 {
                assert_eq!(code(answer.error_code), ErrorCode::MemberIdRequired);
                let request = join_request(&group, answer.member_id.as_str());
                answer = answered(client, version, &request);
            }
            assert_eq!(
                (answer.error_code, answer.generation_id),
                (0, 1),
                "{answer:?}"
            );
            assert_eq!(answer.leader, answer.member_id);
            assert_eq!(&answer.members[0].metadata[..], b"subscription");
        }
        ApiKey::SyncGroup => {
            let member = client.join(&group).member_id.to_string();
            let mut request = sync_request(&group, &member, 1, &[(&member, "all")]);
            if version < 5 {
                request = request.with_protocol_type(None).with_protocol_name(None);
            }
            let answer = answered(client, version, &request);
            assert_eq!(
                (answer.error_code, &answer.assignment[..]),
                (0, &b"all"[..])
            );
        }
        ApiKey::Heartbeat => {
            let member = member(client, &group);
            let request = heartbeat_request::HeartbeatRequestData::default()
                .with_group_id(topic_name(&group))
                .with_member_id(topic_name(&member))
                .with_generation_id(1);
            assert_eq!(answered(client, version, &request).error_code, 0);
        }
        ApiKey::LeaveGroup => {
            let member = member(client, &group);
            let request = leave_group_request::LeaveGroupRequestData::default()
                .with_group_id(topic_name(&group));
            let leaving =
                leave_group_request::MemberIdentity::default().with_member_id(topic_name(&member));
            let answer = if version >= 3 {
                answered(client, version, &request.with_members(vec![leaving]))
            } else {
                answered(
                    client,
                    version,
                    &request.with_member_id(topic_name(&member)),
                )
            };
            assert_eq!(answer.error_code, 0);
            assert_eq!(
                client.heartbeat(&group, &member, 1),
                ErrorCode::UnknownMemberId
            );
        }
        other => panic!("{other} is no API of members"),
    }
}

fn group_offsets(client: &mut Connection, api: ApiKey, version: i16, id: TopicId) {
    let group = format!("{api}-{version}");
    let id = uuid(id);
    if api == ApiKey::OffsetCommit {
        let mut request = commit_request(&group, "t", 0, 3);
        if version >= 10 {
            request.topics[0].topic_id = id;
        }
        let answer = answered(client, version, &request);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
        assert_eq!(client.committed(&group, "t", 0), 3);
        return;
    }
    assert_eq!(client.commit(&group, "t", 0, 4), ErrorCode::None);
    if api == ApiKey::OffsetDelete {
        let partition = offset_delete_request::OffsetDeleteRequestPartition::default();
        let topic = offset_delete_request::OffsetDeleteRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = offset_delete_request::OffsetDeleteRequestData::default()
            .with_group_id(topic_name(&group))
            .with_topics(vec![topic]);
        let answer = answered(client, version, &request);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
        assert_eq!(client.committed(&group, "t", 0), -1);
        return;
    }
    let mut of_group = fetch_group(&group, "t", 0);
    let request = offset_fetch_request::OffsetFetchRequestData::default();
    let found = if version >= 8 {
        if version >= 10 {
            of_group.topics.as_mut().unwrap()[0].topic_id = id;
        }
        let answer = answered(client, version, &request.with_groups(vec![of_group]));
        let partition = &answer.groups[0].topics[0].partitions[0];
        (
            partition.error_code,
            partition.committed_offset,
            partition.metadata.clone(),
        )
    } else {
        let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partition_indexes(vec![0]);
        let request = request
            .with_group_id(topic_name(&group))
            .with_topics(Some(vec![topic]));
        let answer = answered(client, version, &request);
        let partition = &answer.topics[0].partitions[0];
        (
            partition.error_code,
            partition.committed_offset,
            partition.metadata.clone(),
        )
    };
    assert_eq!(
        found,
        (0, 4, Some(topic_name("text"))),
        "OffsetFetch v{version}"
    );
}

fn of_groups(client: &mut Connection, api: ApiKey, version: i16) {
    let group = format!("{api}-{version}");
    let member_id = member(client, &group);
    match api {
        ApiKey::DescribeGroups => {
            let request = describe_groups_request::DescribeGroupsRequestData::default()
                .with_groups(vec![topic_name(&group)])
                .with_include_authorized_operations(version >= 3);
            let answer = answered(client, version, &request);
            let described = &answer.groups[0];
            assert_eq!(
                (described.error_code, described.group_state.as_str()),
                (0, "Stable")
            );
            assert_eq!(described.members[0].member_id.as_str(), member_id);
            assert_eq!(&described.members[0].member_assignment[..], b"all");
            let unknown = describe_groups_request::DescribeGroupsRequestData::default()
                .with_groups(vec![topic_name("nobody")]);
            let answer = answered(client, version, &unknown);
            assert_eq!(answer.groups[0].group_state.as_str(), "Dead");
        }
        ApiKey::ListGroups => {
            let request = list_groups_request::ListGroupsRequestData::default();
            let answer = answered(client, version, &request);
            assert_eq!(answer.error_code, 0);
            let mut listed = answer.groups.iter().map(|g| g.group_id.as_str());
            assert!(listed.any(|name| name == group), "ListGroups v{version}");
        }
        ApiKey::DeleteGroups => {
            assert_eq!(client.leave(&group, &member_id), ErrorCode::None);
            let request = delete_groups_request::DeleteGroupsRequestData::default()
                .with_groups_names(vec![topic_name(&group)]);
            let answer = answered(client, version, &request);
            assert_eq!(answer.results[0].error_code, 0, "DeleteGroups v{version}");
        }
        other => panic!("{other} is no API of groups"),
    }
}

fn others(client: &mut Connection, api: ApiKey, version: i16) {
    match api {
        ApiKey::FindCoordinator => coordinator(client, version),
        ApiKey::ApiVersions => {
            let mut request = api_versions_request::ApiVersionsRequestData::default();
            if version >= 3 {
                request = request
                    .with_client_software_name(topic_name("test"))
                    .with_client_software_version(topic_name("1"));
            }
            let answer = answered(client, version, &request);
            assert_eq!(answer.api_keys.len(), ApiKey::SERVED.len());
        }
        ApiKey::InitProducerId => {
            let request = init_producer_id_request::InitProducerIdRequestData::default()
                .with_transactional_id(None)
                .with_producer_id(-1)
                .with_producer_epoch(-1);
            let answer = answered(client, version, &request);
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        }
        ApiKey::DescribeCluster => {
            let request = describe_cluster_request::DescribeClusterRequestData::default()
                .with_endpoint_type(1);
            let answer = answered(client, version, &request);
            assert_eq!((answer.error_code, answer.brokers.len()), (0, 1));
        }
        other => panic!("{other} has no test here"),
    }
}

#[test]
fn r65_every_advertised_version_of_every_api_is_answered() {
    let dir = DataDir::new("versions");
    let broker = dir.start_with(2, &["group.initial.rebalance.delay.ms=0"]);
    let mut client = broker.connect();
    client.find_coordinator(&broker, "group");
    poll("all coordinators to load", || {
        (broker.metric("corelog_group_coordinator_loads_total", &[]) == 50).then_some(())
    });
    let id = client.create_topic("t", 1, &[]);
    client.create_topic("grows", 1, &[]);
    let request = api_versions_request::ApiVersionsRequestData::default();
    let advertised = answered(&mut client, 0, &request);
    assert_eq!(advertised.api_keys.len(), ApiKey::SERVED.len());
    for row in &advertised.api_keys {
        let api = ApiKey::from_i16(row.api_key).expect("we know what we advertise");
        // Produce says 0 for the sake of old clients, and is served from 3.
        for version in row.min_version.max(api.min_version())..=row.max_version {
            match api {
                ApiKey::Produce => produce(&mut client, version, id),
                ApiKey::Fetch => fetch(&mut client, version, id),
                ApiKey::ListOffsets | ApiKey::OffsetForLeaderEpoch => {
                    offsets(&mut client, api, version)
                }
                ApiKey::DescribeConfigs | ApiKey::IncrementalAlterConfigs => {
                    configs(&mut client, api, version)
                }
                ApiKey::AlterConfigs
                | ApiKey::DescribeLogDirs
                | ApiKey::ElectLeaders
                | ApiKey::ListPartitionReassignments
                | ApiKey::DescribeProducers
                | ApiKey::DeleteRecords
                | ApiKey::ListConfigResources => of_tools(&mut client, api, version),
                ApiKey::Metadata
                | ApiKey::CreateTopics
                | ApiKey::DeleteTopics
                | ApiKey::CreatePartitions
                | ApiKey::DescribeTopicPartitions => topics(&mut client, api, version, id),
                ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
                    members(&mut client, api, version)
                }
                ApiKey::OffsetCommit | ApiKey::OffsetFetch | ApiKey::OffsetDelete => {
                    group_offsets(&mut client, api, version, id)
                }
                ApiKey::DescribeGroups | ApiKey::ListGroups | ApiKey::DeleteGroups => {
                    of_groups(&mut client, api, version)
                }
                _ => others(&mut client, api, version),
            }
        }
    }
    let created = client.metadata(None, false).topics.len();
    assert_eq!(
        created,
        2 + 6 + 1,
        "CreateTopics has versions 2 to 7; and the offsets topic"
    );
}
