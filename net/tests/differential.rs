//! Our hot codecs against two others, byte for byte: whatever we encode, kacrab-protocol and
//! kafka-protocol read whole and write back the same; and a kacrab struct filled with the same content
//! gives the same bytes, which we decode to that content.

mod common;

use bytes::{Bytes, BytesMut};
use common::{assemble, body_of, random};
use corelog_net::api::ApiKey;
use corelog_net::api_versions::{ApiVersionsAnswer, FinalizedFeature, SupportedFeature};
use corelog_net::fetch::{FetchRequest, FetchResponse, ResponseBuilder};
use corelog_net::produce::{ProduceRequest, ProduceResponse};
use corelog_net::{TopicId, WireStr};
use kacrab_protocol::generated as kacrab;
use kacrab_protocol::{KafkaString, KafkaUuid};
use kafka_protocol::messages as oracle;
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs a property over chance content for each version of an API.
fn each_version<S: Strategy>(api: ApiKey, content: impl Fn(i16) -> S, check: impl Fn(i16, S::Value))
where
    S::Value: std::fmt::Debug,
{
    for version in api.versions() {
        let config = Config {
            cases: 96,
            failure_persistence: None,
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&content(version), |value| {
            check(version, value);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{api} v{version}: {error}");
        }
    }
}

fn through_kafka_protocol<T: Decodable + Encodable>(bytes: &Bytes, version: i16) -> Bytes {
    let mut rest = bytes.clone();
    let message = T::decode(&mut rest, version).unwrap();
    assert!(rest.is_empty(), "{} bytes unread", rest.len());
    let mut out = BytesMut::new();
    message.encode(&mut out, version).unwrap();
    out.freeze()
}

fn encoded(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buf = BytesMut::new();
    write(&mut buf);
    buf.freeze()
}

fn s(text: &WireStr) -> KafkaString {
    KafkaString::from(text.clone())
}

fn o(text: &Option<WireStr>) -> Option<KafkaString> {
    text.as_ref().map(s)
}

fn id(id: &TopicId) -> KafkaUuid {
    let value = u128::from_be_bytes(*id);
    KafkaUuid::from_parts((value >> 64) as u64, value as u64)
}

#[test]
fn produce_requests_of_every_version() {
    use kacrab::produce_request::*;
    each_version(
        ApiKey::Produce,
        random::produce_request,
        |version, request: ProduceRequest| {
            let ours = encoded(|buf| request.encode(version, buf).unwrap());
            let partition = |p: &corelog_net::produce::ProducePartition| {
                PartitionProduceData::default()
                    .with_index(p.index)
                    .with_records(p.records.clone())
            };
            let topic = |t: &corelog_net::produce::ProduceTopic| {
                TopicProduceData::default()
                    .with_name(s(&t.name))
                    .with_topic_id(id(&t.topic_id))
                    .with_partition_data(t.partitions.iter().map(partition).collect())
            };
            let theirs = ProduceRequestData::default()
                .with_transactional_id(o(&request.transactional_id))
                .with_acks(request.acks)
                .with_timeout_ms(request.timeout_ms)
                .with_topic_data(request.topics.iter().map(topic).collect());
            assert_eq!(ours, encoded(|buf| theirs.write(buf, version).unwrap()));
            assert_eq!(
                ProduceRequestData::read(&mut ours.clone(), version).unwrap(),
                theirs
            );
            assert_eq!(
                through_kafka_protocol::<oracle::ProduceRequest>(&ours, version),
                ours
            );
            assert_eq!(ProduceRequest::decode(version, &ours).unwrap(), request);
        },
    );
}

#[test]
fn produce_responses_of_every_version() {
    use kacrab::produce_response::*;
    each_version(
        ApiKey::Produce,
        random::produce_response,
        |version, response: ProduceResponse| {
            let frame = response
                .encode_frame(version, version.into())
                .unwrap()
                .freeze();
            let ours = body_of(ApiKey::Produce, version, version.into(), &frame);
            let partition = |p: &corelog_net::produce::ProducePartitionResponse| {
                let error = |e: &corelog_net::produce::RecordError| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(e.batch_index)
                        .with_batch_index_error_message(o(&e.message))
                };
                let mut out = PartitionProduceResponse::default()
                    .with_index(p.index)
                    .with_error_code(p.error_code.code())
                    .with_base_offset(p.base_offset)
                    .with_log_append_time_ms(p.log_append_time_ms)
                    .with_log_start_offset(p.log_start_offset)
                    .with_record_errors(p.record_errors.iter().map(error).collect())
                    .with_error_message(o(&p.error_message));
                if let Some(leader) = p.current_leader {
                    out.current_leader.leader_id = leader.leader_id;
                    out.current_leader.leader_epoch = leader.leader_epoch;
                }
                out
            };
            let topic = |t: &corelog_net::produce::ProduceTopicResponse| {
                TopicProduceResponse::default()
                    .with_name(s(&t.name))
                    .with_topic_id(id(&t.topic_id))
                    .with_partition_responses(t.partitions.iter().map(partition).collect())
            };
            let node = |n: &corelog_net::produce::NodeEndpoint| {
                kacrab::produce_response::NodeEndpoint::default()
                    .with_node_id(n.node_id)
                    .with_host(s(&n.host))
                    .with_port(n.port)
                    .with_rack(o(&n.rack))
            };
            let theirs = ProduceResponseData::default()
                .with_responses(response.topics.iter().map(topic).collect())
                .with_throttle_time_ms(response.throttle_time_ms)
                .with_node_endpoints(response.node_endpoints.iter().map(node).collect());
            assert_eq!(ours, encoded(|buf| theirs.write(buf, version).unwrap()));
            assert_eq!(
                through_kafka_protocol::<oracle::ProduceResponse>(&ours, version),
                ours
            );
            assert_eq!(ProduceResponse::decode(version, &ours).unwrap(), response);
        },
    );
}

