//! Coordinators' answers, and the admin answers' bytes in every version that is advertised.

mod common;

use bytes::{Bytes, BytesMut};
use common::{cluster, id, new_topic, text};
use corelog_core::api::{
    CoordinatorNode, InitProducerId, asks_for_groups, find_coordinator, init_producer_id,
    init_producer_id_answer, init_producer_id_error,
};
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{ControllerContext, create_topics};
use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::find_coordinator_request::FindCoordinatorRequestData;
use kacrab_protocol::generated::find_coordinator_response::FindCoordinatorResponseData;
use kacrab_protocol::generated::init_producer_id_request::InitProducerIdRequestData;

/// Encodes and decodes at a version: what a client would see.
macro_rules! on_the_wire {
    ($type:ty, $value:expr, $version:expr) => {{
        let mut bytes = BytesMut::new();
        $value
            .write(&mut bytes, $version)
            .unwrap_or_else(|e| panic!("v{}: {e:?}", $version));
        <$type>::read(&mut Bytes::from(bytes), $version).unwrap()
    }};
}

#[test]
fn without_coordinators_clients_are_told_to_try_again() {
    for version in 0..=6 {
        for (key_type, known) in [(0, true), (1, true), (2, false), (9, false)] {
            let request = FindCoordinatorRequestData::default()
                .with_key(text("g"))
                .with_key_type(key_type)
                .with_coordinator_keys(vec![text("g"), text("h")]);
            let answer = find_coordinator(version, &request, |_| {
                Err(ErrorCode::CoordinatorNotAvailable)
            });
            let response = on_the_wire!(FindCoordinatorResponseData, answer, version);
            let expected = if known || version == 0 {
                ErrorCode::CoordinatorNotAvailable
            } else {
                ErrorCode::InvalidRequest
            };
            let codes: Vec<_> = match version {
                ..4 => vec![(response.error_code, response.node_id)],
                _ => response
                    .coordinators
                    .iter()
                    .map(|c| (c.error_code, c.node_id))
                    .collect(),
            };
            assert_eq!(codes.len(), if version < 4 { 1 } else { 2 });
            assert!(
                codes.iter().all(|c| *c == (expected.code(), -1)),
                "v{version}: {codes:?}"
            );
        }
    }
}

#[test]
fn r22_group_keys_are_answered_with_the_node_of_their_coordinator() {
    let lookup = |key: &str| match key {
        "g" => Ok(CoordinatorNode {
            node_id: 7,
            host: "broker.example".to_owned(),
            port: 9093,
        }),
        _ => Err(ErrorCode::CoordinatorNotAvailable),
    };
    for version in 0..=6 {
        let request = FindCoordinatorRequestData::default()
            .with_key(text("g"))
            .with_key_type(0)
            .with_coordinator_keys(vec![text("g"), text("h")]);
        assert!(asks_for_groups(version, &request));
        let answer = find_coordinator(version, &request, lookup);
        let response = on_the_wire!(FindCoordinatorResponseData, answer, version);
        if version < 4 {
            assert_eq!(response.error_code, 0);
            assert_eq!(response.host, text("broker.example"));
            assert_eq!((response.node_id, response.port), (7, 9093));
            continue;
        }
        let found: Vec<_> = response
            .coordinators
            .iter()
            .map(|c| {
                (
                    c.key.as_str(),
                    c.error_code,
                    c.node_id,
                    c.host.as_str(),
                    c.port,
                )
            })
            .collect();
        assert_eq!(
            found,
            [("g", 0, 7, "broker.example", 9093), ("h", 15, -1, "", -1)]
        );
        let transactions = request.with_key_type(1);
        assert!(!asks_for_groups(version, &transactions));
    }
}

