//! What the tests share: a cluster of one broker, and how requests are written.
#![allow(dead_code)] // each test binary uses its own part

use corelog_core::Uuid;
use corelog_core::config::BrokerConfig;
use corelog_core::metadata::{
    BrokerEndpoint, BrokerRegistration, ControllerContext, FoundDirectories, Image, Record,
    create_topics, register_broker,
};
use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use kacrab_protocol::generated::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequestData,
};
use kacrab_protocol::generated::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};

/// An id that is easy to recognize.
pub fn id(number: u64) -> Uuid {
    Uuid::from_parts(0, number)
}

/// Ids that count up from `first`.
pub fn ids(first: u64) -> impl FnMut() -> Uuid {
    let mut next = first;
    move || {
        next += 1;
        id(next - 1)
    }
}

pub fn text(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

pub fn config(text: &str) -> BrokerConfig {
    BrokerConfig::parse("test.properties", text, &[]).unwrap().0
}

pub fn registration(node_id: i32, incarnation: u64, shards: u16) -> BrokerRegistration {
    BrokerRegistration {
        node_id,
        incarnation: id(incarnation),
        endpoints: vec![BrokerEndpoint {
            listener: "PLAINTEXT".to_owned(),
            host: format!("host{node_id}"),
            port: 9092,
        }],
        rack: Some(format!("rack{node_id}")),
        shards,
        found: FoundDirectories::default(),
    }
}

/// An image with these brokers registered.
pub fn cluster(brokers: &[i32]) -> Image {
    let mut image = Image::new();
    for broker in brokers {
        let records = register_broker(&image, &registration(*broker, 1000, 4));
        image = apply(&image, &records);
    }
    image
}

pub fn apply(image: &Image, records: &[Record]) -> Image {
    image.apply(image.version() + 1, records).unwrap()
}

pub fn new_topic(name: &str, partitions: i32, factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(text(name))
        .with_num_partitions(partitions)
        .with_replication_factor(factor)
}

pub fn with_configs(topic: CreatableTopic, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    topic.with_configs(configs.collect())
}

pub fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequestData {
    CreateTopicsRequestData::default().with_topics(topics)
}

/// The image with these topics created, their ids counting from 1; all must succeed.
pub fn with_topics(image: &Image, topics: Vec<CreatableTopic>) -> Image {
    let broker = BrokerConfig::default();
    let context = ControllerContext {
        broker: &broker,
        shards: 4,
    };
    let first = image.topics().len() as u64 + 1;
    let (records, response) = create_topics(image, &context, &create(topics), &mut ids(first));
    for topic in &response.topics {
        assert_eq!(topic.error_code, 0, "{topic:?}");
    }
    apply(image, &records)
}

pub fn by_names(names: &[&str]) -> DeleteTopicsRequestData {
    DeleteTopicsRequestData::default().with_topic_names(names.iter().map(|n| text(n)).collect())
}

pub fn state(name: Option<&str>, topic: u64) -> DeleteTopicState {
    DeleteTopicState::default()
        .with_name(name.map(text))
        .with_topic_id(id(topic))
}

pub fn alter(
    resource_type: i8,
    name: &str,
    changes: &[(&str, i8, Option<&str>)],
) -> IncrementalAlterConfigsRequestData {
    let configs = changes.iter().map(|(key, op, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*op)
            .with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequestData::default().with_resources(vec![resource])
}