#[test]
fn fetch_requests_of_every_version() {
    use kacrab::fetch_request::*;
    each_version(
        ApiKey::Fetch,
        random::fetch_request,
        |version, request: FetchRequest| {
            let ours = encoded(|buf| request.encode(version, buf).unwrap());
            let partition = |p: &corelog_net::fetch::FetchPartition| {
                FetchPartition::default()
                    .with_partition(p.index)
                    .with_current_leader_epoch(p.current_leader_epoch)
                    .with_fetch_offset(p.fetch_offset)
                    .with_last_fetched_epoch(p.last_fetched_epoch)
                    .with_log_start_offset(p.log_start_offset)
                    .with_partition_max_bytes(p.max_bytes)
                    .with_replica_directory_id(id(&p.replica_directory_id))
                    .with_high_watermark(p.high_watermark)
            };
            let topic = |t: &corelog_net::fetch::FetchTopic| {
                FetchTopic::default()
                    .with_topic(s(&t.name))
                    .with_topic_id(id(&t.topic_id))
                    .with_partitions(t.partitions.iter().map(partition).collect())
            };
            let forgotten = |t: &corelog_net::fetch::ForgottenTopic| {
                ForgottenTopic::default()
                    .with_topic(s(&t.name))
                    .with_topic_id(id(&t.topic_id))
                    .with_partitions(t.partitions.clone())
            };
            let mut theirs = FetchRequestData::default()
                .with_cluster_id(o(&request.cluster_id))
                .with_max_wait_ms(request.max_wait_ms)
                .with_min_bytes(request.min_bytes)
                .with_max_bytes(request.max_bytes)
                .with_isolation_level(request.isolation_level)
                .with_session_id(request.session_id)
                .with_session_epoch(request.session_epoch)
                .with_topics(request.topics.iter().map(topic).collect())
                .with_forgotten_topics_data(
                    request.forgotten_topics.iter().map(forgotten).collect(),
                )
                .with_rack_id(s(&request.rack_id));
            if version >= 15 {
                theirs.replica_state.replica_id = request.replica_id;
                theirs.replica_state.replica_epoch = request.replica_epoch;
            } else {
                theirs.replica_id = request.replica_id;
            }
            assert_eq!(ours, encoded(|buf| theirs.write(buf, version).unwrap()));
            assert_eq!(
                FetchRequestData::read(&mut ours.clone(), version).unwrap(),
                theirs
            );
            assert_eq!(
                through_kafka_protocol::<oracle::FetchRequest>(&ours, version),
                ours
            );
            assert_eq!(FetchRequest::decode(version, &ours).unwrap(), request);
        },
    );
}