#[test]
fn r11_producers_without_transactions_get_an_id_in_epoch_0() {
    let request = InitProducerIdRequestData::default();
    assert_eq!(init_producer_id(&request), InitProducerId::NeedsProducerId);
    let renewed = request.clone().with_producer_id(7).with_producer_epoch(3);
    assert_eq!(init_producer_id(&renewed), InitProducerId::NeedsProducerId);
    let refused = |request: InitProducerIdRequestData| match init_producer_id(&request) {
        InitProducerId::Refused(response) => {
            assert_eq!((response.producer_id, response.producer_epoch), (-1, -1));
            ErrorCode::from(response.error_code)
        }
        InitProducerId::NeedsProducerId => ErrorCode::None,
    };
    let named = |name| request.clone().with_transactional_id(Some(text(name)));
    assert_eq!(refused(named("tx")), ErrorCode::NotCoordinator);
    assert_eq!(refused(named("")), ErrorCode::InvalidRequest);
    assert_eq!(
        refused(request.clone().with_producer_id(7)),
        ErrorCode::InvalidRequest
    );
    for version in 0..=5 {
        for answer in [
            init_producer_id_answer(7),
            init_producer_id_error(ErrorCode::RequestTimedOut),
        ] {
            let mut bytes = BytesMut::new();
            answer.write(&mut bytes, version).unwrap();
            let read = kacrab_protocol::generated::init_producer_id_response::InitProducerIdResponseData::read(
                &mut bytes.freeze(),
                version,
            );
            assert_eq!(read.unwrap(), answer);
        }
    }
}

#[test]
fn admin_answers_encode_in_every_version() {
    let image = cluster(&[1]);
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 1,
    };
    let request = common::create(vec![new_topic("t", 2, 1), new_topic("u", 0, 1)]);
    let (_, response) = create_topics(&image, &context, &request, &mut common::ids(1));
    use kacrab_protocol::generated::create_topics_response::CreateTopicsResponseData;
    for version in 2..=7 {
        let read = on_the_wire!(CreateTopicsResponseData, response, version);
        assert_eq!(
            (read.topics[0].error_code, read.topics[1].error_code),
            (0, 37)
        );
        if version >= 5 {
            assert_eq!(
                (
                    read.topics[0].num_partitions,
                    read.topics[0].replication_factor
                ),
                (2, 1)
            );
            assert!(read.topics[0].configs.as_ref().unwrap().len() > 30);
        }
        if version >= 7 {
            assert_eq!(read.topics[0].topic_id, id(1));
        }
    }
    use kacrab_protocol::generated::delete_topics_request::*;
    use kacrab_protocol::generated::delete_topics_response::DeleteTopicsResponseData;
    for version in 1..=6 {
        let request = DeleteTopicsRequestData::default()
            .with_topic_names(vec![text("nope")])
            .with_topics(vec![
                DeleteTopicState::default().with_name(Some(text("nope"))),
            ]);
        let (_, response) =
            corelog_core::metadata::delete_topics(&image, &context, version, &request);
        let read = on_the_wire!(DeleteTopicsResponseData, response, version);
        assert_eq!(read.responses[0].error_code, 3);
    }
    use kacrab_protocol::generated::create_partitions_request::*;
    use kacrab_protocol::generated::create_partitions_response::CreatePartitionsResponseData;
    let topic = CreatePartitionsTopic::default()
        .with_name(text("nope"))
        .with_count(2);
    let request = CreatePartitionsRequestData::default().with_topics(vec![topic]);
    let (_, response) = corelog_core::metadata::create_partitions(&image, &context, &request);
    for version in 0..=3 {
        let read = on_the_wire!(CreatePartitionsResponseData, response, version);
        assert_eq!(read.results[0].error_code, 3);
    }
    use kacrab_protocol::generated::incremental_alter_configs_request::*;
    use kacrab_protocol::generated::incremental_alter_configs_response::IncrementalAlterConfigsResponseData;
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("nope"));
    let request = IncrementalAlterConfigsRequestData::default().with_resources(vec![resource]);
    let (_, response) =
        corelog_core::metadata::incremental_alter_configs(&image, &context, &request);
    for version in 0..=1 {
        let read = on_the_wire!(IncrementalAlterConfigsResponseData, response, version);
        assert_eq!(read.responses[0].error_code, 3);
    }
}