#[test]
fn fetch_responses_of_every_version() {
    use kacrab::fetch_response::*;
    each_version(
        ApiKey::Fetch,
        random::fetch_response,
        |version, response: FetchResponse<Bytes>| {
            let parts = ResponseBuilder::new(version, version.into())
                .unwrap()
                .build(response.clone())
                .unwrap();
            let ours = body_of(ApiKey::Fetch, version, version.into(), &assemble(parts));
            let aborted = |a: &corelog_net::fetch::AbortedTransaction| {
                AbortedTransaction::default()
                    .with_producer_id(a.producer_id)
                    .with_first_offset(a.first_offset)
            };
            let partition = |p: &corelog_net::fetch::FetchPartitionResponse<Bytes>| {
                let mut out = PartitionData::default()
                    .with_partition_index(p.index)
                    .with_error_code(p.error_code.code())
                    .with_high_watermark(p.high_watermark)
                    .with_last_stable_offset(p.last_stable_offset)
                    .with_log_start_offset(p.log_start_offset)
                    .with_aborted_transactions(
                        p.aborted_transactions
                            .as_ref()
                            .map(|a| a.iter().map(aborted).collect()),
                    )
                    .with_preferred_read_replica(p.preferred_read_replica)
                    .with_records(Some(p.record_bytes()));
                if let Some(diverging) = p.diverging_epoch {
                    out.diverging_epoch.epoch = diverging.epoch;
                    out.diverging_epoch.end_offset = diverging.end_offset;
                }
                if let Some(leader) = p.current_leader {
                    out.current_leader.leader_id = leader.leader_id;
                    out.current_leader.leader_epoch = leader.leader_epoch;
                }
                if let Some(snapshot) = p.snapshot_id {
                    out.snapshot_id.end_offset = snapshot.end_offset;
                    out.snapshot_id.epoch = snapshot.epoch;
                }
                out
            };
            let topic = |t: &corelog_net::fetch::FetchTopicResponse<Bytes>| {
                FetchableTopicResponse::default()
                    .with_topic(s(&t.name))
                    .with_topic_id(id(&t.topic_id))
                    .with_partitions(t.partitions.iter().map(partition).collect())
            };
            let node = |n: &corelog_net::fetch::NodeEndpoint| {
                kacrab::fetch_response::NodeEndpoint::default()
                    .with_node_id(n.node_id)
                    .with_host(s(&n.host))
                    .with_port(n.port)
                    .with_rack(o(&n.rack))
            };
            let theirs = FetchResponseData::default()
                .with_throttle_time_ms(response.throttle_time_ms)
                .with_error_code(response.error_code.code())
                .with_session_id(response.session_id)
                .with_responses(response.topics.iter().map(topic).collect())
                .with_node_endpoints(response.node_endpoints.iter().map(node).collect());
            assert_eq!(ours, encoded(|buf| theirs.write(buf, version).unwrap()));
            assert_eq!(
                through_kafka_protocol::<oracle::FetchResponse>(&ours, version),
                ours
            );
            assert_eq!(FetchResponse::decode(version, &ours).unwrap(), response);
        },
    );
}

#[test]
fn api_versions_of_every_version() {
    use kacrab::api_versions_response::*;
    let supported = [
        SupportedFeature {
            name: "metadata.version",
            min_version: 7,
            max_version: 30,
        },
        SupportedFeature {
            name: "group.version",
            min_version: 0,
            max_version: 1,
        },
    ];
    let finalized = [FinalizedFeature {
        name: "metadata.version",
        level: 30,
    }];
    let answer = ApiVersionsAnswer {
        supported: &supported,
        finalized: &finalized,
        finalized_epoch: 12,
        throttle_time_ms: 5,
        ..Default::default()
    };
    for version in ApiKey::ApiVersions.versions() {
        let frame = answer.encode_frame(version, 9).unwrap().freeze();
        let body = body_of(ApiKey::ApiVersions, version, 9, &frame);
        assert_eq!(
            through_kafka_protocol::<oracle::ApiVersionsResponse>(&body, version),
            body,
            "v{version}"
        );
        let read = ApiVersionsResponseData::read(&mut body.clone(), version).unwrap();
        assert_eq!(
            encoded(|buf| read.write(buf, version).unwrap()),
            body,
            "v{version}"
        );
        assert_eq!(read.error_code, 0);
        let rows: Vec<_> = read
            .api_keys
            .iter()
            .map(|k| (k.api_key, k.min_version, k.max_version))
            .collect();
        let expected: Vec<_> = ApiKey::SERVED
            .iter()
            .map(|api| {
                (
                    api.number(),
                    if *api == ApiKey::Produce {
                        0
                    } else {
                        api.min_version()
                    },
                    api.max_version(),
                )
            })
            .collect();
        assert_eq!(rows, expected, "v{version}");
        let names: Vec<_> = read
            .supported_features
            .iter()
            .map(|f| f.name.as_str())
            .collect();
        let expected: &[&str] = match version {
            0..=2 => &[],
            3 => &["metadata.version"],
            _ => &["metadata.version", "group.version"],
        };
        assert_eq!(
            names, expected,
            "v{version}: version 3 must not name a feature whose lowest level is 0"
        );
    }
}

#[test]
fn an_unknown_version_of_api_versions_gets_a_version_0_body() {
    use kacrab::api_versions_response::*;
    for version in [5, 6, 99, i16::MAX, -1] {
        let frame = ApiVersionsAnswer::default()
            .encode_frame(version, 9)
            .unwrap()
            .freeze();
        assert_eq!(frame[4..8], [0, 0, 0, 9]);
        let mut rest = frame.slice(8..);
        let read = ApiVersionsResponseData::read(&mut rest, 0).unwrap();
        assert!(rest.is_empty());
        assert_eq!(read.error_code, 35);
        let rows: Vec<_> = read
            .api_keys
            .iter()
            .map(|k| (k.api_key, k.min_version, k.max_version))
            .collect();
        assert_eq!(rows, [(18, 0, 4)]);
    }
}
